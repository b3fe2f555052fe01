//! A tenant's file, opened and made with the server's settings and steps.

use rusqlite::{Connection, MAIN_DB, OpenFlags, config::DbConfig, ffi, limits::Limit, params};
use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
};

pub const FIRST: &str = "note_abcdefghijklmnop";
pub const TEXT: &str = "Bring the blue notebook and two pens to the meeting on Thursday.";
pub const INSERT: &str = "INSERT INTO notes (id, text, created, updated) VALUES (?1, ?2, ?3, ?3)";

pub const SELECT: &str = "SELECT id, text, created, updated FROM notes WHERE id = ?1";

/// Id, text, created, updated.
pub type Note = (String, String, i64, i64);

/// The bytes of an empty tenant file, in WAL mode, built once.
pub fn template() -> Vec<u8> {
    let connection = Connection::open_in_memory().expect("open in memory");
    connection
        .execute_batch(
            "CREATE TABLE cubby_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
             CREATE TABLE notes (
                 id TEXT PRIMARY KEY,
                 text TEXT NOT NULL,
                 created INTEGER NOT NULL,
                 updated INTEGER NOT NULL
             ) STRICT, WITHOUT ROWID;
             CREATE TABLE idempotency_keys (
                 key TEXT PRIMARY KEY,
                 request BLOB NOT NULL,
                 note TEXT NOT NULL,
                 created INTEGER NOT NULL
             ) STRICT, WITHOUT ROWID;
             CREATE INDEX idempotency_keys_by_created ON idempotency_keys (created);
             PRAGMA user_version = 1;",
        )
        .expect("the schema is valid");
    let mut image = connection.serialize(MAIN_DB).expect("serialize").to_vec();
    // File format versions, bytes 18 and 19 of the header: 2 is WAL, which an image made in memory
    // cannot be, and without which the first open rewrites the first page.
    image[18..20].fill(2);
    image
}

/// Opens a file as the server does: one connection, exclusive locking, persistent WAL, FULL.
pub fn open(path: &Path) -> Connection {
    try_open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()))
}

fn try_open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    persist_wal(&connection);
    connection.execute_batch(
        "PRAGMA busy_timeout=5000;
         PRAGMA locking_mode=EXCLUSIVE;
         PRAGMA journal_mode=WAL;
         PRAGMA synchronous=FULL;
         PRAGMA foreign_keys=ON;
         PRAGMA trusted_schema=OFF;
         PRAGMA cell_size_check=ON;
         PRAGMA mmap_size=0;
         PRAGMA temp_store=MEMORY;
         PRAGMA journal_size_limit=4194304;
         PRAGMA cache_size=-1024;
         PRAGMA max_page_count=262144;",
    )?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, 16 << 20)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000)?;
    Ok(connection)
}

/// Keeps the `-wal` file when the last connection closes, so the next open need not make it.
fn persist_wal(connection: &Connection) {
    let mut on: std::ffi::c_int = 1;
    // SAFETY: the handle is open, and SQLITE_FCNTL_PERSIST_WAL takes a pointer to an int.
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_PERSIST_WAL,
            (&raw mut on).cast(),
        )
    };
    assert_eq!(code, ffi::SQLITE_OK, "persistent WAL refused");
}

/// The tenant's id and its first note, in one commit.
pub fn first_note(connection: &Connection, user: &str) {
    let insert = || -> rusqlite::Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute("INSERT INTO cubby_meta VALUES ('tenant', ?1)", [user])?;
        connection.execute(INSERT, params![FIRST, TEXT, 0])?;
        connection.execute_batch("COMMIT")
    };
    insert().expect("insert the first note");
}

/// Where new files are written and where they end up.
pub struct Layout {
    tmp: PathBuf,
    tenants: PathBuf,
}

impl Layout {
    pub fn make(folder: &Path) -> Self {
        let layout = Self { tmp: folder.join("tmp"), tenants: folder.join("tenants") };
        fs::create_dir_all(&layout.tmp).expect("make tmp");
        for n in 0..256 {
            fs::create_dir_all(layout.tenants.join(format!("{n:02x}"))).expect("make a folder");
        }
        layout
    }

    pub fn path(&self, user: &str) -> PathBuf {
        let hash = hash(user);
        self.tenants.join(format!("{:02x}", hash & 0xff)).join(format!("{hash:016x}.db"))
    }

    /// Puts a new tenant's file in place durably: written aside, synced, renamed, folder synced.
    pub fn place(&self, image: &[u8], user: &str) -> PathBuf {
        let path = self.path(user);
        let aside = self.tmp.join(format!("{:016x}.db", hash(user)));
        let folder = path.parent().expect("a file is in a folder");
        let place = || -> std::io::Result<()> {
            let mut file = File::create_new(&aside)?;
            file.write_all(image)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(folder)?.sync_all()
        };
        place().unwrap_or_else(|error| panic!("place {}: {error}", path.display()));
        path
    }
}

fn hash(user: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish()
}
