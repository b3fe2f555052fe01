//! Keeps the catalog in step with the provider, when webhooks are late or lost, and with the files.
//!
//! | file | what |
//! |---|---|
//! | [`run`] | one reconcile: list, compare, apply, ask for the absent by id, delete, report |
//! | [`runs`] | the run that is under way, and the reports of the last ones |
//! | [`plan`] | the differences: a pure merge of two sorted streams |
//! | [`provider_list`] | the provider's list, sorted by id in bounded memory |
//! | `compare`, `apply` | the comparison on its thread; creations, updates and restorations |
//! | [`changes`] | single steps, each in its transaction |
//! | [`report`] | the report of a run |
//! | [`on_demand`] | the look-up of an unknown user on their first request |
//! | [`health`] | whether deliveries arrive, and both sides agree |
//! | [`doctor`] | whether catalog and files agree |
//! | [`rebuild`] | a new catalog for one that is lost or damaged |
//!
//! # Invariants
//! 1. **A bad answer of the provider deletes nobody.** Deletions come last, only after a complete list, only up to a
//!    limit, and only after the provider, asked for each of those users by id, had none of them. The first request that
//!    fails ends the run before any deletion, and the report says what was done, what was not, and why.
//! 2. **A run changes nothing newer than its list.** Each step checks the row again inside its own transaction, so what
//!    a webhook did while the list was read stands.
//! 3. **A dry run changes nothing.**

mod apply;
pub mod changes;
mod compare;
pub mod doctor;
pub mod health;
pub mod on_demand;
mod paged;
pub mod plan;
pub mod provider_list;
mod queries;
pub mod rebuild;
pub mod report;
pub mod run;
pub mod runs;
