//! Tests at the height a user stands: through HTTP, the command line and the file system.
//!
//! One binary, a file a subject. A test's name is the rule it holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, missing_docs, unreachable_pub)]

mod harness;
mod source;

mod batches;
mod contract;
mod doctor;
mod documents;
mod erasure;
mod events;
mod fairness;
mod faults;
mod files;
mod hostile;
mod input;
mod isolation;
mod layers;
mod limits;
mod notes;
mod on_demand;
mod operator;
mod provisioning;
mod reconcile;
mod tokens;
mod watch;
mod webhooks;
