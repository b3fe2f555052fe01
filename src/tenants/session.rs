//! Transactions that take several calls.

use std::{sync::Arc, time::Duration};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    open::database::SharedUse,
    session_state::{Held, Lent, State},
    tenant::Tenant,
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::deadline::{Cancel, Deadline},
    telemetry::{trace, with_request_id, with_request_id_async},
};

/// A transaction that is held open between calls, without a thread. Dropped, it is rolled back.
///
/// It has a lease on its tenant, and ends by itself, rolled back,
/// - when the tenant is to be deleted, suspended, migrated or moved, or the store closed;
/// - when its time is over;
/// - if it reads, when it keeps the write-ahead log from being emptied for too long.
///
/// What runs on it then is interrupted, and the next call says why.
pub struct Session {
    state: Arc<State>,
}

impl Tenant {
    /// Begins a transaction that writes, and is open for `total` at most. Others' writes wait for its end, up to
    /// [`Limits::wait`](crate::sqlite::combine::Limits::wait); their reads go on, and see what was committed.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if another one did not end in time.
    pub async fn begin_write(&self, total: Duration) -> Result<Session> {
        let turn = [self.lease.session_turn()];
        let begun = self.begin(total, turn, |tenant, deadline, shared, turn| async move {
            let keeper = tenant.clone();
            let keep = move || Box::new(keeper.clone()) as Box<dyn Send>;
            match tenant.lease.combiner().borrow(keep, deadline).await {
                Ok(lent) => Ok(Held::new(Lent::Writer(lent), shared, turn, tenant)),
                Err(error) => {
                    // It may block.
                    let runtime = tenant.store.inner.runtime.clone();
                    let _ = runtime.spawn_blocking(move || drop((shared, turn, tenant))).await;
                    Err(error)
                }
            }
        });
        begun.await
    }

    /// Begins a transaction that only reads, all of it from one moment, and is open for `total` at most.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if too many such transactions and long reads run.
    pub async fn begin_read(&self, total: Duration) -> Result<Session> {
        // At most half of the readers, so that reads of their own go on.
        let permits = [self.lease.snapshot_permits(), self.lease.read_permits()];
        let begun = self.begin(total, permits, |tenant, deadline, shared, permit| async move {
            let runtime = tenant.store.inner.runtime.clone();
            let begin = move || {
                let conn = tenant.lease.begin_snapshot(&deadline)?;
                Ok(Held::new(Lent::Reader(conn), shared, permit, tenant))
            };
            runtime.spawn_blocking(with_request_id(begin)).await.map_err(unfinished)?
        });
        begun.await
    }

    /// Not cancelled with this future: what was begun is then ended.
    async fn begin<const N: usize, B, F>(
        &self,
        total: Duration,
        permits: [Arc<Semaphore>; N],
        begin: B,
    ) -> Result<Session>
    where
        B: FnOnce(Self, Deadline, SharedUse, Vec<OwnedSemaphorePermit>) -> F + Send + 'static,
        F: Future<Output = Result<Held>> + Send,
    {
        let tenant = self.clone();
        let inner = &self.store.inner;
        let (wait, runtime) = (inner.options.wait, inner.runtime.clone());
        let task = inner.runtime.spawn(with_request_id_async(async move {
            let taken = async {
                let mut taken = Vec::with_capacity(N);
                for permits in permits {
                    taken.push(permits.acquire_owned().await.ok()?);
                }
                Some(taken)
            };
            let Ok(Some(permit)) = tokio::time::timeout(wait, taken).await else {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "other transactions are open on this database; try again later",
                ));
            };
            let (cancel, watch) = (Cancel::default(), tenant.lease.watch());
            let crowded = tenant.lease.combiner().cancel().next();
            let lease = tenant.lease.clone();
            let shared = runtime.spawn_blocking(move || SharedUse::new(lease)).await.map_err(unfinished)?;
            let held = begin(tenant.clone(), Deadline::until(&cancel), shared, permit).await;
            let held = tenant.record_fault(held)?;
            let reads = held.only_reads();
            let state = State::new(held, cancel, runtime.clone());
            let watched = state.clone();
            drop(tenant);
            runtime.spawn(async move {
                let reason = tokio::select! {
                    () = watched.over() => return,
                    () = watch.wanted() => Error::new(
                        ErrorKind::Busy,
                        "the transaction was rolled back, since the user's database is being closed, changed or moved",
                    ),
                    () = crowded, if reads => Error::new(
                        ErrorKind::Timeout,
                        "the transaction was ended because it kept writes waiting; read less at a time",
                    ),
                    () = tokio::time::sleep(total) => Error::new(
                        ErrorKind::Timeout,
                        format!("the transaction was rolled back: it was open for longer than {total:?}"),
                    ),
                };
                watched.end(reason);
            });
            Ok(Session { state })
        }));
        task.await.map_err(unfinished)?
    }
}

impl Session {
    /// Runs `work` in the transaction, on a thread that may block, until it returns.
    ///
    /// # Errors
    /// What `work` returned; the transaction goes on, unless it is the storage's. Or why the transaction has ended.
    pub async fn run<T, F>(&mut self, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let mut held = self.state.take()?;
        let state = self.state.clone();
        let done = self.state.runtime().spawn_blocking(with_request_id(move || {
            let result = trace::within("statements", || held.run(work));
            state.put_back(held)?;
            result
        }));
        done.await.map_err(unfinished)?
    }

    /// Whether the transaction goes on. After a [`run`](Self::run) it may not: SQLite rolls back a whole transaction if
    /// the disk is full, a statement is interrupted, or says so.
    pub fn is_open(&self) -> bool {
        self.state.is_open()
    }

    /// Commits: when this is `Ok`, what was written survives a power cut.
    ///
    /// # Errors
    /// After [`ErrorKind::Conflict`], a deferred foreign key that points nowhere, the transaction goes on if
    /// [`is_open`](Self::is_open). After [`ErrorKind::Unavailable`] and [`ErrorKind::Damaged`] the outcome is unknown.
    pub async fn commit(&mut self) -> Result<()> {
        let mut held = self.state.take()?;
        let (state, tenant) = (self.state.clone(), held.tenant());
        let done = self.state.runtime().spawn_blocking(with_request_id(move || match held.commit() {
            Ok(committed) => {
                if committed.is_some() {
                    tenant.count_commit();
                }
                state.finish();
                drop(held);
                Ok(committed)
            }
            Err(error) => {
                let error = tenant.record_fault::<()>(Err(error)).err();
                drop(tenant);
                state.put_back(held)?;
                Err(error.unwrap_or_else(|| Error::internal("an error without an error")))
            }
        }));
        match done.await.map_err(unfinished)?? {
            None => Ok(()),
            Some(committed) => committed.await.unwrap_or_else(|_| Err(unknown())),
        }
    }

    /// Rolls back, and returns when others may write.
    pub async fn rollback(self) {
        let Ok(held) = self.state.take() else { return };
        self.state.finish();
        let _ = self.state.runtime().spawn_blocking(move || drop(held)).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.state.end(Error::new(ErrorKind::Conflict, "the transaction was rolled back"));
    }
}

fn unfinished(error: tokio::task::JoinError) -> Error {
    Error::internal("work on a transaction did not finish").with_source(error)
}

fn unknown() -> Error {
    Error::new(ErrorKind::Unavailable, "the database was closed before it answered; the outcome is unknown")
}
