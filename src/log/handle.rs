//! The log as those who commit see it: append a record, wait until it is durable.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    options::Options,
    record::{Change, NOBODY, Record},
    recover::discard,
    recycler::Flusher,
    state::{Done, Pending, Seq, Shared, outcome_unknown},
    tail::{Hold, Tail},
    writer::Writer,
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::flush,
};

/// The log of an open data folder. Clones share it.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    folder: PathBuf,
    flusher: Flusher,
    tail: Option<Tail>,
}

/// How long the end waits for who reads the tail.
const READ_AT_END: Duration = Duration::from_secs(10);

impl Log {
    /// Starts a log in `folder`, which is empty. `data` is the folder of the databases, whose file system is flushed
    /// before a segment is used again.
    pub fn start(folder: &Path, data: &Path, options: Options) -> Result<Self> {
        let tail = options.tail.clone();
        let writer = Writer::new(folder, data, options)?;
        let (shared, flusher) = (Arc::<Shared>::default(), writer.flusher());
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || writer.run(&own));
        let thread = Mutex::new(Some(thread.map_err(|e| Error::io("starting the log's thread", e))?));
        Ok(Self(Arc::new(Inner { shared, thread, folder: folder.to_owned(), flusher, tail })))
    }

    /// What it shares with the thread that writes it.
    pub(super) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Whether a commit may be made now.
    ///
    /// # Errors
    /// It cannot grow, or was closed.
    pub fn check(&self) -> Result<()> {
        if self.shared().closing.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Busy, "the server is shutting down"));
        }
        if let Some(error) = self.shared().refused.get() {
            return Err(error.clone());
        }
        if !self.shared().is_full.load(Ordering::Acquire) {
            return Ok(());
        }
        self.shared().state.lock().full.clone().map_or(Ok(()), Err)
    }

    /// From now on no commit is made: each fails with this error.
    pub fn refuse(&self, error: &Error) {
        let _ = self.shared().refused.set(error.clone());
    }

    /// Adds a record; `done` is called when it is durable, or with the error for which its outcome is unknown. If the
    /// record `continues` has failed, this one fails, too; 0 for a record that stands by itself.
    pub fn append(&self, name: &Arc<str>, record: &Record<'_>, continues: Seq, done: Option<Done>) -> Seq {
        let record = record.encode();
        let mut state = self.shared().state.lock();
        let seq = state.last + 1;
        state.last = seq;
        if state.ended {
            // Everything before it is decided.
            self.shared().fail(&mut state, seq);
            self.shared().through.store(seq, Ordering::Release);
            drop(state);
            done.into_iter().for_each(|done| done(Err(outcome_unknown(None))));
            return seq;
        }
        state.pending.push(Pending { seq, continues, name: name.clone(), record, done });
        drop(state);
        self.shared().wake.notify_one();
        seq
    }

    /// Whether the record is durable. Costs two loads for one that came after the last failure.
    pub fn is_durable(&self, seq: Seq) -> bool {
        self.is_decided(seq)
            && (seq > self.shared().last_failed.load(Ordering::Acquire)
                || seq == 0
                || !self.shared().state.lock().has_failed(seq))
    }

    fn is_decided(&self, seq: Seq) -> bool {
        seq <= self.shared().through.load(Ordering::Acquire)
    }

    /// Calls `done` when the record is durable: now, if it is.
    pub fn after(&self, seq: Seq, done: Done) {
        let mut state = self.shared().state.lock();
        if !self.is_decided(seq) {
            state.waiting.push((seq, done));
            return;
        }
        let failed = state.has_failed(seq);
        drop(state);
        done(if failed { Err(outcome_unknown(None)) } else { Ok(()) });
    }

    /// Who decides when commits are answered, if anybody does.
    pub(super) fn holder(&self) -> Option<Arc<dyn Hold>> {
        self.0.tail.as_ref().and_then(Tail::holder)
    }

    /// The last record that is durable or has failed.
    pub(super) fn decided(&self) -> Seq {
        self.shared().through.load(Ordering::Acquire)
    }

    /// Waits until the record is durable.
    ///
    /// # Errors
    /// The flush failed: the outcome of the record's commit is unknown.
    pub async fn wait(&self, seq: Seq) -> Result<()> {
        if self.is_durable(seq) {
            return Ok(());
        }
        let (sender, receiver) = oneshot::channel();
        self.after(seq, Box::new(move |result| drop(sender.send(result))));
        receiver.await.unwrap_or_else(|_| Err(outcome_unknown(None)))
    }

    /// [`wait`](Self::wait) on a thread that may block.
    pub fn wait_blocking(&self, seq: Seq) -> Result<()> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.after(seq, Box::new(move |result| drop(sender.send(result))));
        receiver.recv().unwrap_or_else(|_| Err(outcome_unknown(None)))
    }

    /// Flushes everything that databases have written so far. What the log has before this is not needed any more, and
    /// that is durable when this returns: with the record of it. May block.
    ///
    /// # Errors
    /// Something could not be written. It is unknown what: only a redo of the log repairs it.
    pub fn flush_databases(&self) -> Result<Seq> {
        // In this order: what was decided is in a group up to that number.
        let through = self.shared().through.load(Ordering::Acquire);
        let number = self.shared().number.load(Ordering::Acquire);
        self.0.flusher.flush(number)?;
        // The header of the next group says so.
        let nothing = Record { name: NOBODY.into(), change: Change::Nothing };
        let seq = self.append(&NOBODY.into(), &nothing, 0, None);
        self.wait_blocking(seq)?;
        self.shared().created.lock().retain(|_, creation| creation.seq > through);
        Ok(seq)
    }

    /// How many flushes of the databases' file system were asked for so far.
    pub(super) fn flushes(&self) -> u64 {
        self.0.flusher.asked()
    }

    /// Flushes a file, if there is one, whose records are not needed after that. May block.
    ///
    /// # Errors
    /// It could not be flushed, or another one could not before: the kernel tells of what it did not write only once.
    pub fn flush_file(&self, path: &Path) -> Result<()> {
        self.0.flusher.check()?;
        let Some(file) = flush::open_if_there(path)? else { return Ok(()) };
        flush::opened(&file, path).inspect_err(|error| self.0.flusher.fail(error))
    }

    /// From now on the file system of the databases cannot be flushed.
    #[cfg(test)]
    pub fn fail_flushes(&self) {
        self.0.flusher.fail(&Error::internal("made by a test"));
    }

    /// Closes a log whose databases are closed: flushes them, and removes its segments. If a record came during the
    /// flush, which may have missed its commit, the log is kept for the next start. May block.
    ///
    /// # Errors
    /// Something could not be flushed or removed; the log is kept.
    pub fn close_complete(&self) -> Result<()> {
        let before = self.shared().state.lock().last;
        let flushed = if before == 0 { Ok(0) } else { self.flush_databases() };
        let complete = flushed.as_ref().ok().copied().filter(|seq| before == 0 || *seq == before + 1);
        self.end(complete)?;
        flushed.map(drop)
    }

    /// Stops the thread. Records that wait are written first. The segments are kept for the next start. May block.
    pub fn close(&self) -> Result<()> {
        self.end(None)
    }

    /// Removes the segments if `complete` is the last record: every database is complete without the log then.
    fn end(&self, complete: Option<Seq>) -> Result<()> {
        self.shared().closing.store(true, Ordering::Release);
        self.shared().state.lock().stop = true;
        self.shared().wake.notify_one();
        let Some(thread) = self.0.thread.lock().take() else { return Ok(()) };
        let joined = thread.join();
        let tail = self.0.tail.as_ref();
        tail.inspect(|tail| tail.end());
        joined.map_err(|_| Error::internal("the log's thread ended"))?;
        let last = self.shared().state.lock().last;
        // What was not read is read by the next start.
        let is_read = tail.is_none_or(|tail| tail.wait_released(READ_AT_END));
        match complete == Some(last) && is_read {
            true => discard(&self.0.folder),
            false => Ok(()),
        }
    }
}
