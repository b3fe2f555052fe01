//! Tests at the height a user stands: through HTTP, the command line and the file system.
//!
//! One binary, a file a subject. A test's name is the rule it holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, missing_docs, unreachable_pub)]

mod harness;
#[cfg(feature = "replicate")]
#[path = "../s3/mod.rs"]
mod s3;
mod source;

mod attacks;
mod audit;
#[cfg(feature = "replicate")]
mod backups;
mod bad_answers;
mod batches;
mod bounds;
mod bulk;
mod changes;
mod cli;
mod cli_forms;
mod console;
mod contract;
mod cut_moves;
mod dashboard;
mod dashboards;
mod doctor;
mod documents;
mod durability;
mod erasure;
mod events;
mod export;
mod fairness;
mod faults;
mod files;
mod health;
mod hostile;
mod hosts;
mod import;
mod input;
mod invariants;
mod isolation;
mod layers;
mod limits;
mod lock;
mod log;
mod lost_catalog;
mod migrations;
mod migrations_forms;
mod model;
mod notes;
mod on_demand;
mod operator;
mod own_api;
mod provisioning;
mod quotas;
mod rebuild;
mod reconcile;
#[cfg(feature = "replicate")]
mod replica;
#[cfg(feature = "replicate")]
mod replica_cli;
#[cfg(feature = "replicate")]
mod replica_remote;
#[cfg(feature = "replicate")]
mod replica_restore;
mod restoration;
mod rollout;
mod scale;
mod secrets;
mod sessions;
mod settings;
mod shell;
mod shutdown;
mod sql;
mod store;
mod tokens;
mod top;
mod usage;
mod watch;
mod webhooks;
