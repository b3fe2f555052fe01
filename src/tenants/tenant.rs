//! The handle on an open tenant, through which it is read and written.

use std::time::Duration;

use rusqlite::{Connection, Transaction};

use super::{
    disk::path::wal_of,
    id::TenantId,
    open::{database::Database, slots::Lease},
    store::Store,
};
use crate::{
    catalog::queries,
    error::{Error, ErrorKind, Result},
    sqlite::{PAGE_SIZE, sequence},
    telemetry::trace,
};

/// An open tenant. Its database stays open as long as any clone of this lives, so keep one for a request and not
/// for longer: capacity, deletion, migration and shutdown wait for it.
///
/// ```no_run
/// # async fn example(store: cubby::Store, ada: cubby::TenantId) -> cubby::Result<()> {
/// use std::time::Duration;
/// use cubby::rusqlite::{Connection, Transaction};
///
/// let tenant = store.lease(&ada).await?;
///
/// // Durable when it returns.
/// tenant.write(|tx: &Transaction| Ok(tx.execute("INSERT INTO todos (what) VALUES (?1)", ["buy milk"])?)).await?;
///
/// // On the calling thread, if the database is free.
/// let count = |conn: &Connection| Ok(conn.query_row("SELECT count(*) FROM todos", [], |row| row.get::<_, i64>(0))?);
/// let todos = tenant.read(count).await?;
///
/// // On a connection of its own, for at most ten seconds.
/// let all = tenant.read_long(Duration::from_secs(10), |conn| {
///     let mut statement = conn.prepare("SELECT what FROM todos")?;
///     Ok(statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?)
/// });
/// println!("{todos} todos: {:?}", all.await?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tenant {
    pub(super) lease: Lease<Database>,
    pub(super) store: Store,
}

impl Tenant {
    /// The id of the tenant.
    pub fn id(&self) -> &TenantId {
        self.lease.id()
    }

    /// Runs a short read, on the calling thread if the database is free. `work` should take microseconds; use
    /// [`read_long`](Self::read_long) for more. A read is stopped after two milliseconds and run again from its
    /// start on another thread, so `work` may be called twice.
    ///
    /// It cannot write, not even to a temporary table: use [`write`](Self::write). A transaction that `work` begins
    /// and leaves open is rolled back.
    ///
    /// # Errors
    /// What `work` returned; or [`ErrorKind::Internal`] if it tried to write, and then nothing was written.
    pub async fn read<T, F>(&self, work: F) -> Result<T>
    where
        F: Fn(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let result = self.lease.combiner().read(|| self.clone(), work).await;
        self.record_fault(result)
    }

    /// Runs a read of up to `limit` on a connection of its own: writes and short reads of the same tenant go on
    /// meanwhile. Like [`read`](Self::read), it cannot write.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`ErrorKind::Timeout`] after `limit`; [`ErrorKind::Busy`] if too many such reads run.
    pub async fn read_long<T, F>(&self, limit: Duration, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let inner = &self.store.inner;
        // The tenant's own permit first, so that one tenant's long reads cannot take all of the shared ones.
        let permits = async {
            let own = self.lease.read_permits().acquire_owned().await.ok()?;
            Some((own, inner.long_reads.permits().acquire_owned().await.ok()?))
        };
        let Ok(Some(permits)) = trace::during("queue", tokio::time::timeout(inner.options.wait, permits)).await else {
            return Err(Error::new(ErrorKind::Busy, "too many long reads are running; try again later"));
        };
        let lease = self.lease.clone();
        let done = inner.long_reads.run(trace::carried(move || {
            let result = trace::within("read", || lease.read_apart(limit, work));
            drop((lease, permits));
            result
        }));
        let done = done.ok_or_else(|| Error::internal("no threads for long reads"))?;
        let result = done.await.map_err(|e| Error::internal("a long read did not finish").with_source(e))?;
        self.record_fault(result)
    }

    /// Runs a write in a transaction and returns after its commit: when this is `Ok`, the write survives a power
    /// cut. It may share the commit with other writes to this tenant; if `work` fails, it alone is rolled back.
    ///
    /// # Errors
    /// What `work` returned. Or the storage's: [`ErrorKind::Unavailable`] and [`ErrorKind::Damaged`], after which the
    /// outcome is unknown, [`ErrorKind::DiskFull`] and [`ErrorKind::QuotaExceeded`], after which nothing was written.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let work = move |tx: &Transaction| work(tx).map_err(|error| sequence::told(tx, error));
        let result = self.lease.combiner().write(|| self.clone(), work).await;
        self.count_write(result)
    }

    /// Like [`write`](Self::write) for one that takes microseconds: on the calling thread if the database is free. It is
    /// rolled back after two milliseconds and run again on another thread, so `work` may be called twice.
    ///
    /// # Errors
    /// What `work` returned. Or the storage's: [`ErrorKind::Unavailable`] and [`ErrorKind::Damaged`], after which the
    /// outcome is unknown, [`ErrorKind::DiskFull`] and [`ErrorKind::QuotaExceeded`], after which nothing was written.
    pub async fn write_short<T, F>(&self, work: F) -> Result<T>
    where
        F: Fn(&Transaction) -> Result<T> + Send + Sync + 'static,
        T: Send + 'static,
    {
        let work = move |tx: &Transaction| work(tx).map_err(|error| sequence::told(tx, error));
        let result = self.lease.combiner().write_short(|| self.clone(), work).await;
        self.count_write(result)
    }

    /// Counts a request to this tenant, for its usage by day.
    pub fn count_request(&self) {
        self.lease.uses().request();
    }

    /// Counts a transaction over several calls that was committed.
    pub(super) fn count_commit(&self) {
        self.lease.uses().write();
    }

    fn count_write<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_ok() {
            self.lease.uses().write();
        }
        self.record_fault(result)
    }

    /// Writes into the catalog that the schema of the database is no longer that of the migrations alone.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn mark_drifted(&self) -> Result<()> {
        let (id, now) = (self.id().clone(), self.store.now());
        self.store.inner.catalog.write(move |tx| queries::set_drifted(tx, &id, Some(now))).await.map(drop)
    }

    /// Records an error that is a fault of the file or the disk, which may quarantine the tenant.
    pub(super) fn record_fault<T>(&self, result: Result<T>) -> Result<T> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        // Without SQLite's error it is the log that is full.
        if error.kind() == ErrorKind::DiskFull && error.sqlite().is_some() && self.over_quota() {
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("this user's database has reached its quota of {} bytes", self.lease.max_bytes()),
            ));
        }
        self.store.inner.faults.record(self.id(), self.store.now(), &error);
        self.store.quarantine_if_damaged(&self.lease, &error);
        Err(error)
    }

    /// SQLite reports a full disk and a reached `max_page_count` with one code. With more free space on the disk
    /// than the whole quota, it is the quota; otherwise the file's size decides.
    fn over_quota(&self) -> bool {
        let quota = self.lease.max_bytes();
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
