//! SQLite as this project uses it: opening a file ([`open`]), its header ([`header`]), process-wide settings
//! ([`process`]), the limits of a connection ([`limits`]), migrations ([`migrate`]), the write queue and group commit
//! ([`combine`]), pools of readers ([`pool`]), reads that cannot write ([`reading`]), time limits of statements
//! ([`deadline`]), the write-ahead log ([`wal`]), flushes ([`flush`]), files that were replaced while open
//! ([`named`]), damage ([`check`]), and made-up rows to try a migration on ([`fill`]). Knows nothing of tenants,
//! users or HTTP.

pub mod check;
pub mod combine;
pub mod deadline;
mod exclusive;
mod failure;
pub mod fill;
pub mod flush;
pub mod header;
pub mod limits;
pub mod migrate;
pub mod named;
pub mod open;
pub mod pool;
pub mod process;
pub mod reading;
pub mod wal;

/// SQLite's page size, in bytes: its default, and the unit of the template and of quotas.
pub const PAGE_SIZE: u64 = 4096;
