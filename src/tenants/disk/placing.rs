//! A data folder that is made of files from elsewhere: a restore.
//!
//! # Invariants
//! 1. **Nothing is restored over anything.** The folder is new or empty, or a restore of the same thing was cut short in it.
//! 2. **The catalog comes last.** Without it nothing opens a folder that has users' files, and [`UNFINISHED`] is there until
//!    everything is on the disk: a folder that was half restored is never served.
//! 3. **What is placed is flushed once**, before the catalog gets its name. After a power cut a file may be there and cut
//!    short, so whoever goes on compares what [`placed`](Placing::placed) gives before it is taken as done.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    files::{length, remove, sweep_tmp},
    lock::FolderLock,
    path::Layout,
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::flush::{file_system_of, rename_new, sync_folder, write_new},
    tenants::id::TenantId,
};

/// The file in a data folder that says what is being restored into it.
pub const UNFINISHED: &str = "restore.unfinished";

/// Names in a folder that is empty nevertheless: what a mounted file system begins with, and the folder's lock.
const NOTHING: [&str; 2] = ["lost+found", "cubby.lock"];

/// Where a tenant's file belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Where requests open it.
    Live,
    /// In the trash.
    Trash,
}

/// A data folder into which files are restored. It has the folder's lock.
#[derive(Debug)]
pub struct Placing {
    layout: Layout,
    /// Opened before the first file was written: `syncfs` reports what failed since.
    folder: File,
    _lock: FolderLock,
}

impl Placing {
    /// Takes a new or empty folder, or goes on where a restore of the same thing was cut short. `what` names it in one line:
    /// from where, and of which moment. None if the folder was complete already, but for the word that it is.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the folder has something else; [`ErrorKind::FolderLocked`] if another process has it.
    pub fn begin(data: &Path, what: &str) -> Result<Option<Self>> {
        let failed = |e| Error::io(data.display(), e);
        // Before anything is made in a folder of somebody else.
        refuse_if_filled(data, what)?;
        if !data.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed)?;
        }
        let root = data.canonicalize().map_err(failed)?;
        let lock = FolderLock::take(&Layout::at(root.clone()).lock())?;
        refuse_if_filled(&root, what)?;
        let marker = root.join(UNFINISHED);
        if length(&marker)?.is_none() {
            // Whole under its name, or not there: half a line would be of no restore.
            let new = root.join(format!("{UNFINISHED}.new"));
            write_new(&new, what.as_bytes())?;
            rename_new(&new, &marker)?;
            sync_folder(&root)?;
        }
        let layout = Layout::prepare(&root)?;
        let folder = File::open(&root).map_err(failed)?;
        let placing = Self { layout, folder, _lock: lock };
        if length(&placing.layout.catalog())?.is_some() {
            placing.end()?;
            return Ok(None);
        }
        sweep_tmp(&placing.layout)?;
        Ok(Some(placing))
    }

    /// What is being restored into a folder by a restore that was cut short.
    pub fn interrupted(data: &Path) -> Result<Option<String>> {
        let marker = data.join(UNFINISHED);
        match std::fs::read_to_string(&marker) {
            Ok(what) => Ok(Some(what)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(marker.display(), error)),
        }
    }

    /// The folder's paths.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A new file in `tmp/`, to be filled, looked at and placed.
    pub fn temporary(&self) -> Result<(PathBuf, File)> {
        let path = self.layout.temporary();
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = made.map_err(|e| Error::io(path.display(), e))?;
        Ok((path, file))
    }

    /// Where a tenant's file is that was placed by a restore that was cut short, if it is there. It may be cut short itself.
    pub fn placed(&self, id: &TenantId, home: Home) -> Result<Option<PathBuf>> {
        let path = self.path(id, home);
        Ok(length(&path)?.map(|_| path))
    }

    /// Gives a file of [`temporary`](Self::temporary), which nobody has open as a database, its place. What an earlier restore
    /// left of this tenant is replaced.
    pub fn place(&self, id: &TenantId, home: Home, temporary: &Path) -> Result<()> {
        let other = if home == Home::Live { Home::Trash } else { Home::Live };
        remove(&self.path(id, other))?;
        let path = self.path(id, home);
        std::fs::rename(temporary, &path).map_err(|e| Error::io(path.display(), e))
    }

    /// Removes what an earlier restore left of a tenant that cannot be restored.
    pub fn leave_out(&self, id: &TenantId) -> Result<()> {
        remove(&self.path(id, Home::Live))?;
        remove(&self.path(id, Home::Trash)).map(drop)
    }

    /// Gives the catalog its place, when all else is on the disk, and ends the restore.
    pub fn finish(self, catalog: &Path) -> Result<()> {
        file_system_of(&self.folder, self.layout.root())?;
        rename_new(catalog, &self.layout.catalog())?;
        self.end()
    }

    /// Removes the word that the restore is not finished.
    fn end(&self) -> Result<()> {
        let root = self.layout.root();
        sync_folder(root)?;
        remove(&root.join(UNFINISHED))?;
        sync_folder(root)
    }

    fn path(&self, id: &TenantId, home: Home) -> PathBuf {
        match home {
            Home::Live => self.layout.tenant(id),
            Home::Trash => self.layout.trashed(id),
        }
    }
}

/// Refuses to open a folder into which a restore was cut short.
///
/// # Errors
/// [`ErrorKind::Config`] then.
pub fn refuse_unfinished(root: &Path) -> Result<()> {
    let Some(what) = Placing::interrupted(root)? else { return Ok(()) };
    Err(Error::config(format!(
        "a restore into {} was cut short, and not all of it is there ({what}). Run the same `cubby restore` again, which \
         goes on; or empty the folder and begin anew",
        root.display()
    )))
}

fn refuse_if_filled(data: &Path, what: &str) -> Result<()> {
    match Placing::interrupted(data)? {
        Some(before) if before == what => return Ok(()),
        Some(before) => {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "in {} a restore of something else was cut short ({before}; asked for is {what}). Finish that one, or \
                     choose an empty folder with --data",
                    data.display()
                ),
            ));
        }
        None => {}
    }
    let failed = |e| Error::io(data.display(), e);
    let entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let is_half_a_marker = name.to_str() == Some(&*format!("{UNFINISHED}.new"));
        if !is_half_a_marker && !NOTHING.iter().any(|nothing| name == *nothing) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "{} is not empty (it has {}), and nothing is restored over anything. Choose a new folder with --data, \
                     or move away what is there",
                    data.display(),
                    name.display()
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(placing: &Placing, content: &[u8]) -> PathBuf {
        let (path, mut file) = placing.temporary().unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
        path
    }

    #[test]
    fn a_restore_that_was_cut_short_goes_on_and_another_one_is_refused() {
        let folder = tempfile::TempDir::new().unwrap();
        let data = folder.path().join("new");
        let ada: TenantId = "ada".parse().unwrap();
        let placing = Placing::begin(&data, "one").unwrap().unwrap();
        assert_eq!(Placing::begin(&data, "one").unwrap_err().kind(), ErrorKind::FolderLocked);
        placing.place(&ada, Home::Trash, &write(&placing, b"1")).unwrap();
        drop(write(&placing, b"half"));
        drop(placing);

        assert!(refuse_unfinished(&data).is_err());
        assert_eq!(Placing::begin(&data, "other").unwrap_err().kind(), ErrorKind::Conflict);
        let placing = Placing::begin(&data, "one").unwrap().unwrap();
        assert!(placing.placed(&ada, Home::Live).unwrap().is_none());
        assert_eq!(std::fs::read(placing.placed(&ada, Home::Trash).unwrap().unwrap()).unwrap(), b"1");
        placing.place(&ada, Home::Live, &write(&placing, b"2")).unwrap();
        assert!(placing.placed(&ada, Home::Trash).unwrap().is_none());
        let catalog = write(&placing, b"catalog");
        placing.finish(&catalog).unwrap();

        refuse_unfinished(&data).unwrap();
        assert_eq!(Placing::begin(&data, "one").unwrap_err().kind(), ErrorKind::Conflict);
        // As if the power was cut before the word was gone.
        std::fs::write(data.join(UNFINISHED), "one").unwrap();
        assert!(Placing::begin(&data, "one").unwrap().is_none());
        refuse_unfinished(&data).unwrap();
    }

    #[test]
    fn a_folder_with_anything_in_it_is_refused_and_left_as_it_is() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join("letter"), "dear").unwrap();
        let refused = Placing::begin(folder.path(), "one").unwrap_err();
        assert!(refused.message().contains("letter"), "{refused}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
