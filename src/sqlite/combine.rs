//! One connection for many callers: a queue and group commit (flat combining).
//!
//! A caller that finds the connection free reads on its own thread. Everything else is queued. The caller that
//! finds no combiner running starts one on another thread: it takes a batch from the queue, runs the reads, then all
//! the writes in **one** `BEGIN IMMEDIATE … COMMIT` with a savepoint each, then answers. So one fsync acknowledges a
//! whole batch, a failing write is rolled back alone, and no database needs a thread of its own. The exception is
//! SQLite's: a statement that is interrupted at its deadline, or finds no space, rolls back the whole
//! transaction. Writes that ran before it are then answered that nothing was written and that they may try again;
//! those after it run in the next batch.
//!
//! # Invariants
//! - **No answer before the commit.** A write is answered after `COMMIT` returned, and after
//!   [`wal::confirm`] if the WAL grew by it. Otherwise a crash would lose acknowledged writes.
//! - **One combiner.** Whether one is running changes under the queue's lock, together with
//!   the look at the queue. Otherwise a job could be left in the queue with no combiner to run it.
//! - **A failed commit breaks the connection.** The whole batch gets the storage's error, after which the
//!   outcome is unknown, and the next job gets a fresh connection, which recovers from the file.
//! - **After a fault the WAL is emptied before the next write.** A kernel that failed to
//!   write pages back calls them clean afterwards, so a later flush does not bring them to the disk.
//!   Frames behind such a hole would be acknowledged and lost: recovery stops at the hole.

mod batch;
mod job;
mod queue;
mod wal_state;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, Transaction};

use self::{
    batch::{Batch, CommitOutcome, Writes},
    job::Job,
    queue::Queue,
    wal_state::{Checkpoint, WalState},
};
use super::{
    deadline::{Cancel, Deadline},
    failure::{breaks_connection, outcome_unknown},
    open::{self, Locking},
    reading, wal,
};
use crate::error::{Error, ErrorKind, Result};

/// Limits of one [`Combiner`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// Jobs that may wait; one more is refused as [`ErrorKind::Busy`].
    pub queue: usize,
    /// Writes in one commit.
    pub batch: usize,
    /// How long the statements of one job may run.
    pub statement: Duration,
    /// How long those of a read may run on the calling thread, which serves others too.
    pub inline: Duration,
    /// WAL pages after which the combiner checkpoints, once it has answered.
    pub checkpoint_pages: u32,
    /// WAL pages after which pooled readers that keep the WAL from being emptied are cancelled.
    pub wal_pages: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 1024,
            batch: 128,
            statement: Duration::from_secs(5),
            inline: Duration::from_millis(2),
            checkpoint_pages: 1000,
            wal_pages: 16_384,
        }
    }
}

/// Opens the connection: at first use, and again after a fault.
pub type Opener = Box<dyn Fn(Locking, &Deadline) -> Result<Connection> + Send + Sync>;

/// Checks that the open files are still the database's: before and after every commit.
pub type Check = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// Starts a combiner's run on a thread that may block.
pub type Spawn = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// The queue and the connection. See the module's documentation.
pub struct Combiner {
    queue: Queue,
    /// Locked while SQLite runs and never across an await.
    writer: Mutex<Writer>,
    open: Opener,
    check: Option<Check>,
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
    locking: Locking,
    wal: WalState,
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
            writer: Mutex::new(Writer { conn, locking: Locking::Exclusive, wal }),
            open,
            check: None,
            spawn,
            limits,
            deadline,
            faults: AtomicU32::new(0),
            cancel: Cancel::default(),
        }
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
            Some(Err(error)) if error.kind() == ErrorKind::Timeout => self.read_queued(keep, work).await,
            Some(result) => result,
        }
    }

    /// Runs `work` on this thread; none if the connection is in use or not open.
    fn try_read<T>(&self, work: impl Fn(&Connection) -> Result<T>) -> Option<Result<T>> {
        let mut writer = self.writer.try_lock()?;
        let conn = writer.conn.as_ref()?;
        self.deadline.set(Some(self.limits.inline.min(self.limits.statement)));
        let result = reading::read(conn, work);
        if let Some(error) = result.as_ref().err().filter(|e| breaks_connection(e)) {
            self.break_connection(&mut writer, error);
        }
        Some(result)
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

    /// Runs a write and returns after its commit.
    pub async fn write<T, F, K>(self: &Arc<Self>, keep: impl FnOnce() -> K, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
        K: Send + 'static,
    {
        let (job, reply) = job::write(work);
        self.submit(job, keep)?;
        reply.await.unwrap_or_else(|_| Err(outcome_unknown()))
    }

    /// [`write`](Self::write) for a thread that may block. Must not be called on an async worker.
    pub fn write_blocking<T, F>(self: &Arc<Self>, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (job, reply) = job::write(work);
        self.submit(job, || ())?;
        reply.blocking_recv().unwrap_or_else(|_| Err(outcome_unknown()))
    }

    fn submit<K: Send + 'static>(self: &Arc<Self>, job: Job, keep: impl FnOnce() -> K) -> Result<()> {
        if !self.queue.push(job)? {
            return Ok(());
        }
        let (run, keep) = (Run { combiner: self.clone(), done: false }, keep());
        (self.spawn)(Box::new(move || {
            run.finish();
            // Released last: while it is held, the database is not closed under the combiner.
            drop(keep);
        }));
        Ok(())
    }

    fn combine(&self) {
        let mut writer = self.writer.lock();
        while let Some(jobs) = self.queue.take(self.limits.batch) {
            self.run(&mut writer, jobs);
            self.checkpoint_if_due(&mut writer);
        }
    }

    fn run(&self, writer: &mut Writer, jobs: Vec<Job>) {
        let mut writes = Vec::new();
        for job in jobs {
            match job {
                Job::Write(write) => writes.push(write),
                Job::Read(read) => match self.connection(writer) {
                    Err(error) => drop(read(Err(error))),
                    Ok(conn) => {
                        self.deadline.set(Some(self.limits.statement));
                        if let Some(error) = read(Ok(conn)) {
                            self.break_connection(writer, &error);
                        }
                    }
                },
            }
        }
        if !writes.is_empty() {
            self.run_writes(writer, writes);
        }
    }

    fn run_writes(&self, writer: &mut Writer, writes: Writes) {
        // An open resets what is placed, so it comes first.
        let ready = self.check().and_then(|()| self.empty_distrusted_wal(writer)).and_then(|()| self.open(writer));
        let placed = writer.wal.placed();
        let outcome = match ready.and_then(|()| self.connection(writer)) {
            Ok(conn) => {
                let (deadline, statement) = (&self.deadline, self.limits.statement);
                let outcome = Batch { conn, deadline, statement, placed, check: &|| self.check() }.run(writes);
                match outcome {
                    // The rollback failed: no other transaction can begin.
                    CommitOutcome::Nothing(rest) if !conn.is_autocommit() => {
                        CommitOutcome::Broken(outcome_unknown(), rest)
                    }
                    outcome => outcome,
                }
            }
            Err(error) => {
                writes.into_iter().for_each(|write| write.fail(error.clone()));
                return;
            }
        };
        match outcome {
            CommitOutcome::Committed(wal_pages) => writer.wal.committed(wal_pages),
            CommitOutcome::Nothing(rest) => self.queue.put_back(rest),
            CommitOutcome::Broken(error, rest) => {
                self.queue.put_back(rest);
                self.break_connection(writer, &error);
            }
        }
    }

    /// Empties the WAL if its content is in doubt. Reads need not wait for that: what they see was committed
    /// before the fault, or never acknowledged.
    fn empty_distrusted_wal(&self, writer: &mut Writer) -> Result<()> {
        if !writer.wal.needs_checkpoint() {
            return Ok(());
        }
        self.deadline.set(None);
        match wal::checkpoint(self.connection(writer)?) {
            Ok(()) => {
                writer.wal.emptied();
                Ok(())
            }
            Err(error) => {
                if error.kind() == ErrorKind::Busy {
                    self.cancel.trigger();
                }
                if breaks_connection(&error) {
                    self.break_connection(writer, &error);
                }
                Err(error)
            }
        }
    }

    fn open(&self, writer: &mut Writer) -> Result<()> {
        if writer.conn.is_none() {
            let conn = (self.open)(writer.locking, &self.deadline).inspect_err(|error| self.count_fault(error))?;
            writer.conn = Some(conn);
            writer.wal.opened();
        }
        Ok(())
    }

    fn connection<'w>(&self, writer: &'w mut Writer) -> Result<&'w Connection> {
        self.open(writer)?;
        writer.conn.as_ref().ok_or_else(outcome_unknown)
    }

    /// Runs after the batch is answered, so no caller waits for it.
    fn checkpoint_if_due(&self, writer: &mut Writer) {
        let Some(conn) = writer.conn.as_ref() else { return };
        let Some(checkpoint) = writer.wal.due(writer.locking) else { return };
        self.deadline.set(None);
        let result = match checkpoint {
            Checkpoint::Passive => wal::checkpoint_passive(conn),
            Checkpoint::Truncate => {
                self.cancel.trigger();
                wal::checkpoint(conn)
            }
        };
        match result {
            Err(error) if breaks_connection(&error) => self.break_connection(writer, &error),
            result => writer.wal.checkpointed(writer.locking, &result),
        }
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

    /// Closes the connection; its next use opens it in another locking mode. Waits for
    /// the job that runs. May block.
    pub fn reopen_as(&self, locking: Locking) {
        let mut writer = self.writer.lock();
        writer.conn = None;
        writer.locking = locking;
    }

    /// Runs `work` on the connection, on this thread, after the job that runs. May block.
    pub fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut writer = self.writer.lock();
        self.deadline.set(None);
        let conn = self.connection(&mut writer)?;
        work(conn)
    }

    /// Closes the connection and leaves the file and its WAL as they are. The combiner may not be used
    /// meanwhile or after. May block.
    pub fn abandon(&self) {
        if let Some(conn) = self.writer.lock().conn.take() {
            open::abandon(conn);
        }
    }

    /// Empties the WAL and closes the connection. The combiner may not be used meanwhile or after, which
    /// the caller's lock on the tenant ensures. May block.
    pub fn close(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        let Some(conn) = writer.conn.take() else { return Ok(()) };
        self.deadline.set(None);
        // Closing checkpoints the WAL and truncates its file, which is kept.
        conn.close().map_err(|(_, error)| error.into())
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
