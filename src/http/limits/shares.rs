//! Counters of what is in flight: in all, and for each of any number of callers in memory of a fixed size.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// Counters in a row. Two callers that share a counter in one row have different ones in the other, all but
/// one pair in sixteen million.
const CELLS: usize = 4096;

/// How much is in flight in all. Each has a cache line of its own: all threads change them with every request.
#[repr(align(64))]
pub struct Total {
    held: AtomicU64,
    most: u64,
}

impl Total {
    /// A total that may grow to `most`.
    pub fn of(most: u64) -> Self {
        Self { held: AtomicU64::new(0), most }
    }

    /// Counts so much more, if the bound allows it. The first may be larger than the bound: one large request
    /// is served by itself.
    pub fn take(&self, count: u64) -> bool {
        let before = self.held.fetch_add(count, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(count) <= self.most;
        if !fits {
            self.give(count);
        }
        fits
    }

    /// How much is in flight now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Gives back what was taken.
    pub fn give(&self, count: u64) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }
}

/// Which counters a caller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

/// Makes keys that a caller cannot foresee, nor choose whose counters to share.
#[derive(Default)]
pub struct Keys(RandomState);

impl Keys {
    /// The key of a caller: a user's id, or an address.
    pub fn of(&self, caller: &(impl Hash + ?Sized)) -> Key {
        Key(self.0.hash_one(caller))
    }
}

/// How much each caller has in flight: two rows of counters, in each of which a key has one (a count-min
/// sketch). A caller has at most the smaller of the two.
pub struct Shares {
    rows: [Box<[AtomicU64]>; 2],
    most: u64,
}

impl Shares {
    /// Shares that may grow to `most` each.
    pub fn of(most: u64) -> Self {
        let row = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Self { rows: [row(), row()], most }
    }

    fn cells(&self, Key(key): Key) -> [&AtomicU64; 2] {
        let at = |bits: u64| usize::try_from(bits).unwrap_or(0) % CELLS;
        [&self.rows[0][at(key & 0xffff_ffff)], &self.rows[1][at(key >> 32)]]
    }

    /// As [`Total::take`], for one caller; what is nobody's always fits.
    pub fn take(&self, key: Option<Key>, count: u64) -> bool {
        let Some(caller) = key else { return true };
        let [a, b] = self.cells(caller).map(|cell| cell.fetch_add(count, Ordering::Relaxed));
        let before = a.min(b);
        let fits = before == 0 || before.saturating_add(count) <= self.most;
        if !fits {
            self.give(key, count);
        }
        fits
    }

    /// As [`Total::give`].
    pub fn give(&self, key: Option<Key>, count: u64) {
        for cell in key.into_iter().flat_map(|key| self.cells(key)) {
            cell.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_a_share_of_its_own() {
        let (keys, shares) = (Keys::default(), Shares::of(10));
        let (ada, eve) = (Some(keys.of("ada")), Some(keys.of("eve")));
        assert!(shares.take(ada, 6) && !shares.take(ada, 5) && shares.take(ada, 4));
        assert!(shares.take(eve, 10) && !shares.take(eve, 1));
        shares.give(ada, 6);
        assert!(shares.take(ada, 6) && !shares.take(ada, 1));
        shares.give(eve, 10);
        assert!(shares.take(eve, 11), "one request larger than the share is let in by itself");
        assert!(!shares.take(eve, 1));
    }

    #[test]
    fn callers_that_hold_their_whole_share_leave_the_others_theirs() {
        let (keys, shares) = (Keys::default(), Shares::of(2));
        for n in 0..100 {
            assert!(shares.take(Some(keys.of(&n)), 2) || n > 0);
        }
        let refused = (1000..2000).filter(|n| !shares.take(Some(keys.of(n)), 1)).count();
        assert!(refused < 50, "{refused} of a thousand");
    }
}
