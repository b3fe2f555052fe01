//! The tables and views of a database, with columns and indexes.

use std::time::{Duration, Instant};

use super::{
    ask::{all, number, optional, text},
    model::{ColumnInfo, IndexInfo, TableInfo, TableKind, TableList},
};
use crate::sqlite::{
    guest::{Guest, SqlError, Value, ValueRef},
    rows::quoted,
};

/// The most tables of a list, and indexes of a table.
const TABLES: usize = 500;
const INDEXES: usize = 64;

/// Rows are counted up to this many, and tables' rows for no longer than this.
const COUNTED: u64 = 10_000;
const COUNTING: Duration = Duration::from_secs(1);

/// The longest statement of a schema that is shown, in bytes.
const LONGEST: usize = 8 << 10;

/// The tables and views, up to `most` bytes of what is told of them.
///
/// # Errors
/// Those of statements.
pub fn list(guest: &Guest<'_>, most: usize) -> Result<TableList, SqlError> {
    let (begun, mut taken) = (Instant::now(), 0);
    let mut list = TableList { tables: Vec::new(), more: false };
    let names = heads(guest, None)?;
    for mut table in names {
        if list.tables.len() == TABLES || taken > most {
            list.more = true;
            break;
        }
        describe(guest, &mut table)?;
        if table.kind != TableKind::View && begun.elapsed() < COUNTING {
            count(guest, &mut table)?;
        }
        taken += length(&table);
        list.tables.push(table);
    }
    Ok(list)
}

/// One table, and whether it has no rowid; none if there is no such table.
pub(super) fn find(guest: &Guest<'_>, name: &str) -> Result<Option<(TableInfo, bool)>, SqlError> {
    let Some(mut table) = heads(guest, Some(name))?.into_iter().next() else { return Ok(None) };
    describe(guest, &mut table)?;
    let sql = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1";
    let keyless = all(guest, sql, vec![Value::Text(name.to_owned())], |row| number(row[0]) != 0)?;
    Ok(Some((table, keyless.first().copied().unwrap_or(false))))
}

/// The tables as far as their names and kinds.
fn heads(guest: &Guest<'_>, name: Option<&str>) -> Result<Vec<TableInfo>, SqlError> {
    let sql = "SELECT t.name, t.type, s.sql FROM pragma_table_list AS t LEFT JOIN sqlite_schema AS s ON s.name = t.name \
               AND s.type IN ('table', 'view') WHERE t.schema = 'main' AND substr(t.name, 1, 7) <> 'sqlite_' \
               AND (?1 IS NULL OR t.name = ?1) ORDER BY t.name LIMIT ?2";
    let name = name.map_or(Value::Null, |name| Value::Text(name.to_owned()));
    let limit = Value::Integer(i64::try_from(TABLES + 1).unwrap_or(i64::MAX));
    all(guest, sql, vec![name, limit], |row| TableInfo {
        name: text(row[0]),
        kind: match row[1] {
            ValueRef::Text(b"view") => TableKind::View,
            ValueRef::Text(b"virtual") => TableKind::Virtual,
            ValueRef::Text(b"shadow") => TableKind::Shadow,
            _ => TableKind::Table,
        },
        columns: Vec::new(),
        indexes: Vec::new(),
        rows: None,
        more_rows: false,
        sql: optional(row[2]).filter(|sql| sql.len() <= LONGEST),
    })
}

/// Adds columns and indexes.
fn describe(guest: &Guest<'_>, table: &mut TableInfo) -> Result<(), SqlError> {
    let named = || vec![Value::Text(table.name.clone())];
    // 1 is a hidden column of a virtual table, 2 and 3 are computed ones.
    let sql = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1) WHERE hidden <> 1 ORDER \
               BY cid";
    let columns = all(guest, sql, named(), |row| ColumnInfo {
        name: text(row[0]),
        declared: text(row[1]),
        nullable: number(row[2]) == 0,
        default: optional(row[3]),
        key: u32::try_from(number(row[4])).unwrap_or(0),
        computed: number(row[5]) > 1,
    });
    // A view may be over what is not there.
    table.columns = own_fault(columns)?.unwrap_or_default();
    let sql = "SELECT name, \"unique\", partial FROM pragma_index_list(?1) ORDER BY name LIMIT ?2";
    let limit = Value::Integer(i64::try_from(INDEXES).unwrap_or(i64::MAX));
    let indexes = all(guest, sql, vec![Value::Text(table.name.clone()), limit], |row| IndexInfo {
        name: text(row[0]),
        columns: Vec::new(),
        unique: number(row[1]) != 0,
        partial: number(row[2]) != 0,
    });
    let mut indexes = own_fault(indexes)?.unwrap_or_default();
    for index in &mut indexes {
        let sql = "SELECT name FROM pragma_index_info(?1) ORDER BY seqno";
        index.columns = all(guest, sql, vec![Value::Text(index.name.clone())], |row| optional(row[0]))?;
    }
    table.indexes = indexes;
    Ok(())
}

fn count(guest: &Guest<'_>, table: &mut TableInfo) -> Result<(), SqlError> {
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {} LIMIT ?1)", quoted(&table.name));
    let limit = Value::Integer(i64::try_from(COUNTED + 1).unwrap_or(i64::MAX));
    let counted = all(guest, &sql, vec![limit], |row| u64::try_from(number(row[0])).unwrap_or(0));
    if let Some(rows) = own_fault(counted)?.and_then(|rows| rows.first().copied()) {
        (table.rows, table.more_rows) = (Some(rows.min(COUNTED)), rows > COUNTED);
    }
    Ok(())
}

/// None instead of an error that is of what was asked, and not of time, memory or storage.
fn own_fault<T>(result: Result<T, SqlError>) -> Result<Option<T>, SqlError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.fatal.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

fn length(table: &TableInfo) -> usize {
    let columns: usize = table.columns.iter().map(|c| c.name.len() + c.declared.len() + 100).sum();
    let indexes: usize = table.indexes.iter().map(|i| i.name.len() + i.columns.len() * 64 + 60).sum();
    table.name.len() + table.sql.as_ref().map_or(0, String::len) + columns + indexes + 100
}
