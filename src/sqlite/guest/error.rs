//! What a guest is told of an error, and what it means for the connection.

use rusqlite::ffi;

use super::model::{SqlError, shorten};
use crate::error::{Error, ErrorKind, classify};

/// What was true when a statement failed.
pub(super) struct Circumstances {
    /// More memory was asked for than the budget has.
    pub out_of_budget: bool,
    /// SQLite has rolled back the transaction that the statement ran in.
    pub rolled_back: bool,
}

/// The guest's error for one of SQLite's.
pub(super) fn translate(error: rusqlite::Error, circumstances: &Circumstances) -> SqlError {
    let extended = error.sqlite_error().map_or(ffi::SQLITE_ERROR, |error| error.extended_code);
    let base = extended & 0xff;
    let no_memory = circumstances.out_of_budget || base == ffi::SQLITE_NOMEM;
    let (kind, message) = match base {
        _ if circumstances.out_of_budget => {
            (Some(ErrorKind::TooLarge), "the statement needs more memory than is allowed".to_owned())
        }
        ffi::SQLITE_NOMEM => (Some(ErrorKind::TooLarge), "the statement is too large to be compiled".to_owned()),
        ffi::SQLITE_INTERRUPT => (Some(ErrorKind::Timeout), "the statement took too long and was stopped".to_owned()),
        ffi::SQLITE_TOOBIG => (Some(ErrorKind::TooLarge), "a string, blob or row is longer than is allowed".to_owned()),
        _ => (None, shorten(message_of(&error))),
    };
    let code = if no_memory { "SQLITE_NOMEM" } else { name_of(base) };
    let (house, _) = classify(&error);
    let storage = match extended {
        _ if no_memory => false,
        // Something that only reads, and a virtual table that contradicts its content: the statement's fault.
        ffi::SQLITE_READONLY | ffi::SQLITE_CORRUPT_VTAB => false,
        _ => matches!(house, ErrorKind::Unavailable | ErrorKind::Damaged),
    };
    let fatal = if storage {
        Some(Error::from(error))
    } else if circumstances.rolled_back || base == ffi::SQLITE_INTERRUPT {
        let kind = kind.unwrap_or(if house == ErrorKind::DiskFull { house } else { ErrorKind::Conflict });
        Some(Error::new(kind, message.clone()).with_source(error))
    } else {
        None
    };
    let message = match &fatal {
        // Not what SQLite says of files.
        Some(error) if storage => error.message().to_owned(),
        _ => message,
    };
    SqlError { message, code, fatal }
}

/// An error as SQLite would report it.
pub(super) fn failure(code: std::ffi::c_int, message: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(message.to_owned()))
}

fn message_of(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqliteFailure(code, None) => code.to_string(),
        // Without the whole text, which the caller has.
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::MultipleStatement => "there is more than one statement; send each by itself".to_owned(),
        error => error.to_string(),
    }
}

/// The name of a base code (<https://sqlite.org/rescode.html>).
fn name_of(base: std::ffi::c_int) -> &'static str {
    match base {
        ffi::SQLITE_INTERNAL => "SQLITE_INTERNAL",
        ffi::SQLITE_PERM => "SQLITE_PERM",
        ffi::SQLITE_ABORT => "SQLITE_ABORT",
        ffi::SQLITE_BUSY => "SQLITE_BUSY",
        ffi::SQLITE_LOCKED => "SQLITE_LOCKED",
        ffi::SQLITE_NOMEM => "SQLITE_NOMEM",
        ffi::SQLITE_READONLY => "SQLITE_READONLY",
        ffi::SQLITE_INTERRUPT => "SQLITE_INTERRUPT",
        ffi::SQLITE_IOERR => "SQLITE_IOERR",
        ffi::SQLITE_CORRUPT => "SQLITE_CORRUPT",
        ffi::SQLITE_NOTFOUND => "SQLITE_NOTFOUND",
        ffi::SQLITE_FULL => "SQLITE_FULL",
        ffi::SQLITE_CANTOPEN => "SQLITE_CANTOPEN",
        ffi::SQLITE_PROTOCOL => "SQLITE_PROTOCOL",
        ffi::SQLITE_SCHEMA => "SQLITE_SCHEMA",
        ffi::SQLITE_TOOBIG => "SQLITE_TOOBIG",
        ffi::SQLITE_CONSTRAINT => "SQLITE_CONSTRAINT",
        ffi::SQLITE_MISMATCH => "SQLITE_MISMATCH",
        ffi::SQLITE_MISUSE => "SQLITE_MISUSE",
        ffi::SQLITE_AUTH => "SQLITE_AUTH",
        ffi::SQLITE_RANGE => "SQLITE_RANGE",
        ffi::SQLITE_NOTADB => "SQLITE_NOTADB",
        _ => "SQLITE_ERROR",
    }
}
