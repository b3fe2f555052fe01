//! Pools of readers: r2d2 with its costs taken out.
//!
//! By default r2d2 opens ten connections and starts three threads for each pool, and a reaper runs
//! wherever a lifetime or an idle timeout is set. Here all pools share one small thread pool, open
//! connections when asked, and keep them until they are dropped.

use std::{path::PathBuf, sync::Arc, sync::LazyLock, time::Duration};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags};
use scheduled_thread_pool::ScheduledThreadPool;

use super::open::{Deadline, Options, configure};
use crate::error::{Error, ErrorKind, Result};

/// A pool of connections to one file.
pub type Pool = r2d2::Pool<SqliteConnectionManager>;

/// A connection lent by a [`Pool`].
pub type Pooled = r2d2::PooledConnection<SqliteConnectionManager>;

/// The threads on which every pool opens its connections.
static THREADS: LazyLock<Arc<ScheduledThreadPool>> =
    LazyLock::new(|| Arc::new(ScheduledThreadPool::builder().num_threads(2).thread_name_pattern("pool-{}").build()));

/// A pool of up to `size` readers of an existing file. Opens nothing yet.
pub fn readers(path: PathBuf, options: Options, size: u32, wait: Duration) -> Pool {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let manager = SqliteConnectionManager::file(path).with_flags(flags).with_init(move |conn: &mut Connection| {
        let failed = |error: Error| match error.sqlite() {
            Some(rusqlite::Error::SqliteFailure(code, text)) => rusqlite::Error::SqliteFailure(*code, text.clone()),
            _ => rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
                Some(error.detail()),
            ),
        };
        // Readers open the file for writing, since WAL readers write to shared memory, and are kept
        // from writing to the database itself by SQLite.
        configure(conn, &options, &Deadline::none()).map_err(failed)?;
        conn.execute_batch("PRAGMA query_only=ON")
    });
    r2d2::Pool::builder()
        .max_size(size)
        .min_idle(Some(0))
        .max_lifetime(None)
        .idle_timeout(None)
        .test_on_check_out(false)
        .connection_timeout(wait)
        .thread_pool(THREADS.clone())
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build_unchecked(manager)
}

/// Takes a connection, waiting for a free one as long as the pool was told to.
pub fn take(pool: &Pool) -> Result<Pooled> {
    if let Some(conn) = pool.try_get() {
        return Ok(conn);
    }
    pool.get().map_err(|e| Error::new(ErrorKind::Busy, "every reader is in use").with_source(e))
}
