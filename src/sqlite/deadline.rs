//! Time limits of statements, and cancelling readers before their limit.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::Notify;

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
pub struct Cancel(Arc<Cancelled>);

#[derive(Debug, Default)]
struct Cancelled {
    times: AtomicU64,
    again: Notify,
}

impl Cancel {
    /// Cancels the reads that have begun; later ones are not affected.
    pub fn trigger(&self) {
        self.0.times.fetch_add(1, Ordering::SeqCst);
        self.0.again.notify_waiters();
    }

    fn times(&self) -> u64 {
        self.0.times.load(Ordering::SeqCst)
    }

    /// Returns at the next [`trigger`](Self::trigger) after this call, not after the first poll.
    pub fn next(&self) -> impl Future<Output = ()> + Send + 'static {
        let (cancel, before) = (self.clone(), self.times());
        async move {
            loop {
                let again = cancel.0.again.notified();
                tokio::pin!(again);
                again.as_mut().enable();
                if cancel.times() != before {
                    return;
                }
                again.await;
            }
        }
    }
}

thread_local! {
    /// The moment after which this thread's statements are interrupted, whatever the connection's deadline is.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `work`, in which this thread's statements are interrupted after `until`, too.
pub(super) fn until<T>(until: Instant, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Instant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            UNTIL.set(self.0);
        }
    }
    let _restore = Restore(UNTIL.replace(Some(until)));
    work()
}

/// Whether this thread's statements are out of time by [`until`]. For functions, which SQLite calls without a look at it.
pub(super) fn is_over() -> bool {
    UNTIL.get().is_some_and(|until| Instant::now() >= until)
}

thread_local! {
    /// The moment up to which this thread, which serves others too, may run statements.
    static INLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `work`, which should take no longer than `limit`, on a thread that serves others too.
pub(super) fn inline<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Instant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            INLINE.set(self.0);
        }
    }
    let _restore = Restore(INLINE.replace(Some(Instant::now() + limit)));
    work()
}

/// Up to when this thread may work, if it serves others too.
pub(super) fn inline_until() -> Option<Instant> {
    INLINE.get()
}

/// SQLite's virtual instructions between two checks of the clock: some 5 µs. One may take milliseconds, if it calls a
/// function on a large value.
const INSTRUCTIONS_BETWEEN_CHECKS: i32 = 500;

impl Deadline {
    /// No deadline yet.
    pub fn none() -> Self {
        Self { epoch: Instant::now(), at: Arc::new(AtomicU64::new(0)), cancel: None }
    }

    /// No deadline, until the next [`Cancel::trigger`].
    pub fn until(cancel: &Cancel) -> Self {
        Self { cancel: Some((cancel.clone(), cancel.times())), ..Self::none() }
    }

    /// Whether it was cancelled, as opposed to out of time.
    pub fn was_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|(cancel, before)| cancel.times() != *before)
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
                _ if deadline.was_cancelled() || is_over() => true,
                0 => false,
                at => deadline.epoch.elapsed().as_micros() > u128::from(at),
            }),
        )?;
        Ok(())
    }
}
