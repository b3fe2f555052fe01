//! Keeps reads from writing, at the price of two writes to a thread's own memory.
//!
//! A connection that also writes cannot be opened for reading only, and `PRAGMA query_only` before and
//! after each read would cost as much as a short one. So every connection has a hook that is asked before
//! each commit, and while this thread reads it says no: SQLite then takes the transaction back and
//! reports it. This holds for statements outside a transaction, for a `COMMIT`, for changes of the schema
//! and for temporary tables, which would outlive the read.

use std::cell::Cell;

use rusqlite::{Connection, ffi};

use super::combine::{breaks, guarded, lost};
use crate::error::{Error, Result};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    No,
    Yes,
    /// Something was to be committed meanwhile.
    Refused,
}

thread_local! {
    /// SQLite calls the hook on the committing thread.
    static READING: Cell<Reading> = const { Cell::new(Reading::No) };
}

/// Makes `conn` refuse to commit what a read has written.
pub(super) fn watch(conn: &Connection) -> Result<()> {
    let refuses = || match READING.get() {
        Reading::No => false,
        Reading::Yes | Reading::Refused => {
            READING.set(Reading::Refused);
            true
        }
    };
    Ok(conn.commit_hook(Some(refuses))?)
}

/// Runs a read. A panic in it is its own error. A transaction that it left open is ended.
///
/// # Errors
/// What `work` returned; or one that says so if it tried to write, whatever it returned then.
pub fn read<T>(conn: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let before = READING.replace(Reading::Yes);
    let result = guarded(|| work(conn));
    let mut wrote = READING.replace(before) == Reading::Refused;
    if !conn.is_autocommit() {
        // SAFETY: the handle is live for the length of the call; null asks for all its databases.
        let state = unsafe { ffi::sqlite3_txn_state(conn.handle(), std::ptr::null()) };
        wrote |= state == ffi::SQLITE_TXN_WRITE;
        // A connection on which this fails is not used again.
        conn.execute_batch("ROLLBACK").map_err(|e| lost().with_source(e))?;
    }
    match result {
        // What else broke is the graver news.
        Err(error) if is_refusal(&error) || (wrote && !breaks(&error)) => Err(refused().with_source(error)),
        Ok(_) if wrote => Err(refused()),
        result => result,
    }
}

fn refused() -> Error {
    Error::internal("a read tried to write; nothing was written. Use Tenant::write for what changes the database")
}

/// By the hook, or by `query_only`.
fn is_refusal(error: &Error) -> bool {
    let code = error.sqlite().and_then(rusqlite::Error::sqlite_error).map(|e| e.extended_code);
    matches!(code, Some(ffi::SQLITE_CONSTRAINT_COMMITHOOK | ffi::SQLITE_READONLY))
}
