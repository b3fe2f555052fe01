//! The writes of a batch: one transaction, a savepoint each, one commit.

use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::job::{WriteJob, answer};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{deadline::Deadline, failure::breaks_connection, wal},
};

/// A batch of writes.
pub type Writes = Vec<Box<dyn WriteJob>>;

/// How a batch ended.
pub enum CommitOutcome {
    /// The commit succeeded; the pages in the WAL after it.
    Committed(u32),
    /// Nothing was written. These writes did not run and are not answered yet.
    Nothing(Writes),
    /// The connection may not be used again. These writes did not run and are not answered yet.
    Broken(Error, Writes),
}

/// What a batch needs from its combiner.
pub struct Batch<'c> {
    pub conn: &'c Connection,
    pub deadline: &'c Deadline,
    /// The time limit of one write.
    pub statement: Duration,
    /// The length of the WAL up to which a commit needs no confirmation, in pages.
    pub placed: u32,
    /// Whether the files are still the database's.
    pub check: &'c dyn Fn() -> Result<()>,
}

impl Batch<'_> {
    /// Runs the writes, commits, and answers them.
    pub fn run(&self, mut writes: Writes) -> CommitOutcome {
        let limit = self.statement.saturating_mul(u32::try_from(writes.len()).unwrap_or(u32::MAX));
        self.deadline.set(Some(limit));
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
        let mut failed: Vec<(usize, Error)> = Vec::new();
        // Why the transaction cannot be committed.
        let mut aborted: Option<Error> = None;
        // The write after whose failure SQLite rolled back the whole transaction.
        let mut culprit: Option<(usize, ErrorKind)> = None;
        for (index, write) in writes.iter_mut().enumerate() {
            self.deadline.set(Some(self.statement));
            let result = match single {
                true => Ok(write.run(&tx)),
                false => self.in_savepoint(&tx, write.as_mut()),
            };
            // Without its savepoint, a single write cannot be rolled back.
            let Ok(result) = result.map_err(|error| aborted = Some(failed_commit(error))) else { break };
            if let Err(error) = result {
                failed.push((index, error.clone()));
                // After some failures (a full disk, an I/O error) SQLite rolls back the whole transaction.
                if tx.is_autocommit() || breaks_connection(&error) {
                    if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::DiskFull) {
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
                answer(writes, failed, Some(&rolled_back()));
                // An interrupted statement does not harm the connection; a full disk may.
                return match kind {
                    ErrorKind::Timeout => CommitOutcome::Nothing(rest),
                    _ => CommitOutcome::Broken(error, rest),
                };
            }
            (Some(error), None) => error,
            (None, _) if failed.len() == writes.len() => {
                drop(tx);
                answer(writes, failed, None);
                return CommitOutcome::Nothing(Vec::new());
            }
            (None, _) => {
                self.deadline.set(None);
                match self.commit(tx) {
                    Ok(wal_pages) => {
                        // If the files were replaced meanwhile, the commit is in files without a name.
                        answer(writes, failed, (self.check)().err().as_ref());
                        return wal_pages.map_or(CommitOutcome::Nothing(Vec::new()), CommitOutcome::Committed);
                    }
                    Err(error) => error,
                }
            }
        };
        // The commit did not reach the disk, or may not have: no write is acknowledged. The transaction is rolled
        // back when dropped; the connection is not used again.
        answer(writes, failed, Some(&broken));
        CommitOutcome::Broken(broken, Vec::new())
    }

    /// Runs one write of several. The outer error is the savepoint's own: it is then unknown what of the write is
    /// in the transaction.
    fn in_savepoint(&self, tx: &Transaction, write: &mut dyn WriteJob) -> rusqlite::Result<Result<()>> {
        tx.prepare_cached("SAVEPOINT cubby_write")?.execute([])?;
        let result = write.run(tx);
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

    /// Commits. The pages in the WAL after it; none if nothing was written.
    fn commit(&self, tx: Transaction) -> Result<Option<u32>> {
        let wal_pages = wal::pages_after(|| tx.commit()).map_err(failed_commit)?;
        if wal_pages.is_some_and(|pages| pages > self.placed) {
            // The WAL file grew: its new length must be on the disk as well as its content.
            wal::confirm(self.conn)?;
        }
        Ok(wal_pages)
    }
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
