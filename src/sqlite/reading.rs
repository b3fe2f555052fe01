//! Keeps reads from writing, at the cost of two writes to a thread-local.
//!
//! A connection that also writes cannot be opened read-only, and `PRAGMA query_only` before and
//! after each read would cost as much as a short one. So every connection has a commit hook, and while this thread
//! reads, the hook refuses: SQLite rolls the transaction back and reports it. This holds for statements outside a
//! transaction, for `COMMIT`, for schema changes, and for temporary tables, which would outlive the read.

use std::cell::Cell;

use rusqlite::{Connection, ffi};

use super::failure::{breaks_connection, catch_panic, outcome_unknown};
use crate::error::{Error, Result};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    No,
    Yes,
    /// The hook refused a commit.
    Refused,
}

thread_local! {
    /// SQLite calls the hook on the committing thread.
    static READING: Cell<Reading> = const { Cell::new(Reading::No) };
}

/// Makes `conn` refuse to commit while this thread reads.
pub(super) fn install_commit_hook(conn: &Connection) -> Result<()> {
    let refuses = || match READING.get() {
        Reading::No => false,
        Reading::Yes | Reading::Refused => {
            READING.set(Reading::Refused);
            true
        }
    };
    Ok(conn.commit_hook(Some(refuses))?)
}

/// Runs a read. A panic in it becomes its error. A transaction that it left open is rolled back.
///
/// # Errors
/// What `work` returned; if it tried to write, an error that says so instead.
pub fn read<T>(conn: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let before = READING.replace(Reading::Yes);
    let result = catch_panic(|| work(conn));
    let mut wrote = READING.replace(before) == Reading::Refused;
    if !conn.is_autocommit() {
        // SAFETY: the handle is live for the length of the call; null stands for all its databases.
        let state = unsafe { ffi::sqlite3_txn_state(conn.handle(), std::ptr::null()) };
        wrote |= state == ffi::SQLITE_TXN_WRITE;
        // A connection on which this fails is not used again.
        conn.execute_batch("ROLLBACK").map_err(|e| outcome_unknown().with_source(e))?;
    }
    match result {
        // An error that breaks the connection is reported before the attempt to write.
        Err(error) if is_refusal(&error) || (wrote && !breaks_connection(&error)) => Err(refused().with_source(error)),
        Ok(_) if wrote => Err(refused()),
        result => result,
    }
}

/// Begins a transaction whose reads all see what is committed now.
pub fn begin_snapshot(conn: &Connection) -> Result<()> {
    conn.execute_batch("BEGIN")?;
    // A deferred transaction has its snapshot from its first read on.
    let begun = conn.query_row("SELECT count(*) FROM (SELECT 1 FROM sqlite_schema LIMIT 1)", [], |_| Ok(()));
    begun.or_else(|error| end_snapshot(conn).and(Err(error.into())))
}

/// Runs `work` in the transaction of [`begin_snapshot`], which goes on. A panic in it becomes its error.
pub fn within_snapshot<T>(conn: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let before = READING.replace(Reading::Yes);
    let result = catch_panic(|| work(conn));
    match READING.replace(before) == Reading::Refused {
        true => Err(result.err().map_or_else(refused, |error| refused().with_source(error))),
        false => result,
    }
}

/// Ends the transaction of [`begin_snapshot`].
pub fn end_snapshot(conn: &Connection) -> Result<()> {
    if conn.is_autocommit() { Ok(()) } else { Ok(conn.execute_batch("ROLLBACK")?) }
}

fn refused() -> Error {
    Error::internal("a read tried to write; nothing was written. Use Tenant::write for what changes the database")
}

/// Whether the hook or `query_only` refused a write.
fn is_refusal(error: &Error) -> bool {
    let code = error.sqlite().and_then(rusqlite::Error::sqlite_error).map(|e| e.extended_code);
    matches!(code, Some(ffi::SQLITE_CONSTRAINT_COMMITHOOK | ffi::SQLITE_READONLY))
}
