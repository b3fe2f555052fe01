//! The run that is under way and its progress, and the reports of the last runs.
//!
//! One request starts a run and others ask for it, since it may take longer than a request may. The catalog keeps the
//! reports of real runs. Dry runs write nothing there, so their reports are only in memory.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

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

/// A name for a run.
pub fn new_name() -> String {
    let letters: Vec<char> = ('a'..='z').collect();
    format!("run_{}", nanoid::nanoid!(16, &letters))
}

/// Reports kept in memory.
const KEPT: usize = 16;

#[derive(Default)]
pub(super) struct Runs(Mutex<State>);

#[derive(Default)]
struct State {
    running: Option<(String, Progress)>,
    ended: VecDeque<Report>,
}

impl Runs {
    pub(super) fn running(&self) -> Option<(String, Progress)> {
        self.0.lock().running.clone()
    }

    /// The status of a run that is under way or whose report is in memory.
    pub(super) fn find(&self, run: &str) -> Option<RunStatus> {
        let state = self.0.lock();
        if let Some((_, progress)) = state.running.as_ref().filter(|(running, _)| running == run) {
            return Some(RunStatus::Running { progress: *progress });
        }
        let report = state.ended.iter().find(|report| report.run == run)?;
        Some(RunStatus::Ended { report: Box::new(report.clone()) })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Result<RunGuard> {
        let mut state = self.0.lock();
        if let Some((running, _)) = &state.running {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("a reconcile is running already ({running}); wait until it is done"),
            ));
        }
        let run = new_name();
        state.running = Some((run.clone(), Progress::default()));
        Ok(RunGuard { runs: self.clone(), run })
    }
}

/// The run that is under way, with its id. Dropping it ends the run.
pub(super) struct RunGuard {
    runs: Arc<Runs>,
    pub(super) run: String,
}

impl RunGuard {
    pub(super) fn at(&self, phase: Phase, done: u64, total: u64) {
        self.runs.0.lock().running = Some((self.run.clone(), Progress { phase, done, total }));
    }

    pub(super) fn phase(&self) -> Phase {
        self.runs.running().map_or(Phase::default(), |(_, progress)| progress.phase)
    }

    /// Ends the run and keeps its report, which is there before the run is gone.
    pub(super) fn end(self, report: &Report) {
        let mut state = self.runs.0.lock();
        state.ended.truncate(KEPT - 1);
        state.ended.push_front(report.clone());
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.runs.0.lock().running = None;
    }
}
