//! One entry of a tenant's chain, and the head of the chain, as they stand in a shard.
//!
//! | bytes of an entry | content (integers are little-endian) |
//! |---|---|
//! | 0..4 | `CBEN` |
//! | 4 | version of this layout, 1 |
//! | 5 | kind: 1 pages, 2 all pages, 3 a base, 4 the end of the epoch |
//! | 6 | 1 if the payload is encrypted, else 0 |
//! | 7 | 1 if the payload is an object of its own, else 0 |
//! | 8..16 | time, in milliseconds since 1970 |
//! | 16..20 | page size |
//! | 20..24 | size of the database in pages |
//! | 24..28 | number of pages in the payload |
//! | 28..60 | hash of the entry before; zeros if there is none |
//! | 60..68 | length of the payload as it stands |
//! | 68..100 | SHA-256 of the payload as it stands |
//! | 100..132 | SHA-256 of the entry's key and of the bytes 0..100: the hash of this entry |
//! | 132.. | the payload, if it is not an object of its own |
//!
//! The payload of pages, before encryption: zstd of their numbers, ascending, then of their images; nothing if there are
//! none. Of a base: its length, SHA-256, the entry it is after, and the path of the object. Of an end: why.
//!
//! So a chain is verified without a key, and an entry that stands in the place of another is found.

mod fields;
mod head;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, collections::BTreeMap, io::Write};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zstd::bulk::{Compressor, Decompressor};

pub use head::Head;

use self::fields::{VERSION, damaged, flag, newer, read_hash, read_u32, read_u64, text};
use super::{format::Place, seal::Seal};
use crate::{
    clock::Millis,
    error::{Error, ErrorKind, Result},
};

const MAGIC: &[u8; 4] = b"CBEN";
const HEADER: usize = 132;
/// What the hash of an entry is of, behind its key.
const HASHED: usize = 100;
/// The most bytes of an entry in a shard: the payload of a longer one is an object of its own.
const MOST_INSIDE: usize = 4 << 20;
/// The most bytes of page images in an entry.
pub const MOST_IMAGES: u64 = 1 << 30;
/// What is shorter is compressed with what the thread keeps for it.
const SHORT: usize = 8 << 20;
/// The least effort of zstd: a commit is compressed while somebody may wait for it.
const LEVEL: i32 = 1;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The hash of the entry before it in this epoch; zeros if it is the first.
    pub previous: [u8; 32],
    /// When the newest commit in it was made; never before that of the entry before it.
    pub time: Millis,
    /// The size of the database's pages.
    pub page_size: u32,
    /// The size of the database in pages, after this entry.
    pub size_pages: u32,
    /// What it is.
    pub body: Body,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The last images of pages that changed since the entry before.
    Pages(Pages),
    /// All pages: nothing before it is needed.
    Whole(Pages),
    /// A base: an object that has the whole database.
    Base(BaseRef),
    /// The chain of this epoch ends here, and why.
    End(String),
}

/// What an entry is, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Body::Pages`].
    Pages = 1,
    /// [`Body::Whole`].
    Whole = 2,
    /// [`Body::Base`].
    Base = 3,
    /// [`Body::End`].
    End = 4,
}

/// Images of pages by their numbers, which begin at 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages(pub BTreeMap<u32, Bytes>);

impl From<BTreeMap<u32, Vec<u8>>> for Pages {
    fn from(images: BTreeMap<u32, Vec<u8>>) -> Self {
        Self(images.into_iter().map(|(number, image)| (number, image.into())).collect())
    }
}

/// A base, as an entry names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRef {
    /// The path of the object.
    pub object: String,
    /// The length of the file.
    pub bytes: u64,
    /// Of the file.
    pub sha256: [u8; 32],
    /// Entries after this one are applied to it.
    pub after: u64,
}

/// An entry as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What stands in the shard.
    pub value: Bytes,
    /// The path and the content of the object that the payload is, if it is too long for the shard. It has to be there
    /// before the entry is.
    pub big: Option<(String, Bytes)>,
    /// The hash of the entry.
    pub hash: [u8; 32],
}

impl Encoded {
    /// What is stored of it, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.value.len() + self.big.as_ref().map_or(0, |(_, content)| content.len())) as u64
    }
}

impl Entry {
    /// The entry for its place. Pages beyond the database's end are left out.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if the images have more than [`MOST_IMAGES`] bytes: the tenant needs a base instead.
    pub fn encode(&self, place: &Place<'_>, seal: &Seal) -> Result<Encoded> {
        let (kind, count, payload) = match &self.body {
            Body::Pages(pages) => (Kind::Pages, pages.count(self)?, pages.encode(self)?),
            Body::Whole(pages) => (Kind::Whole, pages.count(self)?, pages.encode(self)?),
            Body::Base(base) => (Kind::Base, 0, base.encode()),
            Body::End(why) => (Kind::End, 0, why.as_bytes().to_vec()),
        };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(MAGIC);
        header[4..7].copy_from_slice(&[VERSION, kind as u8, u8::from(seal.is_on())]);
        header[8..16].copy_from_slice(&self.time.to_le_bytes());
        header[16..20].copy_from_slice(&self.page_size.to_le_bytes());
        header[20..24].copy_from_slice(&self.size_pages.to_le_bytes());
        header[24..28].copy_from_slice(&count.to_le_bytes());
        header[28..60].copy_from_slice(&self.previous);
        let key = place.key();
        let payload = seal.seal(&sealed_name(&key, &header), payload)?;
        let sha256: [u8; 32] = Sha256::digest(&payload).into();
        let is_big = HEADER + payload.len() > MOST_INSIDE;
        header[7] = u8::from(is_big);
        header[60..68].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[68..HASHED].copy_from_slice(&sha256);
        let hash = hash(&key, &header);
        header[HASHED..].copy_from_slice(&hash);
        if is_big {
            let big = Some((place.big_path(&sha256), payload.into()));
            return Ok(Encoded { value: header.to_vec().into(), big, hash });
        }
        Ok(Encoded { value: [&header[..], &payload].concat().into(), big: None, hash })
    }
}

/// An entry whose hash was verified, and whose payload was not looked at.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What it is.
    pub kind: Kind,
    /// The hash of the entry before it in this epoch.
    pub previous: [u8; 32],
    /// The hash of this one.
    pub hash: [u8; 32],
    /// When it was made.
    pub time: Millis,
    /// The size of the database's pages.
    pub page_size: u32,
    /// The size of the database in pages.
    pub size_pages: u32,
    /// How many pages it has.
    pub pages: u32,
    /// The path of the object that [`Stored::open`] needs.
    pub big: Option<String>,
    /// The name that the payload is encrypted with, if it is.
    sealed: Option<Vec<u8>>,
    length: u64,
    sha256: [u8; 32],
    payload: Bytes,
}

impl Stored {
    /// Reads what stands in the shard at `place`.
    pub fn parse(place: &Place<'_>, value: &Bytes) -> Result<Self> {
        let header: &[u8; HEADER] =
            value.first_chunk().filter(|header| header.starts_with(MAGIC)).ok_or_else(damaged)?;
        if header[4] != VERSION {
            return Err(newer(header[4]));
        }
        let key = place.key();
        let own = hash(&key, header);
        if own != header[HASHED..] {
            return Err(damaged());
        }
        let kind = match header[5] {
            1 => Kind::Pages,
            2 => Kind::Whole,
            3 => Kind::Base,
            4 => Kind::End,
            _ => return Err(damaged()),
        };
        let (sealed, big) = (flag(header[6])?, flag(header[7])?);
        let (page_size, size_pages, pages) = (read_u32(header, 16), read_u32(header, 20), read_u32(header, 24));
        let is_good = match kind {
            Kind::Pages | Kind::Whole => {
                is_page_size(page_size)
                    && pages <= size_pages
                    && (kind == Kind::Pages || pages == size_pages)
                    && u64::from(pages) * u64::from(page_size) <= MOST_IMAGES
            }
            Kind::Base | Kind::End => pages == 0,
        };
        let (length, sha256) = (read_u64(header, 60), read_hash(header, 68));
        let payload = value.slice(HEADER..);
        if !is_good || payload.len() as u64 != if big { 0 } else { length } {
            return Err(damaged());
        }
        Ok(Self {
            kind,
            previous: read_hash(header, 28),
            hash: own,
            time: Millis::from_le_bytes(read_u64(header, 8).to_le_bytes()),
            page_size,
            size_pages,
            pages,
            big: big.then(|| place.big_path(&sha256)),
            sealed: sealed.then(|| sealed_name(&key, header)),
            length,
            sha256,
            payload,
        })
    }

    /// What of it is stored, in bytes.
    pub fn bytes(&self) -> u64 {
        HEADER as u64 + self.length
    }

    /// The entry, with the content of the object [`Stored::big`] if it needs one and that is there.
    pub fn open(&self, big: Option<Bytes>, seal: &Seal) -> Result<Entry> {
        let payload = match (&self.big, big) {
            (None, _) => self.payload.clone(),
            (Some(_), Some(payload)) => payload,
            (Some(_), None) => return Err(damaged()),
        };
        if payload.len() as u64 != self.length || Sha256::digest(&payload)[..] != self.sha256 {
            return Err(damaged());
        }
        let clear = match &self.sealed {
            Some(name) => seal.open(name, payload)?,
            None => payload,
        };
        let body = match self.kind {
            Kind::Pages => Body::Pages(self.decode_pages(&clear)?),
            Kind::Whole => Body::Whole(self.decode_pages(&clear)?),
            Kind::Base => Body::Base(BaseRef::decode(&clear)?),
            Kind::End => Body::End(text(&clear)?),
        };
        let (page_size, size_pages) = (self.page_size, self.size_pages);
        Ok(Entry { previous: self.previous, time: self.time, page_size, size_pages, body })
    }

    fn decode_pages(&self, payload: &[u8]) -> Result<Pages> {
        let (count, page_size) = (self.pages as usize, self.page_size as usize);
        if count == 0 {
            return if payload.is_empty() { Ok(Pages::default()) } else { Err(damaged()) };
        }
        // No more than MOST_IMAGES, and the numbers.
        let length = count * (4 + page_size);
        let raw = DECOMPRESSOR.with_borrow_mut(|kept| kept.decompress(payload, length)).map_err(|_| damaged())?;
        if raw.len() != length {
            return Err(damaged());
        }
        let raw = Bytes::from(raw);
        let (mut pages, mut last) = (BTreeMap::new(), 0);
        for index in 0..count {
            let number = read_u32(&raw, index * 4);
            if number <= last || number > self.size_pages {
                return Err(damaged());
            }
            let start = count * 4 + index * page_size;
            pages.insert(number, raw.slice(start..start + page_size));
            last = number;
        }
        Ok(Pages(pages))
    }
}

thread_local! {
    /// The memory that compression needs, kept for the next entry. At another level it does as well.
    static COMPRESSOR: RefCell<Compressor<'static>> = RefCell::new(Compressor::new(LEVEL).unwrap_or_default());
    static DECOMPRESSOR: RefCell<Decompressor<'static>> = RefCell::default();
}

impl Pages {
    /// How many of them are in an entry.
    fn count(&self, entry: &Entry) -> Result<u32> {
        let count = self.inside(entry).count();
        let is_all = !matches!(entry.body, Body::Whole(_)) || count as u64 == u64::from(entry.size_pages);
        let is_good = self.inside(entry).all(|(number, image)| *number > 0 && image.len() == entry.page_size as usize);
        if !is_all || !is_good || !is_page_size(entry.page_size) {
            return Err(Error::internal("an entry for the bucket has wrong pages: its user gets a new base"));
        }
        if count as u64 * u64::from(entry.page_size) > MOST_IMAGES {
            return Err(Error::new(ErrorKind::TooLarge, "too much has changed for an entry: make a base"));
        }
        u32::try_from(count).map_err(|_| Error::internal("an entry for the bucket has too many pages: make a base"))
    }

    fn inside(&self, entry: &Entry) -> impl Iterator<Item = (&u32, &Bytes)> {
        self.0.range(..=entry.size_pages)
    }

    fn encode(&self, entry: &Entry) -> Result<Vec<u8>> {
        let length = self.inside(entry).count() * (4 + entry.page_size as usize);
        let failed = |e| Error::io("compress pages", e);
        if length == 0 {
            return Ok(Vec::new());
        }
        if length > SHORT {
            return self.write(entry).map_err(failed);
        }
        let mut raw = Vec::with_capacity(length);
        self.inside(entry).for_each(|(number, _)| raw.extend_from_slice(&number.to_le_bytes()));
        self.inside(entry).for_each(|(_, image)| raw.extend_from_slice(image));
        COMPRESSOR.with_borrow_mut(|kept| kept.compress(&raw)).map_err(failed)
    }

    /// The same without another copy of all images.
    fn write(&self, entry: &Entry) -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        self.inside(entry).try_for_each(|(number, _)| encoder.write_all(&number.to_le_bytes()))?;
        self.inside(entry).try_for_each(|(_, image)| encoder.write_all(image))?;
        encoder.finish()
    }
}

impl BaseRef {
    fn encode(&self) -> Vec<u8> {
        [&self.bytes.to_le_bytes()[..], &self.sha256, &self.after.to_le_bytes(), self.object.as_bytes()].concat()
    }

    fn decode(payload: &[u8]) -> Result<Self> {
        let object = text(payload.get(48..).ok_or_else(damaged)?)?;
        Ok(Self { object, bytes: read_u64(payload, 0), sha256: read_hash(payload, 8), after: read_u64(payload, 40) })
    }
}

/// What a payload is encrypted with: its place, and all that is known of the entry before the payload is.
fn sealed_name(key: &str, header: &[u8; HEADER]) -> Vec<u8> {
    [key.as_bytes(), &[0, header[5]], &header[8..60]].concat()
}

fn hash(key: &str, header: &[u8; HEADER]) -> [u8; 32] {
    Sha256::new().chain_update(key).chain_update(&header[..HASHED]).finalize().into()
}

fn is_page_size(size: u32) -> bool {
    size.is_power_of_two() && (512..=65536).contains(&size)
}
