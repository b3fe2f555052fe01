//! One connection, many callers: flat combining.
//!
//! A caller that finds the connection free reads on its own thread. Everything else is put in a
//! queue, and whoever finds nobody combining starts a *combiner* on another thread: it takes what
//! has queued up to a bound, runs the reads, then all the writes in **one** `BEGIN IMMEDIATE …
//! COMMIT` with a savepoint each, then answers everyone. So one fsync acknowledges a whole batch,
//! one failing write harms no other, and no database needs a thread of its own. The exception is
//! SQLite's: a statement that is interrupted at its deadline, or finds no space, takes the whole
//! transaction with it. Writes that ran before it are then told that nothing was done and that they
//! may try again; those after it never notice.
//!
//! # Invariants
//! - **No answer before the commit.** A write's reply is sent after `COMMIT` returned, and after
//!   [`open::confirm`] if the log became longer by it. If it broke, a crash would lose acknowledged
//!   writes.
//! - **One combiner.** `Queue::running` is set and cleared under the queue's lock, together with
//!   the look at the queue. If it broke, a job could be left behind with nobody to run it.
//! - **A failed commit breaks the connection.** Everyone in the batch is told that the outcome is
//!   unknown, and the next job gets a fresh connection, which recovers from the file.
//! - **After a fault the WAL is emptied before it is written to again.** A kernel that failed to
//!   write pages back calls them clean afterwards, so a later flush does not bring them to the disk.
//!   Frames behind such a hole would be acknowledged and lost: recovery stops at the hole.

mod batch;
mod job;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, Transaction};

pub(super) use self::job::{breaks, guarded};
use self::{
    batch::CommitOutcome,
    job::{Call, Job},
};
use super::{
    deadline::{Cancel, Deadline},
    open::{self, Locking},
    reading,
};
use crate::error::{Error, ErrorKind, Result};

/// Bounds of one [`Combiner`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// Jobs that may wait; one more is refused as [`ErrorKind::Busy`].
    pub queue: usize,
    /// Writes in one commit.
    pub batch: usize,
    /// How long the statements of one job may run.
    pub statement: Duration,
    /// How long those of a read may run on the thread that asked for it, which serves others too.
    pub inline: Duration,
    /// WAL pages after which the combiner checkpoints, once it has answered.
    pub checkpoint_pages: u32,
    /// WAL pages that a reader apart may keep from being emptied; past that it is cut.
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

/// Whether the files that are open are still the database's; asked around every commit.
pub type Check = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// Starts a combiner's run on some thread that may block.
pub type Spawn = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// The queue and the connection. See the module's documentation.
pub struct Combiner {
    queue: Mutex<Queue>,
    /// A plain mutex: it is writer while SQLite runs and never across an await.
    conn: Mutex<Writer>,
    open: Opener,
    check: Option<Check>,
    spawn: Spawn,
    limits: Limits,
    deadline: Deadline,
    /// Times the file was found damaged since it was opened. A success in between changes nothing:
    /// the page that is damaged stays so, and other pages can be read. Failing I/O is not counted:
    /// it is the disk's fault and ends when the disk is well, so it must not quarantine a tenant.
    faults: AtomicU32,
    cancel: Cancel,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: bool,
}

struct Writer {
    conn: Option<Connection>,
    locking: Locking,
    wal_pages: u32,
    /// Pages of the WAL file that have their place on the disk for certain: going over them changes
    /// nothing but their content.
    wal_placed: u32,
    /// WAL pages at which to checkpoint next: later when one was writer up.
    checkpoint_at: u32,
    /// What is in the WAL may not be on the disk, whatever the kernel says.
    needs_checkpoint: bool,
}

impl Combiner {
    /// A combiner over a connection that is opened when first needed.
    pub fn new(limits: Limits, spawn: Spawn, open: Opener) -> Self {
        Self::over(None, Deadline::none(), limits, spawn, open)
    }

    /// A combiner over a connection that is already open in exclusive mode, and its deadline.
    pub fn over(conn: Option<Connection>, deadline: Deadline, limits: Limits, spawn: Spawn, open: Opener) -> Self {
        Self {
            queue: Mutex::default(),
            conn: Mutex::new(Writer {
                conn,
                locking: Locking::Exclusive,
                wal_pages: 0,
                wal_placed: 0,
                checkpoint_at: limits.checkpoint_pages,
                needs_checkpoint: false,
            }),
            open,
            check: None,
            spawn,
            limits,
            deadline,
            faults: AtomicU32::new(0),
            cancel: Cancel::default(),
        }
    }

    /// The file was not closed well: its WAL is emptied before the first write.
    #[must_use]
    pub fn after_unclean_stop(mut self) -> Self {
        self.conn.get_mut().needs_checkpoint = true;
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

    /// How often the file was found damaged since it was opened.
    pub fn faults(&self) -> u32 {
        self.faults.load(Ordering::Relaxed)
    }

    /// What stops readers apart when the WAL has grown too long because of them.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Runs a short read: on this very thread if the connection is free at once, which saves a
    /// thread hop that costs ten times the query, else behind what is queued.
    ///
    /// One that turns out not to be short is stopped and run once more, on a thread that may block: the
    /// thread that asked serves others, who would wait with it.
    ///
    /// `keep` makes the guard that a combiner started by this call holds until it is done.
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

    /// Runs `work` if the connection is free at once.
    fn try_read<T>(&self, work: impl Fn(&Connection) -> Result<T>) -> Option<Result<T>> {
        let mut writer = self.conn.try_lock()?;
        let conn = writer.conn.as_ref()?;
        self.deadline.set(Some(self.limits.inline.min(self.limits.statement)));
        let result = reading::read(conn, work);
        if let Some(error) = result.as_ref().err().filter(|e| breaks(e)) {
            self.broke(&mut writer, error);
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
        let (call, reply) = Call::new(work);
        self.submit(Job::Read(call), keep)?;
        reply.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Runs a write and returns after its commit.
    pub async fn write<T, F, K>(self: &Arc<Self>, keep: impl FnOnce() -> K, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
        K: Send + 'static,
    {
        let (call, reply) = Call::new(work);
        self.submit(Job::Write(call), keep)?;
        reply.await.unwrap_or_else(|_| Err(lost()))
    }

    /// [`write`](Self::write) for a thread that may block. Must not be called on an async worker.
    pub fn write_blocking<T, F>(self: &Arc<Self>, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (call, reply) = Call::new(work);
        self.submit(Job::Write(call), || ())?;
        reply.blocking_recv().unwrap_or_else(|_| Err(lost()))
    }

    fn submit<K: Send + 'static>(self: &Arc<Self>, job: Job, keep: impl FnOnce() -> K) -> Result<()> {
        {
            let mut queue = self.queue.lock();
            if queue.jobs.len() >= self.limits.queue {
                return Err(Error::new(ErrorKind::Busy, "too many requests are waiting for this database"));
            }
            queue.jobs.push_back(job);
            if queue.running {
                return Ok(());
            }
            queue.running = true;
        }
        let (run, keep) = (Run { combiner: self.clone(), done: false }, keep());
        (self.spawn)(Box::new(move || {
            run.finish();
            // Released only now: while it lasts, nobody closes the database under the combiner.
            drop(keep);
        }));
        Ok(())
    }

    fn combine(&self) {
        let mut writer = self.conn.lock();
        loop {
            let jobs: Vec<Job> = {
                let mut queue = self.queue.lock();
                if queue.jobs.is_empty() {
                    queue.running = false;
                    return;
                }
                let count = queue.jobs.len().min(self.limits.batch);
                queue.jobs.drain(..count).collect()
            };
            self.run(&mut writer, jobs);
            self.maintain(&mut writer);
        }
    }

    fn run(&self, writer: &mut Writer, jobs: Vec<Job>) {
        let mut writes = Vec::new();
        for job in jobs {
            let read = match job {
                Job::Write(write) => {
                    writes.push(write);
                    continue;
                }
                Job::Read(read) => read,
            };
            match self.connection(writer) {
                Err(error) => read.fail(error),
                Ok(conn) => {
                    self.deadline.set(Some(self.limits.statement));
                    if let Some(error) = read.run(conn) {
                        self.broke(writer, &error);
                    }
                }
            }
        }
        if writes.is_empty() {
            return;
        }
        // An opening begins to count anew what is placed, so it comes first.
        let ready = self.check().and_then(|()| self.settle(writer)).and_then(|()| self.connection(writer).map(drop));
        let placed = writer.wal_placed;
        let outcome = match ready.and_then(|()| self.connection(writer)) {
            Ok(conn) => match self.write_batch(conn, placed, writes) {
                // A rollback that failed leaves a transaction behind, in which no other can begin.
                CommitOutcome::Nothing if !conn.is_autocommit() => CommitOutcome::Broken(lost()),
                outcome => outcome,
            },
            Err(error) => {
                writes.into_iter().for_each(|write| write.fail(error.clone()));
                return;
            }
        };
        match outcome {
            CommitOutcome::Committed(wal_pages) => {
                if wal_pages < writer.wal_pages {
                    // It was begun anew.
                    writer.checkpoint_at = self.limits.checkpoint_pages;
                    writer.wal_placed = writer.wal_placed.min(open::KEPT_WAL_PAGES);
                }
                writer.wal_pages = wal_pages;
                writer.wal_placed = writer.wal_placed.max(wal_pages);
            }
            CommitOutcome::Nothing => {}
            CommitOutcome::Broken(error) => self.broke(writer, &error),
        }
    }

    /// Empties the WAL if what is in it is in doubt. Reads need not wait for it: what they see was
    /// never acknowledged, or was before the fault.
    fn settle(&self, writer: &mut Writer) -> Result<()> {
        if !writer.needs_checkpoint {
            return Ok(());
        }
        self.deadline.set(None);
        match open::checkpoint(self.connection(writer)?) {
            Ok(()) => {
                (writer.needs_checkpoint, writer.wal_pages, writer.wal_placed) = (false, 0, 0);
                writer.checkpoint_at = self.limits.checkpoint_pages;
                Ok(())
            }
            Err(error) => {
                if error.kind() == ErrorKind::Busy {
                    self.cancel.trigger();
                }
                if breaks(&error) {
                    self.broke(writer, &error);
                }
                Err(error)
            }
        }
    }

    fn connection<'h>(&self, writer: &'h mut Writer) -> Result<&'h Connection> {
        if writer.conn.is_none() {
            let opened = (self.open)(writer.locking, &self.deadline);
            match opened {
                Ok(conn) => (writer.conn, writer.wal_placed) = (Some(conn), 0),
                Err(error) => {
                    self.count(&error);
                    return Err(error);
                }
            }
        }
        writer.conn.as_ref().ok_or_else(lost)
    }

    /// Work that nobody waits for: the answers are out.
    fn maintain(&self, writer: &mut Writer) {
        if writer.wal_pages < writer.checkpoint_at {
            return;
        }
        let Some(conn) = writer.conn.as_ref() else { return };
        self.deadline.set(None);
        let too_long = writer.wal_pages >= self.limits.wal_pages;
        // What is longer than that is cut off when the WAL is begun anew.
        writer.wal_placed = writer.wal_placed.min(open::KEPT_WAL_PAGES);
        let emptied = match writer.locking {
            // Alone, nobody holds a page back. The WAL keeps its length, and the next writes go over the
            // old ones: syncing a page that is overwritten takes half the time of one appended.
            Locking::Exclusive => open::checkpoint_passively(conn),
            Locking::Shared if !too_long => open::checkpoint_passively(conn),
            Locking::Shared => {
                // Some reader keeps it so long.
                self.cancel.trigger();
                writer.wal_placed = 0;
                open::checkpoint(conn)
            }
        };
        match emptied {
            Err(error) if breaks(&error) => self.broke(writer, &error),
            // Writes are refused until it could be emptied.
            Err(_) if too_long => writer.needs_checkpoint = true,
            Ok(()) if writer.locking == Locking::Exclusive || too_long => {
                (writer.wal_pages, writer.checkpoint_at) = (0, self.limits.checkpoint_pages);
            }
            // A reader or the disk holds it up: again after as many pages more.
            Ok(()) | Err(_) => writer.checkpoint_at = writer.wal_pages.saturating_add(self.limits.checkpoint_pages),
        }
    }

    fn broke(&self, writer: &mut Writer, error: &Error) {
        self.count(error);
        if let Some(conn) = writer.conn.take() {
            open::abandon(conn);
        }
        writer.needs_checkpoint = true;
    }

    fn count(&self, error: &Error) {
        if error.kind() == ErrorKind::Damaged {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the connection and opens it again in another locking mode, when next used. Waits for
    /// the job that runs. May block.
    pub fn reopen_as(&self, locking: Locking) {
        let mut writer = self.conn.lock();
        writer.conn = None;
        writer.locking = locking;
    }

    /// Runs `work` on the connection, on this thread, after the job that runs. May block.
    pub fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut writer = self.conn.lock();
        self.deadline.set(None);
        let conn = self.connection(&mut writer)?;
        work(conn)
    }

    /// Closes the connection and leaves the file and its WAL as they are. Nobody may use the combiner
    /// meanwhile or after. May block.
    pub fn abandon(&self) {
        if let Some(conn) = self.conn.lock().conn.take() {
            open::abandon(conn);
        }
    }

    /// Empties the WAL and closes the connection. Nobody may use the combiner meanwhile or after;
    /// the caller's gate sees to that. May block.
    pub fn close(&self) -> Result<()> {
        let mut writer = self.conn.lock();
        let Some(conn) = writer.conn.take() else { return Ok(()) };
        self.deadline.set(None);
        // With the WAL kept as a file, closing checkpoints and truncates it.
        conn.close().map_err(|(_, error)| error.into())
    }
}

/// A combiner's run, which is begun or told to be off: a thread that cannot be had, or a panic on
/// it, must not leave callers waiting for answers that nobody will give.
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
        if self.done {
            return;
        }
        let jobs = {
            let mut queue = self.combiner.queue.lock();
            queue.running = false;
            std::mem::take(&mut queue.jobs)
        };
        for job in jobs {
            match job {
                Job::Read(read) => read.fail(lost()),
                Job::Write(write) => write.fail(lost()),
            }
        }
    }
}

pub(super) fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "the database was closed before it answered; the outcome is unknown")
}
