//! When to stop asking a provider that answers badly.
//!
//! ```text
//!            failures in a row               the rest is over
//!   closed ───────────────────▶ open ◀──────────────────────┐
//!     ▲                           │ ▲                        │
//!     │ a good answer             │ │ a bad answer           │
//!     └──────────────── one question is let through ─────────┘
//! ```
//!
//! Two are in use. **A reconcile has one of its own that never closes again**: the first question that
//! the client's own retries could not get answered, and the first list that cannot be whole, open
//! it, and from then on nothing is asked and nobody is deleted. **Look-ups on demand share one that
//! rests**: after a few failures in a row a request for an unknown user is refused at once, and one at
//! a time tries whether the provider is back. Without it every such request would wait for its own
//! time-out, thousands of them behind each other.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::{
    provider::{Page, Provider},
    user::User,
};
use crate::{
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

/// Closed at first.
#[derive(Debug)]
pub struct Circuit {
    /// Failures in a row that open it.
    after: u32,
    /// How long it stays open; none: for good.
    rest: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    opened: Option<Opened>,
    /// One question is on its way to see whether the provider is back.
    trying: bool,
}

#[derive(Debug)]
struct Opened {
    at: Instant,
    why: Error,
}

impl Circuit {
    /// Opens with the first failure and stays open: for a run that must stop.
    pub fn stopping() -> Self {
        Self { after: 1, rest: None, state: Mutex::default() }
    }

    /// Opens after so many failures in a row, and tries again after a rest.
    pub fn resting(after: u32, rest: Duration) -> Self {
        Self { after: after.max(1), rest: Some(rest), state: Mutex::default() }
    }

    /// Asks the provider, unless the circuit is open.
    ///
    /// # Errors
    /// What the provider's failure was; or, without asking, what opened the circuit.
    pub async fn ask<T>(&self, question: impl Future<Output = Result<T>>) -> Result<T> {
        self.enter(Instant::now())?;
        // A question that is given up is neither a good answer nor a bad one.
        let asked = Asked { circuit: self, settled: false };
        let answer = question.await;
        asked.settle(answer.as_ref().err(), Instant::now());
        answer
    }

    /// Opens at once: the provider answered, and its answer cannot be true.
    pub fn distrust(&self, why: Error) -> Error {
        let mut state = self.state.lock();
        state.failures = self.after;
        state.opened = Some(Opened { at: Instant::now(), why: why.clone() });
        why
    }

    /// Whether the provider may be believed.
    ///
    /// # Errors
    /// What opened the circuit.
    pub fn check(&self) -> Result<()> {
        match &self.state.lock().opened {
            None => Ok(()),
            Some(opened) => Err(opened.why.clone()),
        }
    }

    fn enter(&self, now: Instant) -> Result<()> {
        let mut state = self.state.lock();
        let Some(opened) = &state.opened else { return Ok(()) };
        let rested = self.rest.is_some_and(|rest| now.saturating_duration_since(opened.at) >= rest);
        match rested && !state.trying {
            true => state.trying = true,
            false => return Err(opened.why.clone()),
        }
        Ok(())
    }

    fn settle(&self, failure: Option<&Error>, now: Instant) {
        let mut state = self.state.lock();
        state.trying = false;
        // Storage, a limit, a wrong id: nothing that the provider did.
        match failure.filter(|error| error.kind() == ErrorKind::Provider) {
            None if failure.is_some() => {}
            None => {
                // What was asked before a run's circuit opened does not close it again.
                if state.opened.is_none() || self.rest.is_some() {
                    if state.opened.take().is_some() {
                        tracing::info!("the provider answers again");
                    }
                    state.failures = 0;
                }
            }
            Some(why) => {
                state.failures = state.failures.saturating_add(1);
                if state.failures >= self.after {
                    if state.opened.is_none() {
                        tracing::warn!(error = %why, failures = state.failures, "the provider is not asked for a while");
                    }
                    state.opened = Some(Opened { at: now, why: why.clone() });
                }
            }
        }
    }
}

/// A question on its way.
struct Asked<'a> {
    circuit: &'a Circuit,
    settled: bool,
}

impl Asked<'_> {
    fn settle(mut self, failure: Option<&Error>, now: Instant) {
        self.settled = true;
        self.circuit.settle(failure, now);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.circuit.state.lock().trying = false;
        }
    }
}

/// A provider behind a circuit.
pub struct Guarded<'a> {
    /// Who is asked.
    pub provider: &'a dyn Provider,
    /// While it is closed.
    pub circuit: &'a Circuit,
}

impl Provider for Guarded<'_> {
    fn may_have(&self, id: &TenantId) -> bool {
        self.provider.may_have(id)
    }

    fn get<'a>(&'a self, id: &'a TenantId) -> BoxFuture<'a, Result<Option<User>>> {
        Box::pin(self.circuit.ask(self.provider.get(id)))
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.circuit.ask(self.provider.count()))
    }

    fn page<'a>(&'a self, after: &'a [String]) -> BoxFuture<'a, Result<Page>> {
        Box::pin(self.circuit.ask(self.provider.page(after)))
    }

    fn among<'a>(&'a self, ids: &'a [TenantId]) -> BoxFuture<'a, Result<Vec<User>>> {
        Box::pin(self.circuit.ask(self.provider.among(ids)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REST: Duration = Duration::from_secs(5);

    fn bad() -> Error {
        Error::new(ErrorKind::Provider, "bad")
    }

    #[test]
    fn a_runs_circuit_opens_with_the_first_failure_and_for_good() {
        let (circuit, now) = (Circuit::stopping(), Instant::now());
        circuit.enter(now).unwrap();
        circuit.settle(None, now);
        circuit.check().unwrap();
        circuit.enter(now).unwrap();
        circuit.settle(Some(&bad()), now);
        assert_eq!(circuit.check().unwrap_err().message(), "bad");
        // An answer to what was asked before.
        circuit.settle(None, now);
        assert!(circuit.enter(now + 1000 * REST).is_err());

        let circuit = Circuit::stopping();
        circuit.distrust(bad());
        circuit.settle(None, now);
        assert!(circuit.check().is_err() && circuit.enter(now + REST).is_err());
    }

    #[test]
    fn what_is_not_the_providers_fault_opens_nothing() {
        let (circuit, now) = (Circuit::stopping(), Instant::now());
        circuit.settle(Some(&Error::new(ErrorKind::DiskFull, "full")), now);
        circuit.check().unwrap();
    }

    #[test]
    fn a_question_that_is_given_up_lets_the_next_one_try() {
        let circuit = Circuit::resting(1, Duration::ZERO);
        circuit.settle(Some(&bad()), Instant::now());
        let mut question = Box::pin(circuit.ask(std::future::pending::<Result<()>>()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(question.as_mut().poll(&mut context).is_pending());
        assert!(circuit.enter(Instant::now()).is_err(), "one at a time");
        drop(question);
        circuit.enter(Instant::now()).unwrap();
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

        /// Questions one after another, as a dead and a living provider would answer them.
        #[test]
        fn after_three_failures_in_a_row_one_question_a_rest_is_asked(story in proptest::collection::vec(did(), 0..60)) {
            let circuit = Circuit::resting(3, REST);
            let mut now = Instant::now();
            let (mut asked, mut failures, mut newest): (bool, u32, Option<Instant>) = (false, 0, None);
            for did in story {
                match did {
                    Did::Waits(seconds) => now += Duration::from_secs(seconds),
                    Did::Asks if !asked => {
                        let may = failures < 3 || newest.is_some_and(|at| now - at >= REST);
                        prop_assert_eq!(circuit.enter(now).is_ok(), may);
                        asked = may;
                    }
                    Did::Asks => {
                        // Beside one that is on its way.
                        let may = failures < 3;
                        let entered = circuit.enter(now).is_ok();
                        prop_assert_eq!(entered, may);
                    }
                    Did::Answers(well) if asked => {
                        asked = false;
                        let error = bad();
                        circuit.settle((!well).then_some(&error), now);
                        failures = if well { 0 } else { failures + 1 };
                        newest = (!well).then_some(now);
                    }
                    Did::Answers(_) => {}
                }
            }
        }
    }
}
