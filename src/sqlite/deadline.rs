//! How long statements may run, and what stops readers before that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::error::Result;

/// The moment after which a connection's running statement is interrupted. Shared by a connection
/// and whoever runs statements on it.
#[derive(Debug, Clone)]
pub struct Deadline {
    epoch: Instant,
    /// Microseconds after `epoch`; 0 for none.
    at: Arc<AtomicU64>,
    /// Fires as well when this counter is no longer what it was.
    cancel: Option<(Cancel, u64)>,
}

/// Stops all readers of a database that began before a moment, whatever their deadlines.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicU64>);

impl Cancel {
    /// Stops all who have begun.
    pub fn trigger(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many of SQLite's virtual instructions run between two looks at the clock: some 50 µs.
const INSTRUCTIONS_BETWEEN_CHECKS: i32 = 4000;

impl Deadline {
    /// No deadline yet.
    pub fn none() -> Self {
        Self { epoch: Instant::now(), at: Arc::new(AtomicU64::new(0)), cancel: None }
    }

    /// No deadline but the next [`Cancel::trigger`].
    pub fn until(cancel: &Cancel) -> Self {
        Self { cancel: Some((cancel.clone(), cancel.0.load(Ordering::Relaxed))), ..Self::none() }
    }

    /// Whether it was cut, and not out of time.
    pub fn was_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|(cancel, before)| cancel.0.load(Ordering::Relaxed) != *before)
    }

    /// Statements from now on may take this long together; none lifts the limit.
    pub fn set(&self, limit: Option<Duration>) {
        let at = match limit {
            Some(limit) => u64::try_from((self.epoch.elapsed() + limit).as_micros()).unwrap_or(u64::MAX).max(1),
            None => 0,
        };
        self.at.store(at, Ordering::Relaxed);
    }

    /// Makes `conn` look at this deadline while its statements run.
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
