//! Copies elsewhere: each commit of each tenant goes to object storage, and a tenant comes back from there as it was at any
//! moment.
//!
//! The log of the data folder has every commit in order. [`capture`] reads it while it is written and gives each record to the
//! shard of its tenant ([`pending`]); [`ship`] writes what waits as one [`batch`] to that [`shard`], which is a SlateDB in the
//! bucket. [`bases`] are whole copies. The log keeps its segments until the bucket has them. Nothing of this is on the path of
//! a request, unless the mode asks that answers wait for the bucket ([`hold`]).
//!
//! # Invariants
//! 1. **A chain without a gap.** Each entry of a tenant has the hash of the one before. Whatever is missed (a record, a file
//!    that was replaced, a process that did not replicate) ends the chain, and the tenant gets a base in a new epoch.
//! 2. **No head before its entry.** [`state`] says that the bucket has something only after the bucket has said so, and a
//!    segment of the log is released only after that is on the disk.
//! 3. **One server writes.** The one that was started last; see [`fence`].

pub mod bases;
pub mod batch;
pub mod belongs;
pub mod capture;
pub mod chain;
pub mod entry;
pub mod erasure;
pub mod fence;
pub mod folder;
pub mod format;
pub mod history;
pub mod hold;
pub mod meters;
pub mod moments;
pub mod object;
pub mod pending;
mod queries;
pub mod remote;
pub mod restore;
pub mod running;
pub mod seal;
pub mod serving;
pub mod shard;
pub mod shards;
pub mod ship;
pub mod state;
pub mod status;
pub mod traffic;
pub mod verify;
pub mod wanted;
