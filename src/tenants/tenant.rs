//! The handle on an open tenant: what routes read and write through.

use std::time::Duration;

use rusqlite::{Connection, Transaction};

use super::{
    disk::path::wal_of,
    id::TenantId,
    open::{
        database::{Database, PooledReader},
        slots::{Lease, TenantLock},
    },
    store::Store,
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{PAGE_SIZE, reading},
    telemetry::{with_request_id, with_request_id_async},
};

/// How often a file may be found damaged before its tenant is quarantined.
const FAULTS: u32 = 3;

/// A tenant in use: parsed, allowed and open. It stays open as long as this lives.
#[derive(Clone)]
pub struct Tenant {
    pub(super) lease: Lease<Database>,
    pub(super) store: Store,
}

impl Tenant {
    /// Whose it is.
    pub fn id(&self) -> &TenantId {
        self.lease.id()
    }

    /// Runs a short read: on the calling thread when the database is free at once. `work` should
    /// take microseconds; what may take longer goes to [`read_long`](Self::read_long). One that has run
    /// for two milliseconds is stopped and run again from its start on another thread, so `work` may be
    /// called twice.
    ///
    /// It cannot write, not to a temporary table either: [`write`](Self::write) does. A transaction that
    /// `work` begins and does not end is ended for it.
    ///
    /// # Errors
    /// What `work` returned; or [`ErrorKind::Internal`] if it tried to write, and then nothing was written.
    pub async fn read<T, F>(&self, work: F) -> Result<T>
    where
        F: Fn(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let result = self.lease.combiner().read(|| self.lease.clone(), work).await;
        self.noticed(result)
    }

    /// Runs a read that may take long, up to `limit`, on a connection apart: writes and short reads
    /// of the same tenant go on meanwhile. Like [`read`](Self::read), it cannot write.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`ErrorKind::Timeout`] after `limit`; [`ErrorKind::Busy`] if too many such reads run.
    pub async fn read_long<T, F>(&self, limit: Duration, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let inner = &self.store.inner;
        let turns = async {
            let own = self.lease.turns().acquire_owned().await.ok()?;
            Some((own, inner.long.turns().acquire_owned().await.ok()?))
        };
        let Ok(Some(turn)) = tokio::time::timeout(inner.options.wait, turns).await else {
            return Err(Error::new(ErrorKind::Busy, "too many long reads are running; try again later"));
        };
        let lease = self.lease.clone();
        let done = inner.long.run(move || {
            let reader = PooledReader::take(lease)?;
            reader.limit(limit);
            let result = reading::read(reader.conn()?, work);
            let cancelled = reader.was_cancelled();
            drop((reader, turn));
            match result {
                Err(error) if cancelled && error.kind() == ErrorKind::Timeout => Err(Error::new(
                    ErrorKind::Timeout,
                    "the read was stopped: writes had to wait because of it; read less at a time",
                )),
                result => result,
            }
        });
        let done = done.ok_or_else(|| Error::internal("no threads for long reads"))?;
        let result = done.await.map_err(|e| Error::internal("a long read did not finish").with_source(e))?;
        self.noticed(result)
    }

    /// Runs a write in a transaction and returns after its commit: when this is `Ok`, the write
    /// survives a power cut. It may share the commit with other writes to this tenant; if `work`
    /// fails, nothing of it remains and the others are untouched.
    ///
    /// # Errors
    /// What `work` returned; or [`ErrorKind::Unavailable`], after which the outcome is unknown.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let result = self.lease.combiner().write(|| self.lease.clone(), work).await;
        self.noticed(result)
    }

    /// A file that is found damaged again and again takes its tenant out of service.
    fn noticed<T>(&self, result: Result<T>) -> Result<T> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.kind() == ErrorKind::DiskFull && self.over_quota() {
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("this user's database has reached its quota of {} bytes", self.store.inner.options.quota),
            ));
        }
        self.store.inner.faults.note(self.id(), self.store.now(), &error);
        if error.kind() == ErrorKind::Damaged && self.lease.combiner().faults() >= FAULTS {
            let (store, id, cause) = (self.store.clone(), self.id().clone(), error.clone());
            self.store.inner.runtime.spawn(with_request_id_async(async move { store.quarantine(&id, cause).await }));
        }
        Err(error)
    }

    /// SQLite says "full" for the disk and for `max_page_count` alike. It is not the disk if that has
    /// room for all that the user may have; on a smaller one, it is the quota if the file has come to it.
    fn over_quota(&self) -> bool {
        let quota = self.store.inner.options.quota;
        if quota == 0 {
            return false;
        }
        let layout = &self.store.inner.layout;
        if rustix::fs::statvfs(layout.root()).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) > quota) {
            return true;
        }
        let wal = std::fs::metadata(wal_of(&layout.tenant(self.id()))).map(|found| found.len()).unwrap_or(0);
        self.lease.bytes() + wal + PAGE_SIZE >= quota
    }
}

impl Store {
    async fn quarantine(&self, id: &TenantId, cause: Error) {
        let lock = self.inner.slots.lock(id).await;
        if lock.open().is_none_or(|database| database.combiner().faults() < FAULTS) {
            // Another request that met the damage was here first.
            return self.put_back(lock).await;
        }
        let store = self.clone();
        let task = self.inner.runtime.spawn_blocking(with_request_id(move || {
            // Closed first, and not checkpointed: a damaged file is kept as found.
            if let Some(database) = lock.open() {
                database.abandon();
            }
            store.record_quarantine(lock.id(), &cause);
        }));
        if let Err(error) = task.await {
            tracing::error!(tenant = %id, error = %error, "quarantine did not finish");
        }
    }

    async fn put_back(&self, lock: TenantLock<Database>) {
        let id = lock.id().clone();
        if let Err(error) = self.inner.runtime.spawn_blocking(move || Self::close_locked(&lock)).await {
            tracing::error!(tenant = %id, error = %error, "closing did not finish");
        }
    }
}
