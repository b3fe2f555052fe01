//! Limits of a combiner.

use std::time::Duration;

/// Limits of one [`Combiner`](super::Combiner).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Jobs that may wait; one more is refused as [`ErrorKind::Busy`](crate::ErrorKind::Busy).
    pub queue: usize,
    /// Writes in one commit.
    pub batch: usize,
    /// How long the statements of one job may run.
    pub statement: Duration,
    /// How long those of a short read or write may run on the calling thread, which serves others too.
    pub inline: Duration,
    /// How long a write waits behind a transaction that somebody holds open.
    pub wait: Duration,
    /// WAL pages after which the combiner checkpoints, once it has answered.
    pub checkpoint_pages: u32,
    /// WAL pages after which pooled readers that keep the WAL from being emptied are cancelled.
    pub wal_pages: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 1024,
            batch: 128,
            statement: Duration::from_secs(5),
            inline: Duration::from_millis(2),
            wait: Duration::from_secs(5),
            checkpoint_pages: 1000,
            wal_pages: 16_384,
        }
    }
}
