//! Pools of readers: r2d2 with its costs taken out.
//!
//! By default r2d2 opens ten connections and starts three threads for each pool, and a reaper runs
//! wherever a lifetime or an idle timeout is set. Here all pools share one small thread pool, open
//! connections when asked, and keep them until they are dropped.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags};
use scheduled_thread_pool::ScheduledThreadPool;

use super::{
    deadline::Deadline,
    open::{Options, configure},
};
use crate::error::{Error, ErrorKind, Result};

/// A pool of connections to one file.
#[derive(Clone)]
pub struct Pool {
    pool: r2d2::Pool<Counting>,
    open: Arc<Open>,
}

/// A connection lent by a [`Pool`].
pub struct Pooled(r2d2::PooledConnection<Counting>);

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0.conn
    }
}

/// How many connections of a pool are open or being opened. r2d2 opens them on threads of its own, and
/// one that nobody waits for any more is still being opened when the pool is gone.
#[derive(Default)]
struct Open {
    state: Mutex<State>,
    none: Condvar,
}

#[derive(Default)]
struct State {
    count: usize,
    closed: bool,
}

/// One of them, until dropped.
struct Counted(Arc<Open>);

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.count -= 1;
        if state.count == 0 {
            self.0.none.notify_all();
        }
    }
}

/// A connection and its place in the count, which is given back after it is closed.
struct CountedConnection {
    conn: Connection,
    _counted: Counted,
}

struct Counting {
    manager: SqliteConnectionManager,
    open: Arc<Open>,
}

impl r2d2::ManageConnection for Counting {
    type Connection = CountedConnection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<CountedConnection> {
        {
            let mut state = self.open.state.lock();
            if state.closed {
                let why = "the pool is closed".to_owned();
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_MISUSE);
                return Err(rusqlite::Error::SqliteFailure(code, Some(why)));
            }
            state.count += 1;
        }
        let counted = Counted(self.open.clone());
        Ok(CountedConnection { conn: self.manager.connect()?, _counted: counted })
    }

    fn is_valid(&self, conn: &mut CountedConnection) -> rusqlite::Result<()> {
        self.manager.is_valid(&mut conn.conn)
    }

    fn has_broken(&self, conn: &mut CountedConnection) -> bool {
        self.manager.has_broken(&mut conn.conn)
    }
}

/// The threads on which every pool opens its connections.
static THREADS: LazyLock<Arc<ScheduledThreadPool>> =
    LazyLock::new(|| Arc::new(ScheduledThreadPool::builder().num_threads(2).thread_name_pattern("pool-{}").build()));

/// A pool of up to `size` readers of an existing file. Opens nothing yet. What `check` fails for is not
/// read from: it is asked after each opening whether that was the right file.
pub fn readers(
    path: PathBuf,
    options: Options,
    size: u32,
    wait: Duration,
    check: impl Fn() -> Result<()> + Send + Sync + 'static,
) -> Pool {
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
        configure(conn, &options, &Deadline::none()).and_then(|()| check()).map_err(failed)?;
        conn.execute_batch("PRAGMA query_only=ON")
    });
    let open = Arc::new(Open::default());
    let manager = Counting { manager, open: open.clone() };
    let pool = r2d2::Pool::builder()
        .max_size(size)
        .min_idle(Some(0))
        .max_lifetime(None)
        .idle_timeout(None)
        .test_on_check_out(false)
        .connection_timeout(wait)
        .thread_pool(THREADS.clone())
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build_unchecked(manager);
    Pool { pool, open }
}

/// Takes a connection, waiting for a free one as long as the pool was told to.
pub fn take(pool: &Pool) -> Result<Pooled> {
    if let Some(conn) = pool.pool.try_get() {
        return Ok(Pooled(conn));
    }
    pool.pool.get().map(Pooled).map_err(|e| Error::new(ErrorKind::Busy, "every reader is in use").with_source(e))
}

/// Drops a pool and waits until all its connections are closed, also one that is just being opened:
/// the file may not be moved or taken for oneself before. Nobody may have one of them, nor another
/// handle on the pool. May block for as long as an opening takes.
pub fn close(pool: Pool) {
    let Pool { pool, open } = pool;
    drop(pool);
    let mut state = open.state.lock();
    state.closed = true;
    while state.count > 0 {
        open.none.wait(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_descriptors(of: &std::path::Path) -> usize {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        open.flatten().filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(of))).count()
    }

    #[test]
    fn a_pool_that_is_closed_has_nothing_open_nor_opens_anything_later() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().canonicalize().unwrap().join("one.db");
        super::super::flush::write_new(&path, &[]).unwrap();
        for _ in 0..200 {
            let pool = readers(path.clone(), Options::default(), 4, Duration::from_secs(5), || Ok(()));
            // Each asks for a connection of its own, and some get one that another gave back: then one
            // is being opened that nobody waits for.
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| drop(take(&pool).unwrap()));
                }
            });
            close(pool);
            assert_eq!(open_descriptors(&path), 0);
        }
    }
}
