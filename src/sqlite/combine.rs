//! One connection for many callers: a queue and group commit (flat combining).
//!
//! A caller that finds the connection free makes a short read or write on its own thread. Everything else is queued.
//! The caller that finds no combiner running starts one on another thread: it takes a batch from the queue, runs the
//! reads, then all the writes in **one** `BEGIN IMMEDIATE … COMMIT` with a savepoint each, then answers. So one commit
//! serves a whole batch, a failing write is rolled back alone, and no database needs a thread of its own. The exception
//! is SQLite's: a statement that is interrupted at its deadline, or finds no space, rolls back the whole
//! transaction. Writes that ran before it are then answered that nothing was written and that they may try again;
//! those after it run in the next batch.
//!
//! # Invariants
//! - **No answer before the commit is durable.** A write is answered when the data folder's [log](crate::log) has what
//!   the commit appended to the WAL, and a read when the log has every commit that the read may have seen. The next
//!   batch runs meanwhile.
//! - **No checkpoint of what is not in the log.** Otherwise a redo would put older pages over newer ones.
//! - **One combiner.** Whether one is running changes under the queue's lock, together with
//!   the look at the queue. Otherwise a job could be left in the queue with no combiner to run it.
//! - **A failed commit breaks the connection.** The whole batch gets the storage's error, after which the
//!   outcome is unknown, and the next job gets a fresh connection, which recovers from the file.
//! - **A lent connection is the only one that writes.** While a transaction has it ([`lend`]), queued writes wait, and
//!   reads go on, on another connection.
//! - **Who listens hears of every commit, after it is durable, in order.** A [feed](super::feed) is told by what answers
//!   the writes; one whose outcome is unknown is told as such.
//! - **After a fault the WAL is logged as a whole and emptied before the next write.** It may have commits that the log
//!   does not have, and what was written to it may not be on the disk.

mod batch;
mod checkpoint;
mod closing;
mod commit;
mod job;
pub mod lend;
mod limits;
mod queue;
mod wal_state;
mod write;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;

use self::{
    job::Job,
    queue::{Queue, Ticket},
    wal_state::WalState,
};
pub use self::{limits::Limits, wal_state::WalLeft};
use super::{
    deadline::{self, Cancel, Deadline},
    failure::{breaks_connection, outcome_unknown},
    feed::{Feed, Slot},
    open::{self, Locking},
    reading,
    wal::Logged,
};
use crate::{
    error::{Error, ErrorKind, Result},
    log::{DatabaseLog, Seq},
    telemetry::trace,
};

/// Opens the connection: at first use, and again after a fault.
pub type Opener = Box<dyn Fn(Locking, &Deadline) -> Result<Connection> + Send + Sync>;

/// Checks that the open files are still the database's: before and after every commit.
pub type Check = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// Starts a combiner's run on a thread that may block.
pub type Spawn = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// The queue and the connection. See the module's documentation.
pub struct Combiner {
    queue: Queue,
    /// Locked while SQLite runs and never across an await.
    writer: Mutex<Writer>,
    open: Opener,
    check: Option<Check>,
    /// What makes commits durable; without it, they are when SQLite says so.
    log: Option<DatabaseLog>,
    /// The record of the last commit.
    last: AtomicU64,
    /// Locked while a commit is visible to other connections and `last` is not its record yet.
    committing: Mutex<()>,
    /// Who hears of commits.
    feed: Slot,
    /// A record of a commit could not be written.
    log_failed: Arc<AtomicBool>,
    spawn: Spawn,
    limits: Limits,
    deadline: Deadline,
    /// How often the file was found damaged since the combiner was made. A success in between does not reset it:
    /// the damaged page stays damaged, and other pages can be read. I/O errors are not counted: they end when the
    /// disk is well, so they must not quarantine a tenant.
    faults: AtomicU32,
    cancel: Cancel,
}

struct Writer {
    conn: Option<Connection>,
    /// Whether the connection was closed for good: what its file has is somebody else's.
    closed: bool,
    locking: Locking,
    wal: WalState,
    logged: Logged,
    /// The record of the commit before the last.
    previous: Seq,
    /// The connection that writes is lent to a transaction; `conn` is one for reads meanwhile.
    lent: bool,
}

impl Combiner {
    /// A combiner over a connection that is opened when first needed.
    pub fn new(limits: Limits, spawn: Spawn, open: Opener) -> Self {
        Self::over(None, Deadline::none(), limits, spawn, open)
    }

    /// A combiner over a connection that is already open in exclusive mode, and its deadline.
    pub fn over(conn: Option<Connection>, deadline: Deadline, limits: Limits, spawn: Spawn, open: Opener) -> Self {
        let wal = WalState::new(limits.checkpoint_pages, limits.wal_pages);
        Self {
            queue: Queue::new(limits.queue),
            writer: Mutex::new(Writer {
                conn,
                closed: false,
                locking: Locking::Exclusive,
                wal,
                logged: Logged::default(),
                previous: 0,
                lent: false,
            }),
            open,
            check: None,
            log: None,
            last: AtomicU64::new(0),
            committing: Mutex::new(()),
            feed: Slot::default(),
            log_failed: Arc::default(),
            spawn,
            limits,
            deadline,
            faults: AtomicU32::new(0),
            cancel: Cancel::default(),
        }
    }

    /// The file was closed cleanly: its WAL is empty.
    #[must_use]
    pub fn after_clean_stop(mut self) -> Self {
        self.writer.get_mut().wal.emptied();
        self
    }

    /// The file was closed by [`close_unflushed`](Self::close_unflushed).
    #[must_use]
    pub fn after_unflushed_close(mut self, left: WalLeft) -> Self {
        let writer = self.writer.get_mut();
        writer.logged = left.logged;
        writer.wal.committed(left.pages);
        self
    }

    /// The file was not closed cleanly: its WAL is emptied before the first write.
    #[must_use]
    pub fn after_unclean_stop(mut self) -> Self {
        self.writer.get_mut().wal.distrust();
        self
    }

    /// Refuses writes, and acknowledges none, while `check` fails.
    #[must_use]
    pub fn checked_by(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// Makes commits durable by the data folder's log. The connections must be opened for that
    /// ([`open::Options::logged`]).
    #[must_use]
    pub fn logged_by(mut self, log: DatabaseLog) -> Self {
        self.log = Some(log);
        self
    }

    /// From now on commits are told to this feed, as long as it lives.
    pub fn attach(&self, feed: &Arc<Feed>) {
        self.feed.attach(feed);
    }

    /// The record of the last commit that a read may have seen by now.
    pub fn last(&self) -> Seq {
        self.last.load(Ordering::Acquire)
    }

    /// Waits until every commit so far is durable. May block.
    fn wait_for_log(&self) -> Result<()> {
        self.log.as_ref().map_or(Ok(()), |log| log.log().wait_blocking(self.last()))
    }

    /// Waits until what a read on another connection has seen is durable, or its outcome unknown. May block.
    pub fn wait_for_read(&self) {
        drop(self.committing.lock());
        let _ = self.wait_for_log();
    }

    fn check(&self) -> Result<()> {
        self.check.as_ref().map_or(Ok(()), |check| check())
    }

    /// How often the file was found damaged since the combiner was made.
    pub fn faults(&self) -> u32 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Triggered when pooled readers keep the WAL from being emptied and it has grown too long.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Runs a short read: on the calling thread if the connection is free, which saves a
    /// thread hop that costs ten times the query, else in the queue.
    ///
    /// A read that exceeds [`Limits::inline`] is stopped and run again in the queue, on a thread that may block:
    /// the calling thread serves other requests.
    ///
    /// `keep` makes a guard that a combiner started by this call holds until it is done.
    pub async fn read<T, F, K>(self: &Arc<Self>, keep: impl FnOnce() -> K, work: F) -> Result<T>
    where
        F: Fn(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
        K: Send + 'static,
    {
        match self.try_read(&work) {
            None => self.read_queued(keep, work).await,
            Some((Err(error), _)) if error.kind() == ErrorKind::Timeout => self.read_queued(keep, work).await,
            Some((result, last)) => {
                if let Some(log) = self.log.as_ref().filter(|log| !log.log().is_durable(last)) {
                    // A commit whose outcome is unknown may be read.
                    let _ = trace::during("flush", log.log().wait(last)).await;
                }
                result
            }
        }
    }

    /// Runs `work` on this thread; none if the connection is in use or not open. With the record of the last commit that
    /// it may have seen.
    fn try_read<T>(&self, work: impl Fn(&Connection) -> Result<T>) -> Option<(Result<T>, Seq)> {
        let mut writer = self.writer.try_lock()?;
        let conn = writer.conn.as_ref()?;
        let limit = self.limits.inline.min(self.limits.statement);
        self.deadline.set(Some(limit));
        let result = trace::within("read", || deadline::inline(limit, || reading::read(conn, work)));
        if let Some(error) = result.as_ref().err().filter(|e| breaks_connection(e)) {
            self.break_connection(&mut writer, error);
        }
        Some((result, self.last()))
    }

    /// Runs a read that may take long: never on the calling thread.
    pub async fn read_queued<T, F, K>(self: &Arc<Self>, keep: impl FnOnce() -> K, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
        K: Send + 'static,
    {
        let (job, reply) = job::read(work);
        self.submit(job, keep)?;
        reply.await.unwrap_or_else(|_| Err(outcome_unknown()))
    }

    fn submit<K: Send + 'static>(self: &Arc<Self>, job: Job, keep: impl FnOnce() -> K) -> Result<Option<Ticket>> {
        let pushed = self.queue.push(job)?;
        if pushed.start {
            self.start(keep());
        }
        Ok(pushed.behind_session)
    }

    /// Starts a combiner, which holds `keep` until it is done.
    fn start<K: Send + 'static>(self: &Arc<Self>, keep: K) {
        let run = Run { combiner: self.clone(), done: false };
        (self.spawn)(Box::new(move || {
            run.finish();
            // Released last: while it is held, the database is not closed under the combiner.
            drop(keep);
        }));
    }

    fn combine(&self) {
        let mut writer = self.writer.lock();
        loop {
            // One commit is flushed while the next is made; what comes meanwhile shares the one after it.
            if let Some(log) = &self.log {
                let _ = log.log().wait_blocking(writer.previous);
            }
            let Some(mut jobs) = self.queue.take(self.limits.batch) else { return };
            if let Some(Job::Lend(lend)) = jobs.pop_if(|job| matches!(job, Job::Lend(_))) {
                // It is alone.
                let lent = self.lend(&mut writer);
                // Whoever gets it may give it back at once, for which the writer is locked.
                MutexGuard::unlocked(&mut writer, || lend(lent));
                continue;
            }
            self.run(&mut writer, jobs);
            self.checkpoint_if_due(&mut writer);
        }
    }

    fn run(&self, writer: &mut Writer, jobs: Vec<Job>) {
        let mut writes = Vec::new();
        for job in jobs {
            match job {
                Job::Write(write) => writes.push(write),
                // Taken by `combine`.
                Job::Lend(_) => {}
                Job::Read(read) => match self.connection(writer) {
                    Err(error) => drop(read(Err(error)).map(|(answer, _)| answer(None))),
                    Ok(conn) => {
                        self.deadline.set(Some(self.limits.statement));
                        let Some((answer, broken)) = read(Ok(conn)) else { continue };
                        self.when_durable(Box::new(move |_| answer(None)));
                        if let Some(error) = broken {
                            self.break_connection(writer, &error);
                        }
                    }
                },
            }
        }
        if !writes.is_empty() {
            self.run_writes(writer, writes, self.limits.statement);
        }
    }

    fn open(&self, writer: &mut Writer) -> Result<()> {
        if writer.conn.is_none() {
            let conn = (self.open)(writer.locking, &self.deadline).inspect_err(|error| self.count_fault(error))?;
            if writer.lent {
                open::only_reads(&conn, true)?;
            }
            (writer.conn, writer.closed) = (Some(conn), false);
        }
        Ok(())
    }

    fn connection<'w>(&self, writer: &'w mut Writer) -> Result<&'w Connection> {
        self.open(writer)?;
        writer.conn.as_ref().ok_or_else(outcome_unknown)
    }

    fn break_connection(&self, writer: &mut Writer, error: &Error) {
        self.count_fault(error);
        if let Some(conn) = writer.conn.take() {
            open::abandon(conn);
        }
        writer.wal.distrust();
    }

    fn count_fault(&self, error: &Error) {
        if error.kind() == ErrorKind::Damaged {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs `work` on the connection, on this thread, after the job that runs. May block.
    pub fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut writer = self.writer.lock();
        self.deadline.set(None);
        let conn = self.connection(&mut writer)?;
        work(conn)
    }
}

/// A started run of a combiner. Dropped before it is done (no thread, or a panic), it drops all queued jobs: their
/// callers would wait forever.
struct Run {
    combiner: Arc<Combiner>,
    done: bool,
}

impl Run {
    fn finish(mut self) {
        self.combiner.combine();
        self.done = true;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.done {
            self.combiner.queue.stop();
        }
    }
}
