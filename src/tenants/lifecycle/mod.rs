//! What happens to a tenant between its creation and its end. Each operation holds the tenant exclusively,
//! so no request sees it half done.
//!
//! | module | decides |
//! |---|---|
//! | [`states`] | create, suspend, resume, delete, restore, migrate |
//! | `transition` | one change of a tenant's row and files together |
//! | [`purge`] | removing a deleted tenant for good; reviving one that was purged |
//! | [`adopt`] | putting an old tenant's data under a new id |
//! | [`faults`] | faults of files, reported to operators |
//! | `applied` | which migrations have run on this data folder |
//! | `rehearsal` | trying migrations on copies and on generated rows |

pub mod adopt;
pub(super) mod applied;
pub mod faults;
pub mod purge;
pub(super) mod rehearsal;
pub mod states;
mod transition;
