//! The header of a database file, read without SQLite, and links, which are refused.

use std::{
    fs::Metadata,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::{flush, wal};
use crate::error::{Error, ErrorKind, Result};

/// <https://sqlite.org/fileformat2.html#the_database_header>
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A database file and its WAL before SQLite opens them.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// The file is in WAL mode, so [`Options::known_header`](super::open::Options::known_header) may be set, which
    /// saves two pragmas and two `stat`s.
    pub is_wal: bool,
    /// Bytes in the write-ahead log; 0 after a close that emptied it.
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
    let damaged = |why| Error::new(ErrorKind::Damaged, why);
    let failed = |e| Error::io(path.display(), e);
    let mut file = flush::open_plainly(path).map_err(|e| match e.kind() {
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
    expect_application_id(id_in(&header), &[application_id])?;
    Ok(Header { is_wal: header[18] == 2 && header[19] == 2, wal_bytes: log.map_or(0, |log| log.len()) })
}

/// The application id in a database's header; none for what is no database, or not there. See [`read`].
pub fn application_id(path: &Path) -> Result<Option<i32>> {
    let mut header = [0; 100];
    match flush::open_plainly(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => Ok((header[..16] == *MAGIC).then(|| id_in(&header))),
        // It is reported where it is opened.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Error::io(path.display(), error)),
    }
}

/// Whether a file says that a write-ahead log may belong to it: its write or read version is 2.
pub fn is_in_wal_mode(path: &Path) -> Result<bool> {
    let mut header = [0; 20];
    match flush::open_plainly(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => Ok(header[..16] == *MAGIC && header[18..] != VERSIONS_WITHOUT_LOG),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Error::io(path.display(), error)),
    }
}

/// <https://sqlite.org/fileformat2.html#file_format_version_numbers>, and where they are.
const VERSIONS_WITHOUT_LOG: [u8; 2] = [1, 1];
const VERSIONS_AT: u64 = 18;

/// Has a file that is whole and that nobody has open say that no write-ahead log belongs to it. So it cannot be taken for
/// one whose log was left behind.
pub fn leave_wal_mode(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let written = std::fs::OpenOptions::new().write(true).open(path);
    let written = written.and_then(|file| file.write_all_at(&VERSIONS_WITHOUT_LOG, VERSIONS_AT));
    written.map_err(|e| Error::io(path.display(), e))
}

/// Where <https://sqlite.org/fileformat2.html#application_id> is.
fn id_in(header: &[u8; 100]) -> i32 {
    i32::from_be_bytes([header[68], header[69], header[70], header[71]])
}

/// Whether a file of `length` bytes is what a power cut leaves of a new one: shorter than a header, or than its own
/// header says, or without any content.
pub fn is_unfinished(path: &Path, length: u64) -> Result<bool> {
    let failed = |e| Error::io(path.display(), e);
    let mut header = [0; 100];
    match flush::open_plainly(path).and_then(|mut file| file.read_exact(&mut header)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
        read => read.map_err(failed)?,
    }
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    Ok(match header[..16] == *MAGIC {
        true => length < page * u64::from(pages),
        false => header == [0; 100],
    })
}

/// Refuses a file that another program made.
pub(super) fn expect_application_id(found: i32, expected: &[i32]) -> Result<()> {
    if expected.contains(&found) {
        return Ok(());
    }
    let why = format!("not a file of ours: application id {found:#x}, expected one of {expected:#x?}");
    Err(Error::new(ErrorKind::Damaged, why))
}

/// Refuses a database or a WAL that is a symbolic link or has a second name (hard link): through it, one user's
/// requests could read and change another user's file, or one of the system's.
pub(crate) fn refuse_links(path: &Path) -> Result<()> {
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
