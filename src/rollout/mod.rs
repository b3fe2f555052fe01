//! Migrates all tenants to the newest schema while they are served: a few first, then the others.
//!
//! # Invariants
//! 1. **A run is progress, and no truth.** Who is left is in the tenants' own rows, so a run that was cut short loses
//!    no more than its counts since they were last recorded.
//! 2. **A run that hurts stops.** One failure among the first few stops it, and too many among the others do.
//! 3. **Callers come first.** Few tenants are migrated at once, those that are open are left alone, and while callers' requests
//!    are in flight each migration is followed by a rest.
//! 4. **Only an operator resumes a run.** One that brought the server down must not do so again at the next start.

pub mod report;
pub mod run;
mod under_way;
