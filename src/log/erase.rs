//! Erasing records from a log that is kept.

use std::{fs::OpenOptions, os::unix::fs::FileExt, path::Path};

use super::{
    group::{self, BLOCK, GroupHeader},
    record::{ALIGN, Stored},
    scan::{list, load},
    segment,
};
use crate::error::{Error, Result};

/// Overwrites records of a log with zeros, also those of a former use of a segment: those for which `is_one` is true,
/// of the name of the database and whether the record is whole. What is not whole may only look like a record. May
/// block.
pub fn erase(log: &Path, is_one: impl Fn(&str, bool) -> bool) -> Result<()> {
    // What an operator has put beside them stays as it is.
    let (segments, _) = list(log)?;
    for path in segments {
        let failed = |e| Error::io(path.display(), e);
        let bytes = load(&path)?;
        let found = records_of(&bytes, segment::seed_of(&path).unwrap_or_default(), &is_one);
        if found.is_empty() {
            continue;
        }
        let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
        for (at, length) in found {
            file.write_all_at(&vec![0; length], at as u64).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
    }
    Ok(())
}

/// Where the records of a segment are for which `is_one` is true: offsets and lengths. A group's index tells them where
/// it is whole; else they are what looks like records.
fn records_of(bytes: &[u8], seed: u64, is_one: impl Fn(&str, bool) -> bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for start in (0..bytes.len()).step_by(BLOCK) {
        let group =
            GroupHeader::decode(&bytes[start..], seed).and_then(|header| group::extents(&header, &bytes[start..]));
        for (name, at, length) in group.unwrap_or_default() {
            let (at, length) = (start + at, length);
            if is_one(&name, Stored::at(&bytes[at..at + length]).is_ok()) {
                found.push((at, length));
            }
        }
    }
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let Some((name, length)) = Stored::outline(rest) else {
            at += ALIGN;
            continue;
        };
        let is_whole = Stored::at(rest).is_ok();
        // The length of one that is damaged may be wrong.
        let length = if is_whole { length } else { up_to_the_next(rest, length) };
        if is_one(name, is_whole) {
            found.push((at, length));
        }
        at += if is_whole { length } else { ALIGN };
    }
    found
}

/// The length of the record at the start of `bytes`: `length`, but up to the next whole record or group.
fn up_to_the_next(bytes: &[u8], length: usize) -> usize {
    let begins = |at: &usize| bytes[*at..].starts_with(&group::MAGIC) || Stored::at(&bytes[*at..]).is_ok();
    (ALIGN..length).step_by(ALIGN).find(begins).unwrap_or(length)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::log::{
        Log, Options,
        group::GroupBuilder,
        record::{Change, Record},
    };

    #[test]
    fn nothing_of_the_erased_is_left_and_all_of_the_others() {
        let root = tempfile::TempDir::new().unwrap();
        let folder = root.path().join("log.kept-1");
        std::fs::create_dir(&folder).unwrap();
        let log = Log::start(&folder, root.path(), Options { segment_bytes: 64 << 10, ..Options::default() }).unwrap();
        for n in 0..100_u64 {
            for name in ["ada", "ada2"] {
                let bytes = format!("a secret of {name} {}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes();
                let change = Change::Commit { offset: 0, salts: n, began: None, bytes: bytes.into() };
                let record = Record { name: name.into(), change };
                log.wait_blocking(log.append(&Arc::from(name), &record, 0, None)).unwrap();
            }
        }
        log.close().unwrap();
        let has = |what: &str| {
            let (files, _) = list(&folder).unwrap();
            let texts = files.iter().map(|path| load(path).unwrap());
            texts
                .map(|bytes| bytes.windows(what.len()).filter(|found| *found == what.as_bytes()).count())
                .sum::<usize>()
        };
        let (of_one, of_other) = (has("a secret of ada "), has("a secret of ada2 "));
        assert!(of_one > 10 && of_other > 10);
        erase(&folder, |name, _| name == "ada").unwrap();
        assert_eq!((has("a secret of ada "), has("a secret of ada2 ")), (0, of_other));
    }

    #[test]
    fn a_damaged_length_costs_others_nothing() {
        let mut group = GroupBuilder::new();
        for name in ["ada", "bob", "ada", "bob"] {
            let change = Change::Commit {
                offset: 0,
                salts: 1,
                began: None,
                bytes: b"a few bytes that do not repeat".to_vec().into(),
            };
            group.push(name, &Record { name: name.into(), change }.encode());
        }
        let mut bytes = group.finish(1, 1, 1, 7).to_vec();
        let extents = group::extents(&GroupHeader::decode(&bytes, 7).unwrap(), &bytes).unwrap();
        let all_of = |bytes: &[u8], seed| {
            let mut found = records_of(bytes, seed, |name, _| name == "ada");
            found.sort_unstable();
            found.dedup();
            found
        };
        let of_ada: Vec<_> = [&extents[0], &extents[2]].iter().map(|(_, at, length)| (*at, *length)).collect();
        assert_eq!(all_of(&bytes, 7), of_ada);
        // The first record seems to be longer, and its group has an index or, with another seed, none.
        let (at, length) = of_ada[0];
        bytes[at + 8..at + 12].copy_from_slice(&u32::try_from(length + 64).unwrap().to_le_bytes());
        assert_eq!(all_of(&bytes, 7), of_ada);
        assert_eq!(all_of(&bytes, 8), of_ada);
        // By its name it is nobody's, and by the index it is ada's.
        bytes[at + 40] ^= 1;
        assert_eq!(all_of(&bytes, 7), of_ada);
    }

    #[test]
    fn what_is_beside_the_segments_is_no_obstacle() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join("notes.txt"), "looked at it").unwrap();
        erase(folder.path(), |_, _| true).unwrap();
        assert!(folder.path().join("notes.txt").exists());
    }
}
