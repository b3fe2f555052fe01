//! The jobs that wait for the connection, and whether a combiner is running.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::{batch::Writes, job::Job};
use crate::error::{Error, ErrorKind, Result};

/// A bounded queue. Its flag `running` changes only under the lock under which the jobs are looked at.
pub struct Queue {
    state: Mutex<State>,
    limit: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    running: bool,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit }
    }

    /// Adds a job. `true` if no combiner is running: the caller must start one.
    pub fn push(&self, job: Job) -> Result<bool> {
        let mut state = self.state.lock();
        if state.jobs.len() >= self.limit {
            return Err(Error::new(ErrorKind::Busy, "too many requests are waiting for this database"));
        }
        state.jobs.push_back(job);
        Ok(!std::mem::replace(&mut state.running, true))
    }

    /// Puts writes that did not run back at the front.
    pub fn put_back(&self, writes: Writes) {
        let mut state = self.state.lock();
        writes.into_iter().rev().for_each(|write| state.jobs.push_front(Job::Write(write)));
    }

    /// Up to `max` jobs. None if there are none: the combiner counts as stopped.
    pub fn take(&self, max: usize) -> Option<Vec<Job>> {
        let mut state = self.state.lock();
        state.running = !state.jobs.is_empty();
        let count = state.jobs.len().min(max);
        state.running.then(|| state.jobs.drain(..count).collect())
    }

    /// Drops all jobs. The combiner counts as stopped.
    pub fn stop(&self) {
        let state = std::mem::take(&mut *self.state.lock());
        // Not under the lock: what a caller's closure owns is dropped with it.
        drop(state);
    }
}
