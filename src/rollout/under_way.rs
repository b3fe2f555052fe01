//! The run that is under way: its report, and what it is asked to do. Without I/O.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::report::{Outcome, Phase, Report, Status};
use crate::{
    catalog::audit::Author,
    error::{Error, ErrorKind, Result},
    sqlite::deadline::Cancel,
};

/// Why a run ends before everybody is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Somebody pauses it.
    Paused(Author),
    /// It stops, for this reason.
    Stopped(String),
    /// The server ends.
    Interrupted,
}

/// The one run that may be under way.
#[derive(Default)]
pub struct UnderWay(Mutex<Option<State>>);

struct State {
    report: Report,
    end: Option<End>,
    /// Closed when the run is over.
    over: watch::Receiver<()>,
    /// Says whether it is asked to end.
    asked: watch::Sender<bool>,
    /// Stops the migrations that it has begun.
    cut: Cancel,
    /// When it was started or resumed, and what it had handled then.
    since: Instant,
    handled_before: u64,
    failed_before: u64,
    /// Who failed, or is quarantined still, since the report was last recorded.
    failed: Vec<String>,
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
        if let Some(running) = &*state {
            let why =
                format!("a migration is running already ({}); pause it, or wait until it is done", running.report.run);
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        let (ends, over) = watch::channel(());
        let (asked, is_asked) = watch::channel(false);
        let cut = Cancel::default();
        *state = Some(State {
            handled_before: report.handled,
            failed_before: report.failed,
            report,
            end: None,
            over,
            asked,
            cut: cut.clone(),
            since: Instant::now(),
            failed: Vec::new(),
        });
        Ok(Guard { under_way: self.clone(), asked: is_asked, cut, _ends: ends })
    }

    /// Asks a run, or whichever there is, to end. What it has begun it finishes, unless the server ends. Gives what is closed
    /// when it is over.
    pub fn ask(&self, run: Option<&str>, end: End) -> Option<watch::Receiver<()>> {
        let mut state = self.0.lock();
        let state = state.as_mut().filter(|state| run.is_none_or(|run| state.report.run == run))?;
        if end == End::Interrupted {
            state.cut.trigger();
        }
        // The first reason counts.
        state.end.get_or_insert(end);
        state.asked.send_replace(true);
        Some(state.over.clone())
    }
}

impl State {
    fn view(&self) -> Report {
        let mut report = self.report.clone();
        if report.status == Status::Running && self.end.is_some() {
            report.status = Status::Pausing;
        }
        report.total = report.total.max(report.handled);
        report.seconds_left = self.seconds_left();
        report
    }

    fn seconds_left(&self) -> Option<u64> {
        let report = &self.report;
        let handled = report.handled.checked_sub(self.handled_before).filter(|handled| *handled > 0)?;
        let left = u128::from(report.total.saturating_sub(report.handled));
        u64::try_from(self.since.elapsed().as_millis() * left / u128::from(handled) / 1000).ok()
    }
}

/// The run that is under way. Dropping it ends the run.
pub struct Guard {
    under_way: Arc<UnderWay>,
    asked: watch::Receiver<bool>,
    cut: Cancel,
    _ends: watch::Sender<()>,
}

impl Guard {
    /// Looks at the report, or changes it.
    pub fn with<R>(&self, work: impl FnOnce(&mut Report) -> R) -> Option<R> {
        self.under_way.0.lock().as_mut().map(|state| work(&mut state.report))
    }

    /// Counts a tenant. Too many failures end the run.
    pub fn add(&self, id: &str, outcome: Outcome) {
        let mut state = self.under_way.0.lock();
        let Some(state) = state.as_mut() else { return };
        if matches!(outcome, Outcome::Failed(_) | Outcome::StillQuarantined) {
            state.failed.push(id.to_owned());
        }
        let report = &mut state.report;
        report.add(id, outcome);
        let failed = report.failed - state.failed_before;
        let handled = report.handled - state.handled_before;
        let why = match report.phase {
            Phase::Canary if failed > 0 => Some(format!("{failed} of the first {handled} failed")),
            Phase::All if failed > report.options.max_failures.of(handled) => {
                let allowed = report.options.max_failures;
                Some(format!("{failed} of {handled} failed, more than max_failures ({allowed}) allows"))
            }
            _ => None,
        };
        if let Some(why) = why {
            state.end.get_or_insert(End::Stopped(why));
            state.asked.send_replace(true);
        }
    }

    /// The report, and the tenants whose failures are in it and were not in the one that was last recorded.
    pub fn to_record(&self) -> Option<(Report, Vec<String>)> {
        self.under_way.0.lock().as_ref().map(|state| (state.report.clone(), state.failed.clone()))
    }

    /// A report with the first so many of those is recorded.
    pub fn recorded(&self, failed: usize) {
        if let Some(state) = self.under_way.0.lock().as_mut() {
            state.failed = state.failed.split_off(failed.min(state.failed.len()));
        }
    }

    /// What stops the migrations that it has begun, when the server ends.
    pub fn cut(&self) -> &Cancel {
        &self.cut
    }

    /// Returns when it is asked to end.
    pub async fn asked(&self) {
        // The sender is there as long as this.
        let _ = self.asked.clone().wait_for(|asked| *asked).await;
    }

    /// Ends the run for a reason that is nobody's tenant.
    pub fn stop(&self, why: String) {
        self.under_way.ask(None, End::Stopped(why));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{rollout::report::Options, sqlite::deadline::Deadline};

    fn begun(canary: u32, max_failures: &str) -> (Arc<UnderWay>, Guard) {
        let under_way = Arc::<UnderWay>::default();
        let options = Options { canary, jobs: 1, max_failures: max_failures.parse().unwrap() };
        let guard = under_way.begin(Report::new("run_a".into(), 2, options, String::new())).unwrap();
        (under_way, guard)
    }

    fn failed() -> Outcome {
        Outcome::Failed("why".into())
    }

    #[test]
    fn the_failures_that_are_allowed_grow_with_those_handled_and_start_anew_with_a_resumption() {
        let (under_way, guard) = begun(0, "10%,2");
        for n in 0..2 {
            guard.add(&format!("bad_{n}"), failed());
        }
        (0..28).for_each(|n| guard.add(&format!("good_{n}"), Outcome::Migrated));
        assert_eq!(guard.end(), None);
        guard.add("bad_2", failed());
        assert_eq!(guard.end(), None, "three of 31 are a tenth");
        guard.add("bad_3", failed());
        assert_eq!(guard.end(), Some(End::Stopped("4 of 32 failed, more than max_failures (10%,2) allows".into())));
        let report = under_way.report().unwrap();
        drop(guard);
        let guard = under_way.begin(report).unwrap();
        guard.add("bad_4", failed());
        guard.add("still", Outcome::StillQuarantined);
        assert_eq!(guard.end(), None);
    }

    #[test]
    fn who_failed_is_told_until_it_is_recorded() {
        let (_under_way, guard) = begun(0, "100%");
        guard.add("bad_0", failed());
        guard.add("good", Outcome::Migrated);
        guard.add("still", Outcome::StillQuarantined);
        let (report, first) = guard.to_record().unwrap();
        assert_eq!((report.handled, &first[..]), (3, &["bad_0".to_owned(), "still".to_owned()][..]));
        guard.add("bad_1", failed());
        guard.recorded(first.len());
        assert_eq!(guard.to_record().unwrap().1, ["bad_1"]);
    }

    #[test]
    fn one_run_at_a_time_and_the_first_reason_to_end_it_counts() {
        let (under_way, guard) = begun(5, "100%");
        assert!(
            under_way.begin(Report::new("run_b".into(), 2, guard.with(|r| r.options).unwrap(), String::new())).is_err()
        );
        assert!(under_way.ask(Some("run_b"), End::Interrupted).is_none());
        let over = under_way.ask(Some("run_a"), End::Paused(Author::program("test"))).unwrap();
        guard.add("bad", failed());
        assert_eq!(guard.end(), Some(End::Paused(Author::program("test"))));
        assert_eq!(under_way.report().unwrap().status, Status::Pausing);
        let stopped = Deadline::until(guard.cut());
        assert!(under_way.ask(None, End::Interrupted).is_some());
        assert_eq!(guard.end(), Some(End::Paused(Author::program("test"))));
        assert!(stopped.was_cancelled(), "but a server that ends waits for nobody");
        assert!(over.has_changed().is_ok());
        drop(guard);
        assert!(over.has_changed().is_err() && under_way.report().is_none());
    }
}
