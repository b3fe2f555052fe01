//! Opening and closing tenants.
//!
//! | module | decides |
//! |---|---|
//! | `slots` | the state machine of a tenant: absent, opening, open, draining, locked; leases; the LRU |
//! | `entry` | what is open of a tenant, with its leases |
//! | [`database`] | one open tenant: its connection and its reader pool |
//! | [`opening`] | opening a file for a request: waiting, creating, migrating |
//! | `activity` | how often an open tenant is leased |
//! | [`fetch`] | who knows where a file is that is not there yet |
//! | `fetching` | fetching such a file, for whoever needs it first |
//! | [`top`] | which open tenants are used most, or are largest |
//! | `closing` | closing to make room, and before files are moved |
//! | [`feeds`] | the feeds of those tenants that somebody listens to |
//! | `descriptors` | how many tenants may be open, by the file descriptors that they need |
//! | `unflushed` | databases that were closed without a flush, until a flush of the file system completes them |
//! | `uses` | how often tenants are used, until that is written |
//! | `long_reads` | threads of low priority for long reads |

mod activity;
mod closing;
#[doc(hidden)]
pub mod database;
pub(super) mod descriptors;
mod entry;
pub mod feeds;
pub mod fetch;
mod fetching;
pub(super) mod long_reads;
pub mod opening;
mod primitives;
pub(crate) mod slots;
pub mod top;
pub(super) mod unflushed;
pub(super) mod uses;
