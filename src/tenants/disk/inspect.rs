//! Reading a tenant's file without serving or changing it.

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
    },
    tenants::id::TenantId,
};

/// What a file has about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// When it was made.
    pub created: Millis,
    /// The version of its schema.
    pub schema: i32,
}

/// Reads the [`FileInfo`] of a file that nobody has open, without changing it.
///
/// # Errors
/// [`ErrorKind::Damaged`] if it is not a tenant's file.
pub fn inspect(path: &Path) -> Result<FileInfo> {
    let damaged = |why: String| Error::new(ErrorKind::Damaged, why);
    let found = std::fs::symlink_metadata(path).map_err(|e| Error::io(path.display(), e))?;
    if !found.is_file() || found.len() == 0 {
        return Err(damaged(if found.is_file() { "it is empty" } else { "it is no plain file" }.to_owned()));
    }
    let info = read_file(path, |conn| {
        let meta = template::meta(conn)?;
        let tenant = TenantId::parse(meta.tenant.as_bytes())
            .map_err(|e| damaged(format!("the id inside, {:?}, is not valid: {e}", meta.tenant)))?;
        Ok(FileInfo { tenant, created: meta.created, schema: migrate::user_version(conn)? })
    });
    info.map_err(|error| match error.kind() {
        ErrorKind::Internal => damaged("it does not say which tenant it belongs to".to_owned()).with_source(error),
        _ => error,
    })
}

/// Opens a file that nobody else has open for `work`, without changing it: without a checkpoint, and the empty
/// write-ahead log that opening creates is removed.
pub(in crate::tenants) fn read_file<T>(path: &Path, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    read_within(path, &Deadline::none(), work)
}

/// Checks a file for damage for at most `limit`. `false` if that was not enough for all of it.
pub(in crate::tenants) fn check(path: &Path, limit: Duration) -> Result<bool> {
    let deadline = Deadline::none();
    read_within(path, &deadline, |conn| check::quick_check(conn, &deadline, limit))
}

/// The same within a time.
pub(in crate::tenants) fn read_within<T>(
    path: &Path,
    deadline: &Deadline,
    work: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    let conn = match open::open(path, &options(), deadline) {
        Ok(conn) => conn,
        Err(error) => {
            // Only the first error is reported.
            let _ = remove_empty_log(path);
            return Err(error);
        }
    };
    let result = work(&conn);
    open::abandon(conn);
    remove_empty_log(path)?;
    result
}

/// Checkpoints a database that nobody else has open, so that the file alone has all of it.
pub(in crate::tenants) fn merge_log(path: &Path) -> Result<()> {
    if files::is_filled(&wal_of(path))? {
        open::close(open::open(path, &options(), &Deadline::none())?)?;
    }
    remove_empty_log(path)
}

fn remove_empty_log(path: &Path) -> Result<()> {
    let log = wal_of(path);
    match files::length(&log)? {
        Some(0) => files::remove(&log).map(drop),
        _ => Ok(()),
    }
}

/// The options for a file that nobody else has open.
pub(in crate::tenants) fn options() -> Options {
    Options { locking: Locking::Exclusive, application_ids: &[APPLICATION_ID], ..Options::default() }
}
