//! The header of a database file, read without SQLite, and links, which are refused.

use std::{
    fs::{Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::wal;
use crate::error::{Error, ErrorKind, Result};

/// A database file and its WAL before SQLite opens them.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// The file is in WAL mode, so [`Options::known_header`](super::open::Options::known_header) may be set, which
    /// saves two pragmas and two `stat`s.
    pub is_wal: bool,
    /// Bytes in the write-ahead log; 0 after a clean close.
    pub wal_bytes: u64,
}

/// Reads a database's header from the file itself and checks that it is ours. Refuses links.
///
/// Only for a file that **nobody has open**: closing any descriptor of a file drops this process's POSIX locks on
/// it, and SQLite's locks are POSIX locks.
///
/// # Errors
/// [`ErrorKind::Damaged`] for a file that is empty, no database, or not ours.
pub fn read(path: &Path, application_id: i32) -> Result<Header> {
    // <https://sqlite.org/fileformat2.html#the_database_header>
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let damaged = |why| Error::new(ErrorKind::Damaged, why);
    let failed = |e| Error::io(path.display(), e);
    // Opening a named pipe would block without NONBLOCK.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            damaged("the database file is missing; restore it from a backup, or delete the user")
        }
        _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            damaged("the database file is a symbolic link")
        }
        _ => failed(e),
    })?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(damaged("the database file is not a plain file"));
    }
    refuse_link(&found)?;
    let log = std::fs::symlink_metadata(wal::wal_of(path)).ok();
    log.as_ref().map_or(Ok(()), refuse_link)?;
    let mut header = [0; 100];
    match file.read_exact(&mut header) {
        Ok(()) => {}
        // SQLite takes an empty file for an empty database, and would write to it.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged("the database file is empty or shorter than a header"));
        }
        Err(e) => return Err(failed(e)),
    }
    if header[..16] != *MAGIC {
        return Err(damaged("the file is not a database"));
    }
    let found = i32::from_be_bytes([header[68], header[69], header[70], header[71]]);
    expect_application_id(found, application_id)?;
    Ok(Header { is_wal: header[18] == 2 && header[19] == 2, wal_bytes: log.map_or(0, |log| log.len()) })
}

/// Refuses a file that another program made.
pub(super) fn expect_application_id(found: i32, expected: i32) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let why = format!("not a file of ours: application id {found:#x}, expected {expected:#x}");
    Err(Error::new(ErrorKind::Damaged, why))
}

/// Refuses a database or a WAL that is a symbolic link or has a second name (hard link): through it, one user's
/// requests could read and change another user's file, or one of the system's.
pub(super) fn refuse_links(path: &Path) -> Result<()> {
    for file in [path, &wal::wal_of(path)] {
        // SQLite reports a missing or unreadable file better.
        if let Ok(found) = std::fs::symlink_metadata(file) {
            refuse_link(&found)?;
        }
    }
    Ok(())
}

fn refuse_link(found: &Metadata) -> Result<()> {
    if found.is_symlink() || (found.is_file() && found.nlink() > 1) {
        let why = "the database file is a link or has a second name; it must be a file of its own";
        return Err(Error::new(ErrorKind::Damaged, why));
    }
    Ok(())
}
