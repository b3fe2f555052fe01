//! The connections of one listener, and which one is evicted when there are too many.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::http::{connection::Connection, limits::Listener};

/// An open connection.
pub struct OpenConnection {
    /// Its requests in flight.
    pub connection: Arc<Connection>,
    /// What counts as its address.
    address: u128,
    /// Whether a request on it had the operator's key.
    proven: AtomicBool,
    /// Whether it was accepted, or had a request, since an eviction last passed it over.
    used: AtomicBool,
    closed: AtomicBool,
    close: AtomicU8,
    told: Notify,
}

/// How a connection is to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// When its request is answered: the server shuts down.
    WhenAnswered = 1,
    /// At once: it is evicted.
    Now = 2,
}

impl OpenConnection {
    /// Notes a request, with the operator's key or without.
    pub fn used(&self, proven: bool) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        if proven && !self.proven.load(Ordering::Relaxed) {
            self.proven.store(true, Ordering::Relaxed);
        }
    }

    fn tell(&self, close: Close) {
        self.close.fetch_max(close as u8, Ordering::AcqRel);
        self.told.notify_one();
    }

    /// Waits until it is to close.
    pub async fn told_to_close(&self) -> Close {
        self.told.notified().await;
        if self.close.load(Ordering::Acquire) == Close::Now as u8 { Close::Now } else { Close::WhenAnswered }
    }

    /// Whether it may be cut without a loss: it is idle, or came to the operators' listener without the key.
    pub fn is_evictable(&self, listener: Listener) -> bool {
        self.connection.is_idle() || (listener == Listener::Operators && !self.proven.load(Ordering::Relaxed))
    }
}

/// Marks a connection closed when dropped.
pub struct ConnectionGuard(pub Arc<OpenConnection>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.connection.close();
    }
}

/// All connections of a listener.
pub struct Connections {
    listener: Listener,
    /// At this length the closed ones are removed.
    tidy: usize,
    /// Oldest first, but those that an eviction passed over go to the end.
    all: Mutex<VecDeque<Arc<OpenConnection>>>,
}

impl Connections {
    /// Of a listener that has `most` connections.
    pub fn new(listener: Listener, most: usize) -> Self {
        Self { listener, tidy: 2 * most + 16, all: Mutex::default() }
    }

    /// Adds a connection.
    pub fn add(&self, address: u128) -> ConnectionGuard {
        let open = Arc::new(OpenConnection {
            connection: Arc::default(),
            address,
            proven: AtomicBool::new(false),
            used: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            close: AtomicU8::new(0),
            told: Notify::new(),
        });
        let mut all = self.all.lock();
        if all.len() >= self.tidy {
            all.retain(|open| !open.closed.load(Ordering::Acquire));
        }
        all.push_back(open.clone());
        ConnectionGuard(open)
    }

    /// Evicts the connection without the operator's key that is idle for longest, or one with the key if there
    /// is no other. On the public listener none that is answering a request.
    pub fn evict(&self) {
        let mut all = self.all.lock();
        let mut second: Option<(Arc<OpenConnection>, bool)> = None;
        for _ in 0..all.len() {
            let Some(open) = all.pop_front() else { break };
            if open.closed.load(Ordering::Acquire) {
                continue;
            }
            if open.close.load(Ordering::Acquire) == 0 && open.is_evictable(self.listener) {
                let proven = open.proven.load(Ordering::Relaxed);
                if !proven && !open.used.swap(false, Ordering::Relaxed) {
                    return open.tell(Close::Now);
                }
                // The first of those that were used; one without the key before one with it.
                if second.as_ref().is_none_or(|(_, other)| *other && !proven) {
                    second = Some((open.clone(), proven));
                }
            }
            all.push_back(open);
        }
        if let Some((open, _)) = second {
            open.tell(Close::Now);
        }
    }

    /// Evicts the oldest of an address without the key, if it has `most` of them already.
    pub fn evict_of(&self, address: u128, most: usize) {
        let all = self.all.lock();
        let unproven = |open: &&Arc<OpenConnection>| {
            open.address == address
                && !open.closed.load(Ordering::Acquire)
                && !open.proven.load(Ordering::Relaxed)
                && open.close.load(Ordering::Acquire) == 0
        };
        let mut of = all.iter().filter(unproven);
        let oldest = of.next();
        if let Some(oldest) = oldest
            && of.count() + 1 >= most
        {
            oldest.tell(Close::Now);
        }
    }

    /// Has all close when their requests are answered.
    pub fn finish(&self) {
        for open in self.all.lock().iter() {
            open.tell(Close::WhenAnswered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(connections: &[ConnectionGuard]) -> Vec<usize> {
        let evicted = |open: &ConnectionGuard| open.0.close.load(Ordering::Acquire) == Close::Now as u8;
        connections.iter().enumerate().filter(|(_, open)| evicted(open)).map(|(n, _)| n).collect()
    }

    #[test]
    fn the_oldest_without_a_request_is_evicted_then_the_oldest_with_one_and_last_the_one_with_the_key() {
        let connections = Connections::new(Listener::Public, 4);
        let open: Vec<_> = (0..4).map(|_| connections.add(0)).collect();
        // An eviction has passed them over.
        open.iter().for_each(|open| open.0.used.store(false, Ordering::Relaxed));
        open[0].0.used(true);
        open[1].0.used(false);
        for wanted in [&[2][..], &[2, 3], &[1, 2, 3], &[0, 1, 2, 3]] {
            connections.evict();
            assert_eq!(evicted(&open), wanted);
        }
    }

    #[test]
    fn a_new_connection_is_not_evicted_before_older_ones() {
        let connections = Connections::new(Listener::Public, 4);
        let mut open: Vec<_> = (0..3).map(|_| connections.add(0)).collect();
        open.iter().for_each(|open| open.0.used(false));
        open.push(connections.add(0));
        connections.evict();
        assert_eq!(evicted(&open), [0]);
        open[1].0.used(false);
        connections.evict();
        assert_eq!(evicted(&open), [0, 2], "of those that were passed over, the one without a request since");
    }

    #[test]
    fn an_address_with_all_of_its_share_loses_its_oldest() {
        let connections = Connections::new(Listener::Operators, 8);
        let open: Vec<_> = [1, 2, 2, 1].into_iter().map(|address| connections.add(address)).collect();
        open[1].0.used(true);
        connections.evict_of(2, 2);
        assert_eq!(evicted(&open), [0; 0], "the one with the key does not count");
        connections.evict_of(1, 2);
        assert_eq!(evicted(&open), [0]);
    }

    #[test]
    fn closed_connections_are_forgotten() {
        let connections = Connections::new(Listener::Public, 1);
        for _ in 0..1000 {
            drop(connections.add(0));
        }
        assert!(connections.all.lock().len() <= 18);
    }
}
