//! The files of the log as they stand on the disk, to be damaged. `src/log/group.rs` and `src/log/record.rs`
//! say what is where.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use cubby::log::{self, What};
use twox_hash::XxHash3_64;

use crate::rng::Rng;

const BLOCK: usize = 4096;
const GROUP_HEADER: usize = 64;
const RECORD_HEADER: usize = 40;

/// A kind of place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    GroupHeader,
    RecordHeader,
    Name,
    Payload,
    RecordPadding,
    Index,
    GroupPadding,
}

impl Place {
    pub const ALL: [Self; 7] = [
        Self::GroupHeader,
        Self::RecordHeader,
        Self::Name,
        Self::Payload,
        Self::RecordPadding,
        Self::Index,
        Self::GroupPadding,
    ];
}

/// Bytes of one kind in a segment.
#[derive(Debug, Clone)]
pub struct Region {
    pub place: Place,
    segment: PathBuf,
    bytes: Range<usize>,
    /// The record that they are in.
    record: Option<Range<usize>>,
    /// The database that the record is of.
    pub name: Option<String>,
}

/// A group, by its place.
struct Group {
    segment: PathBuf,
    at: usize,
    segment_use: u64,
    base: u64,
    records: usize,
    index: usize,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn short_number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The seed of the checksums of a segment's groups, which is in its name.
fn seed_of(segment: &Path) -> u64 {
    let seed = segment.file_stem().and_then(|name| name.to_str()?.split_once('-'));
    seed.map_or(0, |(_, seed)| u64::from_str_radix(seed, 16).unwrap())
}

/// The log's segments, by their paths.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "log")).collect();
    found.sort();
    found
}

/// The newest group of each number.
fn groups(folder: &Path) -> BTreeMap<u64, Group> {
    let mut found = BTreeMap::<u64, Group>::new();
    for segment in segments(folder) {
        let (bytes, seed) = (std::fs::read(&segment).unwrap(), seed_of(&segment));
        for at in (0..bytes.len()).step_by(BLOCK) {
            let Some(header) = bytes.get(at..at + GROUP_HEADER) else { continue };
            if !header.starts_with(b"CUBBYLG1")
                || XxHash3_64::oneshot_with_seed(seed, &header[16..]) != number(header, 8)
            {
                continue;
            }
            let group = Group {
                segment: segment.clone(),
                at,
                segment_use: number(header, 32),
                base: number(header, 24),
                records: number(header, 40) as usize,
                index: short_number(header, 56),
            };
            let nth = number(header, 16);
            if found.get(&nth).is_none_or(|other| other.segment_use < group.segment_use) {
                found.insert(nth, group);
            }
        }
    }
    found
}

/// All that may be needed, but the last group: damage to that cannot be told from a write that the power cut short.
pub fn regions(folder: &Path) -> Vec<Region> {
    let groups = groups(folder);
    let Some((&last, newest)) = groups.last_key_value() else { return Vec::new() };
    let mut found = Vec::new();
    for group in groups.range(newest.base.min(last)..last).map(|(_, group)| group) {
        let bytes = std::fs::read(&group.segment).unwrap();
        let start = group.at + GROUP_HEADER;
        let index = start + group.records;
        let end = index + group.index;
        let plain = |place, bytes| Region { place, segment: group.segment.clone(), bytes, record: None, name: None };
        found.push(plain(Place::GroupHeader, group.at..start));
        found.push(plain(Place::Index, index..end));
        found.push(plain(Place::GroupPadding, end..end.next_multiple_of(BLOCK)));
        let mut at = start;
        while at < index {
            let length = short_number(&bytes, at + 8);
            let name = at + RECORD_HEADER;
            let payload = name + usize::from(bytes[at + 13]);
            let padding = payload + short_number(&bytes, at + 36);
            let whose = String::from_utf8(bytes[name..payload].to_vec()).unwrap();
            for (place, bytes) in [
                (Place::RecordHeader, at..name),
                (Place::Name, name..payload),
                (Place::Payload, payload..padding),
                (Place::RecordPadding, padding..at + length),
            ] {
                let (record, name) = (Some(at..at + length), Some(whose.clone()));
                found.push(Region { record, name, ..plain(place, bytes) });
            }
            at += length;
        }
    }
    found.retain(|region| !region.bytes.is_empty());
    found
}

impl Region {
    /// Flips a bit. `forged`: and makes the record's checksum say that this is right.
    pub fn flip(&self, rng: &mut Rng, forged: bool) {
        let file = File::options().read(true).write(true).open(&self.segment).unwrap();
        let at = rng.range(self.bytes.start as u64, self.bytes.end as u64);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 1 << rng.range(0, 8);
        file.write_all_at(&byte, at).unwrap();
        if let Some(record) = self.record.clone().filter(|_| forged) {
            seal(&file, record.start as u64, record.len());
        }
        file.sync_all().unwrap();
    }
}

/// Makes a record's checksum right.
fn seal(file: &File, at: u64, length: usize) {
    let mut record = vec![0; length];
    file.read_exact_at(&mut record, at).unwrap();
    let hash = XxHash3_64::oneshot(&record[8..]);
    file.write_all_at(&hash.to_le_bytes(), at).unwrap();
}

/// Makes something else of every barrier, as if the redo knew none. How many there were.
pub fn without_barriers(folder: &Path) -> usize {
    const KIND_AT: u64 = 12;
    const PLACED: u8 = 4;
    let entries = log::read(folder).unwrap_or_default();
    let barriers = entries.iter().filter(|entry| entry.what == What::Barrier);
    barriers
        .map(|entry| {
            let file = File::options().read(true).write(true).open(&entry.segment).unwrap();
            let mut start = [0; RECORD_HEADER];
            file.read_exact_at(&mut start, entry.at).unwrap();
            file.write_all_at(&[PLACED], entry.at + KIND_AT).unwrap();
            seal(&file, entry.at, short_number(&start, 8));
            file.sync_all().unwrap();
        })
        .count()
}
