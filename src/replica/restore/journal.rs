//! Which tenants a restore of a folder has placed: it goes on there if it is cut short.
//!
//! A line a tenant: id, place, epoch, entry, SHA-256 of the file. A line that is cut short is of nothing, and a file that a
//! power cut took part of has another digest.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::Restored;
use crate::{
    error::{Error, Result},
    sqlite::flush,
    tenants::{copy::digest, disk::placing::Home, id::TenantId},
};

/// The file's name in the data folder.
const NAME: &str = "restore.done";

/// What was placed of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    /// Where.
    pub home: Home,
    /// Its newest entry.
    pub newest: (u64, u64),
    /// Of the file.
    pub sha256: [u8; 32],
}

/// The file.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    before: HashMap<String, Placed>,
}

impl Journal {
    /// Opens it in a data folder, or makes it.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let failed = |e| Error::io(path.display(), e);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
        let text = std::fs::read(&path).map_err(failed)?;
        let text = String::from_utf8_lossy(&text);
        let before = text.lines().filter_map(parse).collect();
        let journal = Self { path, file, before };
        // What comes next is no part of a line that was cut short.
        if !text.is_empty() && !text.ends_with('\n') {
            journal.write("\n")?;
        }
        Ok(journal)
    }

    /// Removes it from a data folder that is complete.
    pub fn remove(folder: &Path) -> Result<()> {
        flush::remove(&folder.join(NAME))
    }

    /// Whether nothing was placed before.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    /// What was placed of a tenant before.
    pub fn before(&self, id: &TenantId) -> Option<Placed> {
        self.before.get(id.as_str()).copied()
    }

    /// Adds what was placed of a tenant.
    pub fn add(&self, id: &TenantId, home: Home, restored: &Restored) -> Result<()> {
        let home = if home == Home::Live { "live" } else { "trash" };
        let Restored { epoch, seq, sha256, .. } = restored;
        self.write(&format!("{id} {home} {epoch:x} {seq:x} {} .\n", hex::encode(sha256)))
    }

    fn write(&self, text: &str) -> Result<()> {
        (&self.file).write_all(text.as_bytes()).map_err(|e| Error::io(self.path.display(), e))
    }
}

fn parse(line: &str) -> Option<(String, Placed)> {
    // The dot says that the line is whole.
    let mut words = line.strip_suffix(" .")?.split(' ');
    let id = words.next()?.to_owned();
    let home = match words.next()? {
        "live" => Home::Live,
        "trash" => Home::Trash,
        _ => return None,
    };
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    let newest = (number()?, number()?);
    let mut sha256 = [0; 32];
    hex::decode_to_slice(words.next()?, &mut sha256).ok()?;
    words.next().is_none().then_some((id, Placed { home, newest, sha256 }))
}

/// The length of a file, if it has this SHA-256. May block.
pub(super) fn length_if(path: &Path, sha256: &[u8; 32]) -> Result<Option<u64>> {
    let failed = |e| Error::io(path.display(), e);
    let mut file = File::open(path).map_err(failed)?;
    let (bytes, found) = digest(&mut file).map_err(failed)?;
    Ok((found == *sha256).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(seq: u64) -> Restored {
        Restored { epoch: 7 << 16, seq, time: 5, hash: [1; 32], head: None, bytes: 9, sha256: [0xab; 32] }
    }

    #[test]
    fn what_was_placed_is_known_to_who_goes_on_whatever_was_cut_short() {
        let folder = tempfile::TempDir::new().unwrap();
        let ids: [TenantId; 3] = ["ada", "a|b@c", "grace"].map(|id| id.parse().unwrap());
        let journal = Journal::open(folder.path()).unwrap();
        assert!(journal.is_empty());
        for (seq, id) in (1..).zip(&ids) {
            journal.add(id, if seq == 2 { Home::Trash } else { Home::Live }, &restored(seq)).unwrap();
        }
        let text = std::fs::read(folder.path().join(NAME)).unwrap();
        // At each place where a crash may cut it.
        for length in 0..=text.len() {
            std::fs::write(folder.path().join(NAME), &text[..length]).unwrap();
            let journal = Journal::open(folder.path()).unwrap();
            let whole = text[..length].split(|byte| *byte == b'\n').filter(|line| line.ends_with(b" .")).count();
            for (index, id) in ids.iter().enumerate() {
                let found = journal.before(id);
                assert_eq!(found.is_some(), index < whole, "{length}");
                assert!(found.is_none_or(|found| found.newest == (7 << 16, index as u64 + 1)));
            }
            journal.add(&ids[2], Home::Live, &restored(9)).unwrap();
            let found = Journal::open(folder.path()).unwrap().before(&ids[2]).unwrap();
            assert_eq!((found.newest.1, found.home, found.sha256), (9, Home::Live, [0xab; 32]));
        }
        Journal::remove(folder.path()).unwrap();
        assert!(Journal::open(folder.path()).unwrap().is_empty());
    }
}
