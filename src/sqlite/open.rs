//! The one place where a database file is opened. Every connection has the same flags, pragmas and
//! limits, those of pools too.

use std::{
    collections::HashMap,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags, OptionalExtension, config::DbConfig, ffi, limits::Limit};

use super::{deadline::Deadline, exclusive, flush, header, limits, process, reading, wal};
use crate::error::{Error, Result};

/// How many connections may have a file open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// One connection, which keeps the file lock and holds the WAL index in its own memory: two
    /// descriptors, no shared-memory file, the cheapest open.
    Exclusive,
    /// A writer and readers, which share a shared-memory file.
    Shared,
}

/// The settings of a connection.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether other connections may have the file open, too.
    pub locking: Locking,
    /// The largest the file may grow, in bytes; 0 for no bound. SQLite enforces it by
    /// `max_page_count`, which is not stored in the file: every connection sets it.
    pub max_bytes: u64,
    /// The longest string, blob or row, in bytes.
    pub max_value_bytes: u64,
    /// The page cache, in KiB.
    pub cache_kib: u32,
    /// The `application_id` that marks the file as one of ours, checked before anything is
    /// written to it. 0 accepts any.
    pub application_ids: &'static [i32],
    /// Whether [`header::read`] found the file to be ours and in WAL mode.
    pub known_header: bool,
    /// Whether the data folder's log makes commits durable. Else each commit flushes the write-ahead log.
    pub logged: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            locking: Locking::Shared,
            max_bytes: 0,
            max_value_bytes: 16 << 20,
            cache_kib: 2048,
            application_ids: &[],
            known_header: false,
            logged: false,
        }
    }
}

/// How long a connection waits for another one's lock. Only a second connection to the same file
/// (shared mode) can make it wait.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements cached for each connection. The notes API has nine.
const STATEMENT_CACHE: usize = 16;

/// Opens an existing file read-write. Never creates one: a typo must not become a database.
///
/// `deadline` limits the time of statements; see [`Deadline`].
pub fn open(path: &Path, options: &Options, deadline: &Deadline) -> Result<Connection> {
    let globals = process::globals()?;
    if !options.known_header {
        header::refuse_links(path)?;
    }
    let conn = match options.locking {
        Locking::Exclusive => exclusive::open(path, flags(), BUSY_TIMEOUT, globals)?,
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        Locking::Shared => Connection::open_with_flags(path, flags())?,
    };
    prepare(&conn, options, deadline)?;
    Ok(conn)
}

/// Opens the connections of a pool: [`open`] in shared mode for readers, which cannot write. A connection on which
/// `check` fails is closed: it is asked after each open whether the file is still the right one.
pub(super) fn manager(
    path: PathBuf,
    options: Options,
    check: impl Fn() -> Result<()> + Send + Sync + 'static,
) -> SqliteConnectionManager {
    let init = move |path: &Path, conn: &Connection| {
        header::refuse_links(path)?;
        prepare(conn, &options, &Deadline::none())?;
        // What it would copy when it is the last to close may not be in the data folder's log.
        skip_checkpoint_at_close(conn);
        check()?;
        // A reader opens the file for writing, since it writes to the shared memory.
        only_reads(conn, true)
    };
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let manager = SqliteConnectionManager::file(&path);
    manager.with_flags(flags()).with_init(move |conn: &mut Connection| {
        // r2d2 keeps an error's text only.
        init(&path, conn).map_err(|error: Error| {
            rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), Some(error.detail()))
        })
    })
}

/// NOFOLLOW also refuses symbolic links in parent folders, so callers canonicalize the data folder's path.
fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
}

/// Whether a connection refuses writes from now on.
pub(super) fn only_reads(conn: &Connection, on: bool) -> Result<()> {
    Ok(conn.execute_batch(if on { "PRAGMA query_only=ON" } else { "PRAGMA query_only=OFF" })?)
}

/// Closes a connection without a checkpoint: the file and its WAL stay as they were found, for a file that is
/// damaged or not ours.
pub fn abandon(conn: Connection) {
    skip_checkpoint_at_close(&conn);
    drop(conn);
}

/// Empties the WAL and closes the only connection to a file.
pub fn close(conn: Connection) -> Result<()> {
    if let Err(error) = wal::checkpoint(&conn) {
        abandon(conn);
        return Err(error);
    }
    Ok(conn.close().map_err(|(_, error)| error)?)
}

fn skip_checkpoint_at_close(conn: &Connection) {
    // Best effort: a connection too broken for this setting is too broken to checkpoint.
    let _ = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
}

/// A database in memory that accepts and refuses what a file opened with `options` does.
pub fn in_memory_like(options: &Options) -> Result<Connection> {
    let conn = in_memory()?;
    limits::apply(&conn, options.max_bytes, options.max_value_bytes)?;
    Ok(conn)
}

/// Rewrites a database in memory without free pages.
pub fn compact(conn: &Connection) -> Result<()> {
    // VACUUM attaches a temporary database.
    let before = conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    let result = conn.execute_batch("VACUUM");
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, before)?;
    Ok(result?)
}

/// Reads a page, so that the transaction that is open sees what is there now.
pub fn touch(conn: &Connection) -> Result<()> {
    Ok(conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?)
}

/// A database in memory.
pub fn in_memory() -> Result<Connection> {
    process::globals()?;
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    Ok(Connection::open_in_memory()?)
}

/// A new database for one computation, deleted after it. It need not survive a crash, so it has no journal and no
/// flushes. A file that an earlier one left at `path` is replaced.
pub fn scratch(path: &Path, cache_kib: u32) -> Result<Connection> {
    process::globals()?;
    flush::write_new(path, &[])?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let conn = Connection::open_with_flags(path, flags)?;
    conn.execute_batch(&format!(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{cache_kib}"
    ))?;
    Ok(conn)
}

/// Opens a small database of the program's own, made if it is not there, whose commits are durable by themselves. Nobody else
/// opens it.
pub fn own(path: &Path) -> Result<Connection> {
    process::globals()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let conn = Connection::open_with_flags(path, flags)?;
    conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=TRUNCATE; PRAGMA synchronous=FULL")?;
    Ok(conn)
}

/// Opens a file that somebody else made, to read it in a process of its own. Nobody writes to it, and nothing beside it is
/// looked at.
pub fn foreign(path: &Path, max_value_bytes: u64) -> Result<Connection> {
    process::globals()?;
    // Of the bytes that a URI may have as they are, these are enough.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let text = path.as_os_str().as_bytes().iter().fold(String::from("file:"), |mut text, byte| {
        match is_plain(*byte) {
            true => text.push(char::from(*byte)),
            false => text.extend(["%", &hex::encode_upper([*byte])]),
        }
        text
    });
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
        | OpenFlags::SQLITE_OPEN_URI;
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let conn = Connection::open_with_flags(format!("{text}?immutable=1"), flags)?;
    limits::apply(&conn, 0, max_value_bytes)?;
    only_reads(&conn, true)?;
    Ok(conn)
}

/// Opens a file that was just made, to fill it. If that is not done to its end the file is of no use: it has no journal,
/// no triggers run, and the tables of virtual tables can be written to.
pub fn filling(path: &Path, max_bytes: u64, max_value_bytes: u64, cache_kib: u32) -> Result<Connection> {
    process::globals()?;
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let conn = Connection::open_with_flags(path, flags())?;
    conn.execute_batch(&format!(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{cache_kib}"
    ))?;
    limits::apply(&conn, max_bytes, max_value_bytes)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    Ok(conn)
}

/// Configures a fresh connection. If that fails, closing it leaves the file and its WAL as they were found.
fn prepare(conn: &Connection, options: &Options, deadline: &Deadline) -> Result<()> {
    configure(conn, options, deadline).inspect_err(|_| skip_checkpoint_at_close(conn))
}

/// The order matters: even `journal_mode` can wait for a lock, so the busy timeout comes first; the locking mode
/// must be set before the WAL is first read, or SQLite makes the shared-memory file.
fn configure(conn: &Connection, options: &Options, deadline: &Deadline) -> Result<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    if options.locking == Locking::Exclusive {
        conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE")?;
    }
    if !options.known_header {
        check_header(conn, options.application_ids)?;
    }
    let defaults = DEFAULTS.get_or_try_init(probe_defaults)?;
    for (pragma, value) in [
        // NORMAL or FULL.
        ("synchronous", if options.logged { "1" } else { "2" }.to_owned()),
        ("temp_store", "2".to_owned()), // MEMORY
        ("mmap_size", "0".to_owned()),
        ("journal_size_limit", wal::JOURNAL_SIZE_LIMIT.to_string()),
        ("cache_size", format!("-{}", options.cache_kib)),
    ] {
        if defaults.get(pragma) != Some(&value) {
            conn.execute_batch(&format!("PRAGMA {pragma}={value}"))?;
        }
    }
    limits::apply(conn, options.max_bytes, options.max_value_bytes)?;
    conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    wal::configure(conn)?;
    if options.logged {
        // Else a connection that is dropped would copy what the data folder's log may not have. `close` checkpoints.
        skip_checkpoint_at_close(conn);
    }
    reading::install_commit_hook(conn)?;
    deadline.watch(conn)
}

/// Checks that the file is one of ours and in WAL mode, before anything is written to it.
fn check_header(conn: &Connection, application_ids: &[i32]) -> Result<()> {
    if !application_ids.is_empty() {
        // Before `journal_mode`, which would write to a file that is not ours.
        let found = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        header::expect_application_id(found, application_ids)?;
    }
    let mode: String = conn.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    match mode.as_str() {
        "wal" => Ok(()),
        mode => Err(Error::internal(format!("SQLite did not enter WAL mode: the journal mode is {mode}"))),
    }
}

/// SQLite's compiled-in defaults. A pragma that would change nothing is not run: each costs a microsecond or two
/// of every cold open. They are probed, since a crate that embeds this one may build SQLite with other flags.
static DEFAULTS: once_cell::sync::OnceCell<HashMap<&'static str, String>> = once_cell::sync::OnceCell::new();

fn probe_defaults() -> Result<HashMap<&'static str, String>> {
    let conn = in_memory()?;
    let mut defaults = HashMap::new();
    for pragma in ["synchronous", "temp_store", "mmap_size", "journal_size_limit", "cache_size"] {
        let value: Option<i64> = conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).optional()?;
        defaults.extend(value.map(|value| (pragma, value.to_string())));
    }
    Ok(defaults)
}
