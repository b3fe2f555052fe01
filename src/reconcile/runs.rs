//! Which run is under way, how far it is, and what became of the last ones.
//!
//! A run is asked for by one request and looked after by others: it may take longer than a request
//! may. What became of it is in the catalog; of a dry run, which must leave no trace there, it is
//! remembered here.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::report::{Phase, Report};
use crate::error::{Error, ErrorKind, Result};

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it does now.
    pub phase: Phase,
    /// How many users it has gone through in this phase.
    pub done: u64,
    /// Of how many, as far as is known.
    pub total: u64,
}

/// What is known of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Fate {
    /// It is under way.
    Running {
        /// How far.
        progress: Progress,
    },
    /// It came to an end.
    Ended {
        /// What it says of itself.
        report: Box<Report>,
    },
    /// The server ended before it did.
    Lost,
}

/// Reports that are remembered.
const REMEMBERED: usize = 16;

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

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// What became of one, as far as it is remembered.
    pub(super) fn find(&self, run: &str) -> Option<Fate> {
        let state = self.state.lock();
        if state.running.as_deref() == Some(run) {
            return Some(Fate::Running { progress: *self.progress.borrow() });
        }
        let report = state.ended.iter().find(|report| report.run == run)?;
        Some(Fate::Ended { report: Box::new(Report::clone(report)) })
    }

    /// Takes the one turn there is.
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

/// The one run; given back however it ends.
pub(super) struct RunGuard {
    runs: Arc<Runs>,
    run: String,
}

impl RunGuard {
    /// What the run is called.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    pub(super) fn at(&self, phase: Phase, done: u64, total: u64) {
        self.runs.progress.send_replace(Progress { phase, done, total });
    }

    pub(super) fn phase(&self) -> Phase {
        self.runs.progress.borrow().phase
    }

    /// Ends the run. In one step: who looks finds it running or finds the report.
    pub(super) fn end(self, report: &Report) {
        let mut state = self.runs.state.lock();
        state.ended.truncate(REMEMBERED - 1);
        state.ended.push_front(Arc::new(report.clone()));
        state.running = None;
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        let mut state = self.runs.state.lock();
        // Another may have begun since this one ended.
        if state.running.as_deref() == Some(self.run.as_str()) {
            state.running = None;
        }
    }
}
