//! Tenants: a user id with a database file of its own.
//!
//! Only this folder opens, closes, moves or deletes a tenant's files. Everyone else holds a
//! [`Tenant`](tenant::Tenant), which is parsed, allowed and open.
//!
//! | file | decides |
//! |---|---|
//! | [`id`] | what an id may be |
//! | [`path`] | where its file is |
//! | [`slots`] | the state machine: absent, opening, open, draining, held; leases; the LRU |
//! | [`database`] | one open tenant and its connections; opening a file |
//! | [`store`] | leases, creation, eviction, shutdown |
//! | [`tenant`] | the handle on an open one: read and write |
//! | [`descriptors`] | how many descriptors tenants may have |
//! | `long` | threads of low priority for long reads |
//! | [`lifecycle`] | create, suspend, delete, restore, migrate |
//! | `transition` | one change of a tenant's row and files together |
//! | [`retention`] | the end: purging |
//! | [`adopt`] | old data under a new id |
//! | [`inspect`] | what a file says of itself |
//! | [`files`] | placing and moving files |
//! | [`faults`] | what went wrong with whose file, for operators |
//! | [`template`] | what a new file holds |
//! | `rehearsal` | trying migrations where nothing can come of it |
//! | [`lock`] | one process for a data folder |
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

pub mod adopt;
pub mod database;
pub mod descriptors;
pub mod faults;
pub mod files;
pub mod id;
pub mod inspect;
pub mod lifecycle;
pub mod lock;
mod long;
pub mod path;
mod rehearsal;
pub mod retention;
pub mod slots;
pub mod store;
mod sync;
pub mod template;
pub mod tenant;
mod transition;
