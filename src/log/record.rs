//! One record of the log: a commit of one database, the image of a new one, or a barrier.
//!
//! | bytes | content (integers are little-endian) |
//! |---|---|
//! | 0..8 | xxh3 of the rest of the record |
//! | 8..12 | length of the record, padding included |
//! | 12 | kind |
//! | 13 | length of the database's name |
//! | 14..16 | boot during which that write-ahead log began, if its header was flushed then, else zero |
//! | 16..24 | offset in the write-ahead log of the database |
//! | 24..32 | the salts of that write-ahead log |
//! | 32..36 | length of the payload, not compressed |
//! | 36..40 | length of the payload as it stands here |
//! | 40.. | the name, the payload (lz4 if that is shorter), zeros up to a multiple of 8 |

use std::{borrow::Cow, cell::RefCell};

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use twox_hash::XxHash3_64;

use super::boot::Boot;

const HEADER: usize = 40;
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;

/// The longest payload, not compressed. A longer commit is several records.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// Bytes that a commit appended to the database's write-ahead log.
    Commit {
        /// Where they stand in the write-ahead log. 0 if it begins here: the bytes then include its header.
        offset: u64,
        /// The two salts of the write-ahead log, which change each time it restarts
        /// (<https://sqlite.org/fileformat2.html#the_write_ahead_log>).
        salts: u64,
        /// The boot during which the write-ahead log began with this commit, if its header was flushed before this record
        /// was written.
        began: Option<Boot>,
        /// The bytes.
        bytes: Cow<'a, [u8]>,
    },
    /// The database was created with this content.
    Create(Cow<'a, [u8]>),
    /// Nothing: it is in a group that is written for its header.
    Nothing,
    /// The files of the database need nothing of what the log has before this.
    Barrier,
}

/// The name in a record of [`Change::Nothing`], which is no database's.
pub const NOBODY: &str = "(nobody)";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// The name of the database: a tenant's id, or empty for the catalog.
    pub name: Cow<'a, str>,
    /// What happened to it.
    pub change: Change<'a>,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A commit that appended `length` bytes at `offset` of the write-ahead log with these salts.
    Commit {
        /// The first byte in the write-ahead log.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// The write-ahead log's salts.
        salts: u64,
        /// The boot during which the write-ahead log began with this commit and a flushed header.
        began: Option<Boot>,
    },
    /// The creation of a database with a file of `length` bytes.
    Create {
        /// The length of the file.
        length: u64,
    },
    /// Nothing, in a group that was written for its header.
    Nothing,
    /// A barrier.
    Barrier,
    /// A record that cannot be read.
    Damaged,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRecord;

impl Record<'_> {
    /// The record as it stands in the log.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, offset, salts, raw): (u8, u64, u64, &[u8]) = match &self.change {
            Change::Commit { offset, salts, bytes, .. } => (1, *offset, *salts, bytes),
            Change::Create(image) => (2, 0, 0, image),
            Change::Barrier => (3, 0, 0, &[]),
            Change::Nothing => (4, 0, 0, &[]),
        };
        let start = HEADER + self.name.len();
        let mut out = COMPRESSOR.with_borrow_mut(|compressor| {
            let payload = compressor.shorten(raw);
            let length = (start + payload.len()).next_multiple_of(ALIGN);
            let mut out = Vec::with_capacity(length);
            out.resize(start, 0);
            out.extend_from_slice(payload);
            out.resize(length, 0);
            out[36..40].copy_from_slice(&to_u32(payload.len()).to_le_bytes());
            out
        });
        let length = out.len();
        out[8..12].copy_from_slice(&to_u32(length).to_le_bytes());
        out[12] = kind;
        out[13] = u8::try_from(self.name.len()).unwrap_or(u8::MAX);
        if let Change::Commit { began: Some(boot), .. } = self.change {
            out[14..16].copy_from_slice(&boot.number().to_le_bytes());
        }
        out[16..24].copy_from_slice(&offset.to_le_bytes());
        out[24..32].copy_from_slice(&salts.to_le_bytes());
        out[32..36].copy_from_slice(&to_u32(raw.len()).to_le_bytes());
        out[HEADER..start].copy_from_slice(self.name.as_bytes());
        let hash = XxHash3_64::oneshot(&out[8..]);
        out[..8].copy_from_slice(&hash.to_le_bytes());
        out
    }

    /// The record at the start of `bytes`, and its length there.
    ///
    /// # Errors
    /// [`BadRecord`] if it is torn, damaged, or none.
    pub fn decode(bytes: &[u8]) -> Result<(Record<'static>, usize), BadRecord> {
        let Stored { name, what, payload, raw, length } = Stored::at(bytes)?;
        let bytes = match payload.len() == raw {
            true => payload.to_vec(),
            false => lz4_flex::block::decompress(payload, raw).map_err(|_| BadRecord)?,
        };
        let change = match what {
            What::Commit { offset, salts, began, .. } => Change::Commit { offset, salts, began, bytes: bytes.into() },
            What::Create { .. } => Change::Create(bytes.into()),
            What::Barrier => Change::Barrier,
            What::Nothing => Change::Nothing,
            What::Damaged => return Err(BadRecord),
        };
        Ok((Record { name: name.to_owned().into(), change }, length))
    }
}

/// A record as it stands in the log.
pub(super) struct Stored<'b> {
    /// The name of the database.
    pub name: &'b str,
    /// What it is.
    pub what: What,
    payload: &'b [u8],
    /// The length of the payload, not compressed.
    raw: usize,
    /// The length of the record.
    pub length: usize,
}

impl<'b> Stored<'b> {
    /// The name and the length of what looks like a record at the start of `bytes`, damaged or not.
    pub fn outline(bytes: &'b [u8]) -> Option<(&'b str, usize)> {
        let is_header = |header: &&[u8]| header[12] == 1 || (2..=4).contains(&header[12]) && header[14..16] == [0, 0];
        let header = bytes.get(..HEADER).filter(is_header)?;
        let name = std::str::from_utf8(bytes.get(HEADER..HEADER + usize::from(header[13]))?).ok()?;
        let length = read_u32(header, 8) as usize;
        let is_length = length >= HEADER + name.len() && length <= bytes.len() && length.is_multiple_of(ALIGN);
        is_length.then_some((name, length))
    }

    /// The record at the start of `bytes`.
    pub fn at(bytes: &'b [u8]) -> Result<Self, BadRecord> {
        let header = bytes.get(..HEADER).ok_or(BadRecord)?;
        let length = read_u32(header, 8) as usize;
        let record = bytes.get(..length).filter(|record| record.len() >= HEADER).ok_or(BadRecord)?;
        if XxHash3_64::oneshot(&record[8..]) != read_u64(header, 0) {
            return Err(BadRecord);
        }
        let start = HEADER + usize::from(header[13]);
        let (raw, stored) = (read_u32(header, 32) as usize, read_u32(header, 36) as usize);
        let name = record.get(HEADER..start).and_then(|name| std::str::from_utf8(name).ok()).ok_or(BadRecord)?;
        let payload = record.get(start..start + stored).filter(|_| raw <= MAX_PAYLOAD).ok_or(BadRecord)?;
        let what = match header[12] {
            1 => What::Commit {
                offset: read_u64(header, 16),
                length: raw as u64,
                salts: read_u64(header, 24),
                began: Boot::numbered(u16::from_le_bytes([header[14], header[15]])),
            },
            2 => What::Create { length: raw as u64 },
            3 => What::Barrier,
            4 => What::Nothing,
            _ => return Err(BadRecord),
        };
        Ok(Self { name, what, payload, raw, length })
    }
}

/// The memory that compression needs, kept for the next record: to allocate it costs as much as a short record.
struct Compressor {
    table: CompressTable,
    output: Vec<u8>,
}

/// A longer output is not kept.
const KEPT: usize = 1 << 20;

thread_local! {
    static COMPRESSOR: RefCell<Compressor> = RefCell::new(Compressor { table: CompressTable::small(), output: Vec::new() });
}

impl Compressor {
    /// The bytes in lz4 if that is shorter, else as they are.
    fn shorten<'b>(&'b mut self, raw: &'b [u8]) -> &'b [u8] {
        let most = get_maximum_output_size(raw.len());
        if self.output.len() < most || self.output.len() > KEPT.max(most) {
            self.output = vec![0; most];
        }
        match compress_into_with_table(raw, &mut self.output, &mut self.table) {
            Ok(length) if length < raw.len() => &self.output[..length],
            _ => raw,
        }
    }
}

/// Lengths fit: [`MAX_PAYLOAD`] and a name are far less than 4 GiB.
fn to_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|found| found.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|found| found.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changes() -> impl Strategy<Value = Change<'static>> {
        let bytes = || {
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..3000),
                (0_usize..9000, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
            ]
        };
        prop_oneof![
            (any::<u64>(), any::<u64>(), any::<u16>(), bytes()).prop_map(|(offset, salts, boot, bytes)| {
                Change::Commit { offset, salts, began: Boot::numbered(boot), bytes: bytes.into() }
            }),
            bytes().prop_map(|image| Change::Create(image.into())),
            Just(Change::Barrier),
            Just(Change::Nothing),
        ]
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written_and_not_with_a_bit_changed(
            name in "[a-zA-Z0-9_.@:|+-]{0,128}", change in changes(), behind in any::<u64>(), flip in any::<prop::sample::Index>(),
        ) {
            let record = Record { name: name.into(), change };
            let mut bytes = record.encode();
            prop_assert_eq!(bytes.len() % ALIGN, 0);
            let length = bytes.len();
            bytes.extend_from_slice(&behind.to_le_bytes());
            prop_assert_eq!(Record::decode(&bytes), Ok((record, length)));
            prop_assert_eq!(Record::decode(&bytes[..length - 1]), Err(BadRecord));
            let bit = flip.index(length * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::decode(&bytes), Err(BadRecord));
        }
    }
}
