//! Reading the log's segments: which records it has, in order, and where it is damaged.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    group::{self, BLOCK, GroupHeader, Headless, Slot},
    record::{NOBODY, What},
    segment,
};
use crate::error::{Error, ErrorKind, Result};

/// The file in the folder of a damaged log with the names of the databases that lack commits, a line each; the catalog's
/// is empty.
pub(super) const NAMES: &str = "databases";

/// The file in the folder of a damaged log that says that its databases were named.
pub(super) const RECORDED: &str = "recorded";

/// A record of the log, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The number of its group.
    pub group: u64,
    /// The name of the database: a tenant's id, or empty for the catalog.
    pub name: String,
    /// What it is.
    pub what: What,
    /// The segment that it is in.
    pub segment: PathBuf,
    /// Its offset in the segment, in bytes.
    pub at: u64,
}

/// A group that was found by its header.
struct Place {
    header: GroupHeader,
    segment: usize,
    at: usize,
}

impl Place {
    /// Where the next group of the segment begins.
    fn end(&self) -> (usize, usize) {
        (self.segment, self.at.saturating_add(self.header.length()))
    }
}

/// Every record of the log that may still be needed, in order. An empty or missing folder has none.
///
/// The last group may be torn: nobody was told that its commits are durable, and it is left out. So is a group whose
/// flush failed and that another one took the number of.
///
/// # Errors
/// [`ErrorKind::Damaged`] if a record cannot be read and it cannot be told whose it is.
pub fn read(folder: &Path) -> Result<Vec<Entry>> {
    let mut found = Groups { segments: segments(folder)?, ..Groups::default() };
    found.find()?;
    let Some((&last, newest)) = found.places.last_key_value() else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    for number in newest.header.base.. {
        let placed = found.place(number);
        let newer = found.without_header(number, placed.as_ref().map(|(_, _, header)| header.segment_use))?;
        let group = match (newer, placed) {
            (None, Some((segment, at, header))) => {
                group::records(&header, found.bytes(segment, at)?).ok().map(|slots| (segment, at, slots))
            }
            (newer, _) => newer,
        };
        let is_damaged = |slot: &Slot| matches!(slot, Slot::Damaged { .. });
        let torn = group.as_ref().is_none_or(|(_, _, slots)| slots.iter().any(is_damaged));
        if torn && number >= last {
            break;
        }
        let (segment, at, slots) = group.ok_or_else(|| lost(folder, number))?;
        for slot in slots {
            let (name, what, offset) = match slot {
                Slot::Whole { name, what, at } => (name, what, at),
                Slot::Damaged { name } => (name, What::Damaged, 0),
            };
            let segment = found.segments.get(segment).cloned().unwrap_or_default();
            entries.push(Entry { group: number, name, what, segment, at: (at + offset) as u64 });
        }
    }
    Ok(entries)
}

/// The last record of each database that any group in the log's segments has, needed or not.
///
/// # Errors
/// They cannot be read.
pub fn newest_of_all(folder: &Path) -> Result<BTreeMap<String, What>> {
    let mut found = Groups { segments: segments(folder)?, ..Groups::default() };
    found.find()?;
    let mut newest = BTreeMap::new();
    let numbers: Vec<u64> = found.places.keys().copied().collect();
    for number in numbers {
        let Some((segment, at, header)) = found.place(number) else { continue };
        let Ok(slots) = group::records(&header, found.bytes(segment, at)?) else { continue };
        for slot in slots {
            match slot {
                Slot::Whole { name, what, .. } => newest.insert(name, what),
                Slot::Damaged { name } => newest.insert(name, What::Damaged),
            };
        }
    }
    for (_, group) in &found.headless {
        for slot in &group.slots {
            let (Slot::Whole { name, .. } | Slot::Damaged { name }) = slot;
            newest.insert(name.clone(), What::Damaged);
        }
    }
    newest.remove(NOBODY);
    Ok(newest)
}

/// The groups of a log's segments.
#[derive(Default)]
struct Groups {
    segments: Vec<PathBuf>,
    /// By their numbers, those that have a header.
    places: BTreeMap<u64, Place>,
    /// The first groups of segments that do not begin with a header.
    headless: Vec<(usize, Headless)>,
    /// The segment that was read last. No other is in memory.
    loaded: Option<(usize, Vec<u8>)>,
}

impl Groups {
    /// Finds the groups that have a header.
    fn find(&mut self) -> Result<()> {
        for index in 0..self.segments.len() {
            let seed = self.seed(index);
            self.bytes(index, 0)?;
            let Some((_, bytes)) = &self.loaded else { continue };
            if GroupHeader::decode(bytes, seed).is_none() {
                self.headless.extend(group::without_header(bytes, seed).map(|group| (index, group)));
            }
            walk(index, bytes, seed, &mut self.places);
        }
        Ok(())
    }

    fn seed(&self, segment: usize) -> u64 {
        self.segments.get(segment).and_then(|path| segment::seed_of(path)).unwrap_or_default()
    }

    /// Where the group of this number is: its segment, its offset there, and its header. None if its header is damaged.
    fn place(&self, number: u64) -> Option<(usize, usize, GroupHeader)> {
        let place = self.places.get(&number)?;
        // The next group of a segment begins where this one ends. Else this is one whose flush failed, and the header
        // of the one that took its number is damaged.
        let next = self.places.get(&(number + 1)).filter(|next| next.at > 0);
        let is_it = next.is_none_or(|next| place.end() == (next.segment, next.at));
        is_it.then_some((place.segment, place.at, place.header))
    }

    /// The group of this number, whose header is damaged: its segment, its offset there, and its records. It is behind
    /// the one before it, or at the start of a segment. Of two with one number the flush of the one with the lower use
    /// had failed: one with a header is given by its use.
    fn without_header(&mut self, number: u64, than: Option<u64>) -> Result<Option<(usize, usize, Vec<Slot>)>> {
        let next = self.places.get(&(number + 1)).filter(|next| next.at > 0).map(|next| (next.segment, next.at));
        let ends_right = |segment, at, length| next.is_none_or(|next| next == (segment, at + length));
        let mut found = None;
        let behind = number.checked_sub(1).and_then(|before| self.places.get(&before)).map(Place::end);
        if let Some((segment, at)) = behind.filter(|_| than.is_none()) {
            let seed = self.seed(segment);
            found = group::without_header(self.bytes(segment, at)?, seed)
                .filter(|group| group.number == number && ends_right(segment, at, group.length))
                .map(|group| (group.segment_use, (segment, at, group.slots)));
        }
        for (segment, group) in self.headless.iter().filter(|(_, group)| group.number == number) {
            let newest = found.as_ref().map(|(segment_use, _)| *segment_use).max(than);
            if ends_right(*segment, 0, group.length) && newest.is_none_or(|newest| newest < group.segment_use) {
                found = Some((group.segment_use, (*segment, 0, group.slots.clone())));
            }
        }
        Ok(found.map(|(_, group)| group))
    }

    /// The bytes of a segment from `at`.
    fn bytes(&mut self, segment: usize, at: usize) -> Result<&[u8]> {
        if self.loaded.as_ref().is_none_or(|(index, _)| *index != segment) {
            self.loaded = Some((segment, self.segments.get(segment).map_or(Ok(Vec::new()), |path| load(path))?));
        }
        Ok(self.loaded.as_ref().and_then(|(_, bytes)| bytes.get(at..)).unwrap_or_default())
    }
}

/// Finds the groups of a segment by their headers.
fn walk(segment: usize, bytes: &[u8], seed: u64, places: &mut BTreeMap<u64, Place>) {
    let (mut at, mut found) = (0, None::<GroupHeader>);
    while at < bytes.len() {
        // What a former use of the segment left behind the end of this one has a lower use.
        let follows = |header: &GroupHeader| {
            found.is_none_or(|before| header.segment_use == before.segment_use && header.number > before.number)
        };
        let Some(header) = bytes.get(at..).and_then(|rest| GroupHeader::decode(rest, seed)).filter(follows) else {
            at += BLOCK;
            continue;
        };
        // Of two with one number the flush of the one with the lower use had failed.
        if places.get(&header.number).is_none_or(|place: &Place| place.header.segment_use < header.segment_use) {
            places.insert(header.number, Place { header, segment, at });
        }
        found = Some(header);
        at = at.saturating_add(header.length());
    }
}

/// A segment's content.
pub fn load(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path.display(), e))
}

/// Whether the log has no segment.
pub(super) fn is_empty(folder: &Path) -> Result<bool> {
    Ok(segments(folder)?.is_empty())
}

pub(super) fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    match list(folder)? {
        (_, Some(other)) => Err(foreign(&other)),
        (found, None) => Ok(found),
    }
}

/// The segments in a folder, and a file that is none.
pub(super) fn list(folder: &Path) -> Result<(Vec<PathBuf>, Option<PathBuf>)> {
    let failed = |e| Error::io(folder.display(), e);
    let (mut found, mut other) = (Vec::new(), None);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((found, other)),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let is_other = |name: &std::ffi::OsStr| name == NAMES || name == RECORDED;
        if segment::seed_of(&path).is_some() {
            found.push(path);
        } else if !path.is_dir() && !path.file_name().is_some_and(is_other) {
            other = Some(path);
        }
    }
    found.sort();
    Ok((found, other))
}

fn foreign(path: &Path) -> Error {
    let why = format!(
        "{} is no segment of a log that this program knows: start the program that wrote it, or move it out of the folder if \
         it does not belong there. Nothing was changed",
        path.display()
    );
    Error::config(why)
}

pub(super) fn lost(at: &Path, group: u64) -> Error {
    let why = format!(
        "the log is damaged at {} (group {group}), and it cannot be told whose commits are lost; restore the data folder \
         from a backup, or see docs/OPERATIONS.md, \"A damaged log\"",
        at.display()
    );
    Error::new(ErrorKind::Damaged, why)
}
