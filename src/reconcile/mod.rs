//! Keeps the catalog in step with the provider, when webhooks are late or lost, and with the files.
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
mod provider_list;
mod queries;
pub mod rebuild;
pub mod report;
pub mod run;
pub mod runs;
