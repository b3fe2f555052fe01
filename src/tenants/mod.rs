//! Tenants: a user id with a database file of its own.
//!
//! Only this folder opens, closes, moves or deletes a tenant's files. Everyone else holds a
//! [`Tenant`](tenant::Tenant), which is parsed, allowed and open.
//!
//! | module | decides |
//! |---|---|
//! | [`id`] | what an id may be |
//! | [`store`] | the data folder: leases, creation, capacity, usage samples, shutdown |
//! | [`tenant`] | the handle on an open tenant: read and write |
//! | [`open`] | opening and closing: the state machine, leases, the LRU, descriptors, connections |
//! | [`disk`] | paths, file moves, the folder lock, the template of a new file, what a file says of itself |
//! | [`lifecycle`] | create, suspend, delete, restore, purge, adopt, migrate, quarantine |
//!
//! # Invariants
//! Each with what happens when it breaks.
//! 1. **A leased database is never closed**, and a file is never moved or removed while a
//!    connection to it is open. Broken: writes go to a file that no longer has the name.
//! 2. **One opener at a time.** Broken: the second finds the file locked, or two writers each
//!    believe they are the one.
//! 3. **The catalog's state is read while the tenant's gate is held.** Broken: a tenant deleted
//!    between the look and the open is served once more.
//! 4. **File before row on creation; row before file on deletion.** Broken: after a crash the
//!    catalog promises a file that is not there, or a deleted user's data is served again.
//! 5. **Reads never create.** Only [`Store::create`](store::Store::create) does, and it says so.

pub mod disk;
pub mod id;
pub mod lifecycle;
pub mod open;
pub mod store;
pub mod tenant;
