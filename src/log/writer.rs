//! The thread that writes the log: it takes the records that wait, writes them as one group, flushes once, and answers.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use super::{
    group::{BLOCK, GroupBuilder},
    options::Options,
    record::{Change, NOBODY, Record},
    recycler::{Flusher, Recycler},
    segment::Segment,
    state::{Done, Pending, Seq, Shared, outcome_unknown},
    tail::{Flushed, Tail},
};
use crate::{
    error::{Error, Result},
    sqlite::flush,
    telemetry::measures,
};

/// Segments that are full or being written. Beyond these, writers wait for the flush that frees one.
const MAX_SEGMENTS: usize = 4;

/// The most that is written at once.
const MAX_GROUP: usize = 16 << 20;

/// Kept allocated ahead, so that a full disk is seen before a commit and not after it.
const RESERVE: u64 = 1 << 20;

/// A full segment.
struct Full {
    segment: Segment,
    /// The number of its last group, and its last record.
    last: u64,
    last_seq: Seq,
    /// A flush of it failed, so it is not used again.
    given_up: bool,
}

/// Answers everybody if the thread panics: nobody else would.
struct Panicked<'s>(&'s Shared);

impl Drop for Panicked<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort().into_iter().for_each(|done| answer(done, Err(outcome_unknown(None))));
        }
    }
}

/// A panic of what it drops is not the end of the log.
fn answer(done: Done, result: Result<()>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("an answer panicked on the log's thread");
    }
}

pub(super) struct Writer {
    folder: PathBuf,
    options: Options,
    current: Option<Segment>,
    full: VecDeque<Full>,
    /// Segments that the redo does not need any more, and that are kept for who reads the tail.
    kept: VecDeque<Full>,
    /// Segments created, which gives the next its name.
    created: u64,
    /// Segments begun, new ones and those that are used again.
    uses: u64,
    /// The number of the last group that was flushed.
    number: u64,
    /// The base that was flushed with it.
    base: u64,
    /// The last record that was flushed or has failed.
    last_seq: Seq,
    recycler: Recycler,
}

impl Writer {
    pub fn new(folder: &Path, data: &Path, options: Options) -> Result<Self> {
        let mut writer = Self {
            folder: folder.to_owned(),
            options,
            current: None,
            full: VecDeque::new(),
            kept: VecDeque::new(),
            created: 0,
            uses: 0,
            number: 0,
            base: 1,
            last_seq: 0,
            recycler: Recycler::start(data)?,
        };
        writer.prepare(writer.reserve())?;
        Ok(writer)
    }

    fn reserve(&self) -> u64 {
        RESERVE.min(self.options.segment_bytes / 8)
    }

    pub fn run(mut self, shared: &Shared) {
        let mut group = GroupBuilder::new();
        let _guard = Panicked(shared);
        while let Some(batch) = shared.next_batch(self.most()) {
            if !batch.is_empty() {
                self.write_and_answer(&mut group, batch, shared);
            }
            // After the answers, so that nobody waits for it.
            if let Some(placed) = self.full.iter().rfind(|full| full.last < self.base).map(|full| full.last_seq) {
                // A flush of the whole file system has brought their files to the disk.
                shared.created.lock().retain(|_, creation| creation.seq > placed);
            }
            shared.set_full(self.prepare(self.reserve()).err());
        }
    }

    /// The records of one group, in bytes: a part of a segment, and not so much that those who come after it wait long.
    fn most(&self) -> usize {
        usize::try_from(self.options.segment_bytes / 4).map_or(MAX_GROUP, |bytes| bytes.min(MAX_GROUP))
    }

    fn write_and_answer(&mut self, group: &mut GroupBuilder, batch: Vec<Pending>, shared: &Shared) {
        let through = batch.last().map_or(0, |pending| pending.seq);
        let (batch, gaps) = shared.split_off_gaps(batch);
        let started = Instant::now();
        let result = self.write(group, &batch);
        match &result {
            Ok(()) => {
                measures::FLUSH_TIME.record_time(started.elapsed());
                measures::FLUSH_COMMITS.record(batch.len() as u64);
            }
            Err(_) => measures::FLUSH_FAILURES.increment(),
        }
        self.last_seq = through;
        let waiting = shared.decide(&batch, through, self.number, result.is_err());
        let hold = self.options.tail.as_ref().and_then(Tail::holder).filter(|_| result.is_ok());
        for pending in batch {
            match (pending.done, &hold) {
                (Some(done), Some(hold)) => hold.hold(&pending.name, pending.seq, done),
                (Some(done), None) => answer(done, result.clone()),
                (None, _) => {}
            }
        }
        for done in gaps.into_iter().filter_map(|pending| pending.done) {
            answer(done, Err(outcome_unknown(None)));
        }
        for (seq, done) in waiting {
            let failed = shared.state.lock().has_failed(seq);
            answer(done, if failed { Err(outcome_unknown(None)) } else { Ok(()) });
        }
    }

    /// Asks for flushes of the databases' file system.
    pub fn flusher(&self) -> Flusher {
        self.recycler.flusher().clone()
    }

    fn write(&mut self, group: &mut GroupBuilder, batch: &[Pending]) -> Result<()> {
        group.clear();
        for pending in batch {
            group.push(&pending.name, &pending.record);
        }
        let last = batch.last().map_or(self.last_seq, |pending| pending.seq);
        let written = self.prepare(group.length() as u64).and_then(|()| self.append(group, last));
        written.map_err(|error| {
            tracing::error!(error = %error, "the log could not be written");
            outcome_unknown(Some(error))
        })
    }

    /// Writes a group, of which `last` is the last record.
    fn append(&mut self, group: &mut GroupBuilder, last: Seq) -> Result<()> {
        if let Some(unread) = &self.options.unread {
            flush::remove(unread)?;
            self.options.unread = None;
        }
        let base = self.recycler.flusher().synced() + 1;
        let segment = self.current.as_mut().ok_or_else(|| Error::internal("no segment"))?;
        let group = group.finish(self.number + 1, base, self.uses, segment.seed());
        let offset = segment.position();
        if let Err(error) = segment.append(group) {
            self.retire(true);
            return Err(error);
        }
        (self.number, self.base) = (self.number + 1, base);
        if let Some(tail) = &self.options.tail {
            let (number, at, length) = (self.number, SystemTime::now(), group.len());
            tail.flushed(Flushed { number, last, at, file: segment.file(), seed: segment.seed(), offset, length });
        }
        Ok(())
    }

    /// Makes room for `bytes` in the segment, or begins another one.
    fn prepare(&mut self, bytes: u64) -> Result<()> {
        // One block is left for a group without records.
        let end = self.options.segment_bytes.saturating_sub(BLOCK as u64);
        if self.current.as_ref().is_some_and(|segment| segment.position() > 0 && segment.position() + bytes > end) {
            if self.full.len() + 1 >= MAX_SEGMENTS {
                self.free_one()?;
            }
            self.retire(false);
        }
        if self.current.is_none() {
            self.current = Some(self.next_segment()?);
            self.uses += 1;
        }
        self.current.as_mut().map_or(Ok(()), |segment| segment.reserve(bytes))
    }

    /// Waits until the oldest full segment is not needed any more, and makes that durable.
    fn free_one(&mut self) -> Result<()> {
        let Some(oldest) = self.full.front().map(|full| full.last) else { return Ok(()) };
        self.recycler.flusher().wait(oldest)?;
        let mut group = GroupBuilder::new();
        group.push(NOBODY, &Record { name: NOBODY.into(), change: Change::Nothing }.encode());
        if let Some(segment) = &mut self.current {
            // A full disk is not a write that failed.
            segment.reserve(group.length() as u64)?;
        }
        self.append(&mut group, self.last_seq)
    }

    /// Takes the current segment out of use until the databases' own logs are flushed.
    fn retire(&mut self, given_up: bool) {
        let Some(segment) = self.current.take() else { return };
        if given_up && segment.position() == 0 {
            // It has nothing that was acknowledged. If it comes back after a crash, its group's number has another use.
            let _ = std::fs::remove_file(segment.path());
            return;
        }
        self.full.push_back(Full { segment, last: self.number, last_seq: self.last_seq, given_up });
        self.recycler.flusher().request(self.number);
    }

    fn next_segment(&mut self) -> Result<Segment> {
        // A segment is overwritten only when a base beyond it is durable: else, after a crash, it would be missed.
        while let Some(full) = self.full.pop_front_if(|full| full.last < self.base) {
            self.kept.push_back(full);
        }
        let needed = self.options.tail.as_ref().map_or(u64::MAX, Tail::needed);
        let mut free = None;
        // More of them than usual are there after the tail was not read for a while.
        while (free.is_none() || self.kept.len() + self.full.len() >= MAX_SEGMENTS)
            && let Some(full) = self.kept.pop_front_if(|full| full.last < needed)
        {
            if full.given_up || free.is_some() {
                std::fs::remove_file(full.segment.path()).map_err(|e| Error::io(full.segment.path().display(), e))?;
                continue;
            }
            let mut segment = full.segment;
            segment.rewind();
            free = Some(segment);
        }
        if let Some(segment) = free {
            return Ok(segment);
        }
        self.created += 1;
        Segment::create(&self.folder, self.created)
    }
}
