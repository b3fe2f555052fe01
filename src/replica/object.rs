//! Whole files as objects: compressed, encrypted if there is a key, and never whole in memory.
//!
//! The object's content is known by the SHA-256 of the file that it was made of, which is looked at on the way there and on
//! the way back: no object has the name of another, and nothing that was damaged is given out.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zstd::stream::{read::Decoder, write::Encoder};

use super::{
    remote::Remote,
    seal::{OpenReader, Seal, SealWriter},
};
use crate::error::{Error, ErrorKind, Result};

/// The level of the compression: half the size at some hundred megabytes a second.
const LEVEL: i32 = 3;

/// What is read at once.
const PIECE: usize = 256 << 10;

/// An object up to this length is made in memory, a longer one in a file.
const IN_MEMORY: usize = 4 << 20;

/// Writes a file, from its beginning, as the object at `path`, which says by its name whether it is encrypted.
///
/// # Errors
/// [`ErrorKind::Damaged`] if the file has another SHA-256; those of the place for copies.
pub async fn upload(remote: &Remote, seal: &Seal, path: &str, file: File, sha256: [u8; 32]) -> Result<()> {
    let (seal, name) = (seal.clone(), path.to_owned());
    match blocking(move || pack(file, &name, &seal, &sha256)).await? {
        Spill::Memory(bytes, _) => remote.put(path, Bytes::from(bytes)).await,
        Spill::File(file) => remote.put_file(path, file).await,
    }
}

/// Writes the content of an object into an empty file, and checks that it has this SHA-256. Gives its length; the file is at
/// its beginning then.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is no such object; [`ErrorKind::Damaged`] if it has another content.
pub async fn download(remote: &Remote, seal: &Seal, path: &str, sha256: [u8; 32], into: &mut File) -> Result<u64> {
    match fetch(remote, seal, path, into).await? {
        (bytes, found) if found == sha256 => Ok(bytes),
        _ => Err(damaged(path)),
    }
}

/// Like [`download`] for an object whose SHA-256 is not known: gives it with the length.
pub async fn fetch(remote: &Remote, seal: &Seal, path: &str, into: &mut File) -> Result<(u64, [u8; 32])> {
    let failed = |e| Error::io("a file for a copy", e);
    let into = into.try_clone().map_err(failed)?;
    let packed = unnamed(&into).map_err(failed)?;
    if remote.get_file(path, &packed).await?.is_none() {
        let why = format!(
            "{path} is not at the place for copies: if it was deleted there, bring it back, or choose another backup or \
             moment"
        );
        return Err(Error::new(ErrorKind::NotFound, why));
    }
    let (seal, name) = (seal.clone(), path.to_owned());
    blocking(move || unpack(packed, &name, &seal, into)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::internal("work on a copy did not end").with_source(e))?
}

fn pack(mut file: File, path: &str, seal: &Seal, sha256: &[u8; 32]) -> Result<Spill> {
    let failed = |e| Error::io("a file to be copied", e);
    file.rewind().map_err(failed)?;
    let beside = file.try_clone().map_err(failed)?;
    let sealed = SealWriter::new(Spill::Memory(Vec::new(), beside), path, seal)?;
    let mut packed = Encoder::new(sealed, LEVEL).map_err(failed)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        let length = file.read(&mut piece).map_err(failed)?;
        if length == 0 {
            break;
        }
        hash.update(&piece[..length]);
        packed.write_all(&piece[..length]).map_err(failed)?;
    }
    if hash.finalize()[..] != sha256[..] {
        let why = "a copy has changed before it was compressed: look at this machine's memory and disk";
        return Err(Error::new(ErrorKind::Damaged, why));
    }
    packed.finish().and_then(SealWriter::finish).map_err(failed)
}

fn unpack(mut packed: File, path: &str, seal: &Seal, mut into: File) -> Result<(u64, [u8; 32])> {
    let failed = |e| Error::io("a file for a copy", e);
    packed.rewind().and_then(|()| into.rewind()).map_err(failed)?;
    let unreadable = |error: io::Error| match error.raw_os_error() {
        Some(_) => failed(error),
        None => match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(inner) => inner.clone(),
            None => damaged(path).with_source(error),
        },
    };
    let mut content = Decoder::new(OpenReader::new(packed, path, seal)?).map_err(unreadable)?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        let length = content.read(&mut piece).map_err(unreadable)?;
        if length == 0 {
            break;
        }
        hash.update(&piece[..length]);
        into.write_all(&piece[..length]).map_err(failed)?;
        bytes += length as u64;
    }
    into.rewind().map_err(failed)?;
    Ok((bytes, hash.finalize().into()))
}

/// What is compressed: in memory while it is short.
enum Spill {
    /// With the file beside which a long one is written.
    Memory(Vec<u8>, File),
    File(File),
}

impl Write for Spill {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Self::Memory(so_far, beside) = self {
            if so_far.len() + bytes.len() <= IN_MEMORY {
                so_far.extend_from_slice(bytes);
                return Ok(bytes.len());
            }
            let mut file = unnamed(beside)?;
            file.write_all(so_far)?;
            *self = Self::File(file);
        }
        match self {
            Self::Memory(..) => Ok(0),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A new file without a name in the folder of another one: where that one had room, it has, too. The folder of a file that
/// has lost its name is known on Linux only; elsewhere it is the system's for temporary files.
fn unnamed(beside: &File) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let own = std::fs::read_link(format!("/proc/self/fd/{}", beside.as_raw_fd())).ok();
    let folder = own.and_then(|path| path.parent().map(PathBuf::from)).filter(|folder| folder.is_dir());
    let name = format!("cubby-{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = folder.unwrap_or_else(std::env::temp_dir).join(name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn damaged(path: &str) -> Error {
    let why = format!(
        "{path} is damaged: its content is not what its name says, and nothing of it is used. Bring back an earlier version \
         of it, or choose another backup or moment"
    );
    Error::new(ErrorKind::Damaged, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn digest(content: &[u8]) -> [u8; 32] {
        Sha256::digest(content).into()
    }

    /// Content that does not get shorter.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        let random = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        random.flatten().take(length).collect()
    }

    #[tokio::test]
    async fn a_file_comes_back_as_it_went_encrypted_or_not() {
        let remote = Remote::open("memory:///objects-back", &[]).unwrap();
        for (seal, ending) in [(Seal::none(), ""), (Seal::from_key_file(KEY).unwrap(), ".sealed")] {
            for length in [0, 1, PIECE, 3 * PIECE + 7, IN_MEMORY + PIECE] {
                let (content, path) = (noise(length), format!("base/ada/{length}.sqlite.zst{ending}"));
                upload(&remote, &seal, &path, file(&content), digest(&content)).await.unwrap();
                let mut back = file(b"");
                let bytes = download(&remote, &seal, &path, digest(&content), &mut back).await.unwrap();
                let mut read = Vec::new();
                back.read_to_end(&mut read).unwrap();
                assert!(read == content && bytes == length as u64, "{path}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_damaged_cut_or_not_there_is_told_and_so_is_another_file() {
        let remote = Remote::open("memory:///objects-damaged", &[]).unwrap();
        let (content, path, seal) = (noise(5000), "base/ada/x.sqlite.zst", Seal::none());
        let changed = upload(&remote, &seal, path, file(&content), digest(b"other")).await.unwrap_err();
        assert_eq!(changed.kind(), ErrorKind::Damaged);
        upload(&remote, &seal, path, file(&content), digest(&content)).await.unwrap();
        let object = remote.get(path).await.unwrap().unwrap();
        for at in [0, 10, object.len() / 2, object.len() - 1] {
            let mut flipped = object.to_vec();
            flipped[at] ^= 0x10;
            for bad in [flipped, object[..at].to_vec()] {
                remote.put(path, bad.into()).await.unwrap();
                let read = download(&remote, &seal, path, digest(&content), &mut file(b"")).await;
                assert_eq!(read.unwrap_err().kind(), ErrorKind::Damaged, "byte {at}");
            }
        }
        remote.delete(path).await.unwrap();
        let read = download(&remote, &seal, path, digest(&content), &mut file(b"")).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
