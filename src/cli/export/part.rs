//! A file that gets its name when all of it is there.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

use crate::{
    cli::target::{Answer, Target},
    error::{Error, ErrorKind, Result},
    http::download::DIGEST,
    sqlite::flush,
};

/// What such files are called until then: this, a number of their own, and the ending. No user's file begins and ends so.
const BEGIN: &str = ".cubby-";
const ENDING: &str = ".part";

/// Whether a file of this name is one that never got its own.
pub fn is_part(name: &str) -> bool {
    let number = name.strip_prefix(BEGIN).and_then(|name| name.strip_suffix(ENDING));
    number.is_some_and(|number| number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A file without its name. Dropped, it is removed.
pub struct Part {
    path: PathBuf,
    file: File,
}

/// One that has all of an answer.
pub struct Saved {
    pub part: Part,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

/// The folder of a path as it is given.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Part {
    /// A new one, in the folder of `to`. Others cannot read it.
    pub fn beside(to: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Another process, perhaps of another machine, may write to the folder, too.
        let number = RandomState::new().hash_one((std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let path = to.with_file_name(format!("{BEGIN}{number:016x}{ENDING}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| failed(&path, e))?;
        Ok(Self { path, file })
    }

    /// Writes an answer to it, and checks that it is all that was sent.
    ///
    /// # Errors
    /// The answer broke off, or is not what its digest says.
    pub async fn receive(mut self, answer: Answer, target: &Target) -> Result<Saved> {
        let said = answer.header(&DIGEST).and_then(sha256_of).ok_or_else(|| target.other_program())?;
        let (bytes, sha256) = self.fill(answer).await?;
        if sha256 != said {
            let why = "what arrived is not what was sent: its SHA-256 is another one; try again";
            return Err(Error::new(ErrorKind::Unavailable, why));
        }
        Ok(Saved { part: self, bytes, sha256 })
    }

    /// Writes an answer to it. Returns how many bytes that are, and their SHA-256.
    ///
    /// # Errors
    /// The answer broke off, or cannot be written.
    pub async fn fill(&mut self, mut answer: Answer) -> Result<(u64, [u8; 32])> {
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        while let Some(piece) = answer.piece().await? {
            hash.update(&piece);
            bytes += piece.len() as u64;
            self.file.write_all(&piece).map_err(|e| failed(&self.path, e))?;
        }
        Ok((bytes, hash.finalize().into()))
    }

    /// Flushes it.
    pub fn flush(&self) -> Result<()> {
        flush::opened(&self.file, &self.path)
    }

    /// Gives it its name, if that is free.
    pub fn name(self, to: &Path) -> Result<()> {
        flush::rename_new(&self.path, to)
    }

    /// Gives it its name, in the place of a file that has it.
    pub fn replace(self, to: &Path) -> Result<()> {
        refuse_no_file(to)?;
        std::fs::rename(&self.path, to).map_err(|e| failed(to, e))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone if it has its name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Where a file is written that is to be called `to`. A link is followed to the file that it leads to, as `cp` does.
///
/// # Errors
/// There is no folder for it, what is there is no plain file, or it is there and is not to be replaced.
pub fn place_of(to: &Path, replace: bool) -> Result<PathBuf> {
    let folder = folder_of(to);
    if folder.metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        let folder = folder.display();
        let why = format!("there is no folder {folder}: make it first (mkdir -p {folder}), or name another");
        return Err(Error::config(why));
    }
    let Ok(found) = to.symlink_metadata() else { return Ok(to.to_owned()) };
    let real = match found.is_symlink() {
        false => to.to_owned(),
        true => to.canonicalize().map_err(|_| {
            Error::config(format!("{} is a link that leads to no file; remove it, or name another file", to.display()))
        })?,
    };
    refuse_no_file(&real)?;
    if !replace {
        let why = format!("{} is there already; --replace replaces it", to.display());
        return Err(Error::new(ErrorKind::Conflict, why));
    }
    Ok(real)
}

/// Refuses what is there and is no plain file: a device, a pipe, a folder, a link.
fn refuse_no_file(to: &Path) -> Result<()> {
    match to.symlink_metadata() {
        Ok(found) if !found.is_file() => {
            let what = if found.is_dir() { "a folder" } else { "no plain file" };
            let why = format!("{} is {what}, and is not replaced; name the file to write", to.display());
            Err(Error::config(why))
        }
        _ => Ok(()),
    }
}

/// An error of a file of the user's own, which they are told of.
pub fn failed(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{} cannot be written: {error}", path.display())).with_source(error)
}

/// The SHA-256 that a digest of RFC 9530 has.
fn sha256_of(header: &str) -> Option<[u8; 32]> {
    let text = header.split(',').find_map(|part| part.trim().strip_prefix("sha-256=:")?.strip_suffix(':'))?;
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_among_others_and_no_other_text_is_one() {
        let sha256 = [7; 32];
        let text = BASE64_STANDARD.encode(sha256);
        assert_eq!(sha256_of(&format!("sha-256=:{text}:")), Some(sha256));
        assert_eq!(sha256_of(&format!("sha-512=:AAAA:, sha-256=:{text}:")), Some(sha256));
        for other in ["", "sha-256=::", "sha-256=:AAAA:", &format!("sha-256={text}"), &format!("md5=:{text}:")] {
            assert_eq!(sha256_of(other), None, "{other}");
        }
    }
}
