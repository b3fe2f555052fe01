//! The backup that is being made: its report, and whether it is to end. Without I/O.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::report::{Outcome, Phase, Report, Status};
use crate::{
    catalog::audit::Author,
    error::{Error, ErrorKind, Result},
};

/// Why a backup ends before it is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// An operator stops it.
    Stopped(Author),
    /// The server ends.
    Interrupted,
}

/// The one backup that may be made at a time.
#[derive(Default)]
pub struct UnderWay(Mutex<Option<State>>);

struct State {
    report: Report,
    end: Option<End>,
    /// Says whether it is asked to end.
    asked: watch::Sender<bool>,
    /// Closed when it is over.
    over: watch::Receiver<()>,
    /// When it began with users' databases.
    since: Option<Instant>,
}

impl UnderWay {
    /// The report as it is now.
    pub fn report(&self) -> Option<Report> {
        self.0.lock().as_ref().map(State::view)
    }

    /// Begins one.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while there is another one.
    pub fn begin(self: &Arc<Self>, report: Report) -> Result<Guard> {
        let mut state = self.0.lock();
        if let Some(State { report, .. }) = &*state {
            let why = format!(
                "a backup to {} is being made already ({}: {} of {}, by {}); wait until it is done, or stop it with \
                 `cubby backup stop`",
                report.to, report.run, report.handled, report.total, report.by
            );
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        let (ends, over) = watch::channel(());
        let (asked, is_asked) = watch::channel(false);
        *state = Some(State { report, end: None, asked, over: over.clone(), since: None });
        Ok(Guard { under_way: self.clone(), asked: is_asked, over, _ends: ends })
    }

    /// Asks one by name, or whichever there is, to end. Gives what is closed when it is over.
    pub fn ask(&self, run: Option<&str>, end: End) -> Option<watch::Receiver<()>> {
        let mut state = self.0.lock();
        let state = state.as_mut().filter(|state| run.is_none_or(|run| state.report.run == run))?;
        // The first reason counts.
        state.end.get_or_insert(end);
        state.asked.send_replace(true);
        Some(state.over.clone())
    }
}

impl State {
    fn view(&self) -> Report {
        let mut report = self.report.clone();
        if self.end.is_some() {
            report.status = Status::Stopping;
        }
        let Some(since) = self.since else { return report };
        let millis = since.elapsed().as_millis().max(1);
        report.bytes_per_second = u64::try_from(u128::from(report.bytes_read) * 1000 / millis).ok();
        if report.handled > 0 {
            let left = u128::from(report.total.saturating_sub(report.handled));
            report.seconds_left = u64::try_from(millis * left / u128::from(report.handled) / 1000).ok();
        }
        report
    }
}

/// The backup that is being made. Dropping it ends it.
pub struct Guard {
    under_way: Arc<UnderWay>,
    asked: watch::Receiver<bool>,
    over: watch::Receiver<()>,
    _ends: watch::Sender<()>,
}

impl Guard {
    /// The report so far.
    pub fn report(&self) -> Option<Report> {
        self.under_way.report()
    }

    /// Changes the report.
    pub fn with(&self, work: impl FnOnce(&mut Report)) {
        if let Some(state) = self.under_way.0.lock().as_mut() {
            work(&mut state.report);
        }
    }

    /// Goes on to a phase.
    pub fn enter(&self, phase: Phase) {
        if let Some(state) = self.under_way.0.lock().as_mut() {
            state.report.phase = phase;
            if phase == Phase::Users {
                state.since = Some(Instant::now());
            }
        }
    }

    /// Counts a database of this length.
    pub fn add(&self, id: &str, outcome: Outcome, bytes: u64) {
        self.with(|report| report.add(id, outcome, bytes));
    }

    /// Returns when it is asked to end, with what it is asked.
    pub async fn asked(&self) -> End {
        // The sender is there as long as this.
        let _ = self.asked.clone().wait_for(|asked| *asked).await;
        self.end().unwrap_or(End::Interrupted)
    }

    /// What it is asked to do.
    pub fn end(&self) -> Option<End> {
        self.under_way.0.lock().as_ref().and_then(|state| state.end.clone())
    }

    /// What is closed when it is over.
    pub fn over(&self) -> watch::Receiver<()> {
        self.over.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self.under_way.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(run: &str) -> Report {
        Report::new(run.into(), "file:///x".into(), "test".into(), String::new())
    }

    #[tokio::test]
    async fn one_at_a_time_which_says_what_runs_and_ends_when_it_is_asked() {
        let under_way = Arc::<UnderWay>::default();
        let guard = under_way.begin(report("a")).unwrap();
        let refused = under_way.begin(report("b")).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(refused.message().contains("file:///x"), "{refused}");
        guard.enter(Phase::Users);
        guard.add("ada", Outcome::Uploaded, 7);
        assert_eq!(under_way.report().unwrap().bytes, 7);
        assert!(under_way.ask(Some("b"), End::Interrupted).is_none());
        let by = Author::program("test");
        let over = under_way.ask(Some("a"), End::Stopped(by.clone())).unwrap();
        assert!(under_way.ask(None, End::Interrupted).is_some());
        assert_eq!(guard.asked().await, End::Stopped(by), "the first reason counts");
        assert_eq!(under_way.report().unwrap().status, Status::Stopping);
        assert!(over.has_changed().is_ok());
        drop(guard);
        assert!(over.has_changed().is_err() && under_way.report().is_none());
    }
}
