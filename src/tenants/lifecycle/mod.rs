//! Operations on a tenant: each locks the tenant, so no request sees it half done.
//!
//! | module | decides |
//! |---|---|
//! | `states` | create, suspend, resume, delete, restore, migrate |
//! | `transition` | one change of a tenant's row and files together |
//! | `purge` | removing a deleted tenant for good; reviving one that was purged |
//! | `adopt` | putting an old tenant's data under a new id |
//! | `browse` | reading a tenant's database for an operator, whatever its state, and changing nothing |
//! | `export` | a copy of a tenant's database, whatever its state |
//! | `import` | giving a tenant the rows of a file that somebody else made |
//! | `snapshot` | an exact copy of a database, whatever its state |
//! | `swap` | swapping a new file in for a tenant's; a tenant that has a file from the start |
//! | `replaced` | what was replaced, and kept |
//! | `quarantine` | the quarantine backoff: which file is not served, and when it is tried again |
//! | [`quota`] | what one tenant may use |
//! | `faults` | faults of files, reported to operators |
//! | `applied` | which migrations have run on this data folder |
//! | `rehearsal` | trying migrations on copies and on generated rows |
//! | `steady_clock` | whether the time of day can be relied on for the end of a retention |

mod adopt;
pub(super) mod applied;
mod browse;
mod export;
pub(crate) mod faults;
#[cfg(feature = "server")]
pub mod import;
mod purge;
pub(crate) mod quarantine;
pub mod quota;
pub(super) mod rehearsal;
#[cfg(feature = "server")]
mod replaced;
#[cfg(feature = "replicate")]
mod snapshot;
mod states;
pub(super) mod steady_clock;
#[cfg(feature = "server")]
pub mod swap;
mod transition;
