//! Time limits of statements, and cancelling readers before their limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::error::Result;

/// The moment after which a connection's running statement is interrupted. Shared by the connection
/// and the code that runs statements on it.
#[derive(Debug, Clone)]
pub struct Deadline {
    epoch: Instant,
    /// Microseconds after `epoch`; 0 for none.
    at: Arc<AtomicU64>,
    /// Interrupts as well when this counter has changed.
    cancel: Option<(Cancel, u64)>,
}

/// Cancels all running reads of a database before their deadlines.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicU64>);

impl Cancel {
    /// Cancels the reads that have begun; later ones are not affected.
    pub fn trigger(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// SQLite's virtual instructions between two checks of the clock: some 50 µs.
const INSTRUCTIONS_BETWEEN_CHECKS: i32 = 4000;

impl Deadline {
    /// No deadline yet.
    pub fn none() -> Self {
        Self { epoch: Instant::now(), at: Arc::new(AtomicU64::new(0)), cancel: None }
    }

    /// No deadline, until the next [`Cancel::trigger`].
    pub fn until(cancel: &Cancel) -> Self {
        Self { cancel: Some((cancel.clone(), cancel.0.load(Ordering::Relaxed))), ..Self::none() }
    }

    /// Whether it was cancelled, as opposed to out of time.
    pub fn was_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|(cancel, before)| cancel.0.load(Ordering::Relaxed) != *before)
    }

    /// All statements from now on may take this long together; none removes the limit.
    pub fn set(&self, limit: Option<Duration>) {
        let at = match limit {
            Some(limit) => u64::try_from((self.epoch.elapsed() + limit).as_micros()).unwrap_or(u64::MAX).max(1),
            None => 0,
        };
        self.at.store(at, Ordering::Relaxed);
    }

    /// Makes `conn` check this deadline while its statements run.
    pub fn watch(&self, conn: &Connection) -> Result<()> {
        let deadline = self.clone();
        conn.progress_handler(
            INSTRUCTIONS_BETWEEN_CHECKS,
            Some(move || match deadline.at.load(Ordering::Relaxed) {
                _ if deadline.was_cancelled() => true,
                0 => false,
                at => deadline.epoch.elapsed().as_micros() > u128::from(at),
            }),
        )?;
        Ok(())
    }
}
