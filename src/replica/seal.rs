//! Encryption of what leaves the machine: AES-256-GCM with the keys of a file.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | `CBSL` |
//! | 4 | version of this layout, 1 |
//! | 5..13 | which key: the first bytes of its SHA-256 |
//! | 13..29 | salt, random |
//! | 29.. | chunks: each a mebibyte, the last one shorter or as long, each with a tag of 16 bytes behind it |
//!
//! The chunks are encrypted with a key of their own, HKDF-SHA-256 of the file's key and the salt, and the nonce of a chunk
//! is its number: however many objects a key encrypts, no nonce is used twice, as random ones of 96 bits would be some
//! day. The associated data of a chunk is the name of what is sealed and whether the chunk is the last, so that no
//! object can stand for another, and none can be cut.

use std::{
    fmt,
    io::{self, Read, Write},
    sync::Arc,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Prk},
    rand,
};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::format::is_sealed;
use crate::error::{Error, ErrorKind, Result};

const MAGIC: &[u8; 4] = b"CBSL";
const VERSION: u8 = 1;
const SALT: usize = 13;
const HEADER: usize = 29;
const CHUNK: usize = 1 << 20;
const TAG: usize = 16;
/// What the keys of chunks are for: nothing else is to be derived of a file's key with it.
const PURPOSE: &[u8] = b"cubby replica, chunks of a sealed object, 1";

/// The keys that encrypt what leaves the machine. Cheap to clone.
#[derive(Clone)]
pub struct Seal(Arc<[Key]>);

struct Key {
    id: [u8; 8],
    secret: Prk,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| hex::encode(key.id))).finish()
    }
}

impl Seal {
    /// No encryption.
    pub fn none() -> Self {
        Self(Vec::new().into())
    }

    /// The keys in the text of a key file: one of 64 hexadecimal digits a line; empty lines and what is behind a `#` are
    /// ignored. The first encrypts, all decrypt.
    pub fn from_key_file(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or(line).trim();
            if line.is_empty() {
                continue;
            }
            let mut key = [0; 32];
            hex::decode_to_slice(line, &mut key).map_err(|_| {
                Error::config(format!(
                    "line {} of the key file of CUBBY_REPLICATE_KEY is not a key of 64 hexadecimal digits: make one with \
                     `openssl rand -hex 32`",
                    number + 1
                ))
            })?;
            let mut id = [0; 8];
            id.copy_from_slice(&Sha256::digest(key)[..8]);
            keys.push(Key { id, secret: Prk::new_less_safe(HKDF_SHA256, &key) });
        }
        if keys.is_empty() {
            return Err(Error::config(
                "the key file of CUBBY_REPLICATE_KEY has no key: make one with `openssl rand -hex 32`",
            ));
        }
        Ok(Self(keys.into()))
    }

    /// Whether it encrypts.
    pub fn is_on(&self) -> bool {
        !self.0.is_empty()
    }

    /// The key that encrypts, as it is named in what it has encrypted. None if nothing is encrypted.
    pub fn key_id(&self) -> Option<String> {
        self.0.first().map(|key| hex::encode(key.id))
    }

    /// Encrypts `clear`, or leaves it as it is if there is no key. `name` is needed to open it.
    pub fn seal(&self, name: &[u8], clear: Vec<u8>) -> Result<Vec<u8>> {
        let Some((header, mut chunks)) = self.begin(name)? else { return Ok(clear) };
        let mut sealed = Vec::with_capacity(HEADER + clear.len() + (clear.len() / CHUNK + 1) * TAG);
        sealed.extend_from_slice(&header);
        let mut rest = &*clear;
        loop {
            let (chunk, behind) = rest.split_at(rest.len().min(CHUNK));
            let mut chunk = chunk.to_vec();
            chunks.seal(&mut chunk, behind.is_empty())?;
            sealed.extend_from_slice(&chunk);
            if behind.is_empty() {
                return Ok(sealed);
            }
            rest = behind;
        }
    }

    /// What [`Seal::seal`] was given. Without a key, what is not encrypted is left as it is; with one, it is refused.
    pub fn open(&self, name: &[u8], sealed: Bytes) -> Result<Bytes> {
        if !self.is_on() && !sealed.starts_with(MAGIC) {
            return Ok(sealed);
        }
        let mut chunks = self.find(name, sealed.get(..HEADER).ok_or_else(damaged)?)?;
        let mut rest = &sealed[HEADER..];
        let mut clear = Vec::with_capacity(rest.len());
        loop {
            let (chunk, behind) = rest.split_at(rest.len().min(CHUNK + TAG));
            let mut chunk = chunk.to_vec();
            chunks.open(&mut chunk, behind.is_empty())?;
            clear.extend_from_slice(&chunk);
            if behind.is_empty() {
                return Ok(clear.into());
            }
            rest = behind;
        }
    }

    fn begin(&self, name: &[u8]) -> Result<Option<([u8; HEADER], Chunks)>> {
        let Some(key) = self.0.first() else { return Ok(None) };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(MAGIC);
        header[4] = VERSION;
        header[5..SALT].copy_from_slice(&key.id);
        rand::fill(&mut header[SALT..]).map_err(internal)?;
        let chunks = Chunks::new(key, &header[SALT..], name)?;
        Ok(Some((header, chunks)))
    }

    /// `header` has [`HEADER`] bytes.
    fn find(&self, name: &[u8], header: &[u8]) -> Result<Chunks> {
        if !header.starts_with(MAGIC) {
            return Err(damaged());
        }
        if header[4] != VERSION {
            return Err(Error::config(format!(
                "something in object storage is encrypted in form {}, and this version of cubby knows only form \
                 {VERSION}: use the version that wrote it",
                header[4]
            )));
        }
        match self.0.iter().find(|key| key.id == header[5..SALT]) {
            Some(key) => Chunks::new(key, &header[SALT..], name),
            None => {
                let id = hex::encode(&header[5..SALT]);
                Err(Error::config(if self.is_on() {
                    format!(
                        "something in object storage is encrypted with the key {id}, which the key file of \
                         CUBBY_REPLICATE_KEY lacks: add that key as a line of its own behind the others"
                    )
                } else {
                    format!(
                        "something in object storage is encrypted with the key {id}: set CUBBY_REPLICATE_KEY to the \
                         file that has this key"
                    )
                }))
            }
        }
    }
}

/// The chunks of one sealed object.
struct Chunks {
    key: LessSafeKey,
    /// The name, and a byte for whether the chunk is the last.
    associated: Vec<u8>,
    next: u64,
}

impl Chunks {
    fn new(key: &Key, salt: &[u8], name: &[u8]) -> Result<Self> {
        let info = [PURPOSE, salt];
        let derived = key.secret.expand(&info, &AES_256_GCM).map_err(internal)?;
        let associated = [name, &[0]].concat();
        Ok(Self { key: LessSafeKey::new(UnboundKey::from(derived)), associated, next: 0 })
    }

    fn seal(&mut self, chunk: &mut Vec<u8>, is_last: bool) -> Result<()> {
        let nonce = self.advance(is_last);
        self.key.seal_in_place_append_tag(nonce, Aad::from(&*self.associated), chunk).map_err(internal)
    }

    fn open(&mut self, chunk: &mut Vec<u8>, is_last: bool) -> Result<()> {
        let nonce = self.advance(is_last);
        let opened = self.key.open_in_place(nonce, Aad::from(&*self.associated), chunk).map_err(|_| damaged())?.len();
        chunk.truncate(opened);
        Ok(())
    }

    fn advance(&mut self, is_last: bool) -> Nonce {
        if let Some(last) = self.associated.last_mut() {
            *last = u8::from(is_last);
        }
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Encrypts a file as it is written, if the name of its object says so ([`is_sealed`]).
pub struct SealWriter<W: Write> {
    inner: W,
    chunks: Option<Chunks>,
    /// What has not been encrypted: a whole chunk waits for whether it is the last.
    clear: Vec<u8>,
}

impl<W: Write> SealWriter<W> {
    /// For the object at `path`, whose name and whether there is a key must agree.
    pub fn new(mut inner: W, path: &str, seal: &Seal) -> Result<Self> {
        if is_sealed(path) != seal.is_on() {
            return Err(Error::internal("the name of an object does not say whether it is encrypted"));
        }
        let chunks = match seal.begin(path.as_bytes())? {
            Some((header, chunks)) => {
                inner.write_all(&header).map_err(|e| Error::io("begin an encrypted copy", e))?;
                Some(chunks)
            }
            None => None,
        };
        Ok(Self { inner, chunks, clear: Vec::new() })
    }

    /// Writes what is left. Without this, what was written cannot be opened.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(chunks) = &mut self.chunks {
            chunks.seal(&mut self.clear, true).map_err(io::Error::other)?;
            self.inner.write_all(&self.clear)?;
        }
        self.inner.flush()?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(chunks) = &mut self.chunks else { return self.inner.write(bytes) };
        if self.clear.len() == CHUNK && !bytes.is_empty() {
            chunks.seal(&mut self.clear, false).map_err(io::Error::other)?;
            self.inner.write_all(&self.clear)?;
            self.clear.clear();
        }
        let taken = bytes.len().min(CHUNK - self.clear.len());
        self.clear.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Decrypts a file as it is read, if the name of its object says that it is encrypted ([`is_sealed`]). Nothing is
/// given out that was not verified; an error of this is in the [`io::Error`].
pub struct OpenReader<R: Read> {
    inner: R,
    chunks: Option<Chunks>,
    /// What was read of `inner`: a chunk, and a byte more if it is not the last.
    ahead: Vec<u8>,
    /// A decrypted chunk, and what of it was given out.
    clear: Vec<u8>,
    given: usize,
    is_done: bool,
}

impl<R: Read> OpenReader<R> {
    /// Of the object at `path`.
    pub fn new(mut inner: R, path: &str, seal: &Seal) -> Result<Self> {
        let chunks = if is_sealed(path) {
            let mut header = [0; HEADER];
            inner.read_exact(&mut header).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => damaged(),
                _ => Error::io("read an encrypted copy", e),
            })?;
            Some(seal.find(path.as_bytes(), &header)?)
        } else {
            None
        };
        Ok(Self { inner, chunks, ahead: Vec::new(), clear: Vec::new(), given: 0, is_done: false })
    }
}

impl<R: Read> Read for OpenReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(chunks) = &mut self.chunks else { return self.inner.read(into) };
        while self.given == self.clear.len() && !self.is_done && !into.is_empty() {
            let wanted = (CHUNK + TAG + 1).saturating_sub(self.ahead.len());
            self.inner.by_ref().take(wanted as u64).read_to_end(&mut self.ahead)?;
            let more = if self.ahead.len() > CHUNK + TAG { self.ahead.pop() } else { None };
            self.clear.clear();
            self.given = 0;
            chunks.open(&mut self.ahead, more.is_none()).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            std::mem::swap(&mut self.clear, &mut self.ahead);
            self.ahead.extend(more);
            self.is_done = more.is_none();
        }
        let taken = into.len().min(self.clear.len() - self.given);
        into[..taken].copy_from_slice(&self.clear[self.given..self.given + taken]);
        self.given += taken;
        Ok(taken)
    }
}

fn internal(_: Unspecified) -> Error {
    Error::internal("encryption failed: start again, and look whether the machine is well")
}

fn damaged() -> Error {
    Error::new(
        ErrorKind::Damaged,
        "something encrypted in object storage is damaged or is not what its name says: `cubby replica verify` shows \
         what can be restored",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    const TWO: &str = "0202020202020202020202020202020202020202020202020202020202020202";
    const PATH: &str = "base/ada/1.sqlite.zst.sealed";

    fn seal(text: &str) -> Seal {
        Seal::from_key_file(text).unwrap()
    }

    fn written(clear: &[u8], piece: usize) -> Vec<u8> {
        let mut writer = SealWriter::new(Vec::new(), PATH, &seal(ONE)).unwrap();
        clear.chunks(piece.max(1)).for_each(|piece| writer.write_all(piece).unwrap());
        writer.finish().unwrap()
    }

    fn read(sealed: &[u8], path: &str) -> io::Result<Vec<u8>> {
        let mut clear = Vec::new();
        let mut reader = OpenReader::new(sealed, path, &seal(ONE)).map_err(io::Error::other)?;
        reader.read_to_end(&mut clear).map(|_| clear)
    }

    #[test]
    fn a_key_file_is_read_and_a_wrong_one_says_what_to_do() {
        let keys = seal(&format!("# the new one\n\n {ONE} # since May\n{TWO}\n"));
        assert_eq!((keys.key_id(), keys.is_on()), (seal(ONE).key_id(), true));
        assert_eq!((Seal::none().key_id(), Seal::none().is_on()), (None, false));
        assert!(!format!("{keys:?}").contains("0101"));
        for (text, says) in [("", "openssl"), ("\n#\n", "openssl"), (&ONE[1..], "line 1"), ("\nsecret", "line 2")] {
            let error = Seal::from_key_file(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.message().contains(says) && !error.message().contains("secret"), "{}", error.message());
        }
    }

    #[test]
    fn old_keys_open_and_a_missing_key_is_named() {
        let sealed = Bytes::from(seal(ONE).seal(b"name", b"clear".to_vec()).unwrap());
        let rotated = seal(&format!("{TWO}\n{ONE}"));
        assert_eq!(rotated.open(b"name", sealed.clone()).unwrap(), "clear");
        let newly = Bytes::from(rotated.seal(b"name", b"clear".to_vec()).unwrap());
        assert_eq!(seal(TWO).open(b"name", newly).unwrap(), "clear");
        for other in [seal(TWO), Seal::none()] {
            let error = other.open(b"name", sealed.clone()).unwrap_err();
            let id = seal(ONE).key_id().unwrap();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.message().contains(&id) && error.message().contains("CUBBY_REPLICATE_KEY"), "{error}");
        }
    }

    #[test]
    fn without_a_key_nothing_changes() {
        let none = Seal::none();
        assert_eq!(none.seal(b"name", b"clear".to_vec()).unwrap(), b"clear");
        assert_eq!(none.open(b"name", Bytes::from_static(b"clear")).unwrap(), "clear");
        let mut writer = SealWriter::new(Vec::new(), "base/ada/1.sqlite.zst", &none).unwrap();
        writer.write_all(b"clear").unwrap();
        assert_eq!(writer.finish().unwrap(), b"clear");
        assert_eq!(read(b"clear", "base/ada/1.sqlite.zst").unwrap(), b"clear");
        assert!(SealWriter::new(Vec::new(), PATH, &none).is_err());
        assert!(SealWriter::new(Vec::new(), "base/ada/1.sqlite.zst", &seal(ONE)).is_err());
        seal(ONE).open(b"name", Bytes::from_static(b"clear, and longer than a header is")).unwrap_err();
    }

    #[test]
    fn files_of_any_length_are_read_as_they_were_written_and_not_cut() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7] {
            let clear: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let sealed = written(&clear, 300_007);
            assert_eq!(read(&sealed, PATH).unwrap(), clear);
            assert_eq!(seal(ONE).open(PATH.as_bytes(), sealed.clone().into()).unwrap(), clear);
            assert_eq!(read(&seal(ONE).seal(PATH.as_bytes(), clear).unwrap(), PATH).unwrap().len(), length);
            for cut in [HEADER - 1, HEADER, HEADER + TAG - 1, HEADER + CHUNK + TAG, sealed.len() - 1] {
                if cut < sealed.len() {
                    read(&sealed[..cut], PATH).unwrap_err();
                    seal(ONE).open(PATH.as_bytes(), Bytes::from(sealed.clone()).slice(..cut)).unwrap_err();
                }
            }
            read(&[&*sealed, &[0]].concat(), PATH).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened_and_not_with_a_bit_changed_or_by_another_name(
            clear in proptest::collection::vec(any::<u8>(), 0..500), flip in any::<prop::sample::Index>(),
        ) {
            let keys = seal(&format!("{ONE}\n{TWO}"));
            let mut sealed = keys.seal(PATH.as_bytes(), clear.clone()).unwrap();
            prop_assert!(clear.len() < 16 || !sealed.windows(clear.len()).any(|part| part == clear));
            prop_assert_eq!(keys.open(PATH.as_bytes(), sealed.clone().into()).unwrap(), clear);
            prop_assert!(keys.open(b"another", sealed.clone().into()).is_err());
            let bit = flip.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(keys.open(PATH.as_bytes(), sealed.clone().into()).is_err());
            prop_assert!(read(&sealed, PATH).is_err());
        }
    }
}
