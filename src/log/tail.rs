//! The tail of the log: what was flushed, for those who read it while it is written, and the segments that are kept for
//! them.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Condvar, Mutex};

use super::{
    group::{self, GroupHeader},
    record::{BadRecord, Change, Record, What},
    state::{Done, Seq},
};
use crate::error::{Error, ErrorKind, Result};

/// A group of records that was flushed.
#[derive(Clone)]
pub struct Flushed {
    /// Its number.
    pub number: u64,
    /// The last of its records.
    pub last: Seq,
    /// When it was flushed.
    pub at: SystemTime,
    pub(super) file: Arc<File>,
    pub(super) seed: u64,
    pub(super) offset: u64,
    pub(super) length: usize,
}

impl Flushed {
    /// Its length in its segment, in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Reads its records, in order: the name of the database and the change. `wanted` says by the name which are decoded. May
    /// block.
    ///
    /// # Errors
    /// What was written is not there any more, or cannot be read.
    pub fn read(
        &self,
        wanted: impl Fn(&str) -> bool,
        mut each: impl FnMut(&str, Change<'static>) -> Result<()>,
    ) -> Result<()> {
        let mut bytes = vec![0; self.length];
        self.file.read_exact_at(&mut bytes, self.offset).map_err(|e| Error::io("the log", e))?;
        let damaged =
            || Error::new(ErrorKind::Damaged, format!("group {} of the log is not as it was written", self.number));
        let header = GroupHeader::decode(&bytes, self.seed).filter(|header| header.number == self.number);
        let extents = header.and_then(|header| group::extents(&header, &bytes)).ok_or_else(damaged)?;
        for (name, at, length) in extents {
            if wanted(&name) {
                let (record, _) = Record::decode(&bytes[at..at + length]).map_err(|BadRecord| damaged())?;
                each(&name, record.change)?;
            }
        }
        Ok(())
    }
}

/// Decides when the answer to a commit that is durable here is sent. It is called on the log's thread and must not block.
pub trait Hold: Send + Sync {
    /// Sends `done` at once or later. `name` is the database's, and `seq` the record.
    fn hold(&self, name: &str, seq: Seq, done: Done);
}

/// Is told, before the log of an earlier process is discarded, which databases it has records of, and the last of each.
pub type Left = Box<dyn Fn(&BTreeMap<String, What>) -> Result<()> + Send + Sync>;

/// The tail of a log. Clones share it.
#[derive(Clone)]
pub struct Tail(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    /// The lowest group that somebody still reads, or is to read.
    needed: AtomicU64,
    /// The newest group that was flushed.
    newest: AtomicU64,
    left: Left,
}

#[derive(Default)]
struct State {
    groups: VecDeque<Flushed>,
    /// Their lengths together.
    bytes: u64,
    hold: Option<Arc<dyn Hold>>,
    ended: bool,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("needed", &self.needed()).finish_non_exhaustive()
    }
}

impl Tail {
    /// A tail that nobody reads yet. `left` is told of what an earlier process has left.
    pub fn new(left: Left) -> Self {
        let (needed, newest) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { state: Mutex::default(), changed: Condvar::new(), needed, newest, left }))
    }

    /// Tells of what an earlier process has left in the log, before it is discarded.
    ///
    /// # Errors
    /// That could not be noted: the log must stay.
    pub(crate) fn note_left(&self, left: &BTreeMap<String, What>) -> Result<()> {
        (self.0.left)(left)
    }

    /// The lowest group that is still to be read: its segment is kept.
    pub(super) fn needed(&self) -> u64 {
        self.0.needed.load(Ordering::Acquire)
    }

    /// A group was flushed.
    pub(super) fn flushed(&self, group: Flushed) {
        let mut state = self.0.state.lock();
        self.0.newest.store(group.number, Ordering::Release);
        state.bytes += group.length as u64;
        state.groups.push_back(group);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Who decides about answers.
    pub(super) fn holder(&self) -> Option<Arc<dyn Hold>> {
        self.0.state.lock().hold.clone()
    }

    /// From now on `hold` decides when commits are answered.
    pub fn set_hold(&self, hold: Arc<dyn Hold>) {
        self.0.state.lock().hold = Some(hold);
    }

    /// From now on commits are answered when they are durable here.
    pub fn clear_hold(&self) {
        self.0.state.lock().hold = None;
    }

    /// The groups after `after`, up to `bytes` of them and one at least; waits until there is one. None after the
    /// [`end`](Self::end). May block.
    pub fn next(&self, after: u64, bytes: usize) -> Vec<Flushed> {
        let mut state = self.0.state.lock();
        loop {
            let start = state.groups.partition_point(|group| group.number <= after);
            if start < state.groups.len() {
                let mut room = bytes;
                let fits = |group: &&Flushed| {
                    let fits = room >= group.length;
                    room = room.saturating_sub(group.length);
                    fits
                };
                let count = state.groups.range(start..).take_while(fits).count().max(1);
                return state.groups.range(start..start + count).cloned().collect();
            }
            if state.ended {
                return Vec::new();
            }
            self.0.changed.wait(&mut state);
        }
    }

    /// The number of the newest group that was flushed; 0 without one.
    pub fn newest(&self) -> u64 {
        self.0.newest.load(Ordering::Acquire)
    }

    /// How many bytes of the log wait to be read.
    pub fn waiting(&self) -> u64 {
        self.0.state.lock().bytes
    }

    /// When the first group after this one was flushed.
    pub fn flushed_after(&self, group: u64) -> Option<SystemTime> {
        let state = self.0.state.lock();
        let start = state.groups.partition_point(|flushed| flushed.number <= group);
        state.groups.get(start).map(|group| group.at)
    }

    /// The groups up to this one were read, and what was read of them is safe: their segments may be used again.
    pub fn release(&self, through: u64) {
        let mut state = self.0.state.lock();
        while state.groups.front().is_some_and(|group| group.number <= through) {
            let group = state.groups.pop_front();
            state.bytes -= group.map_or(0, |group| group.length as u64);
        }
        self.0.needed.fetch_max(through + 1, Ordering::AcqRel);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until everything was released, for `limit` at most; whether it was. May block.
    pub(super) fn wait_released(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.0.state.lock();
        while !state.groups.is_empty() {
            if self.0.changed.wait_until(&mut state, until).timed_out() {
                return state.groups.is_empty();
            }
        }
        true
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.0.state.lock().ended = true;
        self.0.changed.notify_all();
    }
}
