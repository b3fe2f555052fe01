//! Whether the files that a database has open are still the ones that have its name.
//!
//! SQLite goes on writing to a file that was removed or moved, and reports success: what it commits is
//! then found by nobody. A log or a shared-memory file that was replaced is as bad, since whoever opens
//! the database next would read another log, or not see the others' locks.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// The files of a database in shared mode, as they were when it was opened: itself, its log and its
/// shared memory. SQLite makes each once and keeps it while the database is open; see
/// [`open`](super::open).
pub struct Named([(PathBuf, File); 3]);

/// A file, whatever its name.
type File = (u64, u64);

impl Named {
    /// Takes note of the files as they are. Some connection must have them open already.
    pub fn note(database: &Path) -> Result<Self> {
        let with = |suffix: &str| -> Result<(PathBuf, File)> {
            let mut path = database.as_os_str().to_owned();
            path.push(suffix);
            let path = PathBuf::from(path);
            let file = file(&path).map_err(|e| Error::io(path.display(), e))?;
            Ok((path, file))
        };
        Ok(Self([with("")?, with("-wal")?, with("-shm")?]))
    }

    /// Fails if a name now belongs to another file or to none, and says which. Costs three looks at names,
    /// some microseconds.
    pub fn check(&self) -> Result<(), std::io::Error> {
        self.0.iter().try_for_each(|(path, known)| match file(path) {
            Ok(found) if found == *known => Ok(()),
            Ok(_) => Err(std::io::Error::other(format!("{} is another file than was opened", path.display()))),
            Err(error) => Err(std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        })
    }
}

fn file(path: &Path) -> std::io::Result<File> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}
