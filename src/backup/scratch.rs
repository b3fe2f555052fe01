//! Files that are gone when they are closed.

use std::{
    fs::{File, OpenOptions},
    io::Seek,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    sqlite::wal::{shm_of, wal_of},
};

/// A new file without a name, in a folder where there is room for what comes into it.
pub fn unnamed(folder: &Path) -> Result<File> {
    let letters: Vec<char> = ('a'..='z').collect();
    let path = folder.join(format!(".cubby-{}", nanoid::nanoid!(16, &letters)));
    let file = create(&path)?;
    std::fs::remove_file(&path).map_err(|e| Error::io(path.display(), e))?;
    Ok(file)
}

/// Writes a file under a new name, and leaves it at its beginning.
pub fn copy(from: &mut File, to: &Path) -> Result<()> {
    let failed = |e| Error::io(to.display(), e);
    let mut into = create(to)?;
    from.rewind().map_err(failed)?;
    std::io::copy(from, &mut into).map_err(failed)?;
    from.rewind().map_err(failed)
}

/// The SHA-256 of a file; none if there is none.
pub fn sha256_of(path: &Path) -> Result<Option<[u8; 32]>> {
    let failed = |e| Error::io(path.display(), e);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(failed)?;
    Ok(Some(hash.finalize().into()))
}

/// A new file for its owner alone.
pub fn create(path: &Path) -> Result<File> {
    let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|e| Error::io(path.display(), e))
}

/// Work on files, on a thread that may wait for them.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::internal("work on the files of a backup did not end").with_source(e))?
}

/// A file that is removed when this is dropped.
pub struct Named(PathBuf);

impl Named {
    /// Of a file that is or will be at this path.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        for path in [wal_of(&self.0), shm_of(&self.0), self.0.clone()] {
            // What was never made, or has another place now, is not there.
            let _ = std::fs::remove_file(path);
        }
    }
}
