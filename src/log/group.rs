//! A group of records: what one write and one flush of the log bring to the disk.
//!
//! A group begins at a multiple of [`BLOCK`], so that no write touches a block that was flushed before.
//!
//! | bytes | content (integers are little-endian) |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..16 | xxh3 of bytes 16..64, with the seed in the segment's name: what a tenant writes into a record is never taken for a group |
//! | 16..24 | number: one more than that of the last group that was flushed |
//! | 24..32 | the lowest number that the log still needs |
//! | 32..40 | use of a segment, counted in all: of two groups with one number, that of the lower use was not flushed |
//! | 40..48 | length of the records |
//! | 48..56 | xxh3 of the index |
//! | 56..60 | length of the index |
//! | 60..64 | zero |
//! | 64.. | the records, the index, zeros up to a block |
//!
//! The index has the length and the name of each record: it names the database of a record that is damaged. Then it
//! repeats the group's number and the use of the segment, and ends with the xxh3 of all of that, with the seed: a group
//! whose header is damaged is known by it.

use twox_hash::XxHash3_64;

use super::record::{BadRecord, Stored, What, read_u32, read_u64};

/// What a group begins with. The last character is the version of the format.
pub const MAGIC: [u8; 8] = *b"CUBBYLG1";

/// Groups begin at multiples of this: the page of the kernel's cache, and at least a sector of every disk.
pub const BLOCK: usize = 4096;

const HEADER: usize = 64;

/// What the index has behind the records' lengths and names: the number, the use, and the checksum.
const TRAILER: usize = 24;

/// The fields of a group's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    /// One more than the number of the last group that was flushed.
    pub number: u64,
    /// The lowest number that the log still needs.
    pub base: u64,
    /// Which use of a segment the group is in.
    pub segment_use: u64,
    records: usize,
    index: usize,
    index_hash: u64,
}

impl GroupHeader {
    /// The header at the start of `bytes`; none if there is no whole one with this seed.
    pub fn decode(bytes: &[u8], seed: u64) -> Option<Self> {
        let header = bytes.get(..HEADER).filter(|header| header[..8] == MAGIC)?;
        if XxHash3_64::oneshot_with_seed(seed, &header[16..]) != read_u64(header, 8) {
            return None;
        }
        Some(Self {
            number: read_u64(header, 16),
            base: read_u64(header, 24),
            segment_use: read_u64(header, 32),
            records: usize::try_from(read_u64(header, 40)).ok()?,
            index_hash: read_u64(header, 48),
            index: read_u32(header, 56) as usize,
        })
    }

    /// The length of the group in its segment.
    pub fn length(&self) -> usize {
        HEADER
            .saturating_add(self.records)
            .saturating_add(self.index)
            .checked_next_multiple_of(BLOCK)
            .unwrap_or(usize::MAX)
    }
}

/// Puts a group together, record by record.
pub struct GroupBuilder {
    bytes: Vec<u8>,
    index: Vec<u8>,
}

impl GroupBuilder {
    /// An empty group. It is written with a record at least, by which it is known if its header is damaged.
    pub fn new() -> Self {
        Self { bytes: vec![0; HEADER], index: Vec::new() }
    }

    /// Empties it for the next group, and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.index.clear();
    }

    /// The length of the group in its segment.
    pub fn length(&self) -> usize {
        (self.bytes.len() + self.index.len() + TRAILER).next_multiple_of(BLOCK)
    }

    /// Adds an [encoded](super::record::Record::encode) record of the database `name`.
    pub fn push(&mut self, name: &str, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        add_to_index(&mut self.index, name, record.len());
    }

    /// The group as it stands in its segment.
    pub fn finish(&mut self, number: u64, base: u64, segment_use: u64, seed: u64) -> &[u8] {
        let records = self.bytes.len() - HEADER;
        add_trailer(&mut self.index, number, segment_use, seed);
        self.bytes.extend_from_slice(&self.index);
        let length = self.bytes.len().next_multiple_of(BLOCK);
        self.bytes.resize(length, 0);
        let header = &mut self.bytes[..HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[16..24].copy_from_slice(&number.to_le_bytes());
        header[24..32].copy_from_slice(&base.to_le_bytes());
        header[32..40].copy_from_slice(&segment_use.to_le_bytes());
        header[40..48].copy_from_slice(&(records as u64).to_le_bytes());
        header[48..56].copy_from_slice(&XxHash3_64::oneshot(&self.index).to_le_bytes());
        header[56..60].copy_from_slice(&u32::try_from(self.index.len()).unwrap_or(u32::MAX).to_le_bytes());
        header[60..64].fill(0);
        let hash = XxHash3_64::oneshot_with_seed(seed, &header[16..]);
        header[8..16].copy_from_slice(&hash.to_le_bytes());
        &self.bytes
    }
}

/// A record in a group, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// A whole record.
    Whole {
        /// The name of the database.
        name: String,
        /// What the record is. Its bytes are not kept: those of a whole group may be far longer than they are here.
        what: What,
        /// Its offset in the group.
        at: usize,
    },
    /// A damaged record of this database.
    Damaged {
        /// The name of the database.
        name: String,
    },
}

impl Slot {
    fn whole(record: &Stored<'_>, at: usize) -> Self {
        Self::Whole { name: record.name.to_owned(), what: record.what, at }
    }
}

/// The records of the group at the start of `bytes`.
///
/// # Errors
/// [`BadRecord`] if a record is damaged and the index is too: whose it is is unknown.
pub fn records(header: &GroupHeader, bytes: &[u8]) -> Result<Vec<Slot>, BadRecord> {
    let area = bytes.get(HEADER..HEADER + header.records).ok_or(BadRecord)?;
    let Some(extents) = extents(header, bytes) else { return walk(area) };
    let slot = |(name, at, length): (String, usize, usize)| match Stored::at(&bytes[at..at + length]) {
        Ok(record) => Slot::whole(&record, at),
        Err(BadRecord) => Slot::Damaged { name },
    };
    Ok(extents.into_iter().map(slot).collect())
}

/// The records of an area without an index: every one must be whole.
fn walk(area: &[u8]) -> Result<Vec<Slot>, BadRecord> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < area.len() {
        let record = Stored::at(&area[at..])?;
        found.push(Slot::whole(&record, HEADER + at));
        at += record.length;
    }
    Ok(found)
}

/// Where the records of the group at the start of `bytes` are by its index, damaged or not: their names, offsets in the
/// group, and lengths. None if the index is damaged.
pub fn extents(header: &GroupHeader, bytes: &[u8]) -> Option<Vec<(String, usize, usize)>> {
    let end = HEADER + header.records;
    let index = bytes.get(end..end + header.index).filter(|index| XxHash3_64::oneshot(index) == header.index_hash)?;
    let mut index = index.get(..index.len().checked_sub(TRAILER)?)?;
    let (mut found, mut at) = (Vec::new(), HEADER);
    while !index.is_empty() {
        let (length, name_length) = (read_u32(index, 0) as usize, usize::from(*index.get(4)?));
        let name = index.get(5..5 + name_length).and_then(|name| std::str::from_utf8(name).ok())?;
        if at + length > end {
            return None;
        }
        found.push((name.to_owned(), at, length));
        at += length;
        index = &index[5 + name_length..];
    }
    Some(found)
}

/// A group without its header.
pub struct Headless {
    /// Its number.
    pub number: u64,
    /// Which use of a segment the group is in.
    pub segment_use: u64,
    /// Its records.
    pub slots: Vec<Slot>,
    /// Its length in its segment.
    pub length: usize,
}

/// The group at the start of `bytes`, whose header is damaged; none unless all of its records are there and the index
/// behind them has the same lengths and names.
pub fn without_header(bytes: &[u8], seed: u64) -> Option<Headless> {
    let (mut slots, mut index, mut at) = (Vec::new(), Vec::new(), HEADER);
    while let Some(record) = bytes.get(at..).and_then(|rest| Stored::at(rest).ok()) {
        add_to_index(&mut index, record.name, record.length);
        slots.push(Slot::whole(&record, at));
        at += record.length;
    }
    let end = at + index.len() + TRAILER;
    let there = bytes.get(at..end).filter(|_| !slots.is_empty())?;
    let (number, segment_use) = (read_u64(there, index.len()), read_u64(there, index.len() + 8));
    add_trailer(&mut index, number, segment_use, seed);
    (there == index).then_some(Headless { number, segment_use, slots, length: end.next_multiple_of(BLOCK) })
}

fn add_trailer(index: &mut Vec<u8>, number: u64, segment_use: u64, seed: u64) {
    index.extend_from_slice(&number.to_le_bytes());
    index.extend_from_slice(&segment_use.to_le_bytes());
    let hash = XxHash3_64::oneshot_with_seed(seed, index);
    index.extend_from_slice(&hash.to_le_bytes());
}

fn add_to_index(index: &mut Vec<u8>, name: &str, length: usize) {
    index.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    index.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    index.extend_from_slice(name.as_bytes());
}
