//! The SQL of this module itself.

use rusqlite::Connection;

/// A number that changes with every change of the schema.
pub fn schema_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA schema_version", [], |row| row.get(0))
}
