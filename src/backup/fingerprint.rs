//! Whether a tenant's file is the one that a backup has already, told without reading it.
//!
//! # Why it is right
//! What a database has committed is its file and the frames of its write-ahead log (WAL). A commit is appended to the WAL and
//! to nothing else; only a checkpoint writes to the file, and it empties a WAL after the file has all of it, never before. So:
//!
//! 1. *While the WAL has no bytes, the file alone is what was committed.* Of an open database this is so after a checkpoint
//!    that truncated; of a closed one after its close, or once the flush of what was closed without one has emptied its WAL.
//!    A WAL that has bytes counts as filled, also if all its frames are in the file or are stale. After a crash the redo
//!    of the data folder's log is done before a store is open.
//! 2. *A file whose inode, size and times are the same has the same bytes.* Writing sets the modification time, and
//!    replacing a file by a rename brings another inode. The clock of a file system is coarse: a second write within
//!    one of its ticks leaves the time as it was. So a fingerprint is kept only if the file had not been modified for
//!    `SETTLED` when it was taken: any later write gets a later time.
//!
//! [`look`] therefore asks for the file, the WAL, and the file again. If the file is the same both times and the WAL has no
//! bytes, then at the moment of the look at the WAL all that was committed is in a file with this fingerprint. It needs no
//! lock: a commit that comes after that moment is simply not in the backup, as one that comes after a copy is not.
//! A checkpoint that begins after the look at the WAL was preceded by a commit after it, or it has nothing to write; if it
//! has written before the second look, the file differs and nothing is claimed.
//!
//! A copy gets a fingerprint if [`look`] finds the same before anything is read and after all was: then no checkpoint wrote
//! between, and since there was an empty WAL on both sides, neither did the copy see a commit that is not in the file.
//!
//! The device is left out, since its number may be another one after each start of the machine. The time of the last change
//! of the inode is in it, so that a tool that puts modification times back does not hide a change.

use std::{
    fmt,
    os::unix::fs::MetadataExt,
    path::Path,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    error::{Error, Result},
    tenants::disk::path::wal_of,
};

/// How long a file must not have been modified for its fingerprint to be kept, in nanoseconds. More than a tick of any file
/// system's clock.
const SETTLED: i128 = 2_000_000_000;

/// What a file's inode says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    inode: u64,
    bytes: u64,
    /// When its content was last modified, in nanoseconds since 1970.
    modified: i128,
    /// When its inode was last changed.
    changed: i128,
}

impl Fingerprint {
    /// The length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether any write from `now` on gives the file another fingerprint.
    fn is_settled(&self, now: i128) -> bool {
        self.modified.saturating_add(SETTLED) <= now
    }

    /// The same, if it may be kept of a copy that is begun now.
    pub fn if_settled(self) -> Option<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Some(self).filter(|seen| seen.is_settled(i128::try_from(now).unwrap_or_default()))
    }
}

/// As it is in a manifest: its four numbers.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.inode, self.bytes, self.modified, self.changed)
    }
}

impl FromStr for Fingerprint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(4, '-');
        let mut next = || parts.next().ok_or(());
        let (inode, bytes, modified, changed) = (next()?, next()?, next()?, next()?);
        Ok(Self {
            inode: inode.parse().map_err(drop)?,
            bytes: bytes.parse().map_err(drop)?,
            modified: modified.parse().map_err(drop)?,
            changed: changed.parse().map_err(drop)?,
        })
    }
}

/// The fingerprint of a database that has all it committed in its file; none if there is no file, or its write-ahead log
/// has bytes, or it changes meanwhile. Opens nothing: whoever closes a descriptor of a database file drops its locks.
pub fn look(database: &Path) -> Result<Option<Fingerprint>> {
    let Some(before) = of(database)? else { return Ok(None) };
    let wal = wal_of(database);
    match std::fs::symlink_metadata(&wal) {
        Ok(found) if found.len() > 0 => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(wal.display(), error)),
    }
    Ok(of(database)?.filter(|after| *after == before))
}

fn of(path: &Path) -> Result<Option<Fingerprint>> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path.display(), error)),
    };
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let fingerprint = Fingerprint {
        inode: found.ino(),
        bytes: found.len(),
        // Before 1970 no file was made; a dash would not be read back.
        modified: nanos(found.mtime(), found.mtime_nsec()).max(0),
        changed: nanos(found.ctime(), found.ctime_nsec()).max(0),
    };
    Ok(Some(fingerprint).filter(|_| found.is_file() && found.len() > 0))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[test]
    fn a_file_beside_a_log_with_bytes_has_none_and_each_change_makes_another() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("ada.db");
        assert_eq!(look(&path).unwrap(), None);
        fs::write(&path, "one").unwrap();
        let first = look(&path).unwrap().unwrap();
        assert_eq!(first.to_string().parse(), Ok(first));
        fs::write(wal_of(&path), "").unwrap();
        assert_eq!(look(&path).unwrap(), Some(first));
        fs::write(wal_of(&path), "frame").unwrap();
        assert_eq!(look(&path).unwrap(), None);
        fs::write(wal_of(&path), "").unwrap();
        fs::write(folder.path().join("new"), "one").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_ne!(look(&path).unwrap(), Some(first), "another file of the same length");
    }

    #[test]
    fn what_was_modified_just_now_is_not_settled() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("ada.db");
        fs::write(&path, "one").unwrap();
        let at = |when: SystemTime| fs::File::options().write(true).open(&path).unwrap().set_modified(when).unwrap();
        at(SystemTime::now() + Duration::from_secs(60));
        assert_eq!(look(&path).unwrap().unwrap().if_settled(), None, "the clock was set back");
        at(SystemTime::now() - Duration::from_secs(60));
        let seen = look(&path).unwrap().unwrap();
        assert_eq!(seen.if_settled(), Some(seen));
        assert!(seen.is_settled(seen.modified + SETTLED) && !seen.is_settled(seen.modified + SETTLED - 1));
    }

    #[test]
    fn what_is_not_four_numbers_is_none() {
        for text in ["", "1", "1-2-3", "1-2-3-x", "a-2-3-4", "1-2-3-4-5"] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }
}
