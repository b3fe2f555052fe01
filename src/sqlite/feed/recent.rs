//! The last commits of one database, and what somebody has missed who knows it up to one of them. Pure.

use std::{collections::VecDeque, sync::Arc};

/// The names of the tables that a commit wrote to.
pub type Tables = Arc<[String]>;

/// Why somebody must read anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The feed begins here.
    Start,
    /// What came in between is not known any more.
    Missed,
    /// A commit was made of which it is not known which tables it wrote to, or whether it was made at all.
    Unknown,
}

/// What comes next for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The commit after the one that they know.
    Commit(u64, Tables),
    /// They must read anew, and know it then up to this number.
    Reset(u64, Why),
}

/// The last commits, numbered from 1. Bounded by their count and by the bytes of the names.
#[derive(Debug)]
pub struct Recent {
    most: usize,
    most_bytes: usize,
    last: u64,
    bytes: usize,
    /// Those after `floor`, in order.
    commits: VecDeque<Tables>,
    /// The last number of which it is not known any more what was changed.
    floor: u64,
    /// The last one of which it never was.
    unknown: u64,
}

impl Recent {
    /// None yet; keeps up to `most`.
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self { most, most_bytes, last: 0, bytes: 0, commits: VecDeque::new(), floor: 0, unknown: 0 }
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Adds a commit: the tables, or none if it is not known which.
    pub fn add(&mut self, tables: Option<Tables>) {
        self.last += 1;
        let Some(tables) = tables else {
            self.commits.clear();
            (self.bytes, self.floor, self.unknown) = (0, self.last, self.last);
            return;
        };
        self.bytes += length(&tables);
        self.commits.push_back(tables);
        while self.commits.len() > self.most || self.bytes > self.most_bytes {
            let Some(oldest) = self.commits.pop_front() else { break };
            self.bytes -= length(&oldest);
            self.floor += 1;
        }
    }

    /// What comes after `known`; none if there is nothing.
    pub fn after(&self, known: u64) -> Option<Next> {
        if known == self.last {
            return None;
        }
        if known > self.last || known < self.floor {
            let why = if known < self.unknown { Why::Unknown } else { Why::Missed };
            return Some(Next::Reset(self.last, why));
        }
        let at = usize::try_from(known - self.floor).ok()?;
        self.commits.get(at).map(|tables| Next::Commit(known + 1, tables.clone()))
    }
}

fn length(tables: &Tables) -> usize {
    tables.iter().map(String::len).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// A commit to a table of a name so long, or to unknown ones.
        Commit(Option<usize>),
        /// One of the readers takes what is next for it.
        Read(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0usize..12).prop_map(|length| Step::Commit(Some(length))),
            1 => Just(Step::Commit(None)),
            8 => (0usize..3).prop_map(Step::Read),
        ]
    }

    proptest! {
        /// Whoever reads has seen every commit, one by one, or was told to read anew after it.
        #[test]
        fn nothing_is_missed_silently(steps in proptest::collection::vec(step(), 1..200), most in 0usize..6, bytes in 0usize..40) {
            let mut recent = Recent::new(most, bytes);
            let mut all: Vec<Option<Tables>> = Vec::new();
            let mut known = [0u64; 3];
            for step in steps {
                match step {
                    Step::Commit(length) => {
                        let tables = length.map(|length| Tables::from(vec!["t".repeat(length)]));
                        all.push(tables.clone());
                        recent.add(tables);
                    }
                    Step::Read(reader) => {
                        let before = known[reader];
                        match recent.after(before) {
                            None => prop_assert_eq!(before, all.len() as u64),
                            Some(Next::Commit(seq, tables)) => {
                                prop_assert_eq!(seq, before + 1);
                                prop_assert_eq!(Some(&tables), all[usize::try_from(before).unwrap()].as_ref());
                                known[reader] = seq;
                            }
                            Some(Next::Reset(seq, why)) => {
                                prop_assert_eq!(seq, all.len() as u64);
                                let since = &all[usize::try_from(before).unwrap()..];
                                prop_assert_eq!(why == Why::Unknown, since.iter().any(Option::is_none));
                                known[reader] = seq;
                            }
                        }
                    }
                }
                prop_assert!(recent.commits.len() <= most && recent.bytes <= bytes);
            }
        }
    }

    #[test]
    fn a_number_from_the_future_is_told_to_read_anew() {
        let mut recent = Recent::new(8, 1000);
        recent.add(Some(vec!["t".to_owned()].into()));
        assert_eq!(recent.after(2), Some(Next::Reset(1, Why::Missed)));
        assert_eq!(recent.after(0), Some(Next::Commit(1, vec!["t".to_owned()].into())));
        assert_eq!(recent.after(1), None);
    }
}
