//! Reconciles with the provider, and the queries they need.

use rusqlite::{Connection, Transaction, params};

use super::{Sql, all, change, first, one};
use crate::catalog::model::Millis;

/// Runs that are kept.
const KEPT: i64 = 1000;

/// Records that a run began, and deletes the oldest runs.
pub fn begin(tx: &Transaction, name: &str, started: Millis) -> Sql<i64> {
    tx.prepare_cached("INSERT INTO sync_runs (name, started) VALUES (?1, ?2)")?.execute(params![name, started])?;
    let id = tx.last_insert_rowid();
    tx.prepare_cached("DELETE FROM sync_runs WHERE id <= ?1")?.execute([id - KEPT])?;
    Ok(id)
}

/// The report of one run, JSON; `Some(None)` if it did not end.
pub fn find(conn: &Connection, name: &str) -> Sql<Option<Option<String>>> {
    one(conn, "SELECT report FROM sync_runs WHERE name = ?1", [name], first)
}

/// Records how a run ended.
pub fn finish(tx: &Transaction, id: i64, finished: Millis, outcome: &str, report: &str) -> Sql<()> {
    let sql = "UPDATE sync_runs SET finished = ?2, outcome = ?3, report = ?4 WHERE id = ?1";
    change(tx, sql, params![id, finished, outcome, report]).map(drop)
}

/// The report of the newest run that ended, JSON; not of one that had another plan, and so did nothing.
pub fn last(conn: &Connection) -> Sql<Option<String>> {
    let sql =
        "SELECT report FROM sync_runs WHERE finished IS NOT NULL AND outcome IS NOT 'changed' ORDER BY id DESC LIMIT 1";
    one(conn, sql, [], first)
}

/// A run as it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// When it started.
    pub started: Millis,
    /// When it ended.
    pub finished: Option<Millis>,
    /// How it ended.
    pub outcome: Option<String>,
    /// Its report, JSON.
    pub report: Option<String>,
}

/// Up to `limit` runs before row `before`, newest first.
pub fn page(conn: &Connection, before: i64, limit: u32) -> Sql<Vec<Kept>> {
    let sql =
        "SELECT id, name, started, finished, outcome, report FROM sync_runs WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
    all(conn, sql, params![before, limit], |row| {
        Ok(Kept {
            id: row.get(0)?,
            name: row.get(1)?,
            started: row.get(2)?,
            finished: row.get(3)?,
            outcome: row.get(4)?,
            report: row.get(5)?,
        })
    })
}

/// An email address that more than one live tenant has.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The address.
    pub email: String,
    /// How many tenants have it.
    pub users: u64,
    /// Some of them.
    pub some: Vec<String>,
}

/// How many tenants of one address are listed.
const LISTED: u32 = 5;

/// Up to `limit` addresses of more than one live tenant, after `after` in their order.
pub fn shared_emails(conn: &Connection, after: &str, limit: u32) -> Sql<Vec<Shared>> {
    // The inner query reads the index only; states are looked up for the few shared addresses.
    let sql = "SELECT email, (SELECT count(*) FROM tenants t WHERE t.email = shared.email AND t.state <> 'deleted') AS \
               live FROM (SELECT email FROM tenants WHERE email > ?1 GROUP BY email HAVING count(*) > 1) AS shared \
               WHERE live > 1 ORDER BY email LIMIT ?2";
    let mut shared = all(conn, sql, params![after, limit], |row| {
        Ok(Shared { email: row.get(0)?, users: row.get(1).map(i64::unsigned_abs)?, some: Vec::new() })
    })?;
    let who = "SELECT id FROM tenants WHERE email = ?1 AND state <> 'deleted' ORDER BY id LIMIT ?2";
    for one in &mut shared {
        one.some = all(conn, who, params![one.email, LISTED], first)?;
    }
    Ok(shared)
}
