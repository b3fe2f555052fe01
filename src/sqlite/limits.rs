//! The limits of a connection: what SQLite refuses on it, and how much it accepts.

use rusqlite::{Connection, config::DbConfig, limits::Limit};

use super::PAGE_SIZE;
use crate::error::Result;

/// The longest statement of a request, in bytes.
const SQL_LENGTH: i32 = 100_000;

/// The largest page number (<https://sqlite.org/limits.html#max_page_count>).
const MAX_PAGES: i64 = 0xffff_fffe;

/// Sets them. `max_bytes` bounds the file, 0 is no bound; `max_value_bytes` a string, blob or row.
pub(super) fn apply(conn: &Connection, max_bytes: u64, max_value_bytes: u64) -> Result<()> {
    conn.execute_batch("PRAGMA cell_size_check=ON")?;
    if max_bytes > 0 {
        set_max_pages(conn, i64::try_from(max_bytes.div_ceil(PAGE_SIZE)).unwrap_or(MAX_PAGES))?;
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    // Query plans do not depend on bound values. Otherwise SQLite prepares a cached statement with a bound LIMIT or
    // range again for each execution, which costs more than running it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(max_value_bytes).unwrap_or(i32::MAX))?;
    conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_LENGTH)?;
    Ok(())
}

/// The limits that a connection had before they were lifted.
#[derive(Debug, Clone, Copy)]
pub struct Lifted {
    sql_length: i32,
    length: i32,
    pages: i64,
}

impl Lifted {
    /// Lifts the limits on statements, values and the file's size as far as SQLite allows.
    pub fn lift(conn: &Connection) -> Result<Self> {
        Ok(Self {
            sql_length: conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, i32::MAX)?,
            length: conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::MAX)?,
            pages: {
                let pages = conn.query_row("PRAGMA max_page_count", [], |row| row.get(0))?;
                set_max_pages(conn, MAX_PAGES)?;
                pages
            },
        })
    }

    /// Sets the limits as they were. A file that is larger by now cannot grow further.
    pub fn restore(self, conn: &Connection) -> Result<()> {
        conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, self.sql_length)?;
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, self.length)?;
        set_max_pages(conn, self.pages)
    }

    /// The longest statement when not lifted, in bytes.
    pub fn sql_length(&self) -> i32 {
        self.sql_length
    }
}

fn set_max_pages(conn: &Connection, pages: i64) -> Result<()> {
    Ok(conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()))?)
}
