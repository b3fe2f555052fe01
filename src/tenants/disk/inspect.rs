//! Looking at a tenant's file without serving or changing it.

use std::{path::Path, time::Duration};

use rusqlite::Connection;

use super::{
    files,
    path::wal_of,
    template::{self, APPLICATION_ID},
};
use crate::{
    clock::Millis,
    error::{Error, ErrorKind, Result},
    sqlite::{
        check,
        deadline::Deadline,
        migrate,
        open::{self, Locking, Options},
        wal,
    },
    tenants::id::TenantId,
};

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Whose it is.
    pub tenant: TenantId,
    /// When it was made.
    pub created: Millis,
    /// The schema it is at.
    pub schema: i32,
}

/// Opens a file of which nobody else has it open, reads its card and leaves it as it was.
///
/// # Errors
/// [`ErrorKind::Damaged`] if it is no file of a tenant.
pub fn inspect(path: &Path) -> Result<Card> {
    let damaged = |why: String| Error::new(ErrorKind::Damaged, why);
    let found = std::fs::symlink_metadata(path).map_err(|e| Error::io(path.display(), e))?;
    if !found.is_file() || found.len() == 0 {
        return Err(damaged(if found.is_file() { "it is empty" } else { "it is no plain file" }.to_owned()));
    }
    let card = look(path, |conn| {
        let meta = template::meta(conn)?;
        let tenant = TenantId::parse(meta.tenant.as_bytes())
            .map_err(|e| damaged(format!("the id inside, {:?}, is none: {e}", meta.tenant)))?;
        Ok(Card { tenant, created: meta.created, schema: migrate::user_version(conn)? })
    });
    card.map_err(|error| match error.kind() {
        ErrorKind::Internal => damaged("it does not say whose it is".to_owned()).with_source(error),
        _ => error,
    })
}

/// Opens a file that nobody else has open for `work`, and leaves it as it was found: without a
/// checkpoint, and without the empty write-ahead log that opening makes.
pub(in crate::tenants) fn look<T>(path: &Path, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    look_within(path, &Deadline::none(), work)
}

/// Looks for damage in a file for at most `limit`. `false` if there was more to look at.
pub(in crate::tenants) fn check(path: &Path, limit: Duration) -> Result<bool> {
    let deadline = Deadline::none();
    look_within(path, &deadline, |conn| check::quick_check(conn, &deadline, limit))
}

fn look_within<T>(path: &Path, deadline: &Deadline, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let conn = match open::open(path, &options(), deadline) {
        Ok(conn) => conn,
        Err(error) => {
            // The first error is the one to tell.
            let _ = remove_empty_log(path);
            return Err(error);
        }
    };
    let result = work(&conn);
    open::abandon(conn);
    remove_empty_log(path)?;
    result
}

/// Copies a database's write-ahead log into it, so that the file alone is all of it. Nobody else has it
/// open.
pub(in crate::tenants) fn merge_log(path: &Path) -> Result<()> {
    match files::length(&wal_of(path))? {
        None => return Ok(()),
        Some(0) => return remove_empty_log(path),
        Some(_) => {}
    }
    let conn = open::open(path, &options(), &Deadline::none())?;
    if let Err(error) = wal::checkpoint(&conn) {
        open::abandon(conn);
        return Err(error);
    }
    conn.close().map_err(|(_, error)| error)?;
    remove_empty_log(path)
}

fn remove_empty_log(path: &Path) -> Result<()> {
    let log = wal_of(path);
    match files::length(&log)? {
        Some(0) => files::remove(&log).map(drop),
        _ => Ok(()),
    }
}

/// How a file is opened by whoever has it for themselves.
pub(in crate::tenants) fn options() -> Options {
    Options { locking: Locking::Exclusive, application_id: APPLICATION_ID, ..Options::default() }
}
