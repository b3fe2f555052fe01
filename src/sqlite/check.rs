//! Looking for damage in a whole database file.

use std::time::Duration;

use rusqlite::{Connection, ffi};

use super::deadline::Deadline;
use crate::error::{Error, ErrorKind, Result};

/// Runs `PRAGMA quick_check` for at most `limit`. `false` if that was not enough for the whole file.
///
/// # Errors
/// [`ErrorKind::Damaged`] with the first problem found.
pub fn quick_check(conn: &Connection, deadline: &Deadline, limit: Duration) -> Result<bool> {
    deadline.set(Some(limit));
    let found = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)).map_err(Error::from);
    deadline.set(None);
    match found {
        Ok(found) if found == "ok" => Ok(true),
        // The disk failed to read a page, which says nothing about the page.
        Ok(found) if is_io_error(&found) => {
            Err(Error::new(ErrorKind::Unavailable, format!("storage is not available: {found}")))
        }
        Ok(found) => Err(Error::new(ErrorKind::Damaged, format!("the database file is damaged: {found}"))),
        Err(error) if error.kind() == ErrorKind::Timeout => Ok(false),
        Err(error) => Err(error),
    }
}

/// Runs `PRAGMA integrity_check`, however long that takes, on a file that was made of another one. What its rows are by the
/// checks of their tables is no matter of the file.
///
/// # Errors
/// [`ErrorKind::Damaged`] with the first problem found.
pub fn integrity_check(conn: &Connection) -> Result<()> {
    conn.execute_batch("PRAGMA ignore_check_constraints=ON")?;
    let found: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ if is_io_error(&found) => {
            Err(Error::new(ErrorKind::Unavailable, format!("storage is not available: {found}")))
        }
        _ => Err(Error::new(ErrorKind::Damaged, format!("the database file is damaged: {found}"))),
    }
}

/// Whether the check met an I/O error. Its text ends in the extended result code, whose low byte is the kind.
fn is_io_error(found: &str) -> bool {
    let code = found.rsplit_once("error code=").map(|(_, code)| code.trim());
    code.and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == ffi::SQLITE_IOERR)
}
