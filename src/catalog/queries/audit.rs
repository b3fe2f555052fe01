//! SQL on the audit trail.

use rusqlite::{Connection, Transaction, params};

use super::Sql;
use crate::catalog::model::{AuditRow, Millis};

/// Adds a line. Called by [`Author::record`](crate::catalog::audit::Author::record) alone.
pub fn insert(
    tx: &Transaction,
    at: Millis,
    actor: &str,
    action: &str,
    target: Option<&str>,
    origin: Option<&str>,
    result: &str,
) -> Sql<()> {
    tx.prepare_cached("INSERT INTO audit (at, actor, action, target, origin, result) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![at, actor, action, target, origin, result])?;
    Ok(())
}

/// Removes up to `limit` of the oldest lines while there are more than `most`; says how many.
pub fn forget(tx: &Transaction, most: u32, limit: u32) -> Sql<usize> {
    tx.prepare_cached(
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?1 ORDER BY id \
         LIMIT ?2)",
    )?
    .execute(params![most, limit])
}

/// Whether a line is there.
pub fn exists(conn: &Connection, at: Millis, action: &str, target: &str, result: &str) -> Sql<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM audit WHERE target = ?3 AND at = ?1 AND action = ?2 AND result = ?4)",
    )?
    .query_row(params![at, action, target, result], |row| row.get(0))
}

/// Up to `limit` lines before line `before`, newest first.
pub fn page(conn: &Connection, before: i64, limit: u32) -> Sql<Vec<AuditRow>> {
    conn.prepare_cached(
        "SELECT id, at, actor, action, target, origin, result FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?
    .query_map(params![before, limit], |row| {
        Ok(AuditRow {
            id: row.get(0)?,
            at: row.get(1)?,
            actor: row.get(2)?,
            action: row.get(3)?,
            target: row.get(4)?,
            origin: row.get(5)?,
            result: row.get(6)?,
        })
    })?
    .collect()
}
