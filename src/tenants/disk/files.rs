//! Creating, moving and removing a tenant's files. Callers have locked the tenant and closed every
//! connection: a file that is moved while open is written to under its new name.
//!
//! A database and its write-ahead log move by two renames, the log first, and a crash can come in between. Every
//! operation on a tenant's files therefore begins with [`undo_interrupted_move`], which moves the log back. No
//! rename here replaces a file that is not empty.

use std::{
    io::ErrorKind as Io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::path::{Layout, TenantPaths, detached_wal_of, shm_of, wal_of};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{
        flush::{already_exists, if_there, rename_new, sync_folder, write_unflushed},
        header,
    },
};

/// What [`create`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileCreation {
    /// The new file is in place.
    New,
    /// A file was there already; it was left untouched.
    Found,
}

/// In which of its two paths a tenant's database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// In neither.
    Nowhere,
    /// In the live path, where requests open it.
    Live,
    /// In the trash.
    Trash,
    /// In both: the live one is the tenant's, and an operator must look at the other.
    Both,
}

/// In which path a tenant's database is.
pub fn locate(paths: &TenantPaths) -> Result<Location> {
    Ok(match (length(&paths.live)?.is_some(), length(&paths.trashed)?.is_some()) {
        (false, false) => Location::Nowhere,
        (true, false) => Location::Live,
        (false, true) => Location::Trash,
        (true, true) => Location::Both,
    })
}

/// The write-ahead log that an interrupted move left in the other path than its database, if it is not empty.
pub fn wal_of_interrupted_move(paths: &TenantPaths) -> Result<Option<PathBuf>> {
    let away = match locate(paths)? {
        Location::Live => wal_of(&paths.trashed),
        Location::Trash => wal_of(&paths.live),
        Location::Nowhere | Location::Both => return Ok(None),
    };
    Ok(is_filled(&away)?.then_some(away))
}

/// Moves a write-ahead log back to its database after an interrupted move, and returns where the database is.
///
/// Only for a tenant that is deleted or has no row. An interrupted move leaves no other tenant so: there, a log in the
/// other path belongs to another database, and SQLite would replay it into this one.
///
/// # Errors
/// [`ErrorKind::Conflict`] if there is a log in both paths: only one of them belongs to the database.
pub fn undo_interrupted_move(paths: &TenantPaths) -> Result<Location> {
    let location = locate(paths)?;
    if let Some(away) = wal_of_interrupted_move(paths)? {
        let database = if location == Location::Live { &paths.live } else { &paths.trashed };
        let home = wal_of(database);
        if is_filled(&home)? {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "{} has two write-ahead logs, {} and {}; nothing was changed. Move the one that is not its own \
                     out of the data folder",
                    database.display(),
                    home.display(),
                    away.display()
                ),
            ));
        }
        rename_log(&away, &home)?;
        sync_folders(&away, &home)?;
        let file = database.display();
        tracing::warn!(%file, "undid an interrupted move: the write-ahead log is beside its database again");
    }
    Ok(location)
}

/// Sets a log aside that is in the trash under the name that the live database's log will have there.
pub fn set_detached_wal_aside(paths: &TenantPaths) -> Result<()> {
    let log = wal_of(&paths.trashed);
    if !is_filled(&log)? {
        return Ok(());
    }
    tracing::warn!(log = %log.display(), "a write-ahead log without its database was set aside");
    rename_new(&log, &detached_wal_of(&paths.trashed))?;
    sync_folder(log.parent().unwrap_or(&log))
}

/// Creates a file in the live path, atomically: it is written in `tmp/` and renamed without replacing anything. It is not
/// flushed: the caller records the creation in the log.
pub fn create(layout: &Layout, paths: &TenantPaths, content: &[u8]) -> Result<FileCreation> {
    let path = &paths.live;
    let found = || {
        // Its creation may have been interrupted before a flush.
        flush(path)?;
        Ok(FileCreation::Found)
    };
    match undo_interrupted_move(paths)? {
        Location::Live if is_unfinished(path, content.len())? => drop(remove(path)?),
        Location::Live | Location::Both => return found(),
        // An interrupted purge left a log, which SQLite would replay into the new file.
        Location::Nowhere if any_moved(paths)? => erase_moved(paths)?,
        Location::Nowhere | Location::Trash => {}
    }
    let tmp = layout.temporary();
    if let Err(error) = write_unflushed(&tmp, content) {
        // On a full disk this frees the space again.
        let _ = remove(&tmp);
        return Err(error);
    }
    if let Err(error) = rename_new(&tmp, path) {
        // Only the first error is reported; the next start removes the file in `tmp/`.
        let removed = remove(&tmp);
        return if error.kind() == ErrorKind::Conflict { removed.and_then(|_| found()) } else { Err(error) };
    }
    Ok(FileCreation::New)
}

/// Flushes a file that nobody has open, and its name.
pub(in crate::tenants) fn flush(path: &Path) -> Result<()> {
    if_there(path)?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Whether a file of a tenant without a row is what a power cut left of a creation that nobody was told of: no longer
/// than a new file, unfinished, with no write-ahead log.
fn is_unfinished(path: &Path, new: usize) -> Result<bool> {
    let bytes = length(path)?.unwrap_or_default();
    if bytes > new as u64 || is_filled(&wal_of(path))? || !header::is_unfinished(path, bytes)? {
        return Ok(false);
    }
    tracing::warn!(file = %path.display(), "an unfinished file of an interrupted creation is replaced");
    Ok(true)
}

/// Moves a database and its write-ahead log. A crash between the two renames is undone by
/// [`undo_interrupted_move`].
///
/// # Errors
/// [`ErrorKind::Conflict`] if there is a file at `to` already: nothing was moved.
pub fn relocate(from: &Path, to: &Path) -> Result<()> {
    if length(to)?.is_some() {
        return Err(already_exists(to));
    }
    rename_log(&wal_of(from), &wal_of(to))?;
    rename_new(from, to)?;
    // SQLite creates it again when the database is opened.
    remove(&shm_of(from))?;
    sync_folders(from, to)
}

/// Exchanges a file in `tmp/` with the one at `path`, which has no write-ahead log, or moves it there if there is none.
/// Returns whether there was one, which is then in `tmp/`.
pub fn swap_in(tmp: &Path, path: &Path) -> Result<bool> {
    remove_unless_filled(&wal_of(path))?;
    // Whoever read with a connection apart left one. SQLite creates it again when the database is opened.
    remove(&shm_of(path))?;
    let there = length(path)?.is_some();
    let failed = |e: rustix::io::Errno| Error::io(path.display(), e.into());
    let flags = if there { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    renameat_with(CWD, tmp, CWD, path, flags).map_err(failed)?;
    let Err(error) = sync_folder(path.parent().unwrap_or(path)) else { return Ok(there) };
    // Back: whoever discards what is in `tmp` after an error must not discard what was to be replaced.
    match there {
        true => renameat_with(CWD, tmp, CWD, path, flags),
        false => renameat_with(CWD, path, CWD, tmp, flags),
    }
    .map_err(failed)?;
    Err(error)
}

/// What a file is, whatever its name: its device and its number there; none if there is no file.
#[cfg(feature = "server")]
pub(in crate::tenants) fn identity(path: &Path) -> Result<Option<(u64, u64)>> {
    use std::os::unix::fs::MetadataExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(e) if e.kind() == Io::NotFound => Ok(None),
        Err(e) => Err(Error::io(path.display(), e)),
    }
}

/// Removes a tenant's files from all paths. A database is removed before its log: a crash in between leaves a log
/// that nothing replays, and not a database without its newest commits. With two databases, the one in the trash is
/// removed first and its log before it, or [`undo_interrupted_move`] would take that log for the live one's.
pub fn erase(paths: &TenantPaths) -> Result<()> {
    // Nothing is restored from them, so they go first.
    match std::fs::remove_dir_all(&paths.replaced) {
        Ok(()) => sync_folder(paths.replaced.parent().unwrap_or(&paths.replaced))?,
        Err(e) if e.kind() == Io::NotFound => {}
        Err(e) => return Err(Error::io(paths.replaced.display(), e)),
    }
    erase_moved(paths)
}

/// The same for the two paths between which a tenant's database moves.
fn erase_moved(paths: &TenantPaths) -> Result<()> {
    if locate(paths)? == Location::Both {
        remove(&wal_of(&paths.trashed))?;
        sync_folder(paths.trashed.parent().unwrap_or(&paths.trashed))?;
    }
    for path in [&paths.trashed, &paths.live] {
        let folder = path.parent().unwrap_or(path);
        remove(path)?;
        sync_folder(folder)?;
        if remove(&wal_of(path))? | remove(&shm_of(path))? | remove(&detached_wal_of(path))? {
            sync_folder(folder)?;
        }
    }
    Ok(())
}

/// Removes a copy or a new file with its log and shared-memory file, without a flush.
pub(in crate::tenants) fn discard(path: &Path) -> Result<()> {
    [path.to_owned(), wal_of(path), shm_of(path)].iter().try_for_each(|file| remove(file).map(drop))
}

/// Whether a tenant has a database or a write-ahead log that is not empty, in any path.
pub fn any_exist(paths: &TenantPaths) -> Result<bool> {
    Ok(length(&paths.replaced)?.is_some() || any_moved(paths)?)
}

fn any_moved(paths: &TenantPaths) -> Result<bool> {
    for path in [&paths.live, &paths.trashed] {
        if length(path)?.is_some() || is_filled(&wal_of(path))? || is_filled(&detached_wal_of(path))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Empties `tmp/`, which has only unfinished files. Called under the folder's lock.
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

/// Removes a file; returns whether there was one.
pub(in crate::tenants) fn remove(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == Io::NotFound => Ok(false),
        Err(e) => Err(Error::io(path.display(), e)),
    }
}

/// Removes a file if it is empty; a file that is not empty is an error.
pub(in crate::tenants) fn remove_unless_filled(path: &Path) -> Result<()> {
    match length(path)? {
        None => Ok(()),
        Some(0) => remove(path).map(drop),
        Some(_) => Err(already_exists(path)),
    }
}

/// The size of a file in bytes; `None` if there is none. A symbolic link is not followed. A file that cannot be
/// examined is an error, since it may exist.
pub(in crate::tenants) fn length(path: &Path) -> Result<Option<u64>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if e.kind() == Io::NotFound => Ok(None),
        Err(e) => Err(Error::io(path.display(), e)),
    }
}

/// Whether there is a file, and it is not empty.
pub(in crate::tenants) fn is_filled(path: &Path) -> Result<bool> {
    Ok(length(path)?.is_some_and(|bytes| bytes > 0))
}

/// Moves a write-ahead log, if there is one: an empty one is removed, and only an empty one is replaced.
fn rename_log(from: &Path, to: &Path) -> Result<()> {
    remove_unless_filled(to)?;
    match length(from)? {
        None => Ok(()),
        Some(0) => remove(from).map(drop),
        Some(_) => rename_new(from, to),
    }
}

fn sync_folders(one: &Path, other: &Path) -> Result<()> {
    [other.parent(), one.parent()].into_iter().flatten().try_for_each(sync_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No file, an empty one, a filled one.
    const CONTENTS: [Option<&str>; 3] = [None, Some(""), Some("filled")];

    fn names(paths: &TenantPaths) -> [PathBuf; 4] {
        [paths.live.clone(), wal_of(&paths.live), paths.trashed.clone(), wal_of(&paths.trashed)]
    }

    /// Makes every combination of the four files, each filled one with its own content.
    fn each_state(mut see: impl FnMut(&TenantPaths, [Option<String>; 4])) {
        let folder = tempfile::TempDir::new().unwrap();
        let layout = Layout::at(folder.path().to_owned());
        let paths = layout.paths(&"ada".parse().unwrap());
        for state in 0..81_usize {
            let _ = std::fs::remove_dir_all(layout.tenants());
            let _ = std::fs::remove_dir_all(layout.trash());
            std::fs::create_dir_all(paths.live.parent().unwrap()).unwrap();
            std::fs::create_dir_all(layout.trash()).unwrap();
            let made: [Option<String>; 4] = std::array::from_fn(|nth| {
                let content = CONTENTS[state / 3_usize.pow(u32::try_from(nth).unwrap()) % 3]?;
                Some(if content.is_empty() { String::new() } else { format!("{content} {nth}") })
            });
            for (path, content) in names(&paths).iter().zip(&made) {
                content.iter().for_each(|content| std::fs::write(path, content).unwrap());
            }
            see(&paths, made);
        }
    }

    fn filled(paths: &TenantPaths) -> Vec<String> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).ok().filter(|text| !text.is_empty());
        let mut texts: Vec<String> = names(paths).iter().filter_map(read).collect();
        texts.sort();
        texts
    }

    #[test]
    fn moving_and_undoing_it_lose_no_file_that_is_not_empty() {
        each_state(|paths, made| {
            let before = filled(paths);
            let undone = undo_interrupted_move(paths);
            assert_eq!(filled(paths), before, "undone: {made:?}");
            // The database is what is moved: a name without content counts as one, too.
            let _ = relocate(&paths.live, &paths.trashed);
            assert_eq!(filled(paths), before, "to the trash: {made:?}");
            let _ = undo_interrupted_move(paths);
            let _ = relocate(&paths.trashed, &paths.live);
            assert_eq!(filled(paths), before, "back: {made:?}");
            if undone.is_ok() {
                assert_eq!(wal_of_interrupted_move(paths).unwrap(), None, "{made:?}");
            }
        });
    }

    #[test]
    fn erasing_leaves_nothing() {
        each_state(|paths, made| {
            erase(paths).unwrap();
            assert!(names(paths).iter().all(|path| !path.exists()), "{made:?}");
        });
    }
}
