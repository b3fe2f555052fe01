//! What callers ask of a [`Combiner`](super::Combiner), with whoever waits for the answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{Connection, Transaction};
use tokio::sync::oneshot;

use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::reading,
};

/// What waits in the queue.
pub enum Job {
    Read(Box<dyn ReadJob>),
    Write(Box<dyn WriteJob>),
}

/// A read with whoever waits for it.
pub trait ReadJob: Send {
    /// Runs and answers. An error that breaks the connection is returned as well.
    fn run(self: Box<Self>, conn: &Connection) -> Option<Error>;
    fn fail(self: Box<Self>, error: Error);
}

/// A write with whoever waits for it.
pub trait WriteJob: Send {
    /// Runs inside the transaction and keeps its result. `Err` asks for a rollback of this job.
    fn run(&mut self, tx: &Transaction) -> Result<(), Error>;
    /// The transaction is committed: answers what [`run`](Self::run) gave.
    fn committed(self: Box<Self>);
    fn fail(self: Box<Self>, error: Error);
}

/// A caller's closure, its result and where that is to go.
pub struct Call<F, T> {
    work: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Call<F, T> {
    /// And where the result comes.
    pub fn new(work: F) -> (Box<Self>, oneshot::Receiver<Result<T>>) {
        let (reply, receiver) = oneshot::channel();
        (Box::new(Self { work: Some(work), result: None, reply }), receiver)
    }
}

impl<F, T> ReadJob for Call<F, T>
where
    F: FnOnce(&Connection) -> Result<T> + Send,
    T: Send,
{
    fn run(mut self: Box<Self>, conn: &Connection) -> Option<Error> {
        let work = self.work.take()?;
        if self.reply.is_closed() {
            // Nobody waits for it. Reads that were given up would keep the rest waiting, and a thread
            // that others may need, for as long as all of them take.
            return None;
        }
        let result = reading::read(conn, work);
        let broken = result.as_ref().err().filter(|e| breaks(e)).cloned();
        // A receiver that is gone is a client that is gone.
        let _ = self.reply.send(result);
        broken
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Err(error));
    }
}

impl<F, T> WriteJob for Call<F, T>
where
    F: FnOnce(&Transaction) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &Transaction) -> Result<(), Error> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let value = guarded(|| work(tx))?;
        self.result = Some(Ok(value));
        Ok(())
    }

    fn committed(self: Box<Self>) {
        let result = self.result.unwrap_or_else(|| Err(Error::internal("a write was committed without a result")));
        let _ = self.reply.send(result);
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Err(error));
    }
}

/// Runs a caller's closure. A panic in it is that caller's error and nobody else's.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Err(Error::internal(format!("panic in a database closure: {text}")))
    })
}

/// Whether the connection that gave this error may not be used again.
pub fn breaks(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Damaged)
}

/// Answers a batch: `failed` with their own errors; the rest with `broken` if the commit did not
/// succeed, else with what they asked for.
pub fn answer(writes: Vec<Box<dyn WriteJob>>, failed: Vec<(usize, Error)>, broken: Option<&Error>) {
    let mut failed = failed.into_iter().peekable();
    for (index, write) in writes.into_iter().enumerate() {
        match (failed.next_if(|(at, _)| *at == index), broken) {
            (Some((_, error)), _) => write.fail(error),
            (None, Some(error)) => write.fail(error.clone()),
            (None, None) => write.committed(),
        }
    }
}
