//! SQLite as this project uses it: how a file is opened ([`open`]), how it is migrated
//! ([`migrate`]), who may write to it and how writes share a commit ([`combine`]), and pools of
//! readers ([`pool`]). Knows nothing of tenants, users or HTTP.

mod alone;
pub mod combine;
mod flush;
pub mod migrate;
pub mod open;
pub mod pool;
