//! The migrations that a file has had, and the difference to those of a schema.

use std::fmt;

use rusqlite::Connection;

use super::form::Form;
use crate::error::Result;

/// One migration, as a file's history and the catalog record it.
#[derive(Debug, Clone, Eq)]
pub struct Step {
    /// Its version.
    pub version: i32,
    /// Its name, without the version; with a mark for its form, if it is not [`Form::Numbered`].
    pub name: String,
    /// refinery's checksum of version, name and SQL.
    pub checksum: u64,
    /// What its folder calls it, if that is another name. Not compared.
    pub file: Option<String>,
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        (self.version, &self.name, self.checksum) == (other.version, &other.name, other.checksum)
    }
}

impl Step {
    /// Reads one from the columns version, name and checksum.
    pub fn from_row(row: &rusqlite::Row) -> rusqlite::Result<Self> {
        let checksum: String = row.get(2)?;
        let checksum = checksum.parse().map_err(|e: std::num::ParseIntError| unreadable(2, e.into()))?;
        Ok(Self { version: row.get(0)?, name: row.get(1)?, checksum, file: None })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, Form::of(&self.name)) {
            (Some(file), _) => f.write_str(file),
            (None, (Form::Numbered, name)) => write!(f, "V{}__{name}", self.version),
            (None, (_, name)) => f.write_str(name),
        }
    }
}

/// Why a schema does not continue a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The schema has none of the migrations that ran; this was the first.
    Other(Step),
    /// The schema ends before this one, the newest that ran.
    Older(Step),
    /// This one ran, and the schema does not have it.
    Missing(Step),
    /// This one ran, and was edited afterwards.
    Edited(Step),
    /// `late` has not run, and its version is lower than that of `newest`, which has.
    Late {
        /// The one that has not run.
        late: Step,
        /// The newest that has.
        newest: Step,
    },
    /// All that ran are there, and this one at another place in their order.
    Moved(Step),
}

/// The schema version in a file's header.
pub fn user_version(conn: &Connection) -> Result<i32> {
    Ok(conn.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// The migrations that a file has had, from its history table.
pub fn history(conn: &Connection) -> Result<Vec<Step>> {
    let sql = "SELECT version, name, checksum FROM refinery_schema_history ORDER BY version";
    let steps = conn.prepare(sql)?.query_map([], Step::from_row)?.collect::<rusqlite::Result<_>>()?;
    Ok(steps)
}

/// The error for a value that cannot be parsed.
pub(super) fn unreadable(column: usize, error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error)
}
