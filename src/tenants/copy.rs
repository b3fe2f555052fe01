//! A tenant's database as a file to be sent: a copy of it, or what is written of it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, backup::Backup, backup::StepResult};
use sha2::{Digest, Sha256};

use super::{disk::files, tenant::Tenant};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{header, open},
};

/// Pages that are copied between two looks at the clock.
const STEP: i32 = 256;

/// The page cache of the copy, in KiB.
const CACHE: u32 = 256;

/// Bytes that are read at once for the digest.
const PIECE: usize = 256 << 10;

/// Writes what is to be sent. The connection only reads, all of it from one moment.
pub type Writer = Box<dyn FnOnce(&Connection, &mut dyn Write) -> Result<()> + Send>;

/// What is to be sent of a database.
pub enum Form {
    /// All of it, as a database.
    Database,
    /// What this writes.
    Written(Writer),
}

/// A file without a name: nobody else can open it, and its space is free when it is closed.
pub struct Copy {
    /// The file, at its beginning.
    pub file: File,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

impl Tenant {
    /// The database as it is at one moment, made within `limit` while it is written to.
    ///
    /// # Errors
    /// As [`read_long`](Tenant::read_long), and those of the disk.
    pub async fn copy(&self, form: Form, limit: Duration) -> Result<Copy> {
        let path = self.store.inner.layout.temporary();
        self.read_long(limit, move |conn| make(conn, form, &path, Instant::now() + limit)).await
    }
}

/// Makes a copy in `tmp/` and takes its name away.
pub(super) fn make(conn: &Connection, form: Form, path: &Path, until: Instant) -> Result<Copy> {
    let made = {
        // In a transaction, all statements see one moment.
        let _moment = conn.unchecked_transaction()?;
        open::touch(conn).and_then(|()| match form {
            Form::Database => copy(conn, path, until),
            Form::Written(write) => create(path).and_then(|mut file| write(conn, &mut file)),
        })
    };
    let failed = |e| Error::io(path.display(), e);
    let file = made.and_then(|()| File::open(path).map_err(failed));
    // On a full disk this frees the space again.
    files::discard(path)?;
    let mut file = file?;
    let (bytes, sha256) = digest(&mut file).map_err(failed)?;
    Ok(Copy { file, bytes, sha256 })
}

fn create(path: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| Error::io(path.display(), e))
}

fn copy(conn: &Connection, path: &Path, until: Instant) -> Result<()> {
    let mut copy = open::scratch(path, CACHE)?;
    let backup = Backup::new(conn, &mut copy)?;
    loop {
        match backup.step(STEP)? {
            StepResult::Done => break,
            StepResult::More if Instant::now() < until => {}
            StepResult::More => return Err(Error::new(ErrorKind::Timeout, "the copy took too long and was stopped")),
            _ => return Err(Error::new(ErrorKind::Busy, "the database is busy")),
        }
    }
    drop(backup);
    copy.close().map_err(|(_, error)| Error::from(error))?;
    header::leave_wal_mode(path)
}

/// A file's length and SHA-256. Afterwards it is at its beginning again.
pub(crate) fn digest(file: &mut File) -> std::io::Result<(u64, [u8; 32])> {
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            length => {
                hash.update(&piece[..length]);
                bytes += length as u64;
            }
        }
    }
    file.rewind()?;
    Ok((bytes, hash.finalize().into()))
}
