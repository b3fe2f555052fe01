//! Changes of many tenants, and the queries they need.

use rusqlite::{Connection, Transaction, params};

use super::{
    Sql, all, change, counts, find, first, one,
    search::{self, Cursor, Listing, Sought},
};
use crate::{
    catalog::model::{Millis, Row, State},
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

/// The name of the newest run.
pub fn newest_name(conn: &Connection) -> Sql<Option<String>> {
    one(conn, "SELECT name FROM bulk_runs ORDER BY id DESC LIMIT 1", [], first)
}

/// The number of the newest tenant: all that are made later have a larger one.
pub fn newest_tenant(conn: &Connection) -> Sql<i64> {
    conn.prepare_cached("SELECT coalesce(max(n), 0) FROM tenant_texts")?.query_row([], first)
}

/// A page of those that an action is about.
#[derive(Debug)]
pub struct Page {
    /// Those in a state that the action changes.
    pub ids: Vec<TenantId>,
    /// How many others match.
    pub left_out: u64,
    /// Where the next page begins; none if this is the last one.
    pub next: Option<Cursor>,
}

/// A page of a list: those in one of the `changed` states, without those made after the tenant of number `as_of`.
pub fn page(conn: &Connection, wanted: &Listing, changed: &[State], as_of: i64) -> Sql<Page> {
    let found = search::page(conn, wanted)?;
    let mut page = Page { ids: Vec::with_capacity(found.rows.len()), left_out: 0, next: found.next };
    for row in found.rows {
        let number: Option<i64> = one(conn, "SELECT n FROM tenant_texts WHERE id = ?1", [row.id.as_str()], first)?;
        match number.is_some_and(|number| number <= as_of) {
            true if changed.contains(&row.state) => page.ids.push(row.id),
            true => page.left_out += 1,
            false => {}
        }
    }
    Ok(page)
}

/// How many tenants in a state, or in any, are in one of the `changed` states, and how many are not; without those made
/// after the tenant of number `as_of`. Reads these.
pub fn count(conn: &Connection, changed: &[State], state: Option<State>, as_of: i64) -> Sql<(u64, u64)> {
    let counts = counts(conn)?;
    let sql = "SELECT state, count(*) FROM tenant_texts CROSS JOIN tenants ON tenants.id = tenant_texts.id WHERE n > ?1 \
               GROUP BY state";
    let newer: Vec<(State, i64)> = all(conn, sql, [as_of], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (mut count, mut left_out) = (0, 0);
    for each in State::ALL.into_iter().filter(|each| state.is_none_or(|state| state == *each)) {
        let there = match each {
            State::Active => counts.active,
            State::Suspended => counts.suspended,
            State::Deleted => counts.deleted,
            State::Quarantined => counts.quarantined,
        };
        let newer = newer.iter().find(|(state, _)| *state == each).map_or(0, |(_, n)| n.unsigned_abs());
        let older = there.saturating_sub(newer);
        match changed.contains(&each) {
            true => count += older,
            false => left_out += older,
        }
    }
    Ok((count, left_out))
}

/// The states of some tenants, in their order; none for an id that nobody has.
pub fn states(conn: &Connection, ids: &[TenantId]) -> Sql<Vec<Option<State>>> {
    ids.iter().map(|id| one(conn, "SELECT state FROM tenants WHERE id = ?1", [id.as_str()], first)).collect()
}

/// The row of a tenant, and whether what is sought finds it.
pub fn look(conn: &Connection, id: &TenantId, sought: Option<&Sought>) -> Sql<Option<(Row, bool)>> {
    let Some(row) = find(conn, id)? else { return Ok(None) };
    let Some(sought) = sought else { return Ok(Some((row, true))) };
    let text: Option<String> = one(conn, "SELECT text FROM tenant_texts WHERE id = ?1", [id.as_str()], first)?;
    Ok(Some((row, text.is_some_and(|text| sought.finds(id, &text)))))
}
