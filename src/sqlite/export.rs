//! What is in a database, written out as text. Statements of their own transaction see one moment; the caller begins it.

use std::{
    ffi::CString,
    io::{BufWriter, Write},
};

use rusqlite::{Connection, ffi, types::ValueRef};
use serde::{Deserialize, Serialize};

use super::rows::{csv_field, quoted, rowid_beside, write_csv, write_json, write_literal};
use crate::error::{Error, Result};

#[cfg(test)]
mod tests;

/// A form of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One JSON object a row and line, of one table.
    Ndjson,
    /// RFC 4180 with the names in the first line, of one table.
    Csv,
    /// Statements that make the database, or one table of it, anew.
    Sql,
}

/// Names in an error; of more, the first.
const NAMED: usize = 20;

/// Bytes that are written at once.
const BUFFER: usize = 64 << 10;

/// Writes a table, or in [`Form::Sql`] without one the whole database. Tables of which `is_hidden` holds are none that
/// is chosen for its being the only one.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with the tables that there are, if `table` is none of them, or must
/// be said.
pub fn write(
    conn: &Connection,
    form: Form,
    table: Option<&str>,
    is_hidden: impl Fn(&str) -> bool,
    out: impl Write,
) -> Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER, out);
    let tables = tables(conn)?;
    let written = match (form, table) {
        (Form::Sql, None) => write_database(conn, &mut out),
        (form, table) => {
            let names: Vec<&str> = tables.iter().map(|name| &**name).filter(|name| !is_hidden(name)).collect();
            let table = match table {
                Some(table) => tables.iter().map(|name| &**name).find(|name| *name == table),
                None => Some(names.as_slice()).filter(|names| names.len() == 1).map(|names| names[0]),
            };
            let table = table.ok_or_else(|| {
                let more = if names.len() > NAMED { ", …" } else { "" };
                let there = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
                Error::invalid("table", format!("say which table; there are: {there}{more}"))
            })?;
            match form {
                Form::Sql => write_table(conn, table, &mut out),
                Form::Ndjson => {
                    let names = columns(conn, table, false)?;
                    each_row(conn, table, &names, |values| Ok(write_json(&mut out, &names, values.iter().copied())?))
                }
                Form::Csv => {
                    let names = columns(conn, table, false)?;
                    let head: Vec<_> = names.iter().map(|name| csv_field(ValueRef::Text(name.as_bytes()))).collect();
                    write_csv(&mut out, &head).map_err(Failure::from)?;
                    each_row(conn, table, &names, |values| {
                        let fields: Vec<_> = values.iter().map(|value| csv_field(*value)).collect();
                        Ok(write_csv(&mut out, &fields)?)
                    })
                }
            }
        }
    };
    written.and_then(|()| Ok(out.flush()?)).map_err(Failure::into_error)
}

/// What ends the writing.
enum Failure {
    Read(Error),
    Write(std::io::Error),
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Self::Read(error) => error,
            Self::Write(error) => Error::io("an export", error),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.into_error()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Read(error.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Write(error)
    }
}

type Written = std::result::Result<(), Failure>;

/// The tables with rows of their own, in the order of their names: neither SQLite's nor those in which a virtual table
/// keeps its content.
fn tables(conn: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual') \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let names = conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names)
}

/// A table's columns; with `stored`, without those that are computed from others.
pub fn columns(conn: &Connection, table: &str, stored: bool) -> Result<Vec<String>> {
    // 1 is a hidden column of a virtual table, 2 and 3 are computed ones.
    let sql = "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 OR (hidden IN (2, 3) AND NOT ?2) ORDER BY cid";
    let names = conn.prepare(sql)?.query_map((table, stored), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names)
}

fn each_row(
    conn: &Connection,
    table: &str,
    columns: &[String],
    mut write: impl FnMut(&[ValueRef<'_>]) -> Written,
) -> Written {
    let names = columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let mut statement = conn.prepare(&format!("SELECT {names} FROM {}", quoted(table)))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let values = (0..columns.len()).map(|n| row.get_ref(n)).collect::<rusqlite::Result<Vec<_>>>()?;
        write(&values)?;
    }
    Ok(())
}

/// A row of the schema.
struct Object {
    kind: String,
    name: String,
    table: String,
    sql: String,
}

fn objects(conn: &Connection) -> Result<Vec<Object>> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid";
    let read =
        |row: &rusqlite::Row| Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? });
    let objects = conn.prepare(sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
    Ok(objects)
}

/// SQLite's own tables: made with those that need them, or by `ANALYZE`.
fn is_sqlites(name: &str) -> bool {
    name.starts_with("sqlite_")
}

/// A statement of the schema with its end. SQLite keeps a comment that is behind one: it would take the semicolon in, and
/// may lack an end of its own.
fn ended(sql: &str) -> String {
    let whole = [";", "\n;", "*/;"].iter().map(|end| format!("{sql}{end}")).find(|text| is_complete(text));
    whole.unwrap_or_else(|| format!("{sql}\n;"))
}

fn is_complete(sql: &str) -> bool {
    let Ok(text) = CString::new(sql) else { return false };
    // SAFETY: it reads up to the text's zero byte and keeps nothing.
    let complete = unsafe { ffi::sqlite3_complete(text.as_ptr()) };
    complete == 1
}

/// The name of a table's row numbers; none if it has none, if one of its columns is them, or if columns have all the names.
fn rowid(conn: &Connection, table: &str) -> Result<Option<&'static str>> {
    // A primary key that is the row's number is the one that has no index. Of virtual tables, an index for full-text
    // search has numbers that no column has; it is the one with a hidden column of its own name.
    let sql = "SELECT NOT wr AND CASE type WHEN 'virtual' THEN EXISTS (SELECT 1 FROM pragma_table_xinfo(?1) WHERE \
               hidden = 1 AND name = ?1 COLLATE NOCASE) ELSE EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE \
               origin = 'pk') OR NOT EXISTS (SELECT 1 FROM pragma_table_xinfo(?1) WHERE pk) END FROM \
               pragma_table_list(?1) WHERE schema = 'main'";
    let is_apart: bool = conn.query_row(sql, [table], |row| row.get(0))?;
    if !is_apart {
        return Ok(None);
    }
    let taken = columns(conn, table, false)?;
    Ok(rowid_beside(&taken))
}

/// Writes a table, its rows, indexes and triggers. Without the last line it is not whole, and what is loaded of it is
/// rolled back.
fn write_table(conn: &Connection, table: &str, out: &mut impl Write) -> Written {
    writeln!(out, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;")?;
    // A trigger keeps the table's name as it was written there.
    let is_its = |object: &Object| object.table.eq_ignore_ascii_case(table);
    let objects: Vec<Object> = objects(conn)?.into_iter().filter(is_its).collect();
    for object in objects.iter().filter(|object| object.kind == "table") {
        writeln!(out, "{}", ended(&object.sql))?;
    }
    write_rows(conn, table, out)?;
    for object in objects.iter().filter(|object| object.kind != "table") {
        writeln!(out, "{}", ended(&object.sql))?;
    }
    Ok(writeln!(out, "COMMIT;")?)
}

/// Writes everything in the way of the `sqlite3` shell's `.dump`: a virtual table by its row of the schema, since what is
/// in it comes with the tables in which it keeps that.
fn write_database(conn: &Connection, out: &mut impl Write) -> Written {
    let mark = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
    writeln!(out, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;")?;
    writeln!(out, "PRAGMA application_id={};", mark("application_id")?)?;
    writeln!(out, "PRAGMA user_version={};", mark("user_version")?)?;
    let objects = objects(conn)?;
    let is_virtual = |object: &Object| {
        let begin = object.sql.get(.."CREATE VIRTUAL".len()).unwrap_or_default();
        begin.eq_ignore_ascii_case("CREATE VIRTUAL")
    };
    let mut changes_schema = false;
    for object in objects.iter().filter(|object| object.kind == "table") {
        match object.name.as_str() {
            "sqlite_sequence" => {
                // It is there with the first table that counts.
                writeln!(out, "DELETE FROM sqlite_sequence;")?;
                write_rows(conn, &object.name, out)?;
            }
            name if is_sqlites(name) => {}
            name if is_virtual(object) => {
                if !std::mem::replace(&mut changes_schema, true) {
                    writeln!(out, "PRAGMA writable_schema=ON;")?;
                }
                write!(out, "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql) VALUES('table',")?;
                for text in [name, name] {
                    write_literal(out, ValueRef::Text(text.as_bytes()))?;
                    out.write_all(b",")?;
                }
                out.write_all(b"0,")?;
                write_literal(out, ValueRef::Text(object.sql.as_bytes()))?;
                writeln!(out, ");")?;
            }
            name => {
                writeln!(out, "{}", ended(&object.sql))?;
                write_rows(conn, name, out)?;
            }
        }
    }
    for object in objects.iter().filter(|object| object.kind != "table") {
        writeln!(out, "{}", ended(&object.sql))?;
    }
    if changes_schema {
        // Which also has whoever loads it see the virtual tables.
        writeln!(out, "PRAGMA writable_schema=RESET;")?;
    }
    Ok(writeln!(out, "COMMIT;")?)
}

fn write_rows(conn: &Connection, table: &str, out: &mut impl Write) -> Written {
    let mut names = columns(conn, table, true)?;
    // What knows rows by their numbers, such as a search index over another table, finds the same ones again.
    if let Some(rowid) = rowid(conn, table)? {
        names.insert(0, rowid.to_owned());
    }
    let list = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(",");
    let insert = format!("INSERT INTO {}({list}) VALUES(", quoted(table));
    each_row(conn, table, &names, |values| {
        out.write_all(insert.as_bytes())?;
        for (n, value) in values.iter().enumerate() {
            if n > 0 {
                out.write_all(b",")?;
            }
            write_literal(out, *value)?;
        }
        Ok(out.write_all(b");\n")?)
    })
}
