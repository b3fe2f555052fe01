//! The head of a tenant's chain.
//!
//! | bytes | content (integers are little-endian) |
//! |---|---|
//! | 0..4 | `CBHD` |
//! | 4 | version of this layout, 1 |
//! | 5 | 1 if the chain has ended, else 0 |
//! | 6 | 1 if there is a position, else 0 |
//! | 7 | 1 if the position's checksums are big-endian, else 0 |
//! | 8..64 | epoch, seq, time, tail in bytes, seq of the base, time of the base, end of the position |
//! | 64..72 | salts of the position |
//! | 72..88 | checksums of the position, its page size, size of the database in pages |
//! | 88..120 | hash of the newest entry |
//! | 120..128 | xxh3 of the rest |

use twox_hash::XxHash3_64;

use super::fields::{VERSION, damaged, flag, newer, read_hash, read_u32, read_u64};
use crate::{clock::Millis, error::Result, sqlite::frames::Position};

/// The newest entry of a tenant's chain, and what is needed to go on from it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Head {
    /// The epoch.
    pub epoch: u64,
    /// The number of the newest entry.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Its time.
    pub time: Millis,
    /// Where in the WAL reading had got to.
    pub position: Option<Position>,
    /// The size of the database in pages.
    pub size_pages: u32,
    /// How much is stored since the newest base, in bytes.
    pub tail_bytes: u64,
    /// The entry of the newest base.
    pub base_seq: u64,
    /// The time of that.
    pub base_time: Millis,
    /// The chain does not go on: the tenant needs a base.
    pub ended: bool,
}

const HEAD_MAGIC: &[u8; 4] = b"CBHD";
const HEAD: usize = 128;

impl Head {
    /// What stands in the shard.
    pub fn encode(&self) -> Vec<u8> {
        let position = self.position.as_ref();
        let is_big_endian = position.is_some_and(|position| position.big_endian);
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend_from_slice(HEAD_MAGIC);
        bytes.extend([VERSION, u8::from(self.ended), u8::from(position.is_some()), u8::from(is_big_endian)]);
        let end = position.map_or(0, |position| position.end);
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend(self.seq.to_le_bytes());
        bytes.extend(self.time.to_le_bytes());
        bytes.extend(self.tail_bytes.to_le_bytes());
        bytes.extend(self.base_seq.to_le_bytes());
        bytes.extend(self.base_time.to_le_bytes());
        bytes.extend(end.to_le_bytes());
        bytes.extend(position.map_or(0, |position| position.salts).to_le_bytes());
        let checksum = position.map_or([0; 2], |position| position.checksum);
        bytes.extend(checksum[0].to_le_bytes());
        bytes.extend(checksum[1].to_le_bytes());
        bytes.extend(position.map_or(0, |position| position.page_size).to_le_bytes());
        bytes.extend(self.size_pages.to_le_bytes());
        bytes.extend(self.hash);
        bytes.extend(XxHash3_64::oneshot(&bytes).to_le_bytes());
        bytes
    }

    /// Reads what [`Head::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != HEAD || !bytes.starts_with(HEAD_MAGIC) {
            return Err(damaged());
        }
        if bytes[4] != VERSION {
            return Err(newer(bytes[4]));
        }
        if XxHash3_64::oneshot(&bytes[..120]) != read_u64(bytes, 120) {
            return Err(damaged());
        }
        let position = Position {
            salts: read_u64(bytes, 64),
            end: read_u64(bytes, 56),
            checksum: [read_u32(bytes, 72), read_u32(bytes, 76)],
            page_size: read_u32(bytes, 80),
            big_endian: flag(bytes[7])?,
        };
        let time = |at| Millis::from_le_bytes(read_u64(bytes, at).to_le_bytes());
        Ok(Self {
            epoch: read_u64(bytes, 8),
            seq: read_u64(bytes, 16),
            hash: read_hash(bytes, 88),
            time: time(24),
            position: flag(bytes[6])?.then_some(position),
            size_pages: read_u32(bytes, 84),
            tail_bytes: read_u64(bytes, 32),
            base_seq: read_u64(bytes, 40),
            base_time: time(48),
            ended: flag(bytes[5])?,
        })
    }
}
