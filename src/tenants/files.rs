//! Placing, moving and removing a tenant's files. Callers hold the tenant's gate and have closed
//! every connection: a file that is moved while open is written to under its new name.

use std::{
    io::ErrorKind as Io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::path::{Layout, shm_of, wal_of};
use crate::{
    error::{Error, Result},
    sqlite::flush::{sync_folder, write_new},
};

/// What [`place`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// The new file is in place.
    New,
    /// A file was there already; it was left untouched.
    Found,
}

/// Puts a new file in place, whole and durable or not at all: written and flushed in `tmp/`,
/// renamed without replacing anything, the folder flushed.
pub fn place(layout: &Layout, path: &Path, content: &[u8]) -> Result<Placed> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(path);
    let found = || {
        // Whoever put it there may have been stopped before this.
        sync_folder(folder)?;
        Ok(Placed::Found)
    };
    if path.exists() {
        return found();
    }
    let tmp = layout.tmp().join(format!("{}.db", NEXT.fetch_add(1, Ordering::Relaxed)));
    if let Err(error) = write_new(&tmp, content) {
        // On a full disk this is what makes room again.
        let _ = remove(&tmp);
        return Err(error);
    }
    match renameat_with(CWD, &tmp, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {
            remove(&tmp)?;
            return found();
        }
        Err(error) => {
            // The first error is the one to tell; the file in `tmp/` goes at the next start.
            let _ = remove(&tmp);
            return Err(Error::io(path.display(), error.into()));
        }
    }
    sync_folder(folder)?;
    Ok(Placed::New)
}

/// Moves a database and what belongs to it. The WAL goes first: a database that arrives without
/// its WAL would lose what was not yet copied from it, and one that is left behind without it is
/// found again by the next call. Repeating a move that was interrupted completes it.
pub fn relocate(from: &Path, to: &Path) -> Result<()> {
    for (from, to) in [(wal_of(from), wal_of(to)), (from.to_owned(), to.to_owned())] {
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(e) if e.kind() == Io::NotFound => {}
            Err(e) => return Err(Error::io(from.display(), e)),
        }
    }
    // Made anew by whoever opens the database.
    remove(&shm_of(from))?;
    for folder in [to.parent(), from.parent()].into_iter().flatten() {
        sync_folder(folder)?;
    }
    Ok(())
}

/// Brings the WAL back to a database that an interrupted move left behind without it.
pub fn rejoin(away: &Path, database: &Path) -> Result<()> {
    let (from, to) = (wal_of(away), wal_of(database));
    let empty = std::fs::metadata(&to).map_or(true, |found| found.len() == 0);
    if !empty || !from.exists() {
        return Ok(());
    }
    std::fs::rename(&from, &to).map_err(|e| Error::io(from.display(), e))?;
    for folder in [to.parent(), from.parent()].into_iter().flatten() {
        sync_folder(folder)?;
    }
    Ok(())
}

/// Removes a database and what belongs to it.
pub fn erase(path: &Path) -> Result<()> {
    for file in [path.to_owned(), wal_of(path), shm_of(path)] {
        remove(&file)?;
    }
    sync_folder(path.parent().unwrap_or(path))
}

/// Empties `tmp/`: what is there was never finished. Called under the folder's lock.
pub fn sweep_tmp(layout: &Layout) -> Result<()> {
    let failed = |e| Error::io(layout.tmp().display(), e);
    for entry in std::fs::read_dir(layout.tmp()).map_err(failed)? {
        let path: PathBuf = entry.map_err(failed)?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).map_err(|e| Error::io(path.display(), e))?;
        } else {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes one file, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != Io::NotFound => Err(Error::io(path.display(), e)),
        _ => Ok(()),
    }
}
