//! What is counted of the replication, for the metrics and for `cubby replica status`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

static BATCHES: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);
static MICROS: AtomicU64 = AtomicU64::new(0);

/// What was counted since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches that the bucket has.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Tries that failed.
    pub failures: u64,
    /// How long batches took, in microseconds, together.
    pub micros: u64,
}

/// A batch was written.
pub fn shipped(bytes: usize, took: Duration) {
    BATCHES.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    MICROS.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// A batch could not be written, and is tried again.
pub fn failed() {
    FAILURES.fetch_add(1, Ordering::Relaxed);
}

/// What was counted.
pub fn counts() -> Counts {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Counts { batches: of(&BATCHES), bytes: of(&BYTES), failures: of(&FAILURES), micros: of(&MICROS) }
}
