//! One open tenant: a connection for reads and writes, and readers apart from it when asked for.
//!
//! Normally a tenant has one connection in exclusive locking mode: two descriptors, no
//! shared-memory file, the cheapest open. When somebody needs a connection of their own (an export,
//! a long read), the database is reopened in shared mode: the writer's connection and a pool of
//! readers beside it. When the last of these goes, it goes back. Callers see none of this.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{descriptors::Permit, slots::Lease};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{
        check,
        combine::{Combiner, Limits, Spawn},
        deadline::Deadline,
        header,
        migrate::{Applied, Schema},
        open::{self, Locking, Options},
        pool::{self, Pool},
        wal,
    },
    tenants::{
        disk::template::{self, APPLICATION_ID},
        id::TenantId,
    },
};

/// Readers of one tenant beside its writer.
const READERS: u32 = 4;

/// How long to wait for one of them.
const READER_WAIT: Duration = Duration::from_secs(5);

/// An open tenant's database.
pub struct Database {
    path: PathBuf,
    options: Options,
    combiner: Arc<Combiner>,
    shared: Mutex<Shared>,
    /// Turns at this tenant's readers: waited for before those that all tenants share, so that one
    /// tenant's many long reads cannot keep all of these.
    turns: Arc<Semaphore>,
    permit: Mutex<Option<Permit>>,
    schema_version: i32,
    /// The size of the file as the catalog has it, if it does.
    known_bytes: Option<u64>,
}

#[derive(Default)]
struct Shared {
    users: usize,
    readers: Option<Pool>,
}

/// What opening a file needs to know.
pub struct OpenParams<'a> {
    /// Whose file it must be.
    pub id: &'a TenantId,
    /// Where it is.
    pub path: &'a Path,
    /// What its schema should be.
    pub schema: &'a Schema,
    /// Flags, pragmas and limits. The locking mode is chosen here.
    pub options: &'a Options,
    /// Bounds of its queue.
    pub limits: &'a Limits,
    /// Whether to look for damage although it was closed well.
    pub suspect: bool,
    /// Called when migrations have run and before they are committed.
    pub applying: &'a dyn Fn() -> Result<()>,
}

/// How long a file is looked at for damage after an unclean stop: it is a request that waits. Some
/// hundred MiB; what is left over is found when it is read.
const CHECK: Duration = Duration::from_secs(2);

/// An opened and migrated file, and how it was found.
pub struct Opened {
    /// The connection, in exclusive mode.
    conn: Connection,
    deadline: Deadline,
    /// It was not closed well: by kill -9, a power cut, or a fault.
    unclean: bool,
    /// What the migrations did.
    pub applied: Applied,
}

/// Opens a file, checks that it is this tenant's, and brings it to the schema. The caller is alone
/// with the file. May block.
///
/// # Errors
/// [`ErrorKind::Quarantined`] for a migration that fails or a newer schema,
/// [`ErrorKind::Damaged`] for a file that is not this tenant's or no database; both leave it as it was.
pub fn open_file(params: &OpenParams) -> Result<Opened> {
    // SQLite takes an empty file for an empty database, and would make one of it.
    let header = header::read(params.path, APPLICATION_ID)?;
    let options = Options {
        locking: Locking::Exclusive,
        application_id: APPLICATION_ID,
        known_header: header.is_wal,
        ..params.options.clone()
    };
    let deadline = Deadline::none();
    // A close empties the log.
    let unclean = header.wal_bytes > 0;
    let mut conn = open::open(params.path, &options, &deadline)?;
    let checked = match unclean || params.suspect {
        true => check::quick_check(&conn, &deadline, CHECK),
        false => Ok(true),
    };
    let applied = checked.and_then(|whole| {
        if !whole {
            tracing::warn!(tenant = %params.id, "too large to be checked whole after an unclean stop");
        }
        inspect(params, &mut conn)
    });
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) => {
            open::abandon(conn);
            return Err(error);
        }
    };
    if applied != Applied::Nothing {
        // What a migration leaves on its connection, such as temporary tables and pragmas, serves nobody.
        close(conn)?;
        conn = open::open(params.path, &options, &deadline)?;
    }
    Ok(Opened { conn, deadline, unclean, applied })
}

/// Closes a connection that nobody else has beside them, WAL emptied.
fn close(conn: Connection) -> Result<()> {
    if let Err(error) = wal::checkpoint(&conn) {
        open::abandon(conn);
        return Err(error);
    }
    conn.close().map_err(|(_, error)| error.into())
}

fn inspect(params: &OpenParams, conn: &mut Connection) -> Result<Applied> {
    let meta = template::meta(conn).map_err(|e| match e.kind() {
        ErrorKind::Internal => Error::new(ErrorKind::Damaged, "the file does not say whose it is").with_source(e),
        _ => e,
    })?;
    if meta.tenant != params.id.as_str() {
        let message = format!("the file belongs to another tenant, {:?}", meta.tenant);
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    if meta.schema_digest == params.schema.digest() {
        // The digest stands for every migration, and so for the version too.
        return Ok(Applied::Nothing);
    }
    template::upgrade_noting(conn, params.schema, params.applying)
}

impl Opened {
    /// Closes it again, WAL emptied: for eager migration, which serves nobody.
    pub fn close(self) -> Result<()> {
        self.conn.close().map_err(|(_, error)| error.into())
    }

    /// Puts it to use. `known_bytes` is the size that the catalog has.
    pub fn into_database(
        self,
        params: &OpenParams,
        spawn: Spawn,
        permit: Permit,
        known_bytes: Option<u64>,
    ) -> Database {
        let options = Options { application_id: APPLICATION_ID, ..params.options.clone() };
        let (path, settings) = (params.path.to_owned(), options.clone());
        let combiner = Combiner::over(
            Some(self.conn),
            self.deadline,
            params.limits.clone(),
            spawn,
            Box::new(move |locking, deadline| open::open(&path, &Options { locking, ..settings.clone() }, deadline)),
        );
        let combiner = if self.unclean { combiner.after_unclean_stop() } else { combiner };
        Database {
            path: params.path.to_owned(),
            options: Options { locking: Locking::Shared, ..options },
            combiner: Arc::new(combiner),
            shared: Mutex::default(),
            turns: Arc::new(Semaphore::new(READERS as usize)),
            permit: Mutex::new(Some(permit)),
            schema_version: params.schema.version(),
            known_bytes,
        }
    }
}

impl Database {
    /// The queue in front of the connection.
    pub fn combiner(&self) -> &Arc<Combiner> {
        &self.combiner
    }

    /// The schema it is at.
    pub fn schema_version(&self) -> i32 {
        self.schema_version
    }

    /// The file's size, if it is another than the catalog had it at the open.
    pub fn new_size(&self) -> Option<u64> {
        Some(self.bytes()).filter(|bytes| self.known_bytes != Some(*bytes))
    }

    /// The size of the file, without its WAL.
    pub fn bytes(&self) -> u64 {
        // Asking for a file's size does not open it.
        std::fs::metadata(&self.path).map(|found| found.len()).unwrap_or(0)
    }

    /// Closes every connection, WAL emptied, and gives the descriptors back. Nobody holds a lease.
    /// May block.
    pub fn close(&self) -> Result<()> {
        self.close_readers();
        let result = self.combiner.close();
        drop(self.permit.lock().take());
        result
    }

    /// As [`close`](Self::close), leaving the file and its WAL as they are: for a damaged one.
    pub fn abandon(&self) {
        self.close_readers();
        self.combiner.abandon();
        drop(self.permit.lock().take());
    }

    /// Turns at this tenant's readers.
    pub(in crate::tenants) fn turns(&self) -> Arc<Semaphore> {
        self.turns.clone()
    }

    fn reader(&self) -> Result<pool::Pooled> {
        let readers = {
            let mut shared = self.shared.lock();
            if shared.readers.is_none() {
                self.combiner.reopen_as(Locking::Shared);
                let readers = pool::readers(self.path.clone(), self.options.clone(), READERS, READER_WAIT, || Ok(()));
                shared.readers = Some(readers);
            }
            shared.users += 1;
            shared.readers.clone()
        };
        let taken = readers.ok_or_else(|| Error::internal("no readers")).and_then(|readers| pool::take(&readers));
        taken.inspect_err(|_| self.reader_gone())
    }

    fn reader_gone(&self) {
        let mut shared = self.shared.lock();
        shared.users = shared.users.saturating_sub(1);
        if shared.users == 0
            && let Some(readers) = shared.readers.take()
        {
            pool::close(readers);
            self.combiner.reopen_as(Locking::Exclusive);
        }
    }

    fn close_readers(&self) {
        if let Some(readers) = std::mem::take(&mut *self.shared.lock()).readers {
            pool::close(readers);
        }
    }
}

/// A reader's connection apart from the tenant's own, and the lease that keeps the database open.
/// Runs on a thread that may block; so does its drop.
pub struct PooledReader {
    conn: Option<pool::Pooled>,
    lease: Lease<Database>,
    deadline: Deadline,
}

impl PooledReader {
    /// Reopens the database in shared mode if need be and takes a reader. May block.
    pub fn take(lease: Lease<Database>) -> Result<Self> {
        let conn = lease.reader()?;
        let deadline = Deadline::until(lease.combiner().cancel());
        let reader = Self { conn: Some(conn), lease, deadline };
        reader.deadline.watch(reader.conn()?)?;
        Ok(reader)
    }

    /// The connection. It can read and not write.
    pub fn conn(&self) -> Result<&Connection> {
        self.conn.as_deref().ok_or_else(|| Error::internal("no connection"))
    }

    /// Bounds the time of what runs on it from now on.
    pub fn limit(&self, limit: Duration) {
        self.deadline.set(Some(limit));
    }

    /// Whether it was stopped because it kept the write-ahead log from being emptied.
    pub fn was_cancelled(&self) -> bool {
        self.deadline.was_cancelled()
    }
}

impl Drop for PooledReader {
    fn drop(&mut self) {
        // First back into the pool, then perhaps the pool away: exclusive mode needs it gone.
        self.conn = None;
        self.lease.reader_gone();
    }
}
