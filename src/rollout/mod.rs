//! Migrates all tenants to the newest schema while they are served: a few first, then the others.
//!
//! # Invariants
//! 1. **A run is progress, and no truth.** Who is left is in the tenants' own rows, so a run that was cut short loses
//!    nobody. Those it has migrated or quarantined are counted in the commits that say so of them.
//! 2. **A run that hurts stops.** One failure among the first few stops it, and too many among the others do.
//! 3. **Callers come first.** Few tenants are migrated at once, those that are open are left alone, and while callers' requests
//!    are in flight each migration is followed by a rest.
//! 4. **Only an operator resumes a run.** One that brought the server down must not do so again at the next start.
//! 5. **Done is done.** A run is done when everybody has the schema or is quarantined: those who failed otherwise, as on a full
//!    disk, are tried once more at its end, and if one of them is left it stops. A tenant counts once, as it is at last.
//! 6. **An end is told, recorded or not.** One that the catalog did not take is kept, and tried again when somebody asks.

mod ended;
pub mod report;
pub mod run;
mod under_way;
