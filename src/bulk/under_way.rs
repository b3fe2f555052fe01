//! The run that is under way: its report, and whether it is to end. Without I/O.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::report::{Outcome, Report, Status};
use crate::{
    catalog::audit::Author,
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

/// Why a run ends before all are handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// An operator stops it.
    Stopped(Author),
    /// It stops by itself, for this reason.
    Failed(String),
    /// The server ends.
    Interrupted,
}

/// The one run that may be under way.
#[derive(Default)]
pub struct UnderWay(Mutex<Option<State>>);

struct State {
    report: Report,
    begun: u64,
    end: Option<End>,
    /// Closed when the run is over.
    over: watch::Receiver<()>,
    since: Instant,
}

impl UnderWay {
    /// The report of the run as it is now.
    pub fn report(&self) -> Option<Report> {
        self.0.lock().as_ref().map(State::view)
    }

    /// Begins a run.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while there is another one.
    pub fn begin(self: &Arc<Self>, report: Report) -> Result<Guard> {
        let mut state = self.0.lock();
        if let Some(State { report, .. }) = &*state {
            let why = format!(
                "{} is changing many users already ({} of {}, by {}); wait until it is done, or stop it",
                report.run, report.handled, report.total, report.by
            );
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        let (ends, over) = watch::channel(());
        *state = Some(State { report, begun: 0, end: None, over, since: Instant::now() });
        Ok(Guard { under_way: self.clone(), _ends: ends })
    }

    /// Asks a run, or whichever there is, to end; what it has begun it finishes. Gives what is closed when it is over.
    pub fn ask(&self, run: Option<&str>, end: End) -> Option<watch::Receiver<()>> {
        let mut state = self.0.lock();
        let state = state.as_mut().filter(|state| run.is_none_or(|run| state.report.run == run))?;
        // The first reason counts.
        state.end.get_or_insert(end);
        Some(state.over.clone())
    }
}

impl State {
    fn view(&self) -> Report {
        let mut report = self.report.clone();
        if self.end.is_some() {
            report.status = Status::Stopping;
        }
        report.seconds_left = self.seconds_left();
        report
    }

    fn seconds_left(&self) -> Option<u64> {
        let handled = Some(self.report.handled).filter(|handled| *handled > 0)?;
        let left = u128::from(self.report.total.saturating_sub(handled));
        u64::try_from(self.since.elapsed().as_millis() * left / u128::from(handled) / 1000).ok()
    }
}

/// The run that is under way. Dropping it ends the run.
pub struct Guard {
    under_way: Arc<UnderWay>,
    _ends: watch::Sender<()>,
}

impl Guard {
    /// The report so far.
    pub fn report(&self) -> Option<Report> {
        self.under_way.0.lock().as_ref().map(|state| state.report.clone())
    }

    /// Whether one more tenant may be begun: not beyond those that were confirmed.
    pub fn may_begin(&self) -> bool {
        let mut state = self.under_way.0.lock();
        let Some(state) = state.as_mut().filter(|state| state.end.is_none()) else { return false };
        if state.begun >= state.report.total {
            let why = format!("more users match than the {} that were confirmed", state.report.total);
            state.end = Some(End::Failed(why));
            return false;
        }
        state.begun += 1;
        true
    }

    /// Counts a tenant. Too many failures end the run.
    pub fn add(&self, id: &TenantId, outcome: Outcome) {
        let mut state = self.under_way.0.lock();
        let Some(state) = state.as_mut() else { return };
        state.report.add(id, outcome);
        if state.report.fails_too_often() {
            let why = format!("{} of {} failed", state.report.failed, state.report.handled);
            state.end.get_or_insert(End::Failed(why));
        }
    }

    /// Ends the run for a reason that is nobody's tenant.
    pub fn fail(&self, why: String) {
        self.under_way.ask(None, End::Failed(why));
    }

    /// What the run is asked to do.
    pub fn end(&self) -> Option<End> {
        self.under_way.0.lock().as_ref().and_then(|state| state.end.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self.under_way.0.lock() = None;
    }
}
