//! The feeds of those tenants that somebody listens to, or did a while ago, whether they are open or not.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::feed::{End, Feed},
    tenants::id::TenantId,
};

/// Bounds of the feeds of one store.
#[derive(Debug, Clone, Copy)]
pub struct FeedLimits {
    /// Listeners of all tenants together; 0 for none.
    pub listeners: usize,
    /// Listeners of one tenant.
    pub of_tenant: usize,
    /// Commits that are kept for a listener that reads slowly or comes back.
    pub events: usize,
    /// How long a feed is kept for one that comes back.
    pub keep: Duration,
}

impl Default for FeedLimits {
    fn default() -> Self {
        Self { listeners: 1024, of_tenant: 32, events: 256, keep: Duration::from_secs(60) }
    }
}

fn busy<T>(why: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::Busy, why))
}

/// The feeds by tenant. There are as many as there may be listeners, at most.
pub struct Feeds {
    limits: FeedLimits,
    state: Mutex<State>,
    /// How many there are: an open looks for a feed only if there is one.
    count: AtomicUsize,
}

#[derive(Default)]
struct State {
    entries: HashMap<TenantId, Entry>,
    /// Of all, those of feeds that have ended included.
    listeners: usize,
    closed: bool,
}

struct Entry {
    feed: Arc<Feed>,
    listeners: usize,
    /// Since when nobody listens.
    left: Option<Instant>,
}

/// Somebody who listens, until dropped.
pub struct Listening {
    feeds: Arc<Feeds>,
    id: TenantId,
    feed: Arc<Feed>,
}

impl Feeds {
    /// None yet.
    pub fn new(limits: FeedLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default(), count: AtomicUsize::new(0) })
    }

    /// Counts a listener of a tenant, and makes the feed if there is none. The caller has a lease, and attaches the
    /// feed to the database.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if there are too many, or the store is closing.
    pub fn listen(self: &Arc<Self>, id: &TenantId) -> Result<Listening> {
        let mut state = self.state.lock();
        if state.closed {
            return busy("the server is shutting down");
        }
        if state.listeners >= self.limits.listeners {
            return busy("as many listen to changes as may; try again later");
        }
        if !state.entries.contains_key(id) && state.entries.len() >= self.limits.listeners {
            // There are fewer listeners than feeds, so one has none.
            let oldest =
                state.entries.iter().filter_map(|(id, entry)| Some((entry.left?, id))).min_by_key(|(at, _)| *at);
            if let Some(oldest) = oldest.map(|(_, id)| id.clone()) {
                state.remove(&oldest, End::Database);
            }
        }
        let entry = state.entries.entry(id.clone()).or_insert_with(|| Entry {
            feed: Arc::new(Feed::new(self.limits.events)),
            listeners: 0,
            left: None,
        });
        if entry.listeners >= self.limits.of_tenant {
            return busy("as many listen to this user's changes as may; close one, or try again later");
        }
        entry.listeners += 1;
        entry.left = None;
        let feed = entry.feed.clone();
        state.listeners += 1;
        self.count.store(state.entries.len(), Ordering::Release);
        Ok(Listening { feeds: self.clone(), id: id.clone(), feed })
    }

    /// The feed of a tenant that is being opened.
    pub fn find(&self, id: &TenantId) -> Option<Arc<Feed>> {
        // A listener that comes at the same time has a lease, so nobody opens the tenant then.
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.state.lock().entries.get(id).map(|entry| entry.feed.clone())
    }

    /// Ends a tenant's feed, if there is one: somebody else than the combiner is about to write to its file or to move
    /// it, or it is not to be read any more.
    pub fn end(&self, id: &TenantId) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.change(|state| state.remove(id, End::Database));
        }
    }

    /// Ends the feeds to which nobody came back.
    pub fn expire(&self) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let (now, keep) = (Instant::now(), self.limits.keep);
        self.change(|state| {
            let is_over = |entry: &Entry| entry.left.is_some_and(|left| now.duration_since(left) >= keep);
            let over: Vec<TenantId> =
                state.entries.iter().filter(|(_, entry)| is_over(entry)).map(|(id, _)| id.clone()).collect();
            over.iter().for_each(|id| state.remove(id, End::Database));
        });
    }

    /// Ends all, and refuses new ones.
    pub fn close(&self) {
        self.change(|state| {
            state.closed = true;
            state.entries.drain().for_each(|(_, entry)| entry.feed.end(End::Shutdown));
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        self.count.store(state.entries.len(), Ordering::Release);
    }
}

impl State {
    fn remove(&mut self, id: &TenantId, why: End) {
        if let Some(entry) = self.entries.remove(id) {
            entry.feed.end(why);
        }
    }
}

impl Listening {
    /// What it listens to.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.feeds.change(|state| {
            state.listeners -= 1;
            let Some(entry) = state.entries.get_mut(&self.id) else { return };
            // The tenant may have another feed by now.
            if Arc::ptr_eq(&entry.feed, &self.feed) {
                entry.listeners -= 1;
                if entry.listeners == 0 {
                    entry.left = Some(Instant::now());
                }
            }
        });
        if self.feeds.limits.keep.is_zero() {
            self.feeds.expire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn feeds(listeners: usize, of_tenant: usize) -> Arc<Feeds> {
        Feeds::new(FeedLimits { listeners, of_tenant, ..FeedLimits::default() })
    }

    #[tokio::test]
    async fn listeners_are_bounded_in_all_and_of_each_tenant() {
        let feeds = feeds(3, 2);
        let ada = [feeds.listen(&id("ada")).unwrap(), feeds.listen(&id("ada")).unwrap()];
        assert_eq!(feeds.listen(&id("ada")).err().unwrap().kind(), ErrorKind::Busy);
        let bob = feeds.listen(&id("bob")).unwrap();
        assert_eq!(feeds.listen(&id("eve")).err().unwrap().kind(), ErrorKind::Busy);
        drop(ada);
        drop(bob);
        assert_eq!(feeds.state.lock().listeners, 0);
        for n in 0..20 {
            drop(feeds.listen(&id(&format!("user{n}"))).unwrap());
            assert!(feeds.state.lock().entries.len() <= 3, "feeds to which nobody listens make room");
        }
    }

    #[tokio::test]
    async fn a_feed_waits_for_its_listener_to_come_back_and_ends_with_the_tenant() {
        let feeds = feeds(8, 8);
        let first = feeds.listen(&id("ada")).unwrap();
        let feed = first.feed().clone();
        drop(first);
        feeds.expire();
        let again = feeds.listen(&id("ada")).unwrap();
        assert!(Arc::ptr_eq(again.feed(), &feed) && feeds.find(&id("ada")).is_some());
        feeds.end(&id("ada"));
        assert!(feeds.find(&id("ada")).is_none());
        let other = feeds.listen(&id("ada")).unwrap();
        drop(again);
        assert!(!Arc::ptr_eq(other.feed(), &feed));
        assert_eq!(feeds.state.lock().entries[&id("ada")].listeners, 1);
        feeds.close();
        assert_eq!(feeds.listen(&id("bob")).err().unwrap().kind(), ErrorKind::Busy);
    }
}
