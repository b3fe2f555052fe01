//! The one place where a database file is opened. Every connection has the same flags, pragmas and
//! limits, whoever asks.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, ffi, limits::Limit};

use super::{deadline::Deadline, exclusive, flush, reading};
use crate::error::{Error, ErrorKind, Result};

/// SQLite's page size, in bytes: its default, and what the template and quotas count in.
pub const PAGE_SIZE: u64 = 4096;

/// The oldest SQLite that may be linked: 3.51.3 mended a WAL-reset race that could corrupt a
/// database, present since 3.7.0 (<https://sqlite.org/wal.html>).
const OLDEST_SQLITE: i32 = 3_051_003;

/// How many connections may have a file open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// One connection, which keeps the file lock and holds the WAL index in its own memory: two
    /// descriptors, no shared-memory file, the cheapest open.
    Exclusive,
    /// A writer and readers, which meet in a shared-memory file.
    Shared,
}

/// What a connection may do and how much.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who else may have the file open.
    pub locking: Locking,
    /// The largest the file may grow, in bytes; 0 for no bound. Kept by SQLite's
    /// `max_page_count`, which is not stored in the file: every connection sets it, every time.
    pub max_bytes: u64,
    /// The longest string, blob or row, in bytes.
    pub max_value_bytes: u64,
    /// The page cache, in KiB.
    pub cache_kib: u32,
    /// The `application_id` that marks the file as one of ours, looked at before anything is
    /// written to it. 0 accepts any.
    pub application_id: i32,
    /// Whether [`read_header`] found the file to be ours and in WAL mode.
    pub known_header: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            locking: Locking::Shared,
            max_bytes: 0,
            max_value_bytes: 16 << 20,
            cache_kib: 2048,
            application_id: 0,
            known_header: false,
        }
    }
}

/// The WAL is truncated to this many bytes after a checkpoint, so that one large write does not
/// leave a large file behind for good.
const JOURNAL_SIZE_LIMIT: i64 = 4 << 20;

/// Pages that a WAL of that length has, each with its header
/// (<https://sqlite.org/fileformat2.html#the_write_ahead_log>).
#[expect(clippy::cast_possible_truncation, reason = "a thousand")]
pub(super) const KEPT_WAL_PAGES: u32 = ((JOURNAL_SIZE_LIMIT as u64 - 32) / (PAGE_SIZE + 24)) as u32;

/// How long a connection waits for another one's lock. Only a second connection to the same file
/// (shared mode) can make it wait.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements kept for each connection. The notes API has nine.
const STATEMENT_CACHE: usize = 16;

/// Prepares the SQLite library itself. Must come before the first open: `sqlite3_config` is
/// refused afterwards. Refuses a library with a known corruption bug.
pub fn init() -> Result<()> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: no connection exists yet and `Once` keeps other threads out, which is what
        // sqlite3_config asks for. The variadic argument of MEMSTATUS is one int.
        // The result is not checked: an embedder who opened SQLite before us has MEMSTATUS on,
        // which costs a lock for each allocation and nothing else.
        unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0) };
    });
    match rusqlite::version_number() {
        n if n >= OLDEST_SQLITE => Ok(()),
        _ => Err(Error::config(format!(
            "linked with SQLite {}, which can corrupt a database when its write-ahead log is reset; 3.51.3 or later \
             is needed. Build with the bundled one.",
            rusqlite::version()
        ))),
    }
}

/// Opens an existing file read-write. Never creates one: a typo must not become a database.
///
/// `deadline` is looked at while statements run; see [`Deadline`].
pub fn open(path: &Path, options: &Options, deadline: &Deadline) -> Result<Connection> {
    if !options.known_header {
        refuse_links(path)?;
    }
    // NOFOLLOW also refuses symbolic links in parent folders, hence canonical paths in `Layout`.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let conn = match options.locking {
        Locking::Exclusive => exclusive::open(path, flags)?,
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        Locking::Shared => Connection::open_with_flags(path, flags)?,
    };
    match configure(&conn, options, deadline) {
        Ok(()) => Ok(conn),
        Err(error) => {
            abandon(conn);
            Err(error)
        }
    }
}

/// Closes a connection without copying its WAL into the file: for a file that is damaged, or not
/// ours, and is to be kept as found.
pub fn abandon(conn: Connection) {
    // Best effort: a connection too broken for this setting is too broken to checkpoint.
    let _ = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    drop(conn);
}

/// A database in memory that accepts and refuses what a file opened with `options` does.
pub fn in_memory_like(options: &Options) -> Result<Connection> {
    let conn = in_memory()?;
    restrict(&conn, options)?;
    Ok(conn)
}

/// Rewrites a database in memory without free space.
pub fn compact(conn: &Connection) -> Result<()> {
    // It is attached under another name meanwhile.
    let before = conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    let result = conn.execute_batch("VACUUM");
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, before)?;
    Ok(result?)
}

/// A database in memory.
pub fn in_memory() -> Result<Connection> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    Ok(Connection::open_in_memory()?)
}

/// A new database for one computation, thrown away after it: nothing of it need survive a crash, so
/// there is no log and no flush. `path` must not exist, or be what an earlier one left.
pub fn scratch(path: &Path, cache_kib: u32) -> Result<Connection> {
    flush::write_new(path, &[])?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let conn = Connection::open_with_flags(path, flags)?;
    conn.execute_batch(&format!(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{cache_kib}"
    ))?;
    Ok(conn)
}

/// Sets a fresh connection up. The order matters: even `journal_mode` can meet a lock, so the busy
/// timeout comes first; the locking mode must be known before the WAL is first touched, or the
/// shared-memory file is made after all.
pub fn configure(conn: &Connection, options: &Options, deadline: &Deadline) -> Result<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    if options.locking == Locking::Exclusive {
        conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE")?;
    }
    if !options.known_header {
        check_header(conn, options.application_id)?;
    }
    let defaults = DEFAULTS.get_or_try_init(probe)?;
    for (pragma, value) in [
        ("synchronous", "2".to_owned()), // FULL
        ("temp_store", "2".to_owned()),  // MEMORY
        ("mmap_size", "0".to_owned()),
        ("journal_size_limit", JOURNAL_SIZE_LIMIT.to_string()),
        ("cache_size", format!("-{}", options.cache_kib)),
    ] {
        if defaults.get(pragma) != Some(&value) {
            conn.execute_batch(&format!("PRAGMA {pragma}={value}"))?;
        }
    }
    restrict(conn, options)?;
    conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    persist_wal(conn)?;
    watch_wal(conn);
    reading::watch(conn)?;
    deadline.watch(conn)
}

/// What is refused, and how much is accepted.
fn restrict(conn: &Connection, options: &Options) -> Result<()> {
    conn.execute_batch("PRAGMA cell_size_check=ON")?;
    if options.max_bytes > 0 {
        set_max_pages(conn, i64::try_from(options.max_bytes.div_ceil(PAGE_SIZE)).unwrap_or(MOST_PAGES))?;
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    // Plans do not depend on bound values. Otherwise a cached statement with a bound LIMIT or range
    // is compiled anew for each execution, which costs more than running it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(options.max_value_bytes).unwrap_or(i32::MAX))?;
    conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_LENGTH)?;
    Ok(())
}

/// The longest statement of a request, in bytes.
const SQL_LENGTH: i32 = 100_000;

/// The bounds of a connection, while they are lifted.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    sql_length: i32,
    length: i32,
    pages: i64,
}

impl Bounds {
    /// Lifts them as far as SQLite lets one.
    pub fn lift(conn: &Connection) -> Result<Self> {
        Ok(Self {
            sql_length: conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, i32::MAX)?,
            length: conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::MAX)?,
            pages: {
                let pages = conn.query_row("PRAGMA max_page_count", [], |row| row.get(0))?;
                set_max_pages(conn, MOST_PAGES)?;
                pages
            },
        })
    }

    /// Puts them back. A file that has grown beyond its bound meanwhile cannot grow further.
    pub fn restore(self, conn: &Connection) -> Result<()> {
        conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, self.sql_length)?;
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, self.length)?;
        set_max_pages(conn, self.pages)
    }

    /// The longest statement otherwise, in bytes.
    pub fn sql_length(&self) -> i32 {
        self.sql_length
    }
}

/// The most that SQLite can number (<https://sqlite.org/limits.html#max_page_count>).
const MOST_PAGES: i64 = 0xffff_fffe;

fn set_max_pages(conn: &Connection, pages: i64) -> Result<()> {
    Ok(conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()))?)
}

/// Looks whether the file is one of ours and in WAL mode, before anything is written to it.
fn check_header(conn: &Connection, application_id: i32) -> Result<()> {
    if application_id != 0 {
        // Before `journal_mode`, which would write to a file that is not ours.
        let found: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        if found != application_id {
            return Err(not_ours(found, application_id));
        }
    }
    let mode: String = conn.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    match mode.as_str() {
        "wal" => Ok(()),
        mode => Err(Error::internal(format!("write-ahead log refused: journal mode is {mode}"))),
    }
}

fn not_ours(found: i32, expected: i32) -> Error {
    let why = format!("not a file of ours: application id {found:#x}, expected {expected:#x}");
    Error::new(ErrorKind::Damaged, why)
}

/// What a file and its log look like before SQLite sees them.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// It is in WAL mode, so [`Options::known_header`] may be set: it saves two pragmas and two looks
    /// at the files.
    pub is_wal: bool,
    /// Bytes in the write-ahead log; 0 after a close.
    pub log_bytes: u64,
}

/// Reads a database's header from the file itself: whether it is ours, and how it was left. Refuses
/// links.
///
/// Only for a file that **nobody has open**: closing any descriptor of a file drops this process's
/// POSIX locks on it, and SQLite's are POSIX locks.
///
/// # Errors
/// [`ErrorKind::Damaged`] for a file that is empty, no database, or not ours.
pub fn read_header(path: &Path, application_id: i32) -> Result<Header> {
    use std::{io::Read, os::unix::fs::OpenOptionsExt};
    // <https://sqlite.org/fileformat2.html#the_database_header>
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut header = [0; 100];
    let failed = |e| Error::io(path.display(), e);
    // Without waiting, should it be a pipe.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let mut file =
        std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(
                ErrorKind::Damaged,
                "the database file is missing; restore it from a backup, or delete the user",
            ),
            _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Error::new(ErrorKind::Damaged, "the database file is a symbolic link")
            }
            _ => failed(e),
        })?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(Error::new(ErrorKind::Damaged, "the database file is not a plain file"));
    }
    refuse_link(&found)?;
    let log = std::fs::symlink_metadata(log_of(path)).ok();
    log.as_ref().map_or(Ok(()), refuse_link)?;
    match file.read_exact(&mut header) {
        Ok(()) => {}
        // SQLite takes an empty file for an empty database, and would make one of it.
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(Error::new(ErrorKind::Damaged, "the database file is empty or shorter than a header"));
        }
        Err(e) => return Err(failed(e)),
    }
    if header[..16] != *MAGIC {
        return Err(Error::new(ErrorKind::Damaged, "the file is not a database"));
    }
    let found = i32::from_be_bytes([header[68], header[69], header[70], header[71]]);
    if found != application_id {
        return Err(not_ours(found, application_id));
    }
    Ok(Header { is_wal: header[18] == 2 && header[19] == 2, log_bytes: log.map_or(0, |log| log.len()) })
}

/// What SQLite was compiled to do, so that a pragma that would change nothing is not run: each
/// costs a microsecond or two of every cold open. Probed rather than assumed, since a crate that
/// embeds this one may build SQLite with other flags.
static DEFAULTS: once_cell::sync::OnceCell<HashMap<&'static str, String>> = once_cell::sync::OnceCell::new();

fn probe() -> Result<HashMap<&'static str, String>> {
    let conn = in_memory()?;
    let mut defaults = HashMap::new();
    for pragma in ["synchronous", "temp_store", "mmap_size", "journal_size_limit", "cache_size"] {
        let value: Option<i64> =
            rusqlite::OptionalExtension::optional(conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)))?;
        defaults.extend(value.map(|value| (pragma, value.to_string())));
    }
    Ok(defaults)
}

/// Keeps the `-wal` file when the last connection closes: making and removing it is half the cost
/// of opening a cold tenant. It is truncated to nothing by the checkpoint at close.
fn persist_wal(conn: &Connection) -> Result<()> {
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

thread_local! {
    /// Pages in the WAL after this thread's last commit. SQLite calls the hook on the committing
    /// thread, if anything was written, and hands it no context of ours.
    static WAL_PAGES: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

fn watch_wal(conn: &Connection) {
    conn.wal_hook(Some(|_, pages| {
        WAL_PAGES.set(u32::try_from(pages).ok());
        Ok(())
    }));
}

/// Before a commit whose [`wal_pages_of_last_commit`] are to be asked for: the last one that wrote anything
/// may have been another database's.
pub fn forget_last_commit() {
    WAL_PAGES.set(None);
}

/// Pages in the WAL after the commit this thread made last; read it right after the commit. None if that
/// wrote nothing.
pub fn wal_pages_of_last_commit() -> Option<u32> {
    WAL_PAGES.get()
}

/// Makes sure that what this connection flushed last is on the disk, which a flush's success alone does not
/// say when files grew meanwhile.
///
/// # Errors
/// The file system had given itself up: what was flushed may be lost.
pub fn confirm(conn: &Connection) -> Result<()> {
    // In memory there is nothing to flush.
    conn.path().filter(|path| !path.is_empty()).map_or(Ok(()), |path| flush::confirm(&log_of(Path::new(path))))
}

/// Copies committed pages from the WAL into the database file and empties the WAL.
pub fn checkpoint(conn: &Connection) -> Result<()> {
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    match busy {
        0 => confirm(conn),
        _ => Err(Error::new(ErrorKind::Busy, "a reader kept the write-ahead log from being emptied")),
    }
}

/// Copies what no reader holds back from the WAL into the database file, and waits for nobody. On an error
/// the WAL must not be written to: what is in it may be nowhere else.
pub fn checkpoint_passively(conn: &Connection) -> Result<()> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    confirm(conn)
}

/// Looks for damage in a whole file, for at most `limit`. `false` if there was more to look at.
///
/// # Errors
/// [`ErrorKind::Damaged`] with the first thing found.
pub fn quick_check(conn: &Connection, deadline: &Deadline, limit: Duration) -> Result<bool> {
    deadline.set(Some(limit));
    let found = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)).map_err(Error::from);
    deadline.set(None);
    match found {
        Ok(found) if found == "ok" => Ok(true),
        // A page that could not be read is no page that is wrong.
        Ok(found) if is_io_error(&found) => {
            Err(Error::new(ErrorKind::Unavailable, format!("storage is not available: {found}")))
        }
        Ok(found) => Err(Error::new(ErrorKind::Damaged, format!("the database file is damaged: {found}"))),
        Err(error) if error.kind() == ErrorKind::Timeout => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the check met an I/O error. It tells one by its extended code, of which the low byte is
/// the kind.
fn is_io_error(found: &str) -> bool {
    let code = found.rsplit_once("error code=").map(|(_, code)| code.trim());
    code.and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == ffi::SQLITE_IOERR)
}

/// Refuses a database or a write-ahead log that is a link, or that has another name: through it,
/// whoever made it would have one user's requests read and change another's file, or one of the
/// system's.
fn refuse_links(path: &Path) -> Result<()> {
    for file in [path, &log_of(path)] {
        // What is missing or cannot be looked at, SQLite reports better.
        if let Ok(found) = std::fs::symlink_metadata(file) {
            refuse_link(&found)?;
        }
    }
    Ok(())
}

fn refuse_link(found: &std::fs::Metadata) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    if found.is_symlink() || (found.is_file() && found.nlink() > 1) {
        let why = "the database file is a link or has a second name; it must be a file of its own";
        return Err(Error::new(ErrorKind::Damaged, why));
    }
    Ok(())
}

/// Where a database's write-ahead log is.
fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}
