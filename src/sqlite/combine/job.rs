//! Jobs in the queue of a combiner: a caller's closure and the channel for its answer.

use rusqlite::{Connection, Transaction};
use tokio::sync::oneshot;

use crate::{
    error::{Error, Result},
    sqlite::{
        failure::{breaks_connection, catch_panic},
        reading,
    },
    telemetry::trace::Stages,
};

/// A queued job. One that is dropped answers its caller that the outcome is unknown.
pub enum Job {
    Read(ReadJob),
    Write(Box<dyn WriteJob>),
    Lend(LendJob),
}

/// Takes the connection, in a transaction that may write, or why there is none.
pub type LendJob = Box<dyn FnOnce(Result<Connection>) + Send>;

/// A read and the channel for its answer: runs on a connection, or fails with why there is none. Returns what answers,
/// and an error that breaks the connection; none if nobody waits for an answer any more.
pub type ReadJob = Box<dyn FnOnce(Result<&Connection>) -> Option<(Answer, Option<Error>)> + Send>;

/// Sends the answer of a read or a batch, or this error instead.
pub type Answer = Box<dyn FnOnce(Option<Error>) + Send>;

/// A read, and the receiver of its answer.
pub fn read<F, T>(work: F) -> (Job, oneshot::Receiver<Result<T>>)
where
    F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    let (reply, receiver) = oneshot::channel();
    let mut stages = Stages::at("queue");
    let run = move |conn: Result<&Connection>| {
        if reply.is_closed() {
            // The caller gave up. Running it would keep the other jobs and the thread waiting.
            return None;
        }
        stages.next("read");
        let result = conn.and_then(|conn| reading::read(conn, work));
        let broken = result.as_ref().err().filter(|e| breaks_connection(e)).cloned();
        // The caller may have given up meanwhile.
        stages.next("flush");
        let answer: Answer = Box::new(move |error| {
            stages.end();
            drop(reply.send(error.map_or(result, Err)));
        });
        Some((answer, broken))
    };
    (Job::Read(Box::new(run)), receiver)
}

/// A write and the channel for its answer.
pub trait WriteJob: Send {
    /// Runs inside the transaction and keeps its result. After `Err` this job must be rolled back.
    fn run(&mut self, tx: &Transaction) -> Result<()>;
    /// It is committed, and not durable yet.
    #[cfg(feature = "otel")]
    fn flushing(&mut self);
    /// Answers with the result of [`run`](Self::run): the transaction is committed.
    fn committed(self: Box<Self>);
    fn fail(self: Box<Self>, error: Error);
}

/// A write, and the receiver of its answer. Its first stage is `stage`.
pub fn write<F, T>(stage: &'static str, work: F) -> (Job, oneshot::Receiver<Result<T>>)
where
    F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    let (reply, receiver) = oneshot::channel();
    (Job::Write(Box::new(Write { work: Some(work), result: None, reply, stages: Stages::at(stage) })), receiver)
}

/// A write that was made already, and the receiver of its answer.
pub fn made(stages: Stages) -> (Box<dyn WriteJob>, oneshot::Receiver<Result<()>>) {
    let (reply, receiver) = oneshot::channel();
    let work: Option<fn(&Transaction) -> Result<()>> = None;
    (Box::new(Write { work, result: Some(Ok(())), reply, stages }), receiver)
}

struct Write<F, T> {
    work: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
    stages: Stages,
}

impl<F, T> WriteJob for Write<F, T>
where
    F: FnOnce(&Transaction) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &Transaction) -> Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        self.stages.next("transaction");
        let value = catch_panic(|| work(tx))?;
        self.result = Some(Ok(value));
        Ok(())
    }

    #[cfg(feature = "otel")]
    fn flushing(&mut self) {
        self.stages.next("flush");
    }

    fn committed(self: Box<Self>) {
        // The request's span may end as soon as it has its answer.
        self.stages.end();
        let result = self.result.unwrap_or_else(|| Err(Error::internal("a write was committed without a result")));
        let _ = self.reply.send(result);
    }

    fn fail(self: Box<Self>, error: Error) {
        self.stages.end();
        let _ = self.reply.send(Err(error));
    }
}

/// The writes of a batch that has ended, to be answered.
pub struct Answers {
    pub writes: Vec<Box<dyn WriteJob>>,
    /// Those that failed by themselves, in order.
    pub failed: Vec<(usize, Error)>,
}

impl Answers {
    /// They are committed, and not durable yet.
    #[cfg(feature = "otel")]
    pub fn flushing(mut self) -> Self {
        self.writes.iter_mut().for_each(|write| write.flushing());
        self
    }

    /// Answers the failed with their own errors, the others with `broken` if the commit failed, else with their results.
    pub fn send(self, broken: Option<&Error>) {
        let mut failed = self.failed.into_iter().peekable();
        for (index, write) in self.writes.into_iter().enumerate() {
            match (failed.next_if(|(at, _)| *at == index), broken) {
                (Some((_, error)), _) => write.fail(error),
                (None, Some(error)) => write.fail(error.clone()),
                (None, None) => write.committed(),
            }
        }
    }
}
