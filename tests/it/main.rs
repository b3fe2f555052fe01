//! Tests at the height a user stands: through HTTP, the command line and the file system.
//!
//! One binary, a file a subject. A test's name is the rule it holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, missing_docs, unreachable_pub)]

mod harness;
mod source;

mod attacks;
mod audit;
mod bad_answers;
mod batches;
mod bounds;
mod cli;
mod cli_forms;
mod contract;
mod cut_moves;
mod doctor;
mod documents;
mod durability;
mod erasure;
mod events;
mod fairness;
mod faults;
mod files;
mod health;
mod hostile;
mod hosts;
mod input;
mod invariants;
mod isolation;
mod layers;
mod limits;
mod lock;
mod lost_catalog;
mod migrations;
mod model;
mod notes;
mod on_demand;
mod operator;
mod own_api;
mod provisioning;
mod rebuild;
mod reconcile;
mod restoration;
mod scale;
mod secrets;
mod settings;
mod shutdown;
mod store;
mod tokens;
mod watch;
mod webhooks;
