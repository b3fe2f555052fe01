//! The write-ahead log (WAL) of one connection: its length, what of it the data folder's log has, its checkpoints, and
//! whether what a checkpoint flushed is on the disk.

use std::{
    cell::Cell,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ffi};

use super::flush;
use crate::{
    error::{Error, ErrorKind, Result},
    log::Boot,
};

/// The WAL is truncated to this many bytes when it restarts after a checkpoint, so that one large write does not
/// leave a large file behind.
pub(super) const JOURNAL_SIZE_LIMIT: i64 = 4 << 20;

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

/// The part of a write-ahead log that the data folder's log has: up to which byte, of the log with which salts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Logged {
    salts: u64,
    end: u64,
}

/// A part of a write-ahead log: from which byte to which, of the log with which salts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalPart {
    pub offset: u64,
    pub end: u64,
    pub salts: u64,
    /// It is the beginning, and its header was flushed during this boot.
    pub began: Option<Boot>,
}

impl WalPart {
    /// What the data folder's log has when it has this part.
    pub fn logged(&self) -> Logged {
        Logged { salts: self.salts, end: self.end }
    }

    /// Whether the write-ahead log began with this part: it was empty or is to be restarted, or what was `logged` is of the
    /// one before it.
    pub fn begins_after(&self, logged: Logged, was_empty: bool) -> bool {
        self.offset == 0 && self.salts != logged.salts && (was_empty || logged != Logged::default())
    }
}

/// The lengths of the header of a write-ahead log and of that of a frame, and where the header has the page size and the
/// salts (<https://sqlite.org/fileformat2.html#walformat>).
const HEADER: usize = 32;
const FRAME_HEADER: u64 = 24;
const PAGE_SIZE_AT: usize = 8;
pub(crate) const SALTS_AT: usize = 16;

/// What of a write-ahead log of `pages` pages the data folder's log does not have yet: all of it if it has restarted.
pub(super) fn appended(conn: &Connection, logged: Logged, pages: u32) -> Result<WalPart> {
    let mut header = [0; HEADER];
    read(conn, &mut header, 0)?;
    let (page_size, salts) = header_fields(&header);
    let end = HEADER as u64 + u64::from(pages) * (FRAME_HEADER + page_size);
    let offset = if salts == logged.salts && logged.end <= end { logged.end } else { 0 };
    Ok(WalPart { offset, end, salts, began: None })
}

/// The whole of a write-ahead log's file; none if it is empty.
pub(super) fn whole(file: &File) -> std::io::Result<Option<WalPart>> {
    let mut header = [0; HEADER];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (_, salts) = header_fields(&header);
    Ok(Some(WalPart { offset: 0, end: file.metadata()?.len(), salts, began: None }))
}

fn header_fields(header: &[u8; HEADER]) -> (u64, u64) {
    let four = |at: usize| std::array::from_fn(|n| header[at + n]);
    let salts = std::array::from_fn(|n| header[SALTS_AT + n]);
    (u32::from_be_bytes(four(PAGE_SIZE_AT)).into(), u64::from_le_bytes(salts))
}

/// Reads from the write-ahead log through the connection's own descriptor.
pub(super) fn read(conn: &Connection, into: &mut [u8], offset: u64) -> Result<()> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    let (length, offset) = (i32::try_from(into.len()), i64::try_from(offset));
    let (Ok(length), Ok(offset)) = (length, offset) else {
        return Err(Error::internal("a part of a write-ahead log is larger than two gigabytes"));
    };
    // SAFETY: the handle is live for the length of the calls. FCNTL_JOURNAL_POINTER gives the file of the write-ahead
    // log, which lives as long as the connection (<https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>); `into`
    // has `length` bytes. A file that is not open has no methods.
    let code = unsafe {
        let pointer = std::ptr::from_mut(&mut file).cast();
        match ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_JOURNAL_POINTER, pointer) {
            ffi::SQLITE_OK => match file.as_ref().and_then(|file| file.pMethods.as_ref()).and_then(|m| m.xRead) {
                Some(read) => read(file, into.as_mut_ptr().cast(), length, offset),
                None => ffi::SQLITE_IOERR_READ,
            },
            code => code,
        }
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
    }
}

/// Forgets the commits of this thread so far.
pub(super) fn forget_pages() {
    PAGES.set(None);
}

/// Whether this thread has committed something since [`forget_pages`].
pub(super) fn has_committed() -> bool {
    PAGES.get().is_some()
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

/// [`checkpoint_passive`] without a flush, just before the connection is closed: the WAL must be kept until the file
/// was flushed.
pub(super) fn checkpoint_unflushed(conn: &Connection) -> Result<()> {
    conn.execute_batch("PRAGMA synchronous=OFF")?;
    Ok(conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?)
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
