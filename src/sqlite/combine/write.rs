//! Writes of one closure each.

use std::sync::{Arc, atomic::Ordering};

use rusqlite::Transaction;
use tokio::sync::oneshot;

use super::{
    Combiner,
    job::{self, Job},
    queue::Ticket,
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{deadline, failure::outcome_unknown},
};

impl Combiner {
    /// Runs a write and returns after its commit.
    pub async fn write<T, F, K>(self: &Arc<Self>, keep: impl FnOnce() -> K, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
        K: Send + 'static,
    {
        let (job, reply) = job::write("queue", work);
        let behind = self.submit(job, keep)?;
        self.answer(behind, reply).await
    }

    /// The answer to a write. One that waits behind a transaction that somebody holds open is taken back after a while.
    pub(super) async fn answer<T>(&self, behind: Option<Ticket>, mut reply: oneshot::Receiver<Result<T>>) -> Result<T> {
        if let Some(ticket) = behind {
            loop {
                match tokio::time::timeout(self.limits.wait, &mut reply).await {
                    Ok(result) => return result.unwrap_or_else(|_| Err(outcome_unknown())),
                    Err(_) if self.queue.withdraw(ticket) => {
                        let why = "another transaction is open on this database and keeps writes waiting; try again";
                        return Err(Error::new(ErrorKind::Busy, why));
                    }
                    Err(_) => {}
                }
            }
        }
        reply.await.unwrap_or_else(|_| Err(outcome_unknown()))
    }

    /// Runs a short write: on the calling thread if nobody else is at the database, else in the queue. Like a
    /// [`read`](Self::read), one that exceeds [`Limits::inline`](super::Limits::inline) is rolled back and run again in
    /// the queue.
    pub async fn write_short<T, F, K>(self: &Arc<Self>, keep: impl FnOnce() -> K, work: F) -> Result<T>
    where
        F: Fn(&Transaction) -> Result<T> + Send + Sync + 'static,
        T: Send + 'static,
        K: Send + 'static,
    {
        let work = Arc::new(work);
        let again = work.clone();
        if let Some(mut reply) = self.try_write(move |tx| work(tx)) {
            match reply.try_recv() {
                Ok(Err(error)) if error.kind() == ErrorKind::Timeout => {}
                Ok(result) => return result,
                Err(_) => return reply.await.unwrap_or_else(|_| Err(outcome_unknown())),
            }
        }
        self.write(keep, move |tx| again(tx)).await
    }

    /// Commits on this thread; none if the connection is in use or not open, or if more than the commit is to be done.
    /// While a commit of this database waits for the log, others are queued, so that one commit serves all of them.
    fn try_write<T, F>(&self, work: F) -> Option<oneshot::Receiver<Result<T>>>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let log = self.log.as_ref()?;
        let mut writer = self.writer.try_lock()?;
        let quiet = log.log().is_durable(self.last()) && !self.log_failed.load(Ordering::Acquire);
        if writer.lent
            || writer.conn.is_none()
            || !(writer.wal.is_steady() || self.begins_without_flush(&writer))
            || !quiet
        {
            return None;
        }
        let (job, reply) = job::write("transaction", work);
        if let Job::Write(write) = job {
            let limit = self.limits.inline.min(self.limits.statement);
            deadline::inline(limit, || self.run_writes(&mut writer, vec![write], limit));
        }
        Some(reply)
    }

    /// [`write`](Self::write) for a thread that may block. Must not be called on an async worker.
    pub fn write_blocking<T, F>(self: &Arc<Self>, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (job, reply) = job::write("queue", work);
        self.submit(job, || ())?;
        reply.blocking_recv().unwrap_or_else(|_| Err(outcome_unknown()))
    }
}
