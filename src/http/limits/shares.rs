//! How much of a thing is held: in all, and by each of any number of callers in memory that does not grow
//! with them.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// Counters in a row. Two callers who meet in one row are apart in the other, all but one pair in sixteen
/// million.
const CELLS: usize = 4096;

/// How much is held in all. Each has a cache line of its own: all threads change them with every request.
#[repr(align(64))]
pub struct Total {
    held: AtomicU64,
    most: u64,
}

impl Total {
    /// Of which there is so much.
    pub fn of(most: u64) -> Self {
        Self { held: AtomicU64::new(0), most }
    }

    /// Takes so much if there is. Whoever comes when nothing is held may take more than there is: the
    /// one request that is larger than the bound is possible by itself.
    pub fn take(&self, count: u64) -> bool {
        let before = self.held.fetch_add(count, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(count) <= self.most;
        if !fits {
            self.give(count);
        }
        fits
    }

    /// Gives back what was taken.
    pub fn give(&self, count: u64) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }
}

/// Whose share it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

/// Makes keys that nobody outside can foresee: who shares a counter with whom is not to be chosen.
#[derive(Default)]
pub struct Keys(RandomState);

impl Keys {
    /// The key of whatever tells callers apart.
    pub fn of(&self, caller: &(impl Hash + ?Sized)) -> Key {
        Key(self.0.hash_one(caller))
    }
}

/// How much each holds: two rows of counters, in each of which a key has one (a count-min sketch). What is
/// held is at most the less of the two.
pub struct Shares {
    rows: [Box<[AtomicU64]>; 2],
    most: u64,
}

impl Shares {
    /// Each may hold so much.
    pub fn of(most: u64) -> Self {
        let row = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Self { rows: [row(), row()], most }
    }

    fn cells(&self, Key(key): Key) -> [&AtomicU64; 2] {
        let at = |bits: u64| usize::try_from(bits).unwrap_or(0) % CELLS;
        [&self.rows[0][at(key & 0xffff_ffff)], &self.rows[1][at(key >> 32)]]
    }

    /// As [`Total::take`], for one caller.
    pub fn take(&self, key: Key, count: u64) -> bool {
        let [a, b] = self.cells(key).map(|cell| cell.fetch_add(count, Ordering::Relaxed));
        let before = a.min(b);
        let fits = before == 0 || before.saturating_add(count) <= self.most;
        if !fits {
            self.give(key, count);
        }
        fits
    }

    /// As [`Total::give`].
    pub fn give(&self, key: Key, count: u64) {
        for cell in self.cells(key) {
            cell.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_share_and_gets_back_what_is_given() {
        let (keys, shares) = (Keys::default(), Shares::of(10));
        let (ada, eve) = (keys.of("ada"), keys.of("eve"));
        assert!(shares.take(ada, 6) && !shares.take(ada, 5) && shares.take(ada, 4));
        assert!(shares.take(eve, 10) && !shares.take(eve, 1));
        shares.give(ada, 6);
        assert!(shares.take(ada, 6) && !shares.take(ada, 1));
        shares.give(eve, 10);
        assert!(shares.take(eve, 11), "one that is larger than the share is let in by itself");
        assert!(!shares.take(eve, 1));
    }

    #[test]
    fn many_who_hold_all_they_may_leave_the_others_theirs() {
        let (keys, shares) = (Keys::default(), Shares::of(2));
        for n in 0..100 {
            assert!(shares.take(keys.of(&n), 2) || n > 0);
        }
        let refused = (1000..2000).filter(|n| !shares.take(keys.of(n), 1)).count();
        assert!(refused < 50, "{refused} of a thousand");
    }
}
