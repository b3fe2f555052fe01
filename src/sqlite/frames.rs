//! Reading transactions out of the bytes of a write-ahead log (<https://sqlite.org/fileformat2.html#walformat>), as the data
//! folder's log has them: piece by piece, each with its offset and the salts of the write-ahead log that it is of.
//!
//! A piece at 0 begins a write-ahead log anew; every other one continues what was read. A frame is valid if it has the salts
//! and continues the checksums of all before it. In a piece that continues, every frame is. Pieces from 0 on may be
//! the whole file, which can have frames after the last commit that are not: of a transaction that was rolled back, and of
//! the log that was in the file before. There reading ends, and what comes of them is passed over, unless a frame in it says
//! that it is a commit of this very log.

use std::collections::BTreeMap;

/// The length of the header of a write-ahead log.
pub(super) const HEADER: usize = 32;

/// The length of the header of a frame, after which the page comes.
pub(super) const FRAME_HEADER: usize = 24;

/// Without its last bit, which says that the checksums are of big-endian words.
const MAGIC: u32 = 0x377f_0682;

const VERSION: u32 = 3_007_000;

/// Where in a write-ahead log reading has got to: what is needed to go on with the next piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The two salts, as they stand in the header, little-endian.
    pub salts: u64,
    /// The bytes before it.
    pub end: u64,
    /// The checksums of all before it.
    pub checksum: [u32; 2],
    /// The length of a page.
    pub page_size: u32,
    /// Whether the checksums are of big-endian words.
    pub big_endian: bool,
}

/// What the header of a valid frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// The number of the page.
    pub page: u32,
    /// The database's size in pages, if this is the last frame of a transaction; else 0.
    pub size_pages: u32,
}

impl Position {
    /// The position after the header of a write-ahead log; none if SQLite would not read on.
    pub(super) fn after_header(header: &[u8; HEADER]) -> Option<Self> {
        let (magic, page_size) = (word(header, 0), word(header, 8));
        let big_endian = magic & 1 == 1;
        let checksum = checksum(big_endian, [0, 0], &header[..24]);
        let is_sound = magic & !1 == MAGIC
            && word(header, 4) == VERSION
            && page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size)
            && checksum == [word(header, 24), word(header, 28)];
        let salts = salts_at(header, 16);
        is_sound.then_some(Self { salts, end: HEADER as u64, checksum, page_size, big_endian })
    }

    /// The length of a frame, with its header.
    pub(super) fn frame_length(&self) -> usize {
        FRAME_HEADER + self.page_size as usize
    }

    /// The position after a frame that stands here, and what its header says; none if it is not valid.
    pub(super) fn after_frame(&self, frame: &[u8]) -> Option<(Self, FrameHead)> {
        let (header, page) =
            frame.split_at_checked(FRAME_HEADER).filter(|(_, page)| page.len() == self.page_size as usize)?;
        let head = FrameHead { page: word(header, 0), size_pages: word(header, 4) };
        if salts_at(header, 8) != self.salts || head.page == 0 {
            return None;
        }
        let sum = checksum(self.big_endian, checksum(self.big_endian, self.checksum, &header[..8]), page);
        let after = Self { end: self.end + frame.len() as u64, checksum: sum, ..*self };
        (sum == [word(header, 16), word(header, 20)]).then_some((after, head))
    }

    /// The same for a frame that is known to be the one that follows: its checksums are believed.
    fn after_known_frame(&self, frame: &[u8]) -> Option<(Self, FrameHead)> {
        let head = FrameHead { page: word(frame, 0), size_pages: word(frame, 4) };
        let checksum = [word(frame, 16), word(frame, 20)];
        let after = Self { end: self.end + frame.len() as u64, checksum, ..*self };
        (salts_at(frame, 8) == self.salts && head.page > 0).then_some((after, head))
    }

    /// Whether a frame that is not valid here says that it ends a transaction of this write-ahead log.
    fn is_broken_commit(&self, frame: &[u8]) -> bool {
        frame.len() >= FRAME_HEADER && salts_at(frame, 8) == self.salts && word(frame, 4) != 0
    }
}

/// A transaction that was read.
pub struct Transaction<'f> {
    /// The last images of its pages, by number; none is beyond `size_pages`. They may be taken.
    pub pages: &'f mut BTreeMap<u32, Vec<u8>>,
    /// The database's size in pages after it.
    pub size_pages: u32,
    /// The position after it.
    pub position: Position,
}

/// A piece does not continue what was read, or is not what SQLite wrote: transactions may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap;

/// Reads the pieces of one database's write-ahead logs, in order. A transaction is given once, also if a write-ahead log is
/// read from its beginning again.
#[derive(Debug, Default)]
pub struct Frames {
    /// After the last transaction that was given.
    given: Option<Position>,
    /// None if the next piece must be at 0, or the first one.
    reading: Option<Reading>,
    /// The page size, if the first piece may be at any frame.
    joins: Option<u32>,
}

#[derive(Debug)]
struct Reading {
    salts: u64,
    /// How far bytes have come.
    fed: u64,
    /// After the last commit.
    committed: u64,
    /// After the last valid frame; none before the header.
    at: Option<Position>,
    /// What came of a header or frame that is not whole.
    partial: Vec<u8>,
    /// Those since the last commit.
    pages: BTreeMap<u32, Vec<u8>>,
    /// Whether frames that are not valid may come.
    lenient: bool,
    /// Whether one has come.
    ended: bool,
}

impl Frames {
    /// Nothing was read: the next piece must be at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// All before `position` was read.
    pub fn at(position: Position) -> Self {
        Self { given: Some(position), reading: Some(Reading::at(position)), joins: None }
    }

    /// The first piece may be at 0, or begin with a frame after a commit. Pieces before that, which begin within a frame, are
    /// passed over.
    pub fn joining(page_size: u32) -> Self {
        Self { joins: Some(page_size), ..Self::default() }
    }

    /// The position after the last transaction that was given; none before the first.
    pub fn position(&self) -> Option<Position> {
        self.given
    }

    /// Whether a transaction has begun whose last frame has not come: more has to. After a whole file it may never come, of one
    /// that was rolled back.
    pub fn is_inside(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| !reading.ended && !reading.is_between())
    }

    /// Reads the piece at `offset` of the write-ahead log with these salts, and calls `committed` for each transaction that ends
    /// in it.
    ///
    /// # Errors
    /// [`Gap`]; then the next piece must be at 0. What `committed` was called with before is right.
    pub fn read(
        &mut self,
        offset: u64,
        salts: u64,
        bytes: &[u8],
        committed: &mut dyn FnMut(Transaction<'_>),
    ) -> Result<(), Gap> {
        if self.joins.is_some_and(|page_size| is_within_a_frame(offset, page_size)) {
            return Ok(());
        }
        let mut reading = self.begin(offset, salts)?;
        reading.fed += bytes.len() as u64;
        reading.read(bytes, &mut self.given, committed)?;
        self.reading = Some(reading);
        Ok(())
    }

    /// What a piece continues, taken out.
    fn begin(&mut self, offset: u64, salts: u64) -> Result<Reading, Gap> {
        let joins = self.joins.take();
        let before = self.reading.take().filter(|reading| reading.salts == salts);
        let given = self.given.filter(|given| given.salts == salts && given.end == offset);
        match (before, given) {
            _ if offset == 0 => Ok(Reading::from_start(salts)),
            (Some(mut before), _) if before.fed == offset => {
                // The whole of a file is a sequence of pieces that end anywhere. One that ends with a commit is all of it.
                before.lenient &= before.ended || !before.is_between();
                Ok(before)
            }
            // SQLite writes over what stands behind the last commit.
            (Some(_), Some(given)) => Ok(Reading::at(given)),
            (None, None) if let Some(page_size) = joins => {
                let (checksum, big_endian) = ([0; 2], cfg!(target_endian = "big"));
                Ok(Reading::at(Position { salts, end: offset, checksum, page_size, big_endian }))
            }
            _ => Err(Gap),
        }
    }
}

impl Reading {
    fn at(position: Position) -> Self {
        let (fed, committed) = (position.end, position.end);
        Self { fed, committed, at: Some(position), lenient: false, ..Self::from_start(position.salts) }
    }

    fn from_start(salts: u64) -> Self {
        let (partial, pages) = (Vec::new(), BTreeMap::new());
        Self { salts, fed: 0, committed: 0, at: None, partial, pages, lenient: true, ended: false }
    }

    /// Whether all that came belongs to whole transactions.
    fn is_between(&self) -> bool {
        self.fed == self.committed
    }

    fn read(
        &mut self,
        mut bytes: &[u8],
        given: &mut Option<Position>,
        committed: &mut dyn FnMut(Transaction<'_>),
    ) -> Result<(), Gap> {
        loop {
            let needed = self.at.map_or(HEADER, |at| at.frame_length());
            if self.partial.is_empty()
                && let Some((unit, rest)) = bytes.split_at_checked(needed)
            {
                bytes = rest;
                self.unit(unit, given, committed)?;
                continue;
            }
            let (more, rest) = bytes.split_at(bytes.len().min(needed - self.partial.len()));
            bytes = rest;
            self.partial.extend_from_slice(more);
            if self.partial.len() < needed {
                return Ok(());
            }
            let unit = std::mem::take(&mut self.partial);
            self.unit(&unit, given, committed)?;
        }
    }

    /// Reads the header or one frame.
    fn unit(
        &mut self,
        unit: &[u8],
        given: &mut Option<Position>,
        committed: &mut dyn FnMut(Transaction<'_>),
    ) -> Result<(), Gap> {
        let Some(at) = self.at else {
            let at = unit.first_chunk().and_then(Position::after_header).filter(|at| at.salts == self.salts);
            self.at = Some(at.ok_or(Gap)?);
            return Ok(());
        };
        let before = given.filter(|given| given.salts == self.salts);
        // The data folder's log has a checksum of each piece: what continues is what SQLite wrote.
        let valid = match (self.ended, self.lenient) {
            (true, _) => None,
            (false, true) => at.after_frame(unit),
            (false, false) => at.after_known_frame(unit),
        };
        let Some((after, head)) = valid else {
            // What was given must be there.
            let is_short = !self.ended && before.is_some_and(|before| before.end > at.end);
            if !self.lenient || is_short || at.is_broken_commit(unit) {
                return Err(Gap);
            }
            self.ended = true;
            self.pages.clear();
            return Ok(());
        };
        self.at = Some(after);
        if head.size_pages > 0 {
            self.committed = after.end;
        }
        if let Some(before) = before.filter(|before| after.end <= before.end) {
            // It was given before.
            return if after.end == before.end && after != before { Err(Gap) } else { Ok(()) };
        }
        self.pages.insert(head.page, unit[FRAME_HEADER..].to_vec());
        if head.size_pages > 0 {
            // One that was written before the transaction ended may be beyond its end.
            self.pages.retain(|page, _| *page <= head.size_pages);
            *given = Some(after);
            committed(Transaction { pages: &mut self.pages, size_pages: head.size_pages, position: after });
            self.pages.clear();
        }
        Ok(())
    }
}

/// Whether no frame begins there.
fn is_within_a_frame(offset: u64, page_size: u32) -> bool {
    let frame = FRAME_HEADER as u64 + u64::from(page_size);
    offset > 0 && offset.checked_sub(HEADER as u64).is_none_or(|frames| frames % frame != 0)
}

/// <https://sqlite.org/fileformat2.html#checksum_algorithm>
fn checksum(big_endian: bool, before: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    fn sum([mut first, mut second]: [u32; 2], bytes: &[u8], read: impl Fn([u8; 4]) -> u32) -> [u32; 2] {
        let (words, _) = bytes.as_chunks::<4>();
        let (pairs, _) = words.as_chunks::<2>();
        for [a, b] in pairs {
            first = first.wrapping_add(read(*a)).wrapping_add(second);
            second = second.wrapping_add(read(*b)).wrapping_add(first);
        }
        [first, second]
    }
    match big_endian {
        true => sum(before, bytes, u32::from_be_bytes),
        false => sum(before, bytes, u32::from_le_bytes),
    }
}

/// The big-endian integer there.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|n| bytes[at + n]))
}

fn salts_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]))
}

#[cfg(test)]
mod tests;
