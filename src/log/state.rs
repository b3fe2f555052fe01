//! What those who append to the log share with the thread that writes it: the records that wait, and which are durable.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, ErrorKind, Result};

/// The place of a record in the order of this process's records, from 1. 0 is durable always.
pub type Seq = u64;

/// What is to be done when a record is durable, or could not be made so. It runs on the log's thread and must not block.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Default)]
pub(super) struct Shared {
    pub state: Mutex<State>,
    pub wake: Condvar,
    /// Every record up to this one is durable or has failed.
    pub through: AtomicU64,
    /// The number of the last group that was flushed.
    pub number: AtomicU64,
    /// The last record that has failed; 0 if none has.
    pub last_failed: AtomicU64,
    /// `state.full` is set.
    pub is_full: AtomicBool,
    /// The log is closed, or about to be.
    pub closing: AtomicBool,
    /// Why no more commits are taken.
    pub refused: OnceLock<Error>,
    /// Databases whose creation is in the log, and their files perhaps not on the disk.
    pub created: Mutex<HashMap<Arc<str>, Creation>>,
}

/// A creation that the log has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Creation {
    /// Its record.
    pub seq: Seq,
    /// How many flushes of the databases' file system had been asked for before it.
    pub flushes: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub last: Seq,
    pub pending: Vec<Pending>,
    pub waiting: Vec<(Seq, Done)>,
    /// Records that could not be made durable: from the first to the last of each row of them.
    failed: BTreeMap<Seq, Seq>,
    /// Why there is no room for more.
    pub full: Option<Error>,
    pub stop: bool,
    /// The thread that writes has ended.
    pub ended: bool,
}

pub(super) struct Pending {
    pub seq: Seq,
    /// The record that this one continues, or 0. If that has failed, this one would leave a gap.
    pub continues: Seq,
    pub name: Arc<str>,
    /// The encoded record.
    pub record: Vec<u8>,
    pub done: Option<Done>,
}

impl State {
    pub fn has_failed(&self, seq: Seq) -> bool {
        self.failed.range(..=seq).next_back().is_some_and(|(_, last)| seq <= *last)
    }

    fn fail(&mut self, seq: Seq) {
        match self.failed.range_mut(..=seq).next_back() {
            Some((_, last)) if seq <= *last => {}
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ => drop(self.failed.insert(seq, seq)),
        }
    }
}

/// How often a log that cannot grow is tried again.
const RETRY: Duration = Duration::from_millis(200);

impl Shared {
    /// Waits for records, and takes those of up to `bytes`. None of them if it is time to see whether a full log can grow
    /// again; nothing if the log is to stop and all are written.
    pub fn next_batch(&self, bytes: usize) -> Option<Vec<Pending>> {
        let mut state = self.state.lock();
        while state.pending.is_empty() {
            if state.stop {
                state.ended = true;
                return None;
            }
            if state.full.is_none() {
                self.wake.wait(&mut state);
            } else if self.wake.wait_for(&mut state, RETRY).timed_out() {
                return Some(Vec::new());
            }
        }
        let mut room = bytes;
        let mut fits = |pending: &Pending| match room.checked_sub(pending.record.len()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        let count = state.pending.iter().take_while(|pending| fits(pending)).count().max(1);
        let rest = state.pending.split_off(count);
        Some(std::mem::replace(&mut state.pending, rest))
    }

    /// Sets whether and why the log cannot grow.
    pub fn set_full(&self, full: Option<Error>) {
        if full.is_some() || self.is_full.load(Ordering::Acquire) {
            self.is_full.store(full.is_some(), Ordering::Release);
            self.state.lock().full = full;
        }
    }

    /// A record could not be made durable.
    pub fn fail(&self, state: &mut State, seq: Seq) {
        state.fail(seq);
        self.last_failed.fetch_max(seq, Ordering::AcqRel);
    }

    /// Ends the log without its thread: what waits has failed, and what comes does. Returns who waited.
    pub fn abort(&self) -> Vec<Done> {
        let mut state = self.state.lock();
        state.ended = true;
        let (pending, waiting) = (std::mem::take(&mut state.pending), std::mem::take(&mut state.waiting));
        for seq in self.through.load(Ordering::Acquire) + 1..=state.last {
            self.fail(&mut state, seq);
        }
        self.through.store(state.last, Ordering::Release);
        drop(state);
        let dones = pending.into_iter().filter_map(|pending| pending.done);
        dones.chain(waiting.into_iter().map(|(_, done)| done)).collect()
    }

    /// Takes out the records that continue one that has failed.
    pub fn split_off_gaps(&self, batch: Vec<Pending>) -> (Vec<Pending>, Vec<Pending>) {
        if self.last_failed.load(Ordering::Acquire) == 0 {
            return (batch, Vec::new());
        }
        let mut state = self.state.lock();
        batch.into_iter().partition(|pending| {
            let follows = pending.continues == 0 || !state.has_failed(pending.continues);
            if !follows {
                self.fail(&mut state, pending.seq);
            }
            follows
        })
    }

    /// Decides every record up to `through`, those of `batch` with the result of its flush, which was that of group
    /// `number`. Returns who waited for them.
    pub fn decide(&self, batch: &[Pending], through: Seq, number: u64, failed: bool) -> Vec<(Seq, Done)> {
        let mut state = self.state.lock();
        if failed {
            batch.iter().for_each(|pending| self.fail(&mut state, pending.seq));
        }
        self.number.store(number, Ordering::Release);
        self.through.store(through, Ordering::Release);
        state.waiting.extract_if(.., |(seq, _)| *seq <= through).collect()
    }
}

pub(super) fn outcome_unknown(source: Option<Error>) -> Error {
    let error =
        Error::new(ErrorKind::Unavailable, "the log could not be written; the outcome of this write is unknown");
    match source {
        Some(source) => error.with_source(source),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_records_are_kept_as_rows() {
        let mut state = State::default();
        [3, 4, 5, 9, 4, 10].into_iter().for_each(|seq| state.fail(seq));
        assert_eq!(state.failed.len(), 2);
        let failed: Vec<Seq> = (0..12).filter(|seq| state.has_failed(*seq)).collect();
        assert_eq!(failed, [3, 4, 5, 9, 10]);
    }
}
