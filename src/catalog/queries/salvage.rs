//! Copying what can be read of a damaged catalog into a new one.
//!
//! Tables are read row by row, from both ends: an unreadable page loses the rows on it and no others.

use std::collections::BTreeSet;

use rusqlite::{Connection, Error, ErrorCode, Transaction, params, params_from_iter, types::Value};
use serde::Serialize;

use super::{Sql, all, counts, first, tombstones};
use crate::{
    catalog::model::{Millis, State},
    error::{ErrorKind, classify},
    tenants::id::TenantId,
};

/// A table that is copied.
struct Table {
    name: &'static str,
    key: &'static str,
    /// The column that must be a tenant's id, if it is not NULL.
    tenant: Option<&'static str>,
    /// What is lost if it cannot be read.
    loss: &'static str,
    /// Whether older catalogs do not have it.
    is_newer: bool,
}

/// The tables whose content is in the catalog only. The others are rebuilt from these and from the files.
const TABLES: [Table; 8] = [
    Table {
        name: "tenants",
        key: "id",
        tenant: Some("id"),
        loss: "why users were suspended, when they were deleted (their retention begins anew), and names and \
                  addresses (`cubby sync` brings them back)",
        is_newer: false,
    },
    Table {
        name: "api_keys",
        key: "id",
        tenant: Some("tenant"),
        loss: "API keys: `cubby keys create` makes new ones",
        is_newer: false,
    },
    Table {
        name: "deliveries",
        key: "svix_id",
        tenant: None,
        loss: "webhook deliveries: one that is sent again is applied again",
        is_newer: false,
    },
    Table { name: "audit", key: "id", tenant: None, loss: "the audit trail", is_newer: false },
    Table { name: "sync_runs", key: "id", tenant: None, loss: "reports of reconciles", is_newer: false },
    Table {
        name: "migration_runs",
        key: "id",
        tenant: None,
        loss: "reports of migrations of all users",
        is_newer: true,
    },
    Table { name: "bulk_runs", key: "id", tenant: None, loss: "reports of changes of many users", is_newer: true },
    Table { name: "usage_days", key: "day", tenant: Some("tenant"), loss: "what users used, by day", is_newer: true },
];

/// What is lost if nothing of a catalog can be read.
pub fn all_lost() -> Vec<Salvaged> {
    let lost = |table: &Table| Salvaged { table: table.name, rows: 0, lost: Some(table.loss) };
    let suspended = Salvaged { table: "states", rows: 0, lost: Some(STATES) };
    TABLES.iter().map(lost).chain([suspended]).collect()
}

const STATES: &str = "who was suspended (`cubby tenants suspend` does it again), and who was purged (a late message may \
                      make them a new database)";

/// What was copied of one table.
#[derive(Debug, Clone, Serialize)]
pub struct Salvaged {
    /// Its name.
    pub table: &'static str,
    /// Rows that were copied.
    pub rows: u64,
    /// What is lost, wholly or in part, if not all of it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<&'static str>,
}

/// The problems that SQLite's `quick_check` finds in a file.
pub fn problems(conn: &Connection) -> Sql<Vec<String>> {
    let mut found: Vec<String> = all(conn, "PRAGMA quick_check(20)", [], first)?;
    found.retain(|text| text != "ok");
    Ok(found)
}

/// How many tenants in a catalog are not deleted.
pub fn live_users(conn: &Connection) -> Sql<u64> {
    let counts = counts(conn)?;
    super::list(conn, None, None, 1)?;
    Ok(counts.active + counts.suspended + counts.quarantined)
}

/// Whether an error comes from the file's content, as opposed to, say, the disk.
pub fn is_damage(error: &Error) -> bool {
    matches!(classify(error).0, ErrorKind::Damaged | ErrorKind::Internal)
}

/// None if the file is too damaged to read it.
fn readable<T>(result: Sql<T>) -> Sql<Option<T>> {
    match result {
        Err(error) if is_damage(&error) => Ok(None),
        result => result.map(Some),
    }
}

/// Copies what can be read of `old` into a new, empty catalog. `until` is the end of the retention of deleted
/// tenants of whom only the state can be read.
///
/// # Errors
/// Those of the new catalog, and those of the old one that are not damage; see [`is_damage`].
pub fn copy(old: &Connection, tx: &Transaction, now: Millis, until: Millis) -> Sql<Vec<Salvaged>> {
    let mut all = Vec::new();
    for table in &TABLES {
        let mut salvaged = Salvaged { table: table.name, rows: 0, lost: None };
        if !copy_table(old, tx, table, &mut salvaged.rows)? {
            salvaged.lost = Some(table.loss);
        }
        all.push(salvaged);
    }
    if all.iter().any(|salvaged| salvaged.table == "tenants" && salvaged.lost.is_some()) {
        let mut rows = 0;
        let whole = copy_inactive(old, tx, now, until, &mut rows)?;
        all.push(Salvaged { table: "states", rows, lost: (!whole).then_some(STATES) });
    }
    Ok(all)
}

/// Copies one table. `false` if not all of it could be read.
fn copy_table(old: &Connection, tx: &Transaction, table: &Table, copied: &mut u64) -> Sql<bool> {
    let Some(there) = readable(columns(old, table.name))? else { return Ok(false) };
    if there.is_empty() && table.is_newer {
        return Ok(true);
    }
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
                // A damaged row violates a constraint of the table.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(false)
}

/// Copies the states of suspended, quarantined and deleted tenants from their index, which may be readable where the
/// table is not. `false` if not all of it could be read.
fn copy_inactive(old: &Connection, tx: &Transaction, now: Millis, until: Millis, copied: &mut u64) -> Sql<bool> {
    let select = "SELECT id, state FROM tenants INDEXED BY tenants_by_state WHERE state <> 'active'";
    let Some(mut select) = readable(old.prepare(select))? else { return Ok(false) };
    let Some(mut rows) = readable(select.query([]))? else { return Ok(false) };
    loop {
        let row = match readable(rows.next())? {
            Some(Some(row)) => row,
            Some(None) => return Ok(true),
            None => return Ok(false),
        };
        let (Ok(id), Ok(state)) = (row.get::<_, TenantId>(0), row.get::<_, State>(1)) else { continue };
        let added = match state {
            State::Deleted => tombstones::insert_tombstone(tx, &id, now, until)?,
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
