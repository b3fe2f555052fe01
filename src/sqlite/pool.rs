//! Pools of readers: r2d2 without its costs.
//!
//! By default r2d2 opens ten connections and starts three threads for each pool, and a reaper runs
//! wherever a lifetime or an idle timeout is set. Here all pools share one small thread pool, open
//! connections on demand, and keep them until the pool is dropped.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::{
        Arc, LazyLock,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use parking_lot::Mutex;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;
use scheduled_thread_pool::ScheduledThreadPool;

use super::open::{self, Options};
use crate::error::{Error, ErrorKind, Result};

/// A pool of connections to one file.
#[derive(Clone)]
pub struct Pool {
    pool: r2d2::Pool<Manager>,
    /// Disconnected when the pool and all its connections are gone: each has a token, the channel's other end.
    tokens: Arc<Mutex<Receiver<()>>>,
}

/// A connection of a [`Pool`], which goes back to it when dropped.
pub struct Pooled(r2d2::PooledConnection<Manager>);

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0.conn
    }
}

/// The fields are dropped in this order: the connection is closed when the token goes.
struct OpenConnection {
    conn: Connection,
    _token: Sender<()>,
}

/// r2d2 opens connections on threads of its own, and may still be opening one when the pool is gone. The manager lives
/// as long as that.
struct Manager {
    manager: SqliteConnectionManager,
    token: Sender<()>,
}

impl r2d2::ManageConnection for Manager {
    type Connection = OpenConnection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<OpenConnection> {
        Ok(OpenConnection { conn: self.manager.connect()?, _token: self.token.clone() })
    }

    fn is_valid(&self, conn: &mut OpenConnection) -> rusqlite::Result<()> {
        self.manager.is_valid(&mut conn.conn)
    }

    fn has_broken(&self, conn: &mut OpenConnection) -> bool {
        // In a transaction, it would show the next one who takes it an old moment.
        !conn.conn.is_autocommit() || self.manager.has_broken(&mut conn.conn)
    }
}

/// The threads on which all pools open their connections.
static THREADS: LazyLock<Arc<ScheduledThreadPool>> =
    LazyLock::new(|| Arc::new(ScheduledThreadPool::builder().num_threads(2).thread_name_pattern("pool-{}").build()));

/// A pool of up to `size` readers of an existing file. Opens nothing yet. A connection after whose open `check`
/// fails is not used.
pub fn readers(
    path: PathBuf,
    options: Options,
    size: u32,
    wait: Duration,
    check: impl Fn() -> Result<()> + Send + Sync + 'static,
) -> Pool {
    let (token, tokens) = channel();
    let manager = Manager { manager: open::manager(path, options, check), token };
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
    Pool { pool, tokens: Arc::new(Mutex::new(tokens)) }
}

/// Takes a connection, waiting for a free one for the pool's `wait`.
pub fn take(pool: &Pool) -> Result<Pooled> {
    if let Some(conn) = pool.pool.try_get() {
        return Ok(Pooled(conn));
    }
    pool.pool.get().map(Pooled).map_err(|e| Error::new(ErrorKind::Busy, "every reader is in use").with_source(e))
}

/// Drops a pool and waits until all its connections are closed, also one that is being opened: only then may the
/// file be moved or opened in exclusive mode. No connection may be taken, and no clone of the pool be left. May block
/// for as long as an open takes.
pub fn close(pool: Pool) {
    let Pool { pool, tokens } = pool;
    drop(pool);
    // Nothing is ever sent.
    let _ = tokens.lock().recv();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_descriptors(of: &std::path::Path) -> usize {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        open.flatten().filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(of))).count()
    }

    #[test]
    fn a_closed_pool_has_no_connection_open_and_opens_none_later() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().canonicalize().unwrap().join("one.db");
        super::super::flush::write_new(&path, &[]).unwrap();
        for _ in 0..200 {
            let pool = readers(path.clone(), Options::default(), 4, Duration::from_secs(5), || Ok(()));
            // Each asks for a connection, and some get one that another gave back: then one is still being
            // opened that nobody waits for.
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
