//! SQLite as this project uses it: opening a file ([`open`]), its header ([`header`]), process-wide settings
//! ([`process`]), the limits of a connection ([`limits`]), migrations ([`migrate`]), the write queue and group commit
//! ([`combine`]), pools of readers ([`pool`]), reads that cannot write ([`reading`]), time limits of statements
//! ([`deadline`]), the write-ahead log ([`wal`]), flushes ([`flush`]), files that were replaced while open ([`named`]),
//! damage ([`check`]), numbers that are used up ([`sequence`]), a database as text (`export`, `rows`), for somebody who only
//! looks (`browse`), rows of a file from elsewhere (`import`), made-up rows to try a migration on ([`fill`]), SQL that this
//! program did not write ([`guest`]) with its budget of memory ([`memory`]), and who hears of a database's commits
//! ([`feed`]). Knows nothing of tenants, users or HTTP.

mod authorizer;
#[cfg(feature = "server")]
pub mod browse;
pub mod check;
pub mod combine;
pub mod deadline;
mod exclusive;
#[cfg(feature = "server")]
pub mod export;
mod failure;
pub mod feed;
pub mod fill;
pub mod flush;
pub mod frames;
pub mod guest;
pub mod header;
#[cfg(feature = "server")]
pub mod import;
pub mod limits;
pub mod memory;
pub mod migrate;
pub mod named;
pub mod open;
pub mod pool;
pub mod process;
pub mod raw;
pub mod reading;
#[cfg(feature = "server")]
pub mod rows;
pub mod sequence;
mod touched;
pub mod wal;

/// SQLite's page size, in bytes: its default, and the unit of the template and of quotas.
pub const PAGE_SIZE: u64 = 4096;
