//! SQL on the audit trail.

use rusqlite::{Connection, Row as SqlRow, Transaction, params};

use super::{Sql, all, change, first};
use crate::catalog::{
    audit::Author,
    model::{AuditRow, Millis},
};

impl Author {
    /// Adds a line. Call it in the transaction of the change itself.
    pub fn record<'a>(
        &self,
        tx: &Transaction,
        at: Millis,
        action: &str,
        target: impl Into<Option<&'a str>>,
        result: &str,
    ) -> Sql<()> {
        let sql = "INSERT INTO audit (at, actor, action, target, origin, result) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        change(tx, sql, params![at, self.actor, action, target.into(), self.origin, result]).map(drop)
    }
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
    let sql = "SELECT EXISTS (SELECT 1 FROM audit WHERE target = ?3 AND at = ?1 AND action = ?2 AND result = ?4)";
    conn.prepare_cached(sql)?.query_row(params![at, action, target, result], first)
}

/// Up to `limit` lines before line `before`, newest first.
pub fn page(conn: &Connection, before: i64, limit: u32) -> Sql<Vec<AuditRow>> {
    let sql = "SELECT id, at, actor, action, target, origin, result FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
    all(conn, sql, params![before, limit], line)
}

/// The same of the lines about one target.
pub fn page_of(conn: &Connection, target: &str, before: i64, limit: u32) -> Sql<Vec<AuditRow>> {
    let sql = "SELECT id, at, actor, action, target, origin, result FROM audit WHERE target = ?1 AND id < ?2 ORDER BY \
               id DESC LIMIT ?3";
    all(conn, sql, params![target, before, limit], line)
}

fn line(row: &SqlRow) -> Sql<AuditRow> {
    Ok(AuditRow {
        id: row.get(0)?,
        at: row.get(1)?,
        actor: row.get(2)?,
        action: row.get(3)?,
        target: row.get(4)?,
        origin: row.get(5)?,
        result: row.get(6)?,
    })
}
