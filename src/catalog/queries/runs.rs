//! Runs of the comparison with the provider, and what they ask of the catalog.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::Sql;
use crate::catalog::model::Millis;

/// Notes that a run began.
pub fn begin(tx: &Transaction, started: Millis) -> Sql<i64> {
    tx.prepare_cached("INSERT INTO sync_runs (started) VALUES (?1)")?.execute([started])?;
    Ok(tx.last_insert_rowid())
}

/// Notes how it ended.
pub fn finish(tx: &Transaction, id: i64, finished: Millis, outcome: &str, report: &str) -> Sql<()> {
    tx.prepare_cached("UPDATE sync_runs SET finished = ?2, outcome = ?3, report = ?4 WHERE id = ?1")?
        .execute(params![id, finished, outcome, report])?;
    Ok(())
}

/// The report of the newest run that ended, JSON.
pub fn last(conn: &Connection) -> Sql<Option<String>> {
    conn.prepare_cached("SELECT report FROM sync_runs WHERE finished IS NOT NULL ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()
}

/// Email addresses of more than one live tenant, up to `limit`, and how many tenants have each.
pub fn shared_emails(conn: &Connection, limit: u32) -> Sql<Vec<(String, u64)>> {
    // First by the index alone: few addresses are shared, and only for those is the state looked up.
    conn.prepare_cached(
        "SELECT email, (SELECT count(*) FROM tenants t WHERE t.email = shared.email AND t.state <> 'deleted') AS live \
         FROM (SELECT email FROM tenants WHERE email IS NOT NULL GROUP BY email HAVING count(*) > 1) AS shared WHERE \
         live > 1 ORDER BY email LIMIT ?1",
    )?
    .query_map([limit], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?
    .collect()
}
