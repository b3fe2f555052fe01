//! Tenants: a user id with a database file of its own.
//!
//! Only this folder opens, closes, moves or deletes a tenant's files. Everyone else holds a
//! [`Tenant`](tenant::Tenant), which is parsed, allowed and open.
//!
//! Files that stand higher in this table import those below them, and never the other way round.
//!
//! | module | decides |
//! |---|---|
//! | `startup` | `Store::open`: lock, catalog, whether the schema fits the data folder |
//! | `lifecycle` | create, suspend, delete, restore, purge, adopt, migrate; the quarantine backoff |
//! | [`open::opening`] | leases: opening a tenant for a request, creating it |
//! | [`tenant`] | the handle on an open tenant: read and write |
//! | [`store`] | what one data folder shares: open tenants, capacity, usage samples, shutdown |
//! | [`open`] | the state machine of open tenants, the LRU, descriptors, connections |
//! | [`disk`] | paths, file moves, the folder lock, the template of a new file, what a file says of itself |
//! | [`options`] | settings, and the schema that ships with this crate |
//! | [`id`] | what an id may be |
//!
//! A few files of `lifecycle` do not know a store, and stand below it: `faults`, `steady_clock`.
//!
//! # Invariants
//! Each with what happens when it breaks.
//! 1. **A leased database is never closed**, and a file is never moved or removed while a
//!    connection to it is open. Broken: writes go to a file that no longer has the name.
//! 2. **One opener at a time.** Broken: the second finds the file locked, or two writers each
//!    believe they are the one.
//! 3. **The catalog's state is read while the tenant's lock is held.** Broken: a tenant deleted
//!    between the look and the open is served once more.
//! 4. **File before row on creation; row before file on deletion.** Broken: after a crash the
//!    catalog promises a file that is not there, or a deleted user's data is served again.
//! 5. **Reads never create.** Only [`Store::create`](store::Store::create) does, and it says so.

pub mod disk;
pub mod id;
pub(crate) mod lifecycle;
pub mod open;
pub mod options;
mod startup;
pub mod store;
pub mod tenant;
