//! The numbers that AUTOINCREMENT gives to rows. When they are used up, SQLite says that the database is full, with the same
//! code as for a full disk and a reached bound.

use rusqlite::Connection;

use crate::error::{Error, ErrorKind};

/// The error of a statement that `conn` ran. One that says "full" though there is room says what is used up: it is a bound of
/// the database and no fault of the disk.
pub fn told(conn: &Connection, error: Error) -> Error {
    let is_full = error.kind() == ErrorKind::DiskFull && error.sqlite().is_some();
    if !is_full || !is_used_up(conn).unwrap_or(false) {
        return error;
    }
    let why = "SQLite says that the database is full: an AUTOINCREMENT has given its largest number";
    Error::new(ErrorKind::QuotaExceeded, why).with_source(error)
}

/// Whether there is room for a page, and a table has given its largest number. The size alone does not tell: what the
/// statement wrote is rolled back by now.
fn is_used_up(conn: &Connection) -> rusqlite::Result<bool> {
    let pages = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    if pages("page_count")? >= pages("max_page_count")? {
        return Ok(false);
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_sequence WHERE seq = ?1)";
    conn.query_row(sql, [i64::MAX], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open;

    #[test]
    fn numbers_that_are_used_up_are_no_quota_and_a_quota_is_no_used_up_number() {
        let conn = open::in_memory().unwrap();
        conn.execute_batch("PRAGMA max_page_count=20; CREATE TABLE blobs (data)").unwrap();
        let fail = |sql: &str| told(&conn, conn.execute_batch(sql).unwrap_err().into()).kind();
        let large = "INSERT INTO blobs VALUES (zeroblob(1000000))";
        assert_eq!(fail(large), ErrorKind::DiskFull);
        conn.execute_batch("CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)").unwrap();
        assert_eq!(fail(large), ErrorKind::DiskFull);
        conn.execute_batch("INSERT INTO counted VALUES (9223372036854775807)").unwrap();
        assert_eq!(fail("INSERT INTO counted DEFAULT VALUES"), ErrorKind::QuotaExceeded);
        assert_eq!(fail("INSERT INTO nothing VALUES (1)"), ErrorKind::Internal);
    }
}
