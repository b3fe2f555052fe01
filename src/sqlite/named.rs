//! Whether the files that a database has open still have their names.
//!
//! SQLite goes on writing to a file that was removed or moved, and reports success: the next open does not find
//! those commits. A WAL or a shared-memory file that was replaced is as bad: the next connection reads another WAL,
//! or does not see the other connections' locks.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::wal::{shm_of, wal_of};
use crate::error::{Error, Result};

/// The files of a database in shared mode, as they were when it was opened: the database, its WAL and its
/// shared memory. SQLite creates each once and keeps it while the database is open; see
/// [`open`](super::open).
pub struct NamedFiles([(PathBuf, FileId); 3]);

/// Device and inode.
type FileId = (u64, u64);

impl NamedFiles {
    /// Records the files. A connection must have them open already.
    pub fn record(database: &Path) -> Result<Self> {
        let record = |path: PathBuf| -> Result<_> {
            let id = file_id(&path).map_err(|e| Error::io(path.display(), e))?;
            Ok((path, id))
        };
        Ok(Self([record(database.to_owned())?, record(wal_of(database))?, record(shm_of(database))?]))
    }

    /// Fails if a name now belongs to another file or to none; the error names it. Costs three `lstat`s, some
    /// microseconds.
    pub fn check(&self) -> Result<(), std::io::Error> {
        self.0.iter().try_for_each(|(path, known)| match file_id(path) {
            Ok(found) if found == *known => Ok(()),
            Ok(_) => Err(std::io::Error::other(format!("{} is another file than was opened", path.display()))),
            Err(error) => Err(std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        })
    }
}

fn file_id(path: &Path) -> std::io::Result<FileId> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}
