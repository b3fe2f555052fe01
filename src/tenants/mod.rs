//! Tenants: a user id with a database file of its own.
//!
//! Only this folder opens, closes, moves or deletes a tenant's files. Everyone else holds a
//! [`Tenant`](tenant::Tenant), which is parsed, allowed and open.
//!
//! Files that stand higher in this table import those below them, and never the other way round.
//!
//! | module | decides |
//! |---|---|
//! | `startup` | `Store::open`: lock, redo of the log, catalog, whether the schema fits the data folder |
//! | `lifecycle` | create, suspend, delete, restore, purge, adopt, migrate; the quarantine backoff |
//! | [`open::opening`] | leases: opening a tenant for a request, creating it |
//! | [`changes`] | listening to a tenant's commits |
//! | [`copy`] | a tenant's database as a file to be sent |
//! | [`session`] | transactions that take several calls |
//! | [`tenant`] | the handle on an open tenant: read and write |
//! | `usage` | what tenants use, by day |
//! | [`store`] | what one data folder shares: open tenants, capacity, usage samples, shutdown |
//! | [`open`] | the state machine of open tenants, the LRU, descriptors, connections |
//! | [`disk`] | paths, file moves, the folder lock, the template of a new file, what a file says of itself |
//! | [`options`] | settings, and the schema that ships with this crate |
//! | [`id`] | what an id may be |
//!
//! A few files of `lifecycle` do not know a store, and stand below it: `faults`, `steady_clock`.
//!
//! What must always hold is in `docs/ARCHITECTURE.md` under "Invariants", and beside the code that keeps it:
//! `open::slots`, `lifecycle::transition`.

pub mod changes;
pub mod copy;
pub mod disk;
pub mod id;
pub(crate) mod lifecycle;
pub mod open;
pub mod options;
pub mod session;
mod session_state;
pub mod startup;
pub mod store;
pub mod tenant;
mod usage;
