//! The SQL that compares a moment with now.

use rusqlite::Connection;

use crate::sqlite::rows::quoted;

type Sql<T> = rusqlite::Result<T>;

/// The tables that have rows of their own, by name, and how many. At most `most` of them.
pub fn counts(conn: &Connection, most: u32) -> Sql<Vec<(String, u64)>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND substr(name, 1, 7) <> 'sqlite_' \
               ORDER BY name LIMIT ?1";
    let mut names = conn.prepare(sql)?;
    let names: Vec<String> = names.query_map([most], |row| row.get(0))?.collect::<Sql<_>>()?;
    let count = |name: String| {
        let sql = format!("SELECT count(*) FROM {}", quoted(&name));
        let rows: i64 = conn.query_row(&sql, [], |row| row.get(0))?;
        Ok((name, rows.cast_unsigned()))
    };
    names.into_iter().map(count).collect()
}
