//! The feed of one database: who listens hears of each commit when it is durable, in the order of commits.
//!
//! Without a listener a commit costs two loads. A feed outlives the connection, and the database's being open: as long as
//! it lives it is told of every commit, since only the [combiner](super::combine) writes to the file meanwhile. What else
//! writes to the file or moves it [ends](Feed::end) the feed first.

pub mod recent;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

use self::recent::{Next, Recent, Tables, Why};
use super::touched::Touched;

/// The most bytes of tables' names that a feed keeps.
const MOST_BYTES: usize = 64 << 10;

/// Why a feed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The database is about to be suspended, deleted, migrated or moved.
    Database,
    /// The store is closed.
    Shutdown,
}

/// The last commits of a database, and who waits for the next one.
pub struct Feed {
    /// Not that of any other feed, in this process or another.
    epoch: u64,
    live: AtomicBool,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    recent: Recent,
    end: Option<End>,
}

/// How far somebody has heard a feed.
#[derive(Debug)]
pub struct Position {
    known: u64,
    /// They are told to read anew first.
    reset: Option<Why>,
}

/// What a feed has for somebody.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The next event.
    Event(Next),
    /// It has ended.
    End(End),
}

impl Feed {
    /// A feed that keeps the last `most` commits.
    pub fn new(most: usize) -> Self {
        Self {
            epoch: RandomState::new().hash_one(0),
            live: AtomicBool::new(true),
            state: Mutex::new(State { recent: Recent::new(most, MOST_BYTES), end: None }),
            changed: watch::Sender::new(()),
        }
    }

    /// The name of a commit's number: of this feed and no other.
    pub fn id(&self, seq: u64) -> String {
        format!("{:016x}-{seq}", self.epoch)
    }

    /// Where to go on after the event of an id; none begins now.
    pub fn position(&self, after: Option<&str>) -> Position {
        let last = self.state.lock().recent.last();
        let Some(after) = after else { return Position { known: last, reset: Some(Why::Start) } };
        let known = after
            .split_once('-')
            .filter(|(epoch, _)| *epoch == format!("{:016x}", self.epoch))
            .and_then(|(_, seq)| seq.parse().ok())
            .filter(|seq| *seq <= last);
        match known {
            Some(known) => Position { known, reset: None },
            None => Position { known: last, reset: Some(Why::Missed) },
        }
    }

    /// What comes next, and takes it as heard; none if it is to be waited for.
    pub fn next(&self, position: &mut Position) -> Option<Heard> {
        let state = self.state.lock();
        let next = match position.reset.take() {
            Some(why) => Some(Next::Reset(state.recent.last(), why)),
            None => state.recent.after(position.known),
        };
        if let Some(next) = next {
            let (Next::Commit(seq, _) | Next::Reset(seq, _)) = &next;
            position.known = *seq;
            return Some(Heard::Event(next));
        }
        state.end.map(Heard::End)
    }

    /// Changes whenever there is something new.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A commit is durable, or its outcome is unknown: then without its tables. Does not block.
    pub fn committed(&self, tables: Option<Vec<String>>) {
        let mut state = self.state.lock();
        if state.end.is_none() {
            state.recent.add(tables.map(Tables::from));
            drop(state);
            self.changed.send_replace(());
        }
    }

    /// Nobody may hear of this database by this feed from now on.
    pub fn end(&self, why: End) {
        self.live.store(false, Ordering::Release);
        self.state.lock().end.get_or_insert(why);
        self.changed.send_replace(());
    }
}

/// The place of a feed at a database.
#[derive(Default)]
pub struct Slot {
    /// Whether `feed` is one.
    taken: AtomicBool,
    feed: Mutex<Option<Arc<Feed>>>,
}

impl Slot {
    /// From now on commits are told to this feed.
    pub fn attach(&self, feed: &Arc<Feed>) {
        let mut place = self.feed.lock();
        *place = Some(feed.clone());
        self.taken.store(true, Ordering::Release);
    }

    /// The feed, if there is one that lives.
    pub fn get(&self) -> Option<Arc<Feed>> {
        if !self.taken.load(Ordering::Acquire) {
            return None;
        }
        let mut place = self.feed.lock();
        if place.as_ref().is_some_and(|feed| !feed.live.load(Ordering::Acquire)) {
            *place = None;
            self.taken.store(false, Ordering::Release);
        }
        place.clone()
    }

    /// What a transaction that begins now is to keep of its tables; none if nobody listens.
    pub fn begin(&self) -> Option<Touched> {
        self.get().map(|_| Touched::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(feed: &Feed, position: &mut Position) -> Vec<Heard> {
        std::iter::from_fn(|| feed.next(position)).take(5).collect()
    }

    #[test]
    fn an_id_goes_on_in_its_own_feed_only() {
        let (feed, other) = (Feed::new(8), Feed::new(8));
        feed.committed(Some(vec!["a".into()]));
        feed.committed(Some(vec!["b".into()]));
        let mut position = feed.position(Some(&feed.id(1)));
        assert_eq!(heard(&feed, &mut position), [Heard::Event(Next::Commit(2, vec!["b".to_owned()].into()))]);
        for id in [other.id(1), other.id(0), feed.id(3), "1".into(), String::new(), format!("{}x", feed.id(1))] {
            let mut position = feed.position(Some(&id));
            assert_eq!(heard(&feed, &mut position), [Heard::Event(Next::Reset(2, Why::Missed))], "{id}");
        }
        assert_eq!(heard(&feed, &mut feed.position(None)), [Heard::Event(Next::Reset(2, Why::Start))]);
    }

    #[test]
    fn after_its_end_a_feed_tells_what_came_before_and_then_that_it_ended() {
        let (feed, slot) = (Arc::new(Feed::new(8)), Slot::default());
        assert!(slot.begin().is_none());
        slot.attach(&feed);
        assert!(slot.begin().is_some());
        let mut position = feed.position(Some(&feed.id(0)));
        feed.committed(None);
        feed.end(End::Database);
        feed.end(End::Shutdown);
        feed.committed(Some(vec!["late".into()]));
        assert!(slot.get().is_none());
        assert_eq!(feed.next(&mut position), Some(Heard::Event(Next::Reset(1, Why::Unknown))));
        assert_eq!(feed.next(&mut position), Some(Heard::End(End::Database)));
    }
}
