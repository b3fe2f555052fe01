//! Changes of many tenants, and the queries they need.

use rusqlite::{Connection, Transaction, params};

use super::{
    Sql, all, change, counts, first, one,
    search::{self, Cursor, Listing},
};
use crate::{
    catalog::model::{Millis, State},
    tenants::id::TenantId,
};

/// Runs that are kept.
const KEPT: i64 = 1000;

/// Records that a run began, and deletes the oldest runs.
pub fn begin(tx: &Transaction, name: &str, started: Millis, report: &str) -> Sql<i64> {
    change(tx, "INSERT INTO bulk_runs (name, started, report) VALUES (?1, ?2, ?3)", params![name, started, report])?;
    let id = tx.last_insert_rowid();
    change(tx, "DELETE FROM bulk_runs WHERE id <= ?1", [id - KEPT])?;
    Ok(id)
}

/// Records how far a run is, and when it ended.
pub fn save(tx: &Transaction, id: i64, ended: Option<Millis>, report: &str) -> Sql<()> {
    change(tx, "UPDATE bulk_runs SET ended = ?2, report = ?3 WHERE id = ?1", params![id, ended, report]).map(drop)
}

/// The report of the newest run as it was last recorded, JSON.
pub fn newest(conn: &Connection) -> Sql<Option<String>> {
    one(conn, "SELECT report FROM bulk_runs ORDER BY id DESC LIMIT 1", [], first)
}

/// The number of the newest tenant: all that are made later have a larger one.
pub fn newest_tenant(conn: &Connection) -> Sql<i64> {
    conn.prepare_cached("SELECT coalesce(max(n), 0) FROM tenant_texts")?.query_row([], first)
}

/// A page of a list without those that were made after the tenant of number `as_of`, and where the next page begins.
pub fn page(conn: &Connection, wanted: &Listing, as_of: i64) -> Sql<(Vec<TenantId>, Option<Cursor>)> {
    let found = search::page(conn, wanted)?;
    let mut ids = Vec::with_capacity(found.rows.len());
    for row in found.rows {
        let number: Option<i64> = one(conn, "SELECT n FROM tenant_texts WHERE id = ?1", [row.id.as_str()], first)?;
        if number.is_some_and(|number| number <= as_of) {
            ids.push(row.id);
        }
    }
    Ok((ids, found.next))
}

/// How many tenants are in a state, or in any, without those made after the tenant of number `as_of`. Reads these.
pub fn count(conn: &Connection, state: Option<State>, as_of: i64) -> Sql<u64> {
    let counts = counts(conn)?;
    let there = match state {
        None => counts.active + counts.suspended + counts.deleted + counts.quarantined,
        Some(State::Active) => counts.active,
        Some(State::Suspended) => counts.suspended,
        Some(State::Deleted) => counts.deleted,
        Some(State::Quarantined) => counts.quarantined,
    };
    let sql = "SELECT count(*) FROM tenant_texts CROSS JOIN tenants ON tenants.id = tenant_texts.id WHERE n > ?1 AND \
               (?2 IS NULL OR state = ?2)";
    let newer: i64 = conn.prepare_cached(sql)?.query_row(params![as_of, state.map(State::as_str)], first)?;
    Ok(there.saturating_sub(newer.unsigned_abs()))
}

/// Those of some ids that no tenant has.
pub fn unknown(conn: &Connection, ids: &[TenantId]) -> Sql<Vec<TenantId>> {
    let mut unknown = Vec::new();
    for id in ids {
        if all(conn, "SELECT 1 FROM tenants WHERE id = ?1", [id.as_str()], first::<i64>)?.is_empty() {
            unknown.push(id.clone());
        }
    }
    Ok(unknown)
}
