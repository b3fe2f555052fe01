//! Which records are to be redone: a pure decision over the log's entries.

use std::collections::BTreeMap;

use super::{boot::Boot, record::What, scan::Entry};

/// What is to be redone for one database.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The record of its creation, if nothing has changed its file since.
    pub create: Option<Entry>,
    /// Commits, in order: each begins where the one before it ends.
    pub commits: Vec<Entry>,
    /// A record that is needed is damaged or missing: nothing of it may be served until somebody has looked.
    pub damaged: bool,
}

impl Plan {
    /// The salts that the write-ahead log on the disk must have for the commits to be redone; none if it may have any, or
    /// be missing. With others, the commits are in the database file: a write-ahead log is restarted, emptied or removed
    /// only after a checkpoint of all of it, whoever does that.
    ///
    /// That the header is on the disk is known of the beginning of an older one. Of one that began during this boot, the
    /// page cache has everything: if it is not there any more, another program has opened the database since the crash, and
    /// may have brought commits into the file that the log does not have. Redoing older ones over them would damage it.
    /// After a reboot, that program may have found less than the log has.
    pub fn needed_salts(&self, boot: Option<Boot>) -> Option<u64> {
        let began = |what| if let What::Commit { began, .. } = what { began } else { None };
        let is_of_this_boot = boot.is_some() && self.commits.iter().any(|entry| began(entry.what) == boot);
        match self.commits.first()?.what {
            // A file that is made again needs all commits since.
            _ if self.create.is_some() => None,
            What::Commit { offset, salts, .. } => (offset > 0 || is_of_this_boot).then_some(salts),
            _ => None,
        }
    }

    fn add(&mut self, entry: &Entry) {
        match entry.what {
            What::Barrier => *self = Self::default(),
            What::Create { .. } => *self = Self { create: Some(entry.clone()), ..Self::default() },
            What::Nothing => {}
            What::Damaged => self.damaged = true,
            What::Commit { offset, salts, .. } => {
                let last = self.commits.last().map(|before| before.what);
                let same = matches!(last, Some(What::Commit { salts: before, .. }) if before == salts);
                // The write-ahead log restarts only after a checkpoint of all before it, which is in the database file.
                // One with the same salts did not restart: it was added as a whole, perhaps in several records.
                if offset == 0 && !same {
                    // That of a new database restarts only after its file is on the disk, and its creation not redone
                    // any more.
                    self.damaged |= self.create.is_some() && !self.commits.is_empty();
                    self.commits.clear();
                }
                let follows = offset == 0 || self.commits.is_empty() || {
                    same && matches!(last, Some(What::Commit { offset: o, length: l, .. }) if o + l == offset)
                };
                self.damaged |= !follows;
                self.commits.push(entry.clone());
            }
        }
    }
}

/// What is to be redone, by the names of the databases.
pub fn plan(entries: &[Entry]) -> BTreeMap<String, Plan> {
    let mut plans = BTreeMap::<String, Plan>::new();
    for entry in entries {
        plans.entry(entry.name.clone()).or_default().add(entry);
    }
    plans.retain(|_, plan| *plan != Plan::default());
    plans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A write-ahead log: the salts of its header, and frames with the salts and the number of their commit.
    type Wal = (u64, Vec<Option<(u64, u64)>>);

    /// The bytes of each commit.
    const FRAME: u64 = 10;

    /// One database that was just created: the page cache over its files, what of it is on the disk, and the log.
    #[derive(Clone)]
    #[expect(clippy::struct_excessive_bools, reason = "each is a state of another thing")]
    struct Model {
        cache: Wal,
        disk: Wal,
        /// Commits in the current write-ahead log.
        frames: usize,
        /// The write-ahead log restarts at the next commit.
        restart: bool,
        /// It was added as a whole.
        in_doubt: bool,
        /// It never had a frame.
        fresh: bool,
        newest: u64,
        acknowledged: u64,
        /// The commits that the database file has, in the page cache and on the disk.
        file: (u64, u64),
        /// The file that was created is on the disk.
        placed: bool,
        /// The file system cannot be flushed any more.
        sick: bool,
        entries: Vec<(What, u64)>,
        flushed: usize,
        base: usize,
    }

    #[derive(Debug, Clone, Copy)]
    enum Does {
        Commit,
        /// The log is flushed.
        Flush,
        Checkpoint,
        /// The database is closed to make room, and opened again.
        CloseUnflushed,
        /// The same, and a flush of the file system completes it before it is opened.
        Complete,
        /// The write-ahead log is in doubt: it is added as a whole, in a record for each frame.
        Whole,
        /// The database's files are about to be moved: flush and barrier.
        Settle,
        /// The file system is flushed, and what the log has is not needed any more.
        Recycle,
        /// The kernel writes some pages back.
        WriteBack(u64),
        /// From now on the file system cannot be flushed.
        Sicken,
    }

    impl Model {
        fn new() -> Self {
            let entries = vec![(What::Create { length: FRAME }, 0)];
            let (cache, disk) = Default::default();
            let (frames, newest, acknowledged, file, flushed, base) = Default::default();
            let (restart, fresh, in_doubt, placed, sick) = (true, true, false, false, false);
            Self {
                cache,
                disk,
                frames,
                restart,
                in_doubt,
                fresh,
                newest,
                acknowledged,
                file,
                placed,
                sick,
                entries,
                flushed,
                base,
            }
        }

        fn does(&mut self, does: Does) {
            // What is in doubt is checkpointed before it is written to again.
            let needs_checkpoint =
                matches!(does, Does::Commit | Does::CloseUnflushed | Does::Complete | Does::Whole | Does::Settle);
            if needs_checkpoint && self.in_doubt {
                self.does(Does::Checkpoint);
                if self.in_doubt {
                    return;
                }
            }
            match does {
                Does::Commit => {
                    if std::mem::take(&mut self.restart) {
                        (self.cache.0, self.frames) = (self.cache.0 + 1, 0);
                        // SQLite flushes the new header before it overwrites a frame. A new database has none: its header
                        // comes to the disk with the flush after which the redo does not make its file.
                        if !std::mem::take(&mut self.fresh) || self.placed {
                            self.disk = self.cache.clone();
                        }
                    }
                    self.newest += 1;
                    let offset = FRAME * self.frames as u64;
                    let began = Boot::numbered(u16::from(offset == 0));
                    self.cache.1.resize(self.cache.1.len().max(self.frames + 1), None);
                    self.cache.1[self.frames] = Some((self.cache.0, self.newest));
                    self.frames += 1;
                    let (length, salts) = (FRAME, self.cache.0);
                    self.entries.push((What::Commit { offset, length, salts, began }, self.newest));
                }
                Does::Flush => {
                    self.flushed = self.entries.len();
                    self.acknowledged = self.newest;
                }
                Does::Checkpoint => {
                    self.does(Does::Flush);
                    if !self.is_placed() {
                        return;
                    }
                    self.in_doubt = false;
                    self.disk = self.cache.clone();
                    (self.file, self.restart) = ((self.newest, self.newest), true);
                }
                Does::CloseUnflushed => {
                    self.does(Does::Flush);
                    self.file.0 = self.newest;
                }
                Does::Complete => {
                    self.does(Does::CloseUnflushed);
                    if self.sick {
                        return self.does(Does::Whole);
                    }
                    self.does(Does::Recycle);
                    self.cache.1.clear();
                    self.restart = true;
                }
                Does::Whole => {
                    if !self.sick {
                        self.disk = self.cache.clone();
                    }
                    for frame in 0..self.frames {
                        let Some((salts, commit)) = self.cache.1.get(frame).copied().flatten() else { continue };
                        let offset = FRAME * frame as u64;
                        let began = Boot::numbered(u16::from(offset == 0 && !self.sick));
                        let what = What::Commit { offset, length: FRAME, salts, began };
                        self.entries.push((what, commit));
                    }
                    self.in_doubt = true;
                }
                Does::Settle => {
                    if !self.is_placed() {
                        return;
                    }
                    self.disk = self.cache.clone();
                    self.entries.push((What::Barrier, 0));
                    self.does(Does::Flush);
                }
                Does::Recycle if self.sick => {}
                Does::Recycle => {
                    self.disk = self.cache.clone();
                    (self.file.1, self.base) = (self.file.0, self.flushed);
                    // The creation itself may still wait for the log.
                    self.placed |= self.flushed > 0;
                }
                Does::WriteBack(which) => self.write_back(which),
                Does::Sicken => self.sick = true,
            }
        }

        /// Whether a redo does not create the file any more; tries to bring it to the disk.
        fn is_placed(&mut self) -> bool {
            if !self.placed {
                self.does(Does::Recycle);
            }
            self.placed
        }

        fn write_back(&mut self, which: u64) {
            if which >> 63 == 1 {
                self.disk.0 = self.cache.0;
            }
            self.disk.1.resize(self.disk.1.len().max(self.cache.1.len()), None);
            for (n, (disk, cache)) in self.disk.1.iter_mut().zip(&self.cache.1).enumerate() {
                if which >> (n % 62) & 1 == 1 {
                    *disk = *cache;
                }
            }
        }

        /// The power fails when the log has `more` of what was not flushed. Returns the newest commit that is there
        /// after the redo, or why the database is damaged.
        fn crash(self, which: u64, more: usize, keep: impl Fn(&What) -> bool) -> Result<u64, String> {
            self.crash_before(Boot::numbered(2), which, more, keep)
        }

        /// The same, and the redo is in this boot. Commits are of the first: if it is that, only the disk was away.
        fn crash_before(
            mut self,
            boot: Option<Boot>,
            which: u64,
            more: usize,
            keep: impl Fn(&What) -> bool,
        ) -> Result<u64, String> {
            self.write_back(which);
            let there = self.entries.len().min(self.flushed + more);
            let entries: Vec<Entry> = self.entries[self.base..there]
                .iter()
                .filter(|(what, _)| keep(what))
                .map(|(what, commit)| Entry {
                    group: 0,
                    name: "ada".into(),
                    what: *what,
                    segment: "".into(),
                    at: *commit,
                })
                .collect();
            let plan = plan(&entries).remove("ada").unwrap_or_default();
            if plan.damaged {
                return Err("taken for damaged".into());
            }
            let needed_salts = plan.needed_salts(boot);
            let (copied, file) = match (plan.create, self.placed) {
                (Some(_), _) => (0, 0),
                (None, true) => self.file,
                // There is no file.
                (None, false) => return Ok(0),
            };
            let is_needed = needed_salts.is_none_or(|salts| salts == self.disk.0);
            if let Some(What::Commit { salts, .. }) = plan.commits.first().map(|entry| entry.what)
                && is_needed
            {
                self.disk.0 = salts;
                for entry in plan.commits {
                    let What::Commit { offset, .. } = entry.what else { continue };
                    let frame = usize::try_from(offset / FRAME).unwrap();
                    self.disk.1.resize(self.disk.1.len().max(frame + 1), None);
                    self.disk.1[frame] = Some((salts, entry.at));
                }
            }
            let (salts, frames) = self.disk;
            let mut valid =
                frames.iter().map_while(|frame| frame.filter(|(of, _)| *of == salts)).map(|(_, commit)| commit);
            let first = valid.next();
            let last = valid.last().or(first);
            if first.is_some_and(|first| first > file + 1) {
                return Err(format!("commits from {first:?} over a file that has those up to {file}"));
            }
            // A checkpoint that was not flushed may have copied any of its pages.
            let newest = last.unwrap_or(file);
            if newest < file || newest < copied {
                return Err(format!("pages of {copied} or {file} among those of {newest}"));
            }
            Ok(newest)
        }
    }

    fn stories() -> impl Strategy<Value = Vec<Does>> {
        let does = prop_oneof![
            6 => Just(Does::Commit),
            3 => Just(Does::Flush),
            1 => Just(Does::Checkpoint),
            1 => Just(Does::CloseUnflushed),
            1 => Just(Does::Complete),
            1 => Just(Does::Whole),
            1 => Just(Does::Settle),
            1 => Just(Does::Recycle),
            2 => any::<u64>().prop_map(Does::WriteBack),
            1 => Just(Does::Sicken),
        ];
        proptest::collection::vec(does, 0..40)
    }

    fn after(story: &[Does]) -> Model {
        let mut model = Model::new();
        story.iter().for_each(|does| model.does(*does));
        model
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whenever_the_power_fails_every_acknowledged_commit_is_there(
            story in stories(), which in any::<u64>(), more in 0_usize..5, boot in 0_u16..3,
        ) {
            let model = after(&story);
            let acknowledged = model.acknowledged;
            let there = model.crash_before(Boot::numbered(boot), which, more, |_| true);
            prop_assert!(there.as_ref().is_ok_and(|there| *there >= acknowledged), "{there:?}, acknowledged {acknowledged}");
        }
    }

    /// The model sees what it is to see.
    #[test]
    fn what_breaks_a_rule_is_caught() {
        use Does::{Checkpoint, CloseUnflushed, Commit, Complete, Flush, Settle};
        let is_create = |what: &What| matches!(what, What::Create { .. });
        let is_barrier = |what: &What| matches!(what, What::Barrier);
        // Nothing is redone; the creation is not.
        assert_eq!(after(&[Commit, Flush]).crash(0, 0, |_| false), Ok(0));
        assert_eq!(after(&[Commit, Flush]).crash(0, 0, |what| !is_create(what)), Ok(0));
        assert_eq!(after(&[Commit, Flush]).crash(0, 0, |_| true), Ok(1));
        // A checkpoint of a commit that the log does not have.
        let mut early = after(&[Commit, Checkpoint, Commit, Flush, Commit]);
        early.file = (3, 3);
        early.crash(0, 0, |_| true).unwrap_err();
        // A close that empties the write-ahead log without a flush.
        let mut unflushed = after(&[Commit, Checkpoint, Commit, CloseUnflushed]);
        unflushed.base = unflushed.entries.len();
        unflushed.crash(0, 0, |_| true).unwrap_err();
        assert_eq!(after(&[Commit, Checkpoint, Commit, Complete]).crash(0, 0, |_| true), Ok(2));
        // Another file after the barrier, and a redo that skips it.
        let mut moved = after(&[Commit, Commit, Flush, Settle]);
        moved.file = (7, 7);
        moved.disk = (9, Vec::new());
        moved.base = 0;
        assert_eq!(moved.clone().crash(0, 0, |_| true), Ok(7));
        assert_ne!(moved.crash(0, 0, |what| !is_barrier(what)), Ok(7));
        assert_eq!(after(&[Commit, Checkpoint, Commit, Flush]).crash(0, 0, |_| true), Ok(2));
    }

    #[test]
    fn a_damaged_record_is_one_of_the_database_unless_it_is_not_needed() {
        let entry = |what| Entry { group: 0, name: "ada".into(), what, segment: "".into(), at: 0 };
        let commit = |offset| entry(What::Commit { offset, length: 10, salts: 1, began: None });
        let damaged = |entries: &[Entry]| plan(entries).get("ada").is_some_and(|plan| plan.damaged);
        assert!(damaged(&[commit(0), entry(What::Damaged), commit(20)]));
        assert!(damaged(&[commit(0), commit(20)]), "one is missing");
        assert!(damaged(&[entry(What::Damaged)]));
        assert!(!damaged(&[entry(What::Damaged), entry(What::Barrier)]));
        assert!(!damaged(&[commit(10), commit(20)]));
    }
}
