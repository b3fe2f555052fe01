//! Migrations of all tenants by a running server, and the queries they need.

use rusqlite::{Connection, Row as SqlRow, Transaction, params};

use super::{Sql, all, change, one};
use crate::{
    catalog::model::{Millis, State},
    tenants::id::TenantId,
};

/// Runs that are kept.
const KEPT: i64 = 1000;

/// A run as it was last recorded.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its row.
    pub id: i64,
    /// The digest of the schema that it migrates to.
    pub digest: i64,
    /// Its report, JSON.
    pub report: String,
    /// The tenants that [`count_failure`] has counted and the report has not, each with its reason: JSON, a list of pairs.
    pub failed: String,
}

const COLUMNS: &str = "id, digest, report, failed";

fn recorded(row: &SqlRow) -> Sql<Recorded> {
    Ok(Recorded { id: row.get(0)?, digest: row.get(1)?, report: row.get(2)?, failed: row.get(3)? })
}

/// Records that a run began, and deletes the oldest runs.
pub fn begin(tx: &Transaction, name: &str, digest: i64, started: Millis, report: &str) -> Sql<i64> {
    let sql = "INSERT INTO migration_runs (name, digest, started, report) VALUES (?1, ?2, ?3, ?4)";
    change(tx, sql, params![name, digest, started, report])?;
    let id = tx.last_insert_rowid();
    change(tx, "DELETE FROM migration_runs WHERE id <= ?1", [id - KEPT])?;
    Ok(id)
}

/// Records how far a run is, and when it ended. What [`count`] has counted stays, and so do the failures of tenants that are
/// not in `failed`, a JSON list of those in the report. `false` if its end was recorded before.
pub fn save(tx: &Transaction, id: i64, ended: Option<Millis>, report: &str, failed: &str) -> Sql<bool> {
    let sql = "UPDATE migration_runs SET ended = ?2, report = json_set(?3, '$.migrated', max(?3 ->> '$.migrated', report ->> \
               '$.migrated'), '$.already_current', max(?3 ->> '$.already_current', report ->> '$.already_current')), failed \
               = (SELECT json_group_array(json(value)) FROM json_each(failed) WHERE value ->> 0 NOT IN (SELECT value FROM \
               json_each(?4))) WHERE id = ?1 AND (?2 IS NULL OR ended IS NULL)";
    change(tx, sql, params![id, ended, report, failed])
}

/// Counts a tenant that a run has migrated, or has found to be so, in the commit that says of the tenant that it is. So no
/// crash parts the two.
pub fn count(tx: &Transaction, id: i64, is_migrated: bool) -> Sql<()> {
    let name = if is_migrated { "$.migrated" } else { "$.already_current" };
    let sql = "UPDATE migration_runs SET report = json_set(report, ?2, (report ->> ?2) + 1) WHERE id = ?1";
    change(tx, sql, params![id, name]).map(drop)
}

/// Counts a tenant that failed in a run, in the commit that quarantines it.
pub fn count_failure(tx: &Transaction, id: i64, tenant: &TenantId, reason: &str) -> Sql<()> {
    let sql = "UPDATE migration_runs SET failed = json_insert(failed, '$[#]', json_array(?2, ?3)) WHERE id = ?1";
    change(tx, sql, params![id, tenant.as_str(), reason]).map(drop)
}

/// One run by its name.
pub fn find(conn: &Connection, name: &str) -> Sql<Option<Recorded>> {
    one(conn, &format!("SELECT {COLUMNS} FROM migration_runs WHERE name = ?1"), [name], recorded)
}

/// The newest run.
pub fn newest(conn: &Connection) -> Sql<Option<Recorded>> {
    one(conn, &format!("SELECT {COLUMNS} FROM migration_runs ORDER BY id DESC LIMIT 1"), [], recorded)
}

/// Up to `limit` tenants after `after` in the order of ids that are [`behind`](super::behind) `version`, with their states.
pub fn next(conn: &Connection, version: i32, after: &str, limit: u32) -> Sql<Vec<(TenantId, State)>> {
    let behind = super::BEHIND;
    let sql = format!("SELECT id, state FROM tenants WHERE id > ?2 AND {behind} ORDER BY id LIMIT ?3");
    all(conn, &sql, params![version, after, limit], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The same without those that are quarantined.
pub fn next_unquarantined(conn: &Connection, version: i32, after: &str, limit: u32) -> Sql<Vec<(TenantId, State)>> {
    let behind = super::BEHIND;
    let sql = format!(
        "SELECT id, state FROM tenants WHERE id > ?2 AND {behind} AND state <> 'quarantined' ORDER BY id LIMIT ?3"
    );
    all(conn, &sql, params![version, after, limit], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// How many tenants a run has left that has reached `after`: those after it that are behind `version`, and those up to it that
/// are so and not quarantined. Scans all tenants.
pub fn count_left(conn: &Connection, version: i32, after: &str) -> Sql<u64> {
    let behind = super::BEHIND;
    let sql = format!("SELECT count(*) FROM tenants WHERE (id > ?2 OR state <> 'quarantined') AND {behind}");
    conn.query_row(&sql, params![version, after], |row| row.get(0).map(i64::unsigned_abs))
}

/// `limit` of the tenants that are behind `version` and not quarantined, or all if there are fewer: some of all ages, since
/// the provider's ids are in the order of time. Scans all tenants.
pub fn spread(conn: &Connection, version: i32, limit: u32) -> Sql<Vec<(TenantId, State)>> {
    let behind = super::BEHIND;
    let sql = format!(
        "SELECT id, state FROM (SELECT id, state, row_number() OVER (ORDER BY id) AS place, count(*) OVER () AS count FROM \
         tenants WHERE {behind} AND state <> 'quarantined') WHERE ?2 >= count OR place * ?2 / count > (place - 1) * ?2 / count"
    );
    all(conn, &sql, params![version, limit], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// How many tenants have a schema.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Its version; none where it is not known.
    pub schema: Option<i32>,
    /// The tenants that are not deleted and have it.
    pub tenants: u64,
    /// Those of them that are quarantined.
    pub quarantined: u64,
}

/// How many tenants have each version of the schema, oldest first. Reads a row for each version there has been.
pub fn shares(conn: &Connection) -> Sql<Vec<Share>> {
    let sql = "SELECT schema, tenants, quarantined FROM schema_counts WHERE tenants > 0 ORDER BY schema";
    all(conn, sql, [], |row| {
        let count = |at| row.get(at).map(i64::unsigned_abs);
        Ok(Share { schema: row.get(0)?, tenants: count(1)?, quarantined: count(2)? })
    })
}
