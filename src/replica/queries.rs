//! The SQL of `replica.db`.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

type Sql<T> = rusqlite::Result<T>;

/// Makes the tables of a new file.
pub fn create(conn: &Connection) -> Sql<()> {
    conn.execute_batch(
        "CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS head (tenant TEXT PRIMARY KEY, head BLOB NOT NULL) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS base (
             tenant TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, after INTEGER NOT NULL,
             time INTEGER NOT NULL, object TEXT, PRIMARY KEY (tenant, epoch, seq)) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS compaction (
             shard INTEGER PRIMARY KEY, due INTEGER, is_begun INTEGER NOT NULL DEFAULT 0);",
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

/// The head of a tenant's chain, encoded.
pub fn head(conn: &Connection, tenant: &str) -> Sql<Option<Vec<u8>>> {
    let mut statement = conn.prepare_cached("SELECT head FROM head WHERE tenant = ?1")?;
    statement.query_row([tenant], |row| row.get(0)).optional()
}

/// Sets the head of a tenant's chain.
pub fn set_head(tx: &Transaction, tenant: &str, head: &[u8]) -> Sql<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO head VALUES (?1, ?2)")?.execute(params![tenant, head]).map(drop)
}

/// Up to `limit` tenants that have a head, and it, after `after`.
pub fn heads(conn: &Connection, after: &str, limit: u32) -> Sql<Vec<(String, Vec<u8>)>> {
    let mut statement =
        conn.prepare_cached("SELECT tenant, head FROM head WHERE tenant > ?1 ORDER BY tenant LIMIT ?2")?;
    statement.query_map(params![after, limit], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Forgets everything of a tenant.
pub fn forget(tx: &Transaction, tenant: &str) -> Sql<()> {
    tx.execute("DELETE FROM head WHERE tenant = ?1", [tenant])?;
    tx.execute("DELETE FROM base WHERE tenant = ?1", [tenant]).map(drop)
}

/// Forgets everything.
pub fn forget_all(conn: &Connection) -> Sql<()> {
    conn.execute_batch("DELETE FROM head; DELETE FROM base; DELETE FROM about; DELETE FROM compaction")
}

/// Notes that a shard is to be compacted at a time, if not before.
pub fn compact_by(conn: &Connection, shard: u8, at: i64) -> Sql<()> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO compaction (shard, due) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET due = min(coalesce(due, excluded.due), excluded.due)",
    )?;
    statement.execute(params![shard, at]).map(drop)
}

/// The shards that are to be compacted now, or at a time after `most`, and those for which it was begun.
pub fn compactions(conn: &Connection, now: i64, most: i64) -> Sql<Vec<u8>> {
    let mut statement =
        conn.prepare_cached("SELECT shard FROM compaction WHERE is_begun OR due <= ?1 OR due > ?2 ORDER BY shard")?;
    statement.query_map([now, most], |row| row.get(0))?.collect()
}

/// Notes that the compaction of a shard is begun: what is noted from now on needs another one.
pub fn begin_compaction(conn: &Connection, shard: u8) -> Sql<()> {
    conn.execute("UPDATE compaction SET due = NULL, is_begun = 1 WHERE shard = ?1", [shard]).map(drop)
}

/// Notes that it was done.
pub fn end_compaction(conn: &Connection, shard: u8) -> Sql<()> {
    conn.execute("UPDATE compaction SET is_begun = 0 WHERE shard = ?1", [shard]).map(drop)
}

/// A base that a tenant has: where it is in the chain, when it was made, and its object, if it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRow {
    /// The epoch of its entry.
    pub epoch: u64,
    /// Its entry.
    pub seq: u64,
    /// Entries after this one are applied to it.
    pub after: u64,
    /// When it was made, in milliseconds.
    pub time: i64,
    /// The object's path; none if the entry has all pages.
    pub object: Option<String>,
}

/// Adds a base.
pub fn add_base(tx: &Transaction, tenant: &str, base: &BaseRow) -> Sql<()> {
    let (epoch, seq, after) = (base.epoch.cast_signed(), base.seq.cast_signed(), base.after.cast_signed());
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO base VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    statement.execute(params![tenant, epoch, seq, after, base.time, base.object]).map(drop)
}

/// The bases of a tenant, oldest first.
pub fn bases(conn: &Connection, tenant: &str) -> Sql<Vec<BaseRow>> {
    let mut statement =
        conn.prepare_cached("SELECT epoch, seq, after, time, object FROM base WHERE tenant = ?1 ORDER BY epoch, seq")?;
    let rows = statement.query_map([tenant], |row| {
        let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(BaseRow { epoch: number(0)?, seq: number(1)?, after: number(2)?, time: row.get(3)?, object: row.get(4)? })
    })?;
    rows.collect()
}

/// Removes the bases of a tenant before one of them.
pub fn remove_bases_before(tx: &Transaction, tenant: &str, epoch: u64, seq: u64) -> Sql<()> {
    let (epoch, seq) = (epoch.cast_signed(), seq.cast_signed());
    tx.execute("DELETE FROM base WHERE tenant = ?1 AND (epoch, seq) < (?2, ?3)", params![tenant, epoch, seq]).map(drop)
}
