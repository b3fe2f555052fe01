//! A circuit breaker for look-ups at the provider.
//!
//! ```text
//!            consecutive failures            open_for is over
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

use crate::error::{Error, ErrorKind, Result};

/// A circuit breaker, closed at first.
#[derive(Debug)]
pub struct Circuit {
    max_failures: u32,
    open_for: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Since when it is open, and the failure that opened it.
    opened: Option<(Instant, Error)>,
    /// The request of the half-open state is in flight.
    probing: bool,
}

impl Circuit {
    /// Opens after `max_failures` consecutive failures, and becomes half-open after `open_for`.
    pub fn new(max_failures: u32, open_for: Duration) -> Self {
        Self { max_failures: max_failures.max(1), open_for, state: Mutex::default() }
    }

    /// Awaits the request, unless the circuit is open. Only [`ErrorKind::Provider`] counts as a failure.
    ///
    /// # Errors
    /// The request's error; or, without awaiting it, the failure that opened the circuit.
    pub async fn call<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.acquire(Instant::now())?;
        // A request that is dropped is neither a success nor a failure.
        let in_flight = InFlight(self);
        let answer = request.await;
        std::mem::forget(in_flight);
        self.record(answer.as_ref().err(), Instant::now());
        answer
    }

    fn acquire(&self, now: Instant) -> Result<()> {
        let mut state = self.state.lock();
        let Some((at, failure)) = &state.opened else { return Ok(()) };
        if state.probing || now.saturating_duration_since(*at) < self.open_for {
            return Err(failure.clone());
        }
        state.probing = true;
        Ok(())
    }

    fn record(&self, error: Option<&Error>, now: Instant) {
        let mut state = self.state.lock();
        state.probing = false;
        match error {
            None => {
                state.failures = 0;
                if state.opened.take().is_some() {
                    tracing::info!("the provider answers again");
                }
            }
            Some(failure) if failure.kind() == ErrorKind::Provider => {
                state.failures = state.failures.saturating_add(1);
                if state.failures >= self.max_failures {
                    if state.opened.is_none() {
                        tracing::warn!(error = %failure, failures = state.failures, "the provider is not asked for a while");
                    }
                    state.opened = Some((now, failure.clone()));
                }
            }
            // Storage, a limit, an invalid id: not the provider's.
            Some(_) => {}
        }
    }
}

struct InFlight<'a>(&'a Circuit);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state.lock().probing = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(5);

    fn bad() -> Error {
        Error::new(ErrorKind::Provider, "bad")
    }

    #[test]
    fn an_error_that_is_not_the_providers_does_not_count() {
        let (circuit, now) = (Circuit::new(1, OPEN_FOR), Instant::now());
        circuit.record(Some(&Error::new(ErrorKind::DiskFull, "full")), now);
        circuit.acquire(now).unwrap();
    }

    #[test]
    fn a_dropped_request_lets_the_next_one_through() {
        let circuit = Circuit::new(1, Duration::ZERO);
        circuit.record(Some(&bad()), Instant::now());
        let mut request = Box::pin(circuit.call(std::future::pending::<Result<()>>()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(request.as_mut().poll(&mut context).is_pending());
        assert!(circuit.acquire(Instant::now()).is_err(), "one at a time");
        drop(request);
        circuit.acquire(Instant::now()).unwrap();
    }

    #[derive(Debug, Clone)]
    enum Did {
        Asks,
        Answers(bool),
        Waits(u64),
    }

    fn did() -> impl Strategy<Value = Did> {
        prop_oneof![Just(Did::Asks), any::<bool>().prop_map(Did::Answers), (0_u64..7).prop_map(Did::Waits)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Compares it with a model, over random sequences of requests, answers and waits.
        #[test]
        fn after_three_failures_one_request_at_a_time_is_let_through(story in proptest::collection::vec(did(), 0..60)) {
            let circuit = Circuit::new(3, OPEN_FOR);
            let mut now = Instant::now();
            let (mut asked, mut failures, mut newest): (bool, u32, Option<Instant>) = (false, 0, None);
            for did in story {
                match did {
                    Did::Waits(seconds) => now += Duration::from_secs(seconds),
                    Did::Asks if !asked => {
                        let may = failures < 3 || newest.is_some_and(|at| now - at >= OPEN_FOR);
                        prop_assert_eq!(circuit.acquire(now).is_ok(), may);
                        asked = may;
                    }
                    Did::Asks => {
                        // While another is in flight.
                        let may = failures < 3;
                        let acquired = circuit.acquire(now).is_ok();
                        prop_assert_eq!(acquired, may);
                    }
                    Did::Answers(well) if asked => {
                        asked = false;
                        let error = bad();
                        circuit.record((!well).then_some(&error), now);
                        failures = if well { 0 } else { failures + 1 };
                        newest = (!well).then_some(now);
                    }
                    Did::Answers(_) => {}
                }
            }
        }
    }
}
