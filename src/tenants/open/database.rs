//! One open tenant: its connection, and its reader pool.
//!
//! Normally a tenant has one connection in exclusive locking mode: two descriptors, no
//! shared-memory file, the cheapest open. For an export or a long read, the database is reopened in
//! shared mode, with the writer's connection and a pool of readers. When the last reader is dropped,
//! it is reopened in exclusive mode. Callers see none of this.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    catalog::quota::Quota,
    clock::day::Day,
    error::{Error, ErrorKind, Result},
    log::DatabaseLog,
    sqlite::{
        check,
        combine::{Combiner, Limits, Spawn, WalLeft},
        deadline::Deadline,
        header,
        migrate::Schema,
        open::{self, Locking, Options},
        pool::{self, Pool},
        reading,
    },
    telemetry::trace,
    tenants::{
        disk::template::{self, APPLICATION_ID},
        id::TenantId,
        open::{activity::Activity, slots::Lease, uses::Uses},
    },
};

/// Pooled readers of one tenant.
const READERS: u32 = 4;

/// How long to wait for a pooled reader.
const READER_WAIT: Duration = Duration::from_secs(5);

/// An open tenant's database.
pub struct Database {
    path: PathBuf,
    options: Options,
    combiner: Arc<Combiner>,
    shared: Mutex<Shared>,
    /// One for each pooled reader.
    read_permits: Arc<Semaphore>,
    /// Of whoever may hold a transaction open that reads: not all readers, so that some are left for short use.
    snapshot_permits: Arc<Semaphore>,
    /// Of whoever may hold a transaction open that writes.
    session_turn: Arc<Semaphore>,
    /// Its part of the capacity.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    schema_version: i32,
    activity: Activity,
    /// The size of the file in the catalog when it was opened, if the catalog had one.
    known_bytes: Option<u64>,
    quota: Quota,
    uses: Uses,
}

#[derive(Default)]
struct Shared {
    users: usize,
    readers: Option<Pool>,
}

/// How a tenant's file is opened.
pub struct OpenParams<'a> {
    /// The tenant that the file must belong to.
    pub id: &'a TenantId,
    /// The path of the file.
    pub path: &'a Path,
    /// The schema to migrate it to.
    pub schema: &'a Schema,
    /// Flags, pragmas and limits. The locking mode is chosen here.
    pub options: &'a Options,
    /// Bounds of the tenant's queue.
    pub limits: &'a Limits,
    /// The tenant's part of the log.
    pub log: DatabaseLog,
    /// What is left in its WAL, if it was closed without a flush.
    pub left: Option<WalLeft>,
    /// Whether the tenant is quarantined: its file is checked for damage although it was closed cleanly.
    pub quarantined: bool,
    /// What the tenant may use, where that is not as the settings say. Its bytes are in `options`, too.
    pub quota: Quota,
    /// What interrupts the statements of the connection.
    pub deadline: Deadline,
    /// The day on which it is opened.
    pub today: Day,
    /// Whether an older schema is an error, [`ErrorKind::Conflict`], and is left as it is.
    pub as_is: bool,
    /// Called when migrations have run, before their commit.
    pub before_commit: &'a dyn Fn() -> Result<()>,
}

/// How long a file is checked for damage after an unclean shutdown, while a request waits: enough for some hundred
/// MiB. Damage in the rest is found when it is read.
const CHECK: Duration = Duration::from_secs(2);

/// An opened and migrated file.
pub struct Opened {
    /// The connection, in exclusive mode.
    conn: Connection,
    deadline: Deadline,
    /// It was not closed, or its close was not completed: kill -9, a power cut, or a fault.
    unclean_shutdown: bool,
    /// The version that it was migrated from; none if it had the newest.
    pub migrated_from: Option<i32>,
}

/// Opens a file, checks that it is this tenant's, and migrates it. Nobody else has it open. May block.
///
/// # Errors
/// [`ErrorKind::Quarantined`] for a migration that fails or a newer schema,
/// [`ErrorKind::Damaged`] for a file that is not this tenant's or is no database. Neither changes the file.
pub fn open_file(params: &OpenParams) -> Result<Opened> {
    // Checked before the open: SQLite would turn an empty file into a database.
    let header = header::read(params.path, APPLICATION_ID)?;
    let options = Options {
        locking: Locking::Exclusive,
        application_ids: &[APPLICATION_ID],
        known_header: header.is_wal,
        logged: true,
        ..params.options.clone()
    };
    let deadline = params.deadline.clone();
    // A close empties the WAL, or leaves in it what `left` says.
    let unclean_shutdown = header.wal_bytes > 0 && params.left.is_none();
    let mut conn = open::open(params.path, &options, &deadline)?;
    let checked = match unclean_shutdown || params.quarantined {
        true => check::quick_check(&conn, &deadline, CHECK),
        false => Ok(true),
    };
    let migrated = checked.and_then(|whole| {
        if !whole {
            tracing::warn!(tenant = %params.id, "too large to be checked completely after an unclean shutdown");
        }
        migrate(params, &mut conn)
    });
    let migrated_from = match migrated {
        Ok(migrated_from) => migrated_from,
        Err(error) => {
            open::abandon(conn);
            return Err(error);
        }
    };
    if migrated_from.is_some() {
        // A migration may leave temporary tables and pragmas on its connection.
        open::close(conn)?;
        conn = open::open(params.path, &options, &deadline)?;
    }
    Ok(Opened { conn, deadline, unclean_shutdown, migrated_from })
}

fn migrate(params: &OpenParams, conn: &mut Connection) -> Result<Option<i32>> {
    let meta = template::meta(conn).map_err(|e| match e.kind() {
        ErrorKind::Internal => {
            Error::new(ErrorKind::Damaged, "the file does not say which tenant it belongs to").with_source(e)
        }
        _ => e,
    })?;
    if meta.tenant != params.id.as_str() {
        let message = format!("the file belongs to another tenant, {:?}", meta.tenant);
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    if meta.schema_digest == params.schema.digest() {
        // The digest covers every migration, so the version is the same, too.
        return Ok(None);
    }
    if params.as_is {
        return Err(Error::new(ErrorKind::Conflict, "the file does not have the newest schema"));
    }
    trace::within("migrate", || template::upgrade_with(conn, params.schema, params.before_commit))
}

impl Opened {
    /// Closes it and empties its WAL: for eager migration. Returns the version that it was migrated from.
    pub fn close(self) -> Result<Option<i32>> {
        open::close(self.conn)?;
        Ok(self.migrated_from)
    }

    /// Closes it and leaves the file and its WAL as they are.
    pub fn abandon(self) {
        open::abandon(self.conn);
    }

    /// Makes it an open tenant. `known_bytes` is its size in the catalog.
    pub fn into_database(
        self,
        params: &OpenParams,
        spawn: Spawn,
        permit: OwnedSemaphorePermit,
        known_bytes: Option<u64>,
    ) -> Database {
        let options = Options { application_ids: &[APPLICATION_ID], logged: true, ..params.options.clone() };
        let (path, settings) = (params.path.to_owned(), options.clone());
        let combiner = Combiner::over(
            Some(self.conn),
            self.deadline,
            params.limits.clone(),
            spawn,
            Box::new(move |locking, deadline| open::open(&path, &Options { locking, ..settings.clone() }, deadline)),
        );
        let combiner = combiner.logged_by(params.log.clone());
        let combiner = match params.left.filter(|_| self.migrated_from.is_none()) {
            Some(left) => combiner.after_unflushed_close(left),
            None if self.unclean_shutdown => combiner.after_unclean_stop(),
            None => combiner.after_clean_stop(),
        };
        Database {
            path: params.path.to_owned(),
            options: Options { locking: Locking::Shared, ..options },
            combiner: Arc::new(combiner),
            shared: Mutex::default(),
            read_permits: Arc::new(Semaphore::new(READERS as usize)),
            snapshot_permits: Arc::new(Semaphore::new(READERS as usize / 2)),
            session_turn: Arc::new(Semaphore::new(1)),
            permit: Mutex::new(Some(permit)),
            schema_version: params.schema.version(),
            activity: Activity::default(),
            known_bytes,
            quota: params.quota,
            uses: Uses::new(params.today),
        }
    }
}

/// Keeps a database in shared mode. Dropping it may block.
pub struct SharedUse(Lease<Database>);

impl SharedUse {
    /// May block.
    pub fn new(lease: Lease<Database>) -> Self {
        lease.share();
        Self(lease)
    }
}

impl Drop for SharedUse {
    fn drop(&mut self) {
        self.0.reader_dropped();
    }
}

impl Database {
    /// The queue in front of the connection.
    pub fn combiner(&self) -> &Arc<Combiner> {
        &self.combiner
    }

    /// The version of its schema.
    pub fn schema_version(&self) -> i32 {
        self.schema_version
    }

    /// How often it is leased.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// What the tenant may use, where that is not as the settings say.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// The largest the file may grow, in bytes; 0 for no bound.
    pub fn max_bytes(&self) -> u64 {
        self.options.max_bytes
    }

    /// How often it is used.
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// The file's size, if the catalog had another one when it was opened.
    pub fn new_size(&self) -> Option<u64> {
        Some(self.bytes()).filter(|bytes| self.known_bytes != Some(*bytes))
    }

    /// The size of the file, without its WAL.
    pub fn bytes(&self) -> u64 {
        // Not by opening it: closing that descriptor would drop POSIX locks on the file.
        std::fs::metadata(&self.path).map(|found| found.len()).unwrap_or(0)
    }

    /// Closes every connection, empties the WAL and gives the capacity back. Nobody has a lease. May block.
    pub fn close(&self) -> Result<()> {
        self.close_readers();
        let result = self.combiner.close();
        drop(self.permit.lock().take());
        result
    }

    /// Like [`close`](Self::close), but without a flush if that is safe: then with what is left in the WAL.
    pub fn close_unflushed(&self) -> Result<Option<WalLeft>> {
        self.close_readers();
        let result = self.combiner.close_unflushed();
        drop(self.permit.lock().take());
        result
    }

    /// Like [`close`](Self::close), but leaves the file and its WAL as they are: for a damaged one.
    pub fn abandon(&self) {
        self.close_readers();
        self.combiner.abandon();
        drop(self.permit.lock().take());
    }

    /// A pooled reader is taken only with one of these permits.
    pub(in crate::tenants) fn read_permits(&self) -> Arc<Semaphore> {
        self.read_permits.clone()
    }

    /// A transaction that reads is held open with one of these permits, too.
    pub(in crate::tenants) fn snapshot_permits(&self) -> Arc<Semaphore> {
        self.snapshot_permits.clone()
    }

    /// Runs a read of up to `limit` on a connection from the reader pool, for which the database is reopened in shared
    /// mode if need be. May block.
    pub fn read_apart<T>(&self, limit: Duration, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        /// Counts a reader down, also when a panic unwinds.
        struct Counted<'d>(&'d Database);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.reader_dropped();
            }
        }
        let conn = self.reader()?;
        // The connection goes back into the pool first, since the pool may be closed then: exclusive mode needs all
        // readers closed.
        let (counted, conn) = (Counted(self), conn);
        let deadline = Deadline::until(self.combiner.cancel());
        deadline.set(Some(limit));
        let result = deadline.watch(&conn).and_then(|()| reading::read(&conn, work));
        let cancelled = deadline.was_cancelled();
        drop(conn);
        drop(counted);
        self.combiner.wait_for_read();
        match result {
            Err(error) if cancelled && error.kind() == ErrorKind::Timeout => Err(Error::new(
                ErrorKind::Timeout,
                "the read was stopped because it kept writes waiting; read less at a time",
            )),
            result => result,
        }
    }

    fn reader(&self) -> Result<pool::Pooled> {
        self.share();
        self.take_reader().inspect_err(|_| self.reader_dropped())
    }

    /// Brings the database into shared mode and counts one more who needs it so. May block.
    fn share(&self) {
        let mut shared = self.shared.lock();
        if shared.readers.is_none() {
            self.combiner.reopen_as(Locking::Shared);
            let readers = pool::readers(self.path.clone(), self.options.clone(), READERS, READER_WAIT, || Ok(()));
            shared.readers = Some(readers);
        }
        shared.users += 1;
    }

    fn take_reader(&self) -> Result<pool::Pooled> {
        let readers = self.shared.lock().readers.clone();
        readers.ok_or_else(|| Error::internal("no readers")).and_then(|readers| pool::take(&readers))
    }

    /// A transaction that writes is held open with this permit only.
    pub(in crate::tenants) fn session_turn(&self) -> Arc<Semaphore> {
        self.session_turn.clone()
    }

    fn reader_dropped(&self) {
        let mut shared = self.shared.lock();
        shared.users = shared.users.saturating_sub(1);
        if shared.users == 0
            && let Some(readers) = shared.readers.take()
        {
            pool::close(readers);
            self.combiner.reopen_as(Locking::Exclusive);
        }
    }

    /// Begins a transaction that only reads, on a reader of its own; with a permit of
    /// [`read_permits`](Self::read_permits). May block.
    pub(in crate::tenants) fn begin_snapshot(&self, deadline: &Deadline) -> Result<pool::Pooled> {
        let conn = self.take_reader()?;
        deadline.watch(&conn)?;
        reading::begin_snapshot(&conn)?;
        self.combiner.wait_for_read();
        Ok(conn)
    }

    fn close_readers(&self) {
        if let Some(readers) = std::mem::take(&mut *self.shared.lock()).readers {
            pool::close(readers);
        }
    }
}
