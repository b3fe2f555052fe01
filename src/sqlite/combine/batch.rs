//! The writes of a batch: one transaction, a savepoint each, one commit.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::job::{Answers, WriteJob};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{deadline::Deadline, failure::breaks_connection, feed::Slot, touched::Touched, wal},
};

/// A batch of writes.
pub type Writes = Vec<Box<dyn WriteJob>>;

/// How a batch ended.
pub enum CommitOutcome<'g> {
    /// The commit succeeded: the pages in the WAL after it, none if it wrote nothing; the tables, if somebody listens.
    /// These are not answered yet. Until the guard is dropped, reads on other connections are not answered.
    Committed(Option<u32>, Option<Touched>, Answers, MutexGuard<'g, ()>),
    /// Nothing was written: every write failed. These are not answered yet.
    Failed(Answers),
    /// Nothing was written. These writes did not run and are not answered yet.
    Nothing(Writes),
    /// The connection may not be used again. These writes did not run and are not answered yet.
    Broken(Error, Writes),
}

impl CommitOutcome<'_> {
    /// The same, on a connection that may not be used again.
    pub fn and_broken(self, error: Error) -> Self {
        match self {
            Self::Committed(_, _, answers, _) | Self::Failed(answers) => {
                answers.send(Some(&error));
                Self::Broken(error, Vec::new())
            }
            Self::Nothing(rest) | Self::Broken(_, rest) => Self::Broken(error, rest),
        }
    }
}

/// What a batch needs from its combiner.
pub struct Batch<'c, 'g> {
    pub conn: &'c Connection,
    pub deadline: &'c Deadline,
    /// Locked from before the commit until it is in the log's queue.
    pub committing: &'g Mutex<()>,
    /// The time limit of one write.
    pub statement: Duration,
    /// Whether somebody listens.
    pub feed: &'c Slot,
}

impl<'g> Batch<'_, 'g> {
    /// Runs the writes, commits, and answers them.
    pub fn run(&self, mut writes: Writes) -> CommitOutcome<'g> {
        let limit = self.statement.saturating_mul(u32::try_from(writes.len()).unwrap_or(u32::MAX));
        self.deadline.set(Some(limit));
        wal::forget_pages();
        let tx = match Transaction::new_unchecked(self.conn, TransactionBehavior::Immediate) {
            Ok(tx) => tx,
            Err(error) => {
                let error = Error::from(error);
                writes.into_iter().for_each(|write| write.fail(error.clone()));
                return match breaks_connection(&error) {
                    true => CommitOutcome::Broken(error, Vec::new()),
                    false => CommitOutcome::Nothing(Vec::new()),
                };
            }
        };

        let single = writes.len() == 1;
        let mut touched = self.feed.begin();
        let mut failed: Vec<(usize, Error)> = Vec::new();
        // Why the transaction cannot be committed.
        let mut aborted: Option<Error> = None;
        // The write after whose failure SQLite rolled back the whole transaction.
        let mut culprit: Option<(usize, ErrorKind)> = None;
        for (index, write) in writes.iter_mut().enumerate() {
            self.deadline.set(Some(self.statement));
            let result = match single {
                true => Ok(run_one(&tx, write.as_mut(), touched.as_mut())),
                false => self.in_savepoint(&tx, write.as_mut(), touched.as_mut()),
            };
            // Without its savepoint, a single write cannot be rolled back.
            let Ok(result) = result.map_err(|error| aborted = Some(failed_commit(error))) else { break };
            if let Err(error) = result {
                failed.push((index, error.clone()));
                // After some failures (a full disk, an I/O error) SQLite rolls back the whole transaction.
                if tx.is_autocommit() || breaks_connection(&error) {
                    if matches!(
                        error.kind(),
                        ErrorKind::Timeout
                            | ErrorKind::DiskFull
                            | ErrorKind::QuotaExceeded
                            | ErrorKind::TooLarge
                            | ErrorKind::Conflict
                    ) {
                        culprit = Some((index, error.kind()));
                    }
                    aborted = Some(error);
                    break;
                }
            } else if tx.is_autocommit() {
                aborted = Some(Error::internal("a write ended the transaction it runs in"));
                break;
            }
        }

        let broken = match (aborted, culprit) {
            (Some(error), Some((index, kind))) => {
                drop(tx);
                // Those that ran before it hear that nothing was written; those after it run in the next batch.
                let rest = writes.split_off(index + 1);
                Answers { writes, failed }.send(Some(&rolled_back()));
                // A statement that is interrupted, needs too much memory or says ROLLBACK does not harm the connection; a
                // full disk may, and SQLite says the same of a number that is used up.
                return match kind {
                    ErrorKind::DiskFull | ErrorKind::QuotaExceeded => CommitOutcome::Broken(error, rest),
                    _ => CommitOutcome::Nothing(rest),
                };
            }
            (Some(error), None) => error,
            (None, _) if failed.len() == writes.len() => {
                drop(tx);
                return CommitOutcome::Failed(Answers { writes, failed });
            }
            (None, _) => {
                self.deadline.set(None);
                if wal::has_committed() {
                    let error = Error::internal("a write ended the transaction it runs in");
                    drop(tx);
                    Answers { writes, failed }.send(Some(&error));
                    return CommitOutcome::Broken(error, Vec::new());
                }
                let committing = self.committing.lock();
                // Not `tx.commit()`, which parses the statement each time.
                match wal::pages_after(|| tx.prepare_cached("COMMIT")?.execute([]).map(drop)) {
                    Ok(wal_pages) => {
                        return CommitOutcome::Committed(wal_pages, touched, Answers { writes, failed }, committing);
                    }
                    Err(error) => failed_commit(error),
                }
            }
        };
        // The commit did not reach the disk, or may not have: no write is acknowledged. The transaction is rolled
        // back when dropped; the connection is not used again.
        Answers { writes, failed }.send(Some(&broken));
        CommitOutcome::Broken(broken, Vec::new())
    }

    /// Runs one write of several. The outer error is the savepoint's own: it is then unknown what of the write is
    /// in the transaction.
    fn in_savepoint(
        &self,
        tx: &Transaction,
        write: &mut dyn WriteJob,
        touched: Option<&mut Touched>,
    ) -> rusqlite::Result<Result<()>> {
        tx.prepare_cached("SAVEPOINT cubby_write")?.execute([])?;
        let result = run_one(tx, write, touched);
        if !tx.is_autocommit() {
            // A write that used up its time must not interrupt its savepoint's end.
            self.deadline.set(None);
            if result.is_err() {
                tx.prepare_cached("ROLLBACK TO cubby_write")?.execute([])?;
            }
            tx.prepare_cached("RELEASE cubby_write")?.execute([])?;
        }
        Ok(result)
    }
}

/// Runs one write, and keeps the tables that it writes to, if it does not fail.
fn run_one(tx: &Transaction, write: &mut dyn WriteJob, touched: Option<&mut Touched>) -> Result<()> {
    let Some(touched) = touched else { return write.run(tx) };
    let before = touched.len();
    touched.during(tx, || write.run(tx)).flatten().inspect_err(|_| touched.truncate(before))
}

/// The answer to the whole batch. A commit that one write's deferred constraint made fail is not the other writes'
/// fault, so it is not an internal error.
fn failed_commit(error: rusqlite::Error) -> Error {
    let error = Error::from(error);
    match error.kind() {
        ErrorKind::Internal => Error::new(ErrorKind::Unavailable, "the commit failed").with_source(error),
        _ => error,
    }
}

fn rolled_back() -> Error {
    Error::new(ErrorKind::Busy, "nothing was written: another write to this database failed and took this one with it")
}
