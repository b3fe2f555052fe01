//! Opening and closing tenants.
//!
//! | module | decides |
//! |---|---|
//! | `slots` | the state machine of a tenant: absent, opening, open, draining, locked; leases; the LRU |
//! | [`database`] | one open tenant: its connection and its reader pool |
//! | [`opening`] | opening a file for a request: waiting, creating, migrating |
//! | `descriptors` | how many tenants may be open, by the file descriptors that they need |
//! | `long_reads` | threads of low priority for long reads |

#[doc(hidden)]
pub mod database;
pub(super) mod descriptors;
pub(super) mod long_reads;
pub mod opening;
mod primitives;
pub(crate) mod slots;
