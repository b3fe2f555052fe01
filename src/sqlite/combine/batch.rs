//! The writes of a batch: one transaction, a savepoint each, one commit.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{
    Combiner,
    job::{Job, WriteJob, answer, breaks},
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::open,
};

/// What came of a batch.
pub enum CommitOutcome {
    /// Pages in the write-ahead log since.
    Committed(u32),
    /// Nothing was written.
    Nothing,
    Broken(Error),
}

impl Combiner {
    /// `placed`: see [`Held::wal_placed`].
    pub(super) fn write_batch(
        &self,
        conn: &Connection,
        placed: u32,
        mut writes: Vec<Box<dyn WriteJob>>,
    ) -> CommitOutcome {
        let limit = self.limits.statement.saturating_mul(u32::try_from(writes.len()).unwrap_or(u32::MAX));
        self.deadline.set(Some(limit));
        let tx = match Transaction::new_unchecked(conn, TransactionBehavior::Immediate) {
            Ok(tx) => tx,
            Err(error) => {
                let error = Error::from(error);
                let broken = breaks(&error);
                writes.into_iter().for_each(|write| write.fail(error.clone()));
                return if broken { CommitOutcome::Broken(error) } else { CommitOutcome::Nothing };
            }
        };

        let alone = writes.len() == 1;
        let mut failed: Vec<(usize, Error)> = Vec::new();
        let mut gone: Option<Error> = None;
        // The one write that SQLite answered by taking the whole transaction back.
        let mut culprit: Option<(usize, ErrorKind)> = None;
        for (index, write) in writes.iter_mut().enumerate() {
            self.deadline.set(Some(self.limits.statement));
            let result = match alone {
                true => Ok(write.run(&tx)),
                false => self.in_savepoint(&tx, write.as_mut()),
            };
            // Without its savepoint, one write cannot be taken back alone.
            let Ok(result) = result.map_err(|error| gone = Some(failed_commit(error))) else { break };
            if let Err(error) = result {
                failed.push((index, error.clone()));
                // SQLite rolls the whole transaction back by itself after some failures (a full
                // disk, an I/O error): then nothing of this batch is left to commit.
                if tx.is_autocommit() || breaks(&error) {
                    if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::DiskFull) {
                        culprit = Some((index, error.kind()));
                    }
                    gone = Some(error);
                    break;
                }
            } else if tx.is_autocommit() {
                gone = Some(Error::internal("a write ended the transaction it runs in"));
                break;
            }
        }

        let broken = match (gone, culprit) {
            (Some(error), Some((index, kind))) => {
                drop(tx);
                self.take_back(writes, failed, index);
                // An interrupted statement says nothing of the file; a full disk may have.
                return if kind == ErrorKind::Timeout { CommitOutcome::Nothing } else { CommitOutcome::Broken(error) };
            }
            (Some(error), None) => error,
            (None, _) if failed.len() == writes.len() => {
                drop(tx);
                answer(writes, failed, None);
                return CommitOutcome::Nothing;
            }
            (None, _) => {
                self.deadline.set(None);
                match commit(conn, tx, placed) {
                    Ok(wal_pages) => {
                        // Committed, but perhaps to files that nobody will find.
                        answer(writes, failed, self.check().err().as_ref());
                        return wal_pages.map_or(CommitOutcome::Nothing, CommitOutcome::Committed);
                    }
                    Err(error) => error,
                }
            }
        };
        // Whether the commit reached the disk is unknown, or known not to have: nobody hears "done".
        // The transaction is rolled back when dropped; the connection is not used again.
        answer(writes, failed, Some(&broken));
        CommitOutcome::Broken(broken)
    }

    /// Answers a batch that was rolled back because of one write: it and those that failed hear their
    /// own errors, those that had run are told that nothing was done, and the rest run in the next batch.
    fn take_back(&self, mut writes: Vec<Box<dyn WriteJob>>, failed: Vec<(usize, Error)>, culprit: usize) {
        let rest = writes.split_off(culprit + 1);
        let mut queue = self.queue.lock();
        rest.into_iter().rev().for_each(|write| queue.jobs.push_front(Job::Write(write)));
        drop(queue);
        answer(writes, failed, Some(&taken_back()));
    }

    /// Runs one write of several. The outer error is the savepoint's own: what of the write is in the
    /// transaction is then unknown.
    fn in_savepoint(&self, tx: &Transaction, write: &mut dyn WriteJob) -> rusqlite::Result<Result<()>> {
        tx.prepare_cached("SAVEPOINT cubby_write")?.execute([])?;
        let result = write.run(tx);
        if !tx.is_autocommit() {
            // Or it could be interrupted for the time that the write took.
            self.deadline.set(None);
            if result.is_err() {
                tx.prepare_cached("ROLLBACK TO cubby_write")?.execute([])?;
            }
            tx.prepare_cached("RELEASE cubby_write")?.execute([])?;
        }
        Ok(result)
    }
}

/// Commits. How long the log is then, if anything was written; `placed` is [`Held::wal_placed`].
fn commit(conn: &Connection, tx: Transaction, placed: u32) -> Result<Option<u32>> {
    open::forget_last_commit();
    tx.commit().map_err(failed_commit)?;
    let wal_pages = open::wal_pages_of_last_commit();
    if wal_pages.is_some_and(|pages| pages > placed) {
        // Where the log's new pages are has to survive as well, and not their content alone.
        open::confirm(conn)?;
    }
    Ok(wal_pages)
}

/// What everyone in the batch hears, whoever's doing it was: a deferred constraint is one writer's,
/// and no fault of the others'.
fn failed_commit(error: rusqlite::Error) -> Error {
    let error = Error::from(error);
    match error.kind() {
        ErrorKind::Internal => Error::new(ErrorKind::Unavailable, "the commit failed").with_source(error),
        _ => error,
    }
}

fn taken_back() -> Error {
    Error::new(ErrorKind::Busy, "nothing was written: another write to this database failed and took this one with it")
}
