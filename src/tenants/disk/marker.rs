//! A data folder that is served while users' files still come from elsewhere: a file in it says so until all are there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    sqlite::flush,
};

/// The file's name in the data folder.
pub const SERVING: &str = "restore.serving";

/// From where users' files come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Which installation it is.
    pub installation: String,
    /// The bucket.
    pub url: String,
}

impl Marker {
    /// That of a data folder; none if every file is there.
    pub fn read(root: &Path) -> Result<Option<Self>> {
        let path = path(root);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(path.display(), error)),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| {
                let why = format!("{} cannot be read: empty the folder, and begin the restore anew", path.display());
                Error::config(why).with_source(e)
            }),
        }
    }

    /// Writes it, durably: before anything is in the folder that could be taken for all there is.
    pub fn write(&self, root: &Path) -> Result<()> {
        if Self::read(root)?.as_ref() == Some(self) {
            return Ok(());
        }
        let text =
            serde_json::to_vec(self).map_err(|e| Error::internal("a marker cannot be written").with_source(e))?;
        let (path, new) = (path(root), root.join(format!("{SERVING}.new")));
        // Whole under its name, or not there.
        flush::write_new(&new, &text)?;
        std::fs::rename(&new, &path).map_err(|e| Error::io(path.display(), e))?;
        flush::sync_folder(root)
    }

    /// Removes it, when every file is there.
    pub fn remove(root: &Path) -> Result<()> {
        flush::remove(&path(root))
    }

    /// Refuses to open a folder whose files are not all there without the means to fetch them.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) then.
    pub fn refuse(root: &Path) -> Result<()> {
        let Some(Self { url, .. }) = Self::read(root)? else { return Ok(()) };
        Err(Error::config(format!(
            "{} is being restored from {url}, and not all users' files are there: start `cubby serve --replicate {url}`, \
             which goes on, and ask the server for everything else. To give up what is not there yet, remove {}",
            root.display(),
            path(root).display()
        )))
    }
}

fn path(root: &Path) -> PathBuf {
    root.join(SERVING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_the_marker_is_refused_until_it_is_gone() {
        let folder = tempfile::TempDir::new().unwrap();
        Marker::refuse(folder.path()).unwrap();
        let marker = Marker { installation: "0a".to_owned(), url: "s3://bucket/prefix".to_owned() };
        for _ in 0..2 {
            marker.write(folder.path()).unwrap();
        }
        assert_eq!(Marker::read(folder.path()).unwrap(), Some(marker));
        let refused = Marker::refuse(folder.path()).unwrap_err();
        assert!(refused.message().contains("--replicate s3://bucket/prefix"), "{refused}");
        Marker::remove(folder.path()).unwrap();
        Marker::refuse(folder.path()).unwrap();
    }
}
