//! The write-ahead log (WAL) of one connection: its length, its checkpoints, and whether what was flushed to it
//! is on the disk.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ffi};

use super::{PAGE_SIZE, flush};
use crate::error::{Error, ErrorKind, Result};

/// The WAL is truncated to this many bytes when it restarts after a checkpoint, so that one large write does not
/// leave a large file behind.
pub(super) const JOURNAL_SIZE_LIMIT: i64 = 4 << 20;

/// Pages in a WAL of that length, each with its header
/// (<https://sqlite.org/fileformat2.html#the_write_ahead_log>).
#[expect(clippy::cast_possible_truncation, reason = "a thousand")]
pub(super) const KEPT_PAGES: u32 = ((JOURNAL_SIZE_LIMIT as u64 - 32) / (PAGE_SIZE + 24)) as u32;

thread_local! {
    /// Pages in the WAL after this thread's last commit. SQLite calls the WAL hook on the committing thread, and
    /// only if something was written.
    static PAGES: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Prepares a fresh connection: keeps its `-wal` file at close and records the WAL's length at each commit.
pub(super) fn configure(conn: &Connection) -> Result<()> {
    conn.wal_hook(Some(|_, pages| {
        PAGES.set(u32::try_from(pages).ok());
        Ok(())
    }));
    persist(conn)
}

/// Keeps the `-wal` file when the last connection closes: creating and removing it is half the cost of opening a
/// cold tenant. The checkpoint at close truncates it to nothing.
fn persist(conn: &Connection) -> Result<()> {
    let mut on: std::ffi::c_int = 1;
    // SAFETY: the handle is live for the length of the call; FCNTL_PERSIST_WAL takes a pointer to
    // one int (<https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>).
    let code = unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_PERSIST_WAL,
            std::ptr::from_mut(&mut on).cast(),
        )
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
    }
}

/// Runs a commit and returns the pages in the WAL after it; none if it wrote nothing.
pub(super) fn pages_after(commit: impl FnOnce() -> rusqlite::Result<()>) -> rusqlite::Result<Option<u32>> {
    // The thread's last commit may have been another database's.
    PAGES.set(None);
    commit()?;
    Ok(PAGES.get())
}

/// Confirms the connection's last flush; see [`flush::confirm`].
///
/// # Errors
/// The file system had failed before the flush: what was flushed may be lost.
pub fn confirm(conn: &Connection) -> Result<()> {
    // A database in memory has no path.
    conn.path().filter(|path| !path.is_empty()).map_or(Ok(()), |path| flush::confirm(&wal_of(Path::new(path))))
}

/// Copies committed pages from the WAL into the database file and truncates the WAL.
///
/// # Errors
/// [`ErrorKind::Busy`] if a reader still needs a page of it.
pub fn checkpoint(conn: &Connection) -> Result<()> {
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    match busy {
        0 => confirm(conn),
        _ => Err(Error::new(ErrorKind::Busy, "a reader kept the write-ahead log from being emptied")),
    }
}

/// Copies the pages that no reader needs from the WAL into the database file, without waiting. After an error the
/// WAL must not be written to: the file may lack pages that only the WAL has.
pub fn checkpoint_passive(conn: &Connection) -> Result<()> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    confirm(conn)
}

/// What SQLite appends to a database's name for its write-ahead log.
pub const WAL_SUFFIX: &str = "-wal";

/// The path of a database's write-ahead log.
pub fn wal_of(database: &Path) -> PathBuf {
    with_suffix(database, WAL_SUFFIX)
}

/// The path of the shared memory of a database that is opened by more than one connection.
pub fn shm_of(database: &Path) -> PathBuf {
    with_suffix(database, "-shm")
}

/// The path of a file beside a database.
pub(crate) fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
