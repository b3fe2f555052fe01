//! The run that is under way: its report, and what it is asked to do. Without I/O.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

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

/// The most tenants that are remembered as failed beside those that the report names: each counts once if it is tried
/// again.
const REMEMBERED: usize = 10_000;

/// The one run that may be under way.
#[derive(Default)]
pub struct UnderWay {
    state: Mutex<Option<State>>,
    /// The run before, and who failed in it and is not named: it may be resumed.
    remembered: Mutex<(String, HashMap<String, String>)>,
}

struct State {
    report: Report,
    end: Option<End>,
    /// Closed when the run is over.
    over: watch::Receiver<()>,
    /// Says whether it is asked to end.
    asked: watch::Sender<bool>,
    /// Stops the migrations that it has begun.
    cut: Cancel,
    /// When it was started or resumed, whom it has handled since, and how many of them failed.
    since: Instant,
    handled: u64,
    failed: u64,
    /// Who was known to have failed when it was resumed. Whoever is left of them is in the total twice until they are tried.
    before: HashSet<String>,
    /// Who failed and is not named, and for which reason of the report.
    unnamed: HashMap<String, String>,
    /// Who failed, or is quarantined still, since the report was last recorded.
    unrecorded: Vec<String>,
}

impl UnderWay {
    /// The report of the run as it is now.
    pub fn report(&self) -> Option<Report> {
        self.state.lock().as_ref().map(State::view)
    }

    /// Begins a run.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while there is another one.
    pub fn begin(self: &Arc<Self>, report: Report) -> Result<Guard> {
        let mut state = self.state.lock();
        if let Some(running) = &*state {
            let why =
                format!("a migration is running already ({}); pause it, or wait until it is done", running.report.run);
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        let (ends, over) = watch::channel(());
        let (asked, is_asked) = watch::channel(false);
        let cut = Cancel::default();
        let (of, unnamed) = std::mem::take(&mut *self.remembered.lock());
        let unnamed = if of == report.run { unnamed } else { HashMap::new() };
        let named = report.failures.iter().flat_map(|failure| failure.tenants.iter().cloned());
        let before = named.chain(unnamed.keys().cloned()).collect();
        *state = Some(State {
            report,
            end: None,
            over,
            asked,
            cut: cut.clone(),
            since: Instant::now(),
            handled: 0,
            failed: 0,
            before,
            unnamed,
            unrecorded: Vec::new(),
        });
        Ok(Guard { under_way: self.clone(), asked: is_asked, cut, _ends: ends })
    }

    /// Asks a run, or whichever there is, to end. What it has begun it finishes, unless the server ends. Gives what is closed
    /// when it is over.
    pub fn ask(&self, run: Option<&str>, end: End) -> Option<watch::Receiver<()>> {
        let mut state = self.state.lock();
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
        let handled = Some(self.handled).filter(|handled| *handled > 0)?;
        let left = u128::from(self.report.total.saturating_sub(self.report.handled));
        u64::try_from(self.since.elapsed().as_millis() * left / u128::from(handled) / 1000).ok()
    }

    /// Whether a tenant is counted as failed.
    fn has_failed(&self, id: &str) -> bool {
        self.unnamed.contains_key(id) || self.report.why(id).is_some()
    }

    /// Counts a tenant once: the failure of one that is tried again is taken back.
    fn add(&mut self, id: &str, outcome: Outcome) {
        let error = match &outcome {
            Outcome::Failed(error) => Some(error.clone()),
            _ => None,
        };
        let is_quarantined = outcome == Outcome::StillQuarantined;
        if error.is_some() || is_quarantined {
            self.unrecorded.push(id.to_owned());
        }
        let has_failed = self.has_failed(id);
        if !has_failed {
            self.handled += 1;
        } else if self.before.remove(id) {
            self.handled += 1;
            self.report.total = self.report.total.saturating_sub(1).max(self.report.handled);
        } else if !is_quarantined {
            self.failed = self.failed.saturating_sub(1);
        }
        if has_failed && is_quarantined {
            // Its failure is why.
            return;
        }
        if let Some(reason) = self.unnamed.remove(id) {
            self.report.take_back(id, &reason);
        }
        self.report.add(id, outcome);
        let Some(error) = error else { return };
        self.failed += 1;
        if self.report.why(id).is_none() && self.unnamed.len() < REMEMBERED {
            self.unnamed.insert(id.to_owned(), self.report.reason_of(&error).to_owned());
        }
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
        self.under_way.state.lock().as_mut().map(|state| work(&mut state.report))
    }

    /// Counts a tenant. Too many failures end the run.
    pub fn add(&self, id: &str, outcome: Outcome) {
        let mut state = self.under_way.state.lock();
        let Some(state) = state.as_mut() else { return };
        state.add(id, outcome);
        let State { report, handled, failed, .. } = &*state;
        let (handled, failed) = (*handled, *failed);
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

    /// These are to be tried, some of them again: whoever is not counted yet is one more to handle.
    pub fn try_also<'i>(&self, ids: impl Iterator<Item = &'i str>) {
        let mut state = self.under_way.state.lock();
        let Some(state) = state.as_mut() else { return };
        let more = ids.filter(|id| !state.has_failed(id)).count() as u64;
        state.report.total = state.report.total.max(state.report.handled + more);
    }

    /// The report, and the tenants whose failures are in it and were not in the one that was last recorded.
    pub fn to_record(&self) -> Option<(Report, Vec<String>)> {
        self.under_way.state.lock().as_ref().map(|state| (state.report.clone(), state.unrecorded.clone()))
    }

    /// A report with the first so many of those is recorded.
    pub fn recorded(&self, failed: usize) {
        if let Some(state) = self.under_way.state.lock().as_mut() {
            state.unrecorded = state.unrecorded.split_off(failed.min(state.unrecorded.len()));
        }
    }

    /// Why a tenant failed, as far as it is remembered.
    pub fn why(&self, id: &str) -> Option<String> {
        let state = self.under_way.state.lock();
        let state = state.as_ref()?;
        state.report.why(id).or_else(|| state.unnamed.get(id).map(String::as_str)).map(str::to_owned)
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
        self.under_way.state.lock().as_ref().and_then(|state| state.end.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(state) = self.under_way.state.lock().take() {
            *self.under_way.remembered.lock() = (state.report.run, state.unnamed);
        }
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
    fn whoever_is_tried_again_is_counted_once_named_or_not_and_after_a_resumption() {
        let (under_way, guard) = begun(0, "100%");
        guard.with(|report| report.total = 40);
        // Ten of them are named.
        let ids: Vec<String> = (0..40).map(|n| format!("user_{n:02}")).collect();
        ids.iter().for_each(|id| guard.add(id, failed()));
        guard.try_also(ids.iter().map(String::as_str));
        ids[..20].iter().for_each(|id| guard.add(id, failed()));
        ids[20..].iter().for_each(|id| guard.add(id, Outcome::Migrated));
        let report = under_way.report().unwrap();
        assert_eq!((report.handled, report.failed, report.migrated, report.total), (40, 20, 20, 40));
        assert_eq!((report.failures[0].count, report.failures[0].tenants.len()), (20, 10));

        let not_named = ids[..20].iter().find(|id| report.why(id).is_none()).unwrap().clone();
        assert_eq!(guard.why(&not_named).as_deref(), Some("why"));
        drop(guard);
        let guard = under_way.begin(report.clone()).unwrap();
        assert_eq!(guard.why(&not_named).as_deref(), Some("why"), "a run that is resumed remembers them");
        guard.add(&not_named, Outcome::Migrated);
        assert_eq!(under_way.report().unwrap().failed, 19);
        drop(guard);
        let guard = under_way.begin(report).unwrap();
        // Two who failed are left, and one who came back.
        guard.with(|report| report.total = 42);
        let left = [&*ids[8], &*ids[9], "back"];
        guard.try_also(left.into_iter());
        assert_eq!(under_way.report().unwrap().total, 42);
        let named = guard.with(|report| report.failures[0].tenants.clone()).unwrap();
        assert!(named.contains(&ids[8]) && named.contains(&ids[9]), "{named:?}");
        guard.add(left[0], failed());
        guard.add(left[1], Outcome::Current);
        guard.add(left[2], Outcome::Migrated);
        let report = under_way.report().unwrap();
        assert_eq!((report.handled, report.failed, report.migrated, report.total), (41, 19, 21, 41));
        assert_eq!((report.already_current, guard.end()), (1, None));
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
