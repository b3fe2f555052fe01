//! A segment: one file of the log, which is written from its start to its end and then used again. It is allocated
//! ahead of what is written.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, RandomState},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::group::BLOCK;
use crate::{
    error::{Error, Result},
    sqlite::flush,
};

/// How much a file grows at once, at most. A file grows by as much as it has, so that a server with few writes has a
/// small log.
const MAX_GROWTH: u64 = 8 << 20;
const FIRST_GROWTH: u64 = 256 << 10;

/// Zeros, written this many at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// How the names of segments end. Another format of the log has another extension: a program refuses a log folder with
/// files whose names it does not know.
const EXTENSION: &str = "log";

/// The seed in the name of a segment; none if that is no segment's name.
pub fn seed_of(path: &Path) -> Option<u64> {
    let (number, seed) = path.file_name()?.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?.split_once('-')?;
    let is_whole = number.len() >= 8 && seed.len() == 16 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_whole.then(|| u64::from_str_radix(seed, 16).ok()).flatten()
}

/// A segment that is being written, or free.
pub struct Segment {
    path: PathBuf,
    file: Arc<File>,
    seed: u64,
    position: u64,
    /// Up to here the file has blocks that were written and flushed before, so that a write in them changes no
    /// metadata and its flush needs no transaction of the file system.
    allocated: u64,
}

impl Segment {
    /// Creates the file of this number. Nothing is allocated yet.
    pub fn create(folder: &Path, number: u64) -> Result<Self> {
        // The keys of the standard library's hash maps are the system's random numbers.
        let seed = RandomState::new().hash_one(number);
        let path = folder.join(format!("{number:08}-{seed:016x}.{EXTENSION}"));
        let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = created.map_err(|e| Error::io(path.display(), e))?;
        flush::sync_folder(folder)?;
        Ok(Self { path, file: Arc::new(file), seed, position: 0, allocated: 0 })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// The seed of the checksums of its groups' headers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where the next group begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Begins it again.
    pub fn rewind(&mut self) {
        self.position = 0;
    }

    /// Allocates blocks for `bytes` more, durably.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        let wanted = self.position + bytes;
        if wanted <= self.allocated {
            return Ok(());
        }
        let failed = |e| Error::io(self.path.display(), e);
        let growth = self.allocated.clamp(FIRST_GROWTH, MAX_GROWTH).max(wanted - self.allocated);
        let end = (self.allocated + growth).next_multiple_of(BLOCK as u64);
        let mut at = self.allocated;
        while at < end {
            let length = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.file.write_all_at(&ZEROS[..length], at).map_err(failed)?;
            at += length as u64;
        }
        self.file.sync_all().map_err(failed)?;
        flush::confirm(&self.path)?;
        self.allocated = end;
        Ok(())
    }

    /// Writes a group and flushes it.
    pub fn append(&mut self, group: &[u8]) -> Result<()> {
        self.reserve(group.len() as u64)?;
        let written = self.file.write_all_at(group, self.position).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::io(self.path.display(), e))?;
        self.position += group.len() as u64;
        Ok(())
    }
}
