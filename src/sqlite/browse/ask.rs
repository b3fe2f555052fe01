//! Asking a database as a guest who may only read.

use rusqlite::Connection;

use crate::{
    error::{ErrorKind, Result},
    sqlite::guest::{Column, Guest, Rules, Sink, SqlError, Statement, Value, ValueRef, guard},
};

/// The code of the error by which a sink ends an answer that it has enough of.
const ENOUGH: &str = "ENOUGH";

/// Runs `work` with a guest who may only read, and who sees one moment.
///
/// # Errors
/// The storage's. Those of the statements, and that they take more time or memory than they may, are in the value.
pub fn look<T>(
    conn: &Connection,
    rules: &Rules,
    work: impl FnOnce(&Guest<'_>) -> Result<T, SqlError>,
) -> Result<Result<T, SqlError>> {
    let _moment = conn.unchecked_transaction()?;
    let rules = Rules { read_only: true, ddl: false, temp: false, ..rules.clone() };
    match guard(conn, &rules, work)? {
        Err(error) => match &error.fatal {
            Some(fatal) if !matches!(fatal.kind(), ErrorKind::Timeout | ErrorKind::TooLarge) => Err(fatal.clone()),
            _ => Ok(Err(error)),
        },
        Ok(done) => Ok(Ok(done)),
    }
}

/// A [`Sink`] that gives each row to a function.
pub(super) struct Each<F>(pub F);

impl<F: FnMut(&[ValueRef<'_>]) -> Result<(), SqlError>> Sink for Each<F> {
    fn columns(&mut self, _: &[Column]) -> Result<(), SqlError> {
        Ok(())
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> Result<(), SqlError> {
        (self.0)(values)
    }
}

/// What a sink returns when it has enough.
pub(super) fn enough() -> SqlError {
    SqlError::new(ENOUGH, "there are more rows than are wanted")
}

/// Runs a statement; whether the sink took all of the answer.
pub(super) fn run(guest: &Guest<'_>, statement: &Statement<'_>, sink: &mut dyn Sink) -> Result<bool, SqlError> {
    match guest.execute(statement, sink) {
        Ok(_) => Ok(true),
        Err(error) if error.code == ENOUGH => Ok(false),
        Err(error) => Err(error),
    }
}

/// What `read` makes of the rows of an answer.
pub(super) fn all<T>(
    guest: &Guest<'_>,
    sql: &str,
    arguments: Vec<Value>,
    mut read: impl FnMut(&[ValueRef<'_>]) -> T,
) -> Result<Vec<T>, SqlError> {
    let mut found = Vec::new();
    let statement = Statement { positional: arguments, ..Statement::new(sql) };
    run(
        guest,
        &statement,
        &mut Each(|values: &[ValueRef<'_>]| {
            found.push(read(values));
            Ok(())
        }),
    )?;
    Ok(found)
}

/// A text of an answer; empty for anything else.
pub(super) fn text(value: ValueRef<'_>) -> String {
    optional(value).unwrap_or_default()
}

/// A text of an answer; none for anything else.
pub(super) fn optional(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}

/// A number of an answer; 0 for anything else.
pub(super) fn number(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Integer(number) => number,
        _ => 0,
    }
}
