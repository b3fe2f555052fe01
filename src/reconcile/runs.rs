//! The run that is under way and its progress, and the reports of the last runs.
//!
//! One request starts a run and others ask for it, since it may take longer than a request may. The catalog keeps the
//! reports of real runs. Dry runs write nothing there, so their reports are only in memory.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::report::{Phase, Report};
use crate::error::{Error, ErrorKind, Result};

/// The progress of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The current phase.
    pub phase: Phase,
    /// Users handled in this phase.
    pub done: u64,
    /// Users in this phase, as far as is known.
    pub total: u64,
}

/// The status of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum RunStatus {
    /// It is under way.
    Running {
        /// Its progress.
        progress: Progress,
    },
    /// It ended.
    Ended {
        /// Its report.
        report: Box<Report>,
    },
    /// The server stopped before the run ended.
    Lost,
}

/// Reports kept in memory.
const KEPT: usize = 16;

/// All runs of this process.
pub(super) struct Runs {
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct State {
    running: Option<String>,
    ended: VecDeque<Arc<Report>>,
}

impl Runs {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), progress: watch::Sender::new(Progress::default()) })
    }

    /// The run that is under way.
    pub(super) fn running(&self) -> Option<(String, Progress)> {
        let running = self.state.lock().running.clone()?;
        Some((running, *self.progress.borrow()))
    }

    /// The status of a run that is under way or whose report is in memory.
    pub(super) fn find(&self, run: &str) -> Option<RunStatus> {
        let state = self.state.lock();
        if state.running.as_deref() == Some(run) {
            return Some(RunStatus::Running { progress: *self.progress.borrow() });
        }
        let report = state.ended.iter().find(|report| report.run == run)?;
        Some(RunStatus::Ended { report: Box::new(Report::clone(report)) })
    }

    /// Starts a run, if none is under way.
    pub(super) fn begin(self: &Arc<Self>) -> Result<RunGuard> {
        let mut state = self.state.lock();
        if let Some(running) = &state.running {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("a reconcile is running already ({running}); wait until it is done"),
            ));
        }
        let run = format!("run_{}", nanoid::nanoid!(16, &LETTERS));
        state.running = Some(run.clone());
        self.progress.send_replace(Progress::default());
        Ok(RunGuard { runs: self.clone(), run })
    }
}

const LETTERS: [char; 26] = [
    'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w',
    'x', 'y', 'z',
];

/// The run that is under way. Dropping it ends the run.
pub(super) struct RunGuard {
    runs: Arc<Runs>,
    run: String,
}

impl RunGuard {
    /// The run's id.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    pub(super) fn at(&self, phase: Phase, done: u64, total: u64) {
        self.runs.progress.send_replace(Progress { phase, done, total });
    }

    pub(super) fn phase(&self) -> Phase {
        self.runs.progress.borrow().phase
    }

    /// Ends the run and keeps its report, under one lock: a reader finds one or the other.
    pub(super) fn end(self, report: &Report) {
        let mut state = self.runs.state.lock();
        state.ended.truncate(KEPT - 1);
        state.ended.push_front(Arc::new(report.clone()));
        state.running = None;
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        let mut state = self.runs.state.lock();
        // After `end` another run may be under way.
        if state.running.as_deref() == Some(self.run.as_str()) {
            state.running = None;
        }
    }
}
