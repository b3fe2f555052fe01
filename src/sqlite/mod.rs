//! SQLite as this project uses it: how a file is opened ([`open`]), how it is migrated
//! ([`migrate`]), who may write to it and how writes share a commit ([`combine`]), pools of readers
//! ([`pool`]), rows to try a migration on ([`fill`]), what keeps reads from writing ([`reading`]), how
//! long statements may run ([`deadline`]), what is durable ([`flush`]), and whether files still have
//! their names ([`named`]). Knows nothing of tenants, users or HTTP.

pub mod combine;
pub mod deadline;
mod exclusive;
pub mod fill;
pub mod flush;
pub mod migrate;
pub mod named;
pub mod open;
pub mod pool;
pub mod reading;
