//! A circuit breaker for look-ups at the provider.
//!
//! ```text
//!            consecutive failures            OPEN_FOR is over
//!   closed ─────────────────────▶ open ─────────────────────▶ half-open: one request is let through
//!     ▲                             ▲                            │ success      │ failure
//!     └─────────────────────────────┼────────────────────────────┘              │
//!                                   └───────────────────────────────────────────┘
//! ```
//!
//! Without it each request for an unknown user would wait for a timeout of its own while the provider is down.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

use crate::error::{Error, ErrorKind, Result};

/// Consecutive failures that open the circuit, and how long it stays open; `Retry-After` in `http/problem.rs` says as
/// long.
const FAILURES: u32 = 3;
const OPEN_FOR: Duration = Duration::from_secs(5);

/// A circuit breaker, closed at first.
#[derive(Debug, Default)]
pub struct Circuit {
    state: Mutex<State>,
    /// Held by the request of the half-open state.
    probe: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Since when it is open, and the failure that opened it.
    opened: Option<(Instant, Error)>,
}

impl Circuit {
    /// Awaits the request, unless the circuit is open. Only [`ErrorKind::Provider`] counts as a failure, and a request
    /// that is dropped is neither a failure nor a success.
    ///
    /// # Errors
    /// The request's error; or, without awaiting it, the failure that opened the circuit.
    pub async fn call<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let _probe = self.enter(Instant::now())?;
        let answer = request.await;
        self.record(answer.as_ref().err(), Instant::now());
        answer
    }

    fn enter(&self, now: Instant) -> Result<Option<MutexGuard<'_, ()>>> {
        let state = self.state.lock();
        let Some((at, failure)) = &state.opened else { return Ok(None) };
        match self.probe.try_lock() {
            Ok(probe) if now.saturating_duration_since(*at) >= OPEN_FOR => Ok(Some(probe)),
            _ => Err(failure.clone()),
        }
    }

    fn record(&self, error: Option<&Error>, now: Instant) {
        let mut state = self.state.lock();
        match error {
            None => {
                state.failures = 0;
                if state.opened.take().is_some() {
                    tracing::info!("the provider answers again");
                }
            }
            Some(failure) if failure.kind() == ErrorKind::Provider => {
                state.failures = state.failures.saturating_add(1);
                if state.failures >= FAILURES {
                    if state.opened.is_none() {
                        let failures = state.failures;
                        tracing::warn!(error = %failure, failures, "the provider is not asked for a while");
                    }
                    state.opened = Some((now, failure.clone()));
                }
            }
            // Storage, a limit, an invalid id: not the provider's.
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_three_failures_of_the_provider_one_request_at_a_time_is_let_through() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        let [full, bad] = [ErrorKind::DiskFull, ErrorKind::Provider].map(|kind| Error::new(kind, "failed"));
        // A success between them sets the count back.
        for answer in [Some(&full), Some(&bad), Some(&bad), None, Some(&bad), Some(&full), Some(&bad), Some(&bad)] {
            assert!(circuit.enter(now).unwrap().is_none(), "closed");
            circuit.record(answer, now);
        }
        let later = now + OPEN_FOR;
        assert!(circuit.enter(now).is_err() && circuit.enter(now + OPEN_FOR / 2).is_err(), "open");
        for _ in 0..2 {
            // Dropped the first time, and then it may be tried again.
            let probe = circuit.enter(later).unwrap();
            assert!(probe.is_some() && circuit.enter(later).is_err(), "half-open");
        }
        circuit.record(Some(&bad), later);
        assert!(circuit.enter(later).is_err(), "open again");
        circuit.record(None, later);
        assert!(circuit.enter(later).unwrap().is_none(), "closed");
    }

    #[test]
    fn a_dropped_request_lets_the_next_one_through() {
        let circuit = Circuit::default();
        let failure = Error::new(ErrorKind::Provider, "failed");
        let long_ago = Instant::now().checked_sub(OPEN_FOR).unwrap();
        (0..FAILURES).for_each(|_| circuit.record(Some(&failure), long_ago));
        let mut request = Box::pin(circuit.call(std::future::pending::<Result<()>>()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(request.as_mut().poll(&mut context).is_pending());
        assert!(circuit.enter(Instant::now()).is_err(), "one at a time");
        drop(request);
        assert!(circuit.enter(Instant::now()).unwrap().is_some());
    }
}
