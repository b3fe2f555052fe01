//! The SQL of `backup.db`.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

type Sql<T> = rusqlite::Result<T>;

/// What is known of a tenant's copy, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRow {
    /// The fingerprint of the file that it is a copy of; none if it may have changed since.
    pub fingerprint: Option<String>,
    /// The object's path.
    pub object: String,
    /// Of the file.
    pub sha256: [u8; 32],
    /// The length of the file.
    pub bytes: u64,
}

/// Makes the tables of a new file.
pub fn create(conn: &Connection) -> Sql<()> {
    conn.execute_batch(
        "CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS known (
             id TEXT PRIMARY KEY, fingerprint TEXT, object TEXT NOT NULL, sha256 BLOB NOT NULL, bytes INTEGER NOT NULL)
             WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS taken (
             id TEXT PRIMARY KEY, fingerprint TEXT, object TEXT, sha256 BLOB, bytes INTEGER, missing TEXT) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS present (path TEXT PRIMARY KEY) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS named (path TEXT PRIMARY KEY) WITHOUT ROWID;",
    )
}

/// What is noted under a key.
pub fn about(conn: &Connection, key: &str) -> Sql<Option<String>> {
    conn.query_row("SELECT value FROM about WHERE key = ?1", [key], |row| row.get(0)).optional()
}

/// Notes something under a key.
pub fn set_about(conn: &Connection, key: &str, value: &str) -> Sql<()> {
    conn.execute("INSERT OR REPLACE INTO about VALUES (?1, ?2)", [key, value]).map(drop)
}

/// Forgets everything.
pub fn forget_all(conn: &Connection) -> Sql<()> {
    conn.execute_batch(
        "DELETE FROM about; DELETE FROM known; DELETE FROM taken; DELETE FROM present; DELETE FROM named",
    )
}

/// Forgets what was known before a run, and which objects there were.
pub fn forget_known(tx: &Transaction) -> Sql<()> {
    tx.execute_batch("DELETE FROM known; DELETE FROM present; DELETE FROM named")
}

/// Makes what an earlier run took, and did not end, known to the next one.
pub fn know_taken(tx: &Transaction) -> Sql<()> {
    tx.execute_batch(
        "INSERT OR REPLACE INTO known SELECT id, fingerprint, object, sha256, bytes FROM taken
             WHERE object IS NOT NULL AND fingerprint IS NOT NULL;
         DELETE FROM taken",
    )
}

/// Adds what is known of a tenant.
pub fn add_known(tx: &Transaction, id: &str, copy: &CopyRow) -> Sql<()> {
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO known VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let values = params![id, copy.fingerprint, copy.object, copy.sha256, copy.bytes.cast_signed()];
    statement.execute(values).map(drop)
}

/// What was known of a tenant before this run.
pub fn known(conn: &Connection, id: &str) -> Sql<Option<CopyRow>> {
    let mut statement = conn.prepare_cached("SELECT fingerprint, object, sha256, bytes FROM known WHERE id = ?1")?;
    statement.query_row([id], copy_row).optional()
}

/// Adds what this run did with a tenant: its copy, or why there is none.
pub fn add_taken(tx: &Transaction, id: &str, taken: &Result<CopyRow, String>) -> Sql<()> {
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO taken VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let copy = taken.as_ref().ok();
    let values = params![
        id,
        copy.and_then(|copy| copy.fingerprint.as_deref()),
        copy.map(|copy| copy.object.as_str()),
        copy.map(|copy| copy.sha256),
        copy.map(|copy| copy.bytes.cast_signed()),
        taken.as_ref().err(),
    ];
    statement.execute(values).map(drop)
}

/// What this run did with a tenant; none if it has not come to it.
pub fn taken(conn: &Connection, id: &str) -> Sql<Option<Result<CopyRow, String>>> {
    let sql = "SELECT fingerprint, object, sha256, bytes, missing FROM taken WHERE id = ?1";
    let mut statement = conn.prepare_cached(sql)?;
    let read = |row: &Row| match row.get::<_, Option<String>>(4)? {
        Some(why) => Ok(Err(why)),
        None => copy_row(row).map(Ok),
    };
    statement.query_row([id], read).optional()
}

fn copy_row(row: &Row) -> Sql<CopyRow> {
    let bytes: i64 = row.get(3)?;
    Ok(CopyRow { fingerprint: row.get(0)?, object: row.get(1)?, sha256: row.get(2)?, bytes: bytes.cast_unsigned() })
}

/// Notes that there is an object.
pub fn add_present(tx: &Transaction, path: &str) -> Sql<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO present VALUES (?1)")?.execute([path]).map(drop)
}

/// Whether an object was there when the run began.
pub fn is_present(conn: &Connection, path: &str) -> Sql<bool> {
    conn.prepare_cached("SELECT 1 FROM present WHERE path = ?1")?.exists([path])
}

/// Notes that a manifest names an object.
pub fn add_named(tx: &Transaction, path: &str) -> Sql<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO named VALUES (?1)")?.execute([path]).map(drop)
}

/// Forgets which objects manifests name.
pub fn forget_named(conn: &Connection) -> Sql<()> {
    conn.execute_batch("DELETE FROM named")
}

/// Whether some manifest names an object.
pub fn is_named(conn: &Connection, path: &str) -> Sql<bool> {
    conn.prepare_cached("SELECT 1 FROM named WHERE path = ?1")?.exists([path])
}
