//! Keeping the catalog in step with the provider, for when webhooks were late, lost or never sent.
//!
//! | file | decides |
//! |---|---|
//! | [`plan`] | what is different: a pure merge of two sorted streams |
//! | [`spool`] | how the provider's list comes to be sorted in bounded memory |
//! | [`run`] | one reconcile: list, compare, mend, ask by name, delete, report |
//! | [`runs`] | which run is under way, and what became of the last ones |
//! | [`changes`] | one step of it |
//! | [`on_demand`] | the first request that beats the webhook |
//! | [`health`] | whether both sides agree, for a page |
//! | [`doctor`] | whether catalog and files agree |
//! | [`rebuild`] | what a lost or damaged catalog is made anew from |
//! | [`report`] | what a run says of itself |
//!
//! # Invariants
//! 1. **Nobody is deleted because the provider answered badly.** Deletions come last, only after a
//!    whole list, only up to a bound, and only when the provider, asked for all of those users by
//!    name, has none of them. The first bad answer opens a circuit
//!    ([`identity::circuit`](crate::identity::circuit)), which ends the run: one that stopped has
//!    deleted nobody, and its report says what was done, what was not, and why.
//! 2. **A run changes nothing newer than itself.** What a webhook did while the list was read is
//!    left alone: each step looks at the row again inside its own transaction.
//! 3. **A dry run changes nothing at all.**

pub mod changes;
pub mod doctor;
pub mod health;
mod mend;
mod merge;
pub mod on_demand;
pub mod plan;
mod queries;
pub mod rebuild;
pub mod report;
pub mod run;
pub mod runs;
pub mod spool;
