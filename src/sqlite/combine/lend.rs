//! A transaction that takes several calls: the combiner lends the connection that writes.
//!
//! Meanwhile queued writes wait, and reads run on a second connection, so this needs shared mode. What the transaction
//! commits takes the way of every other commit: into the log, by the rules of checkpoints, and gated for reads. The
//! connection is then closed, whatever was left on it, and the second one is the one that writes.

use std::sync::{Arc, atomic::Ordering};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    Combiner, Writer,
    job::{self, Answers, Job},
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{
        deadline::Deadline,
        failure::{breaks_connection, catch_panic, outcome_unknown},
        guest::forget_rowid,
        open::{self, Locking},
        touched::Touched,
        wal,
    },
    telemetry::trace::{self, Stages},
};

/// Makes what keeps the database open for a combiner that is started when the connection is given back.
pub type Keep = Box<dyn FnOnce() -> Box<dyn Send> + Send>;

/// The connection that writes, in a transaction. Dropped without a commit, it is rolled back; that may block.
pub struct Lent {
    combiner: Arc<Combiner>,
    /// None once it was given back.
    conn: Option<Connection>,
    /// An error after which the connection may not be used again.
    broken: Option<Error>,
    /// The tables that were written to, if somebody listened when it began.
    touched: Option<Touched>,
    keep: Option<Keep>,
}

/// The answer to a commit that was made, when the log has it.
pub type Committed = oneshot::Receiver<Result<()>>;

impl Combiner {
    /// Takes the connection that writes, in a transaction, when its turn comes. `deadline` bounds the statements on it.
    /// The database is in shared mode, and stays so until it was given back.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if the turn does not come in time.
    pub async fn borrow(
        self: &Arc<Self>,
        keep: impl Fn() -> Box<dyn Send> + Send + 'static,
        deadline: Deadline,
    ) -> Result<Lent> {
        let (reply, receiver) = oneshot::channel();
        let combiner = self.clone();
        let own = keep();
        let job = Job::Lend(Box::new(move |lent| {
            let touched = combiner.feed.begin();
            let lent =
                lent.map(|conn| Lent { combiner, conn: Some(conn), broken: None, touched, keep: Some(Box::new(keep)) });
            let lent = lent.and_then(|lent| {
                deadline.watch(lent.conn()?)?;
                forget_rowid(lent.conn()?);
                Ok(lent)
            });
            // Dropped, and so given back, if nobody waits for it any more.
            drop(reply.send(lent));
        }));
        let behind = self.submit(job, || own)?;
        let lent = trace::during("queue", self.answer(behind, receiver)).await?;
        // What it reads, and answers, must be durable. A commit whose outcome is unknown may be read.
        if let Some(log) = &self.log {
            let _ = log.log().wait(self.last()).await;
        }
        Ok(lent)
    }

    /// Begins a transaction and takes the connection out of the writer.
    pub(super) fn lend(&self, writer: &mut Writer) -> Result<Connection> {
        if writer.locking != Locking::Shared || writer.lent {
            return Err(Error::internal("a connection can be lent once, and in shared mode"));
        }
        self.ready()?;
        self.empty_distrusted_wal(writer)?;
        self.deadline.set(None);
        self.open(writer)?;
        let begun = (self.open)(Locking::Shared, &self.deadline).and_then(|reader| {
            open::only_reads(&reader, true)?;
            self.connection(writer)?.execute_batch("BEGIN IMMEDIATE")?;
            Ok(reader)
        });
        match begun {
            Ok(reader) => {
                writer.lent = true;
                self.queue.lent();
                writer.conn.replace(reader).ok_or_else(outcome_unknown)
            }
            Err(error) => {
                if breaks_connection(&error) {
                    self.break_connection(writer, &error);
                }
                Err(error)
            }
        }
    }

    fn ready(&self) -> Result<()> {
        self.check()?;
        self.log.as_ref().map_or(Ok(()), |log| log.log().check())
    }

    /// Makes the second connection the one that writes.
    fn give_back(&self, writer: &mut Writer) {
        writer.lent = false;
        if let Some(conn) = &writer.conn
            && let Err(error) = open::only_reads(conn, false)
        {
            self.break_connection(writer, &error);
        }
    }
}

impl Lent {
    fn conn(&self) -> Result<&Connection> {
        self.conn.as_ref().ok_or_else(outcome_unknown)
    }

    /// Runs `work` in the transaction. May block.
    pub fn run<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let conn = self.conn.as_ref().ok_or_else(outcome_unknown)?;
        let result = match &mut self.touched {
            Some(touched) => touched.during(conn, || catch_panic(|| work(conn))).flatten(),
            None => catch_panic(|| work(conn)),
        };
        if let Err(error) = &result
            && breaks_connection(error)
        {
            self.broken = Some(error.clone());
        }
        result
    }

    /// Whether the transaction goes on: SQLite may have rolled it back.
    pub fn is_open(&self) -> bool {
        self.broken.is_none() && self.conn.as_ref().is_some_and(|conn| !conn.is_autocommit())
    }

    /// Commits, and gives the connection back. The commit is durable when the answer comes. May block.
    ///
    /// # Errors
    /// The transaction goes on after [`ErrorKind::Conflict`] (a deferred foreign key); after others nothing was
    /// written, or the outcome is unknown.
    pub fn commit(&mut self) -> Result<Committed> {
        if !self.is_open() {
            return Err(self
                .broken
                .clone()
                .unwrap_or_else(|| Error::new(ErrorKind::Conflict, "no transaction is open")));
        }
        let combiner = self.combiner.clone();
        let mut writer = combiner.writer.lock();
        combiner.ready()?;
        if writer.wal.is_in_doubt() || combiner.log_failed.load(Ordering::Acquire) {
            // What it would be appended to may not be in the log.
            return Err(Error::new(ErrorKind::Unavailable, "storage failed meanwhile; nothing was written"));
        }
        let stages = Stages::at("transaction");
        let committing = combiner.committing.lock();
        let pages = match wal::pages_after(|| self.conn.as_ref().map_or(Ok(()), |conn| conn.execute_batch("COMMIT"))) {
            Ok(pages) => pages,
            Err(error) => {
                let constraint = error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
                if constraint && self.is_open() {
                    let message = error.sqlite_error().map_or_else(|| error.to_string(), |_| constraint_of(&error));
                    return Err(Error::new(ErrorKind::Conflict, message).with_source(error));
                }
                // Whether it is in the file is unknown.
                let error = Error::new(ErrorKind::Unavailable, "the commit failed").with_source(error);
                self.broken = Some(error.clone());
                return Err(error);
            }
        };
        let (made, committed) = job::made(stages);
        // The commit is read through the connection that made it.
        let reader = std::mem::replace(&mut writer.conn, self.conn.take());
        let answers = Answers { writes: vec![made], failed: Vec::new() };
        combiner.committed(&mut writer, pages, self.touched.take(), answers, true);
        drop(committing);
        match writer.conn.take() {
            Some(conn) => {
                drop(conn);
                writer.conn = reader;
            }
            // It broke, and the WAL is in doubt.
            None => reader.into_iter().for_each(open::abandon),
        }
        combiner.give_back(&mut writer);
        drop(writer);
        self.resume();
        Ok(committed)
    }

    /// Lets the writes run that waited.
    fn resume(&mut self) {
        if let Some(keep) = self.keep.take()
            && self.combiner.queue.given_back()
        {
            self.combiner.start(keep());
        }
    }
}

fn constraint_of(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        error => error.to_string(),
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let combiner = self.combiner.clone();
        let mut writer = combiner.writer.lock();
        let rolled_back = match self.broken.take() {
            Some(error) => Err(error),
            None if conn.is_autocommit() => Ok(()),
            None => conn.execute_batch("ROLLBACK").map_err(Error::from),
        };
        open::abandon(conn);
        if let Err(error) = rolled_back {
            combiner.break_connection(&mut writer, &error);
            combiner.tell_unknown();
        }
        combiner.give_back(&mut writer);
        drop(writer);
        self.resume();
    }
}
