//! Made-up rows for tables of which only the definition is known, to try a migration on.

use rusqlite::{Connection, Params, Row};

use crate::error::Result;

/// Rows in each table.
const ROWS: u32 = 2;

/// A column of a foreign key, the table that it refers to, and the key there.
type Reference = (String, String, Option<String>);

/// Adds rows to every table but `except`. Returns the tables that stay empty because made-up rows violate their
/// constraints.
pub fn fill(conn: &Connection, except: &[&str]) -> Result<Vec<String>> {
    let mut empty: Vec<String> = all(
        conn,
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' \
         ESCAPE '\\'",
        [],
        |row| row.get(0),
    )?;
    empty.retain(|table| !except.contains(&table.as_str()));
    // Referenced rows must come first: try all tables again until no more can be filled.
    loop {
        let before = empty.len();
        let mut left = Vec::new();
        for table in empty {
            if !add_rows(conn, &table)? {
                left.push(table);
            }
        }
        if left.is_empty() || left.len() == before {
            return Ok(left);
        }
        empty = left;
    }
}

fn add_rows(conn: &Connection, table: &str) -> Result<bool> {
    // Columns that are neither generated nor hidden.
    let columns = all(conn, "SELECT name, type FROM pragma_table_xinfo(?1) WHERE hidden = 0", [table], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?.to_ascii_uppercase()))
    })?;
    let references: Vec<Reference> =
        all(conn, "SELECT \"from\", \"table\", \"to\" FROM pragma_foreign_key_list(?1)", [table], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let names: Vec<String> = columns.iter().map(|(name, _)| quoted(name)).collect();
    for number in 1..=ROWS {
        let mut values = Vec::new();
        for (name, kind) in &columns {
            values.push(match references.iter().find(|(from, ..)| from.eq_ignore_ascii_case(name)) {
                Some(reference) => existing(conn, reference, number)?,
                None => made_up(kind, number),
            });
        }
        let sql = format!("INSERT INTO {} ({}) VALUES ({})", quoted(table), names.join(", "), values.join(", "));
        // A constraint or a trigger refused it.
        if conn.execute_batch(&sql).is_err() {
            return Ok(number > 1);
        }
    }
    Ok(true)
}

/// A value for a column's type (<https://sqlite.org/datatype3.html#determination_of_column_affinity>),
/// different for each row.
fn made_up(kind: &str, number: u32) -> String {
    let has = |words: &[&str]| words.iter().any(|word| kind.contains(word));
    if has(&["INT"]) {
        number.to_string()
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        format!("'row {number}'")
    } else if has(&["BLOB"]) {
        format!("x'{number:02x}'")
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        format!("{number}.5")
    } else {
        number.to_string()
    }
}

/// An expression for a key that exists in the referenced table.
fn existing(conn: &Connection, (_, table, to): &Reference, number: u32) -> Result<String> {
    let key = || all(conn, "SELECT name FROM pragma_table_info(?1) WHERE pk = 1", [table], |row| row.get(0));
    let column = match to {
        Some(column) => Some(column.clone()),
        None => key()?.pop(),
    };
    let column = column.map_or_else(|| "rowid".to_owned(), |column| quoted(&column));
    Ok(format!("(SELECT {column} FROM {} ORDER BY 1 LIMIT 1 OFFSET {})", quoted(table), number - 1))
}

fn all<T>(
    conn: &Connection,
    sql: &str,
    values: impl Params,
    read: impl Fn(&Row) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    Ok(conn.prepare(sql)?.query_map(values, read)?.collect::<rusqlite::Result<_>>()?)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open::{Options, in_memory_like};

    #[test]
    fn tables_are_filled_in_the_order_of_their_references() {
        let conn = in_memory_like(&Options::default()).unwrap();
        conn.execute_batch(
            "CREATE TABLE a (b INTEGER NOT NULL REFERENCES b, x TEXT UNIQUE, y TEXT AS (x || '!')) STRICT;
             CREATE TABLE b (id INTEGER PRIMARY KEY, c TEXT NOT NULL REFERENCES \"c \"\"d\" (name), z ANY) STRICT;
             CREATE TABLE \"c \"\"d\" (name TEXT PRIMARY KEY, w BLOB NOT NULL, v REAL, u) WITHOUT ROWID;
             CREATE TABLE picky (x INTEGER NOT NULL CHECK (x > 100));
             CREATE TABLE kept (x)",
        )
        .unwrap();
        assert_eq!(fill(&conn, &["kept"]).unwrap(), ["picky"]);
        for (table, rows) in [("a", 2), ("b", 2), ("\"c \"\"d\"", 2), ("picky", 0), ("kept", 0)] {
            let count: i64 = conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
            assert_eq!(count, rows, "{table}");
        }
        let broken: i64 = conn.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |r| r.get(0)).unwrap();
        assert_eq!(broken, 0);
    }
}
