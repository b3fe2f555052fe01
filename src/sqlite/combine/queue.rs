//! The jobs that wait for the connection, whether a combiner is running, and whether the connection is lent.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::{batch::Writes, job::Job};
use crate::error::{Error, ErrorKind, Result};

/// A bounded queue. Its flags `running` and `lent` change only under the lock under which the jobs are looked at.
pub struct Queue {
    state: Mutex<State>,
    limit: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Ticket, Job)>,
    running: bool,
    /// Only reads are taken meanwhile.
    lent: bool,
    pushed: u64,
}

/// Finds a job in the queue again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What a pushed job means for who pushed it.
pub struct Pushed {
    /// No combiner is running: the caller must start one.
    pub start: bool,
    /// The job is not run before somebody's transaction ends; its ticket.
    pub behind_session: Option<Ticket>,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit }
    }

    /// Adds a job.
    pub fn push(&self, job: Job) -> Result<Pushed> {
        let mut state = self.state.lock();
        let read = matches!(job, Job::Read(_));
        // Reads go on while writes wait for a transaction's end.
        let limit = if state.lent && !read { self.limit.div_ceil(2) } else { self.limit };
        if state.jobs.len() >= limit {
            return Err(Error::new(ErrorKind::Busy, "too many requests are waiting for this database"));
        }
        state.pushed += 1;
        let ticket = Ticket(state.pushed);
        let waits = !read && (state.lent || state.jobs.iter().any(|(_, job)| matches!(job, Job::Lend(_))));
        let behind_session = (waits || matches!(job, Job::Lend(_))).then_some(ticket);
        state.jobs.push_back((ticket, job));
        let start = !state.running && (read || !state.lent);
        state.running |= start;
        Ok(Pushed { start, behind_session })
    }

    /// Puts writes that did not run back at the front.
    pub fn put_back(&self, writes: Writes) {
        let mut state = self.state.lock();
        writes.into_iter().rev().for_each(|write| state.jobs.push_front((Ticket(0), Job::Write(write))));
    }

    /// Up to `max` jobs, or one that lends the connection, alone. None if there are none that may run: the combiner
    /// counts as stopped.
    pub fn take(&self, max: usize) -> Option<Vec<Job>> {
        let mut state = self.state.lock();
        let jobs: Vec<Job> = if state.lent {
            let (mut reads, mut others) = (Vec::new(), VecDeque::with_capacity(state.jobs.len()));
            for (ticket, job) in state.jobs.drain(..) {
                match job {
                    Job::Read(_) if reads.len() < max => reads.push(job),
                    job => others.push_back((ticket, job)),
                }
            }
            state.jobs = others;
            reads
        } else {
            let before_lend = state.jobs.iter().take_while(|(_, job)| !matches!(job, Job::Lend(_))).count();
            let count = if before_lend == 0 { state.jobs.len().min(1) } else { before_lend.min(max) };
            state.jobs.drain(..count).map(|(_, job)| job).collect()
        };
        state.running = !jobs.is_empty();
        state.running.then_some(jobs)
    }

    /// The connection is lent: writes wait until [`given_back`](Self::given_back).
    pub fn lent(&self) {
        self.state.lock().lent = true;
    }

    /// The connection was given back. `true` if no combiner is running and jobs wait: the caller must start one.
    pub fn given_back(&self) -> bool {
        let mut state = self.state.lock();
        state.lent = false;
        let start = !state.running && !state.jobs.is_empty();
        state.running |= start;
        start
    }

    /// Takes a job back that waits for a transaction's end, or to begin one. `false` if it does not.
    pub fn withdraw(&self, ticket: Ticket) -> bool {
        let mut state = self.state.lock();
        let Some(at) = state.jobs.iter().position(|(other, _)| *other == ticket) else { return false };
        if !state.lent && !matches!(state.jobs[at].1, Job::Lend(_)) {
            return false;
        }
        let job = state.jobs.remove(at);
        drop(state);
        // Not under the lock: what a caller's closure owns is dropped with it.
        drop(job);
        true
    }

    /// Drops all jobs. The combiner counts as stopped.
    pub fn stop(&self) {
        let jobs = {
            let mut state = self.state.lock();
            state.running = false;
            std::mem::take(&mut state.jobs)
        };
        // Not under the lock: what a caller's closure owns is dropped with it.
        drop(jobs);
    }
}
