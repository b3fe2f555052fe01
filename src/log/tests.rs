//! The log as its users see it: what is written comes back, in order, whatever happens to the files in between.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{
    Log, Options,
    group::BLOCK,
    record::{Change, Record, What},
    scan,
};
use crate::error::ErrorKind;

struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self { root: tempfile::TempDir::new().unwrap() };
        std::fs::create_dir(folder.log()).unwrap();
        folder
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }

    fn first_segment(&self) -> PathBuf {
        std::fs::read_dir(self.log()).unwrap().map(|entry| entry.unwrap().path()).min().unwrap()
    }

    fn start(&self, segment_bytes: u64) -> Log {
        Log::start(&self.log(), self.root.path(), Options { segment_bytes, ..Options::default() }).unwrap()
    }
}

fn commit(name: &str, offset: u64, length: usize) -> (Arc<str>, Record<'static>) {
    // Random-looking bytes, which lz4 does not shorten.
    let mut state = offset + 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    let bytes: Vec<u8> = (0..length).map(|_| byte()).collect();
    let change = Change::Commit { offset, salts: 7, began: None, bytes: bytes.into() };
    (name.into(), Record { name: name.to_owned().into(), change })
}

/// Appends the records one after the other, each in a group of its own.
fn append_each(log: &Log, records: &[(Arc<str>, Record<'static>)]) {
    for (name, record) in records {
        log.wait_blocking(log.append(name, record, 0, None)).unwrap();
    }
}

fn offsets(entries: &[scan::Entry]) -> Vec<(String, Option<u64>)> {
    let offset = |what| if let What::Commit { offset, .. } = what { Some(offset) } else { None };
    entries.iter().map(|entry| (entry.name.clone(), offset(entry.what))).collect()
}

#[test]
fn records_come_back_in_the_order_in_which_they_were_appended() {
    let folder = Folder::new();
    let log = folder.start(1 << 20);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let log = log.clone();
            std::thread::spawn(move || {
                for n in 0..50 {
                    let (name, record) = commit(&format!("user{thread}"), n * 100, 100);
                    log.wait_blocking(log.append(&name, &record, 0, None)).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    log.close().unwrap();
    let mut found = BTreeMap::<String, Vec<u64>>::new();
    for (name, offset) in offsets(&scan::read(&folder.log()).unwrap()) {
        found.entry(name).or_default().push(offset.unwrap());
    }
    let expected: Vec<u64> = (0..50).map(|n| n * 100).collect();
    assert_eq!(found.len(), 4);
    assert!(found.values().all(|offsets| *offsets == expected), "{found:?}");
}

#[test]
fn a_log_that_uses_segments_again_has_everything_since_the_oldest_it_needs() {
    let folder = Folder::new();
    let log = folder.start(16 * BLOCK as u64);
    let records: Vec<_> = (0..200).map(|n| commit("ada", n * 5000, 5000)).collect();
    for upto in [3, 40, 199] {
        append_each(
            &log,
            &records[if upto == 3 {
                0
            } else if upto == 40 {
                4
            } else {
                41
            }..=upto],
        );
        let found = offsets(&scan::read(&folder.log()).unwrap());
        let last = found.last().unwrap().1.unwrap();
        assert_eq!(last, upto as u64 * 5000);
        let consecutive = found.windows(2).all(|pair| pair[0].1.unwrap() + 5000 == pair[1].1.unwrap());
        assert!(consecutive, "{found:?}");
    }
    let segments = std::fs::read_dir(folder.log()).unwrap().count();
    assert!(segments <= 5, "{segments} segments");
    log.close_complete().unwrap();
    assert_eq!(std::fs::read_dir(folder.log()).unwrap().count(), 0);
}

#[test]
fn a_changed_bit_is_found_and_named_unless_it_is_in_the_last_group() {
    let folder = Folder::new();
    let log = folder.start(1 << 20);
    let records: Vec<_> = (0..6).map(|n| commit(&format!("user{n}"), 0, 3000)).collect();
    append_each(&log, &records);
    log.close().unwrap();
    let path = folder.first_segment();
    let whole = std::fs::read(&path).unwrap();
    let before = scan::read(&folder.log()).unwrap();
    assert_eq!(before.len(), 6);
    let mut seen = BTreeMap::<&str, usize>::new();
    for (index, entry) in before.iter().enumerate() {
        let group = usize::try_from(entry.at).unwrap() / BLOCK * BLOCK;
        // Every byte of the header, and some of the record, the index and the padding.
        for at in (0..110).chain((110..BLOCK).step_by(37)) {
            let mut bytes = whole.clone();
            bytes[group + at] ^= 1 << (at % 8);
            std::fs::write(&path, bytes).unwrap();
            let found = match scan::read(&folder.log()) {
                Ok(found) => found,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                    *seen.entry("refused").or_default() += 1;
                    continue;
                }
            };
            let damaged: Vec<_> = found.iter().filter(|entry| entry.what == What::Damaged).collect();
            let what = match (damaged.as_slice(), found.len()) {
                ([], 6) => "harmless",
                ([], 5) if index == 5 => "torn",
                ([one], 6) if one.name == entry.name => "named",
                _ => panic!("byte {at} of group {index}: {found:?}"),
            };
            *seen.entry(what).or_default() += 1;
        }
    }
    for what in ["harmless", "torn", "named"] {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "{seen:?}");
    }
    assert_eq!(seen.get("refused"), None, "one changed bit never hides whose record it is in: {seen:?}");
}

/// Groups of mixed lengths in segments that were used again: behind the end of a segment stand whole groups of its
/// former use.
#[test]
fn a_group_without_its_header_is_that_group_or_none() {
    let folder = Folder::new();
    let log = folder.start(64 * BLOCK as u64);
    let records: Vec<_> = (0..400).map(|n| commit(&format!("user{n}"), 0, 500 + n * 977 % 14_000)).collect();
    append_each(&log, &records);
    log.close().unwrap();
    let before = scan::read(&folder.log()).unwrap();
    assert!(before.len() > 4 && before.len() < 400, "{}", before.len());
    let last = before.last().unwrap().group;
    for entry in &before {
        let whole = std::fs::read(&entry.segment).unwrap();
        let group = usize::try_from(entry.at).unwrap() / BLOCK * BLOCK;
        let read_with = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = whole.clone();
            change(&mut bytes[group..group + BLOCK]);
            std::fs::write(&entry.segment, bytes).unwrap();
            scan::read(&folder.log())
        };
        for at in [0, 9, 17, 33] {
            let found = read_with(&|block| block[at] ^= 1).unwrap();
            assert_eq!(found, before, "byte {at} of group {}", entry.group);
        }
        match read_with(&|block| block.fill(0)) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged),
            Ok(found) => assert_eq!((entry.group, found.as_slice()), (last, &before[..before.len() - 1])),
        }
        std::fs::write(&entry.segment, whole).unwrap();
    }
}

#[test]
fn a_torn_last_group_is_left_out() {
    let folder = Folder::new();
    let log = folder.start(1 << 20);
    append_each(&log, &(0..3).map(|n| commit("ada", n * 9000, 9000)).collect::<Vec<_>>());
    log.close().unwrap();
    let path = folder.first_segment();
    let whole = std::fs::read(&path).unwrap();
    let last = usize::try_from(scan::read(&folder.log()).unwrap()[2].at).unwrap() / BLOCK * BLOCK;
    for block in 0..3 {
        let mut bytes = whole.clone();
        bytes[last + block * BLOCK..last + (block + 1) * BLOCK].fill(0);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(scan::read(&folder.log()).unwrap().len(), 2, "block {block}");
    }
}
