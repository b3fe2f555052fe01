//! What can still be read of a damaged catalog, copied into a new one.
//!
//! Row by row and from both ends: a page that cannot be read costs the rows behind it and no others.

use std::collections::BTreeSet;

use rusqlite::{Connection, Error, ErrorCode, Transaction, params, params_from_iter, types::Value};
use serde::Serialize;

use super::{Sql, counts, tombstones};
use crate::{
    catalog::model::Millis,
    error::{ErrorKind, classify},
    tenants::id::TenantId,
};

/// A table that is copied.
struct Table {
    name: &'static str,
    key: &'static str,
    /// The column that must be a tenant's id, if it is not NULL.
    tenant: Option<&'static str>,
    /// What is lost with it.
    without: &'static str,
}

/// What only the catalog knows. The rest is counted or written anew.
const TABLES: [Table; 5] = [
    Table {
        name: "tenants",
        key: "id",
        tenant: Some("id"),
        without: "why users were suspended, when they were deleted (their retention begins anew), and names and \
                  addresses (`cubby sync` brings them back)",
    },
    Table {
        name: "api_keys",
        key: "id",
        tenant: Some("tenant"),
        without: "API keys: `cubby keys create` makes new ones",
    },
    Table {
        name: "deliveries",
        key: "svix_id",
        tenant: None,
        without: "webhook deliveries: one that is sent again is applied again",
    },
    Table { name: "audit", key: "id", tenant: None, without: "the audit trail" },
    Table { name: "sync_runs", key: "id", tenant: None, without: "reports of reconciles" },
];

/// What is lost with a catalog of which nothing can be read.
pub fn nothing() -> Vec<Salvaged> {
    let lost = |table: &Table| Salvaged { table: table.name, rows: 0, lost: Some(table.without) };
    let suspended = Salvaged { table: "states", rows: 0, lost: Some(STATES) };
    TABLES.iter().map(lost).chain([suspended]).collect()
}

const STATES: &str = "who was suspended (`cubby tenants suspend` does it again), and who was purged (a late message may \
                      make them a new database)";

/// What became of one table.
#[derive(Debug, Clone, Serialize)]
pub struct Salvaged {
    /// Which.
    pub table: &'static str,
    /// Rows that were copied.
    pub rows: u64,
    /// What is lost, of all of it or of a part, if not all of it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<&'static str>,
}

/// What SQLite finds wrong with a file; nothing if it is in order.
pub fn complaints(conn: &Connection) -> Sql<Vec<String>> {
    let found: Vec<String> =
        conn.prepare("PRAGMA quick_check(20)")?.query_map([], |row| row.get(0))?.collect::<Sql<_>>()?;
    Ok(found.into_iter().filter(|text| text != "ok").collect())
}

/// How many live users a catalog knows.
pub fn live_users(conn: &Connection) -> Sql<u64> {
    let counts = counts(conn)?;
    super::list(conn, None, None, 1)?;
    Ok(counts.active + counts.suspended + counts.quarantined)
}

/// Whether an error comes from what is in the file. Others, such as those of the disk, say nothing about it.
pub fn is_damage(error: &Error) -> bool {
    matches!(classify(error).0, ErrorKind::Damaged | ErrorKind::Internal)
}

/// None for what the file is too damaged to tell.
fn readable<T>(result: Sql<T>) -> Sql<Option<T>> {
    match result {
        Err(error) if is_damage(&error) => Ok(None),
        result => result.map(Some),
    }
}

/// Copies what can be read of `old` into a new, empty catalog. At `until` the files of those may go of
/// whom nothing is known but that they are deleted.
///
/// # Errors
/// Those of the new one, and those of the old one that are no damage; see [`is_damage`].
pub fn copy(old: &Connection, tx: &Transaction, now: Millis, until: Millis) -> Sql<Vec<Salvaged>> {
    let mut all = Vec::new();
    for table in &TABLES {
        let mut salvaged = Salvaged { table: table.name, rows: 0, lost: None };
        if !one(old, tx, table, &mut salvaged.rows)? {
            salvaged.lost = Some(table.without);
        }
        all.push(salvaged);
    }
    if all.iter().any(|salvaged| salvaged.table == "tenants" && salvaged.lost.is_some()) {
        let mut rows = 0;
        let whole = out_of_use(old, tx, now, until, &mut rows)?;
        all.push(Salvaged { table: "states", rows, lost: (!whole).then_some(STATES) });
    }
    Ok(all)
}

/// Whether all of the table could be read.
fn one(old: &Connection, tx: &Transaction, table: &Table, copied: &mut u64) -> Sql<bool> {
    let Some(there) = readable(columns(old, table.name))? else { return Ok(false) };
    let here = columns(tx, table.name)?;
    let both: Vec<&str> = here.intersection(&there).map(String::as_str).collect();
    if !both.contains(&table.key) {
        return Ok(false);
    }
    let tenant = table.tenant.and_then(|name| both.iter().position(|column| *column == name));
    let places = vec!["?"; both.len()].join(", ");
    let both = both.join(", ");
    let mut insert = tx.prepare(&format!("INSERT OR IGNORE INTO {} ({both}) VALUES ({places})", table.name))?;
    for order in ["ASC", "DESC"] {
        let select = format!("SELECT {both} FROM {} ORDER BY {} {order}", table.name, table.key);
        let Some(mut select) = readable(old.prepare(&select))? else { return Ok(false) };
        let width = select.column_count();
        let Some(mut rows) = readable(select.query([]))? else { return Ok(false) };
        loop {
            let row = match readable(rows.next())? {
                Some(Some(row)) => row,
                Some(None) => return Ok(true),
                None => break,
            };
            let Ok(values) = (0..width).map(|at| row.get(at)).collect::<Sql<Vec<Value>>>() else { continue };
            if !tenant.is_none_or(|at| is_tenant(&values[at])) {
                continue;
            }
            match insert.execute(params_from_iter(values)) {
                Ok(added) => *copied += added as u64,
                // Not what a row of this table can be.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(false)
}

/// Those who are suspended, in quarantine or deleted, from the index that has them, whatever the table is
/// like. Whether all of it could be read.
fn out_of_use(old: &Connection, tx: &Transaction, now: Millis, until: Millis, copied: &mut u64) -> Sql<bool> {
    let select = "SELECT id, state FROM tenants INDEXED BY tenants_by_state WHERE state <> 'active'";
    let Some(mut select) = readable(old.prepare(select))? else { return Ok(false) };
    let Some(mut rows) = readable(select.query([]))? else { return Ok(false) };
    loop {
        let row = match readable(rows.next())? {
            Some(Some(row)) => row,
            Some(None) => return Ok(true),
            None => return Ok(false),
        };
        let (Ok(id), Ok(state)) = (row.get::<_, String>(0), super::state(row, 1)) else { continue };
        let Ok(id) = id.parse::<TenantId>() else { continue };
        let added = match state {
            crate::catalog::model::State::Deleted => tombstones::insert_tombstone(tx, &id, now, until)?,
            state => tx.execute(
                "INSERT INTO tenants (id, state, created, retry_at) VALUES (?1, ?2, ?3, iif(?2 = 'quarantined', ?3, \
                     NULL)) ON CONFLICT (id) DO NOTHING",
                params![id.as_str(), state.as_str(), now],
            )? == 1,
        };
        *copied += u64::from(added);
    }
}

fn columns(conn: &Connection, table: &str) -> Sql<BTreeSet<String>> {
    conn.prepare("SELECT name FROM pragma_table_info(?1)")?.query_map([table], |row| row.get(0))?.collect()
}

fn is_tenant(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Text(id) => id.parse::<TenantId>().is_ok(),
        _ => false,
    }
}
