//! The files of the old catalog, and how they are moved away.
//!
//! A catalog is two files, and no rename moves both. Without its log the old catalog would be an older one in good order,
//! and SQLite would replay the log into a new one. So a placeholder has the name in between: a symbolic link to nothing,
//! which no program opens. Its target says where the old catalog is, for a rebuild that continues after a crash.

use std::{
    io::ErrorKind as Io,
    os::unix::fs::symlink,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::flush,
    tenants::disk::path::{Layout, shm_of, wal_of},
};

/// The end of the placeholder's target. It is a path below a file, which cannot exist.
const UNFINISHED: &str = "rebuild-unfinished";

const PREFIX: &str = "catalog-";
const SUFFIX: &str = ".lost";

/// The files of the old catalog.
#[derive(Debug)]
pub struct Old {
    file: Option<PathBuf>,
    log: Option<PathBuf>,
    /// Where an interrupted rebuild moved it; the placeholder has its name.
    aside: Option<PathBuf>,
}

impl Old {
    /// Finds them, and changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if one is not a regular file: a link may lead to the catalog.
    pub fn find(layout: &Layout) -> Result<Self> {
        let catalog = layout.catalog();
        let log = plain(&wal_of(&catalog))?;
        let Some(aside) = placeholder(&catalog)? else {
            return Ok(Self { file: plain(&catalog)?, log, aside: None });
        };
        let aside = layout.root().join(aside);
        let log = match (log, plain(&wal_of(&aside))?) {
            (Some(one), Some(other)) => {
                let why = format!(
                    "an interrupted rebuild left two logs of the old catalog, {} and {}; move the one that is not \
                     its own out of the data folder. Nothing was changed",
                    one.display(),
                    other.display()
                );
                return Err(Error::config(why));
            }
            (one, other) => one.or(other),
        };
        Ok(Self { file: plain(&aside)?, log, aside: Some(aside) })
    }

    /// Copies the catalog and its log. `false` if there is no catalog; a log alone is not readable.
    pub fn copy_to(&self, copy: &Path) -> Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        for (from, to) in [(Some(file), copy.to_owned()), (self.log.as_ref(), wal_of(copy))] {
            if let Some(from) = from {
                std::fs::copy(from, to).map_err(|e| Error::io(from.display(), e))?;
            }
        }
        Ok(true)
    }

    /// Moves both files to another name, and leaves the placeholder under the catalog's. Returns the new name, if there
    /// are any files. Calls `changed` after each change of the data folder.
    pub fn move_away(&self, layout: &Layout, changed: &mut impl FnMut()) -> Result<Option<PathBuf>> {
        let (catalog, log) = (layout.catalog(), wal_of(&layout.catalog()));
        let aside = match &self.aside {
            Some(aside) => aside.clone(),
            None => self.put_placeholder(layout, changed)?,
        };
        if self.log.as_ref() == Some(&log) {
            flush::rename_new(&log, &wal_of(&aside))?;
            changed();
        }
        // SQLite makes it again from the log.
        remove(&shm_of(&catalog))?;
        flush::sync_folder(layout.root())?;
        changed();
        Ok((self.file.is_some() || self.log.is_some()).then_some(aside))
    }

    /// Exchanges the file and the placeholder in one rename.
    fn put_placeholder(&self, layout: &Layout, changed: &mut impl FnMut()) -> Result<PathBuf> {
        remove_unused_placeholders(layout)?;
        let (catalog, name) = (layout.catalog(), free_name(layout)?);
        let (aside, target) = (layout.root().join(&name), Path::new(&name).join(UNFINISHED));
        let first = if self.file.is_some() { &aside } else { &catalog };
        symlink(&target, first).map_err(|e| Error::io(first.display(), e))?;
        changed();
        if self.file.is_some()
            && let Err(error) = renameat_with(CWD, &aside, CWD, &catalog, RenameFlags::EXCHANGE)
        {
            // The first error is returned; the next rebuild removes the link.
            let _ = remove(&aside);
            return Err(Error::io(catalog.display(), error.into()));
        }
        // Before the log moves.
        flush::sync_folder(layout.root())?;
        changed();
        Ok(aside)
    }
}

/// The file of this name, if there is one.
fn plain(path: &Path) -> Result<Option<PathBuf>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(path.to_owned())),
        Ok(_) => Err(Error::config(format!(
            "{} is no plain file, so the old catalog cannot be read. Put the file itself there, or move it away to \
             rebuild the catalog from users' files alone. Nothing was changed",
            path.display()
        ))),
        Err(error) if error.kind() == Io::NotFound => Ok(None),
        Err(error) => Err(Error::io(path.display(), error)),
    }
}

/// The name of the old catalog in a placeholder's target; none if `path` is no placeholder.
fn placeholder(path: &Path) -> Result<Option<String>> {
    let target = match std::fs::read_link(path) {
        Ok(target) => target,
        // `InvalidInput`: it is no link.
        Err(error) if matches!(error.kind(), Io::NotFound | Io::InvalidInput) => return Ok(None),
        Err(error) => return Err(Error::io(path.display(), error)),
    };
    let mut parts = target.components();
    let (Some(Component::Normal(name)), Some(Component::Normal(end)), None) =
        (parts.next(), parts.next(), parts.next())
    else {
        return Ok(None);
    };
    Ok(name.to_str().filter(|name| is_aside(name) && end == UNFINISHED).map(str::to_owned))
}

/// Removes placeholders that did not get the catalog's name before a crash.
fn remove_unused_placeholders(layout: &Layout) -> Result<()> {
    let failed = |e| Error::io(layout.root().display(), e);
    for entry in std::fs::read_dir(layout.root()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().is_some_and(is_aside) && placeholder(&entry.path())?.is_some() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn is_aside(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// A name for the old catalog that neither a file nor a log has.
fn free_name(layout: &Layout) -> Result<String> {
    let is_free = |path: &Path| match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == Io::NotFound => Ok(true),
        Err(error) => Err(Error::io(path.display(), error)),
    };
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(':', "");
    for n in 0..u32::MAX {
        let name = if n == 0 { format!("{PREFIX}{time}{SUFFIX}") } else { format!("{PREFIX}{time}-{n}{SUFFIX}") };
        let path = layout.root().join(&name);
        if is_free(&path)? && is_free(&wal_of(&path))? {
            return Ok(name);
        }
    }
    Err(Error::new(ErrorKind::Conflict, "the folder has no free name for the old catalog; move old ones away"))
}

/// Removes a file, if there is one.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != Io::NotFound => Err(Error::io(path.display(), error)),
        _ => Ok(()),
    }
}
