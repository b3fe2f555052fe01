//! The rate at which requests create tenants: a token bucket that counts only those that were created.

use std::sync::atomic::{AtomicU32, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// The creations of one server.
pub struct Creations {
    limiter: DefaultDirectRateLimiter,
    /// Counted creations that did not happen: the next ones take these first.
    unused: AtomicU32,
    burst: u32,
}

impl Creations {
    /// With a full bucket.
    pub fn new(quota: Quota) -> Self {
        Self { limiter: RateLimiter::direct(quota), unused: AtomicU32::new(0), burst: quota.burst_size().get() }
    }

    /// Counts one; `false` if there may be none now.
    pub fn take(&self) -> bool {
        let change = |unused: u32| unused.checked_sub(1);
        self.unused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok() || self.limiter.check().is_ok()
    }

    /// Gives back one that was counted and did not happen. At most a burst of them is kept.
    pub fn give_back(&self) {
        let change = |unused: u32| (unused < self.burst).then_some(unused + 1);
        let _ = self.unused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_creation_that_is_given_back_may_happen_and_at_most_a_burst_is_kept() {
        let creations = Creations::new(Quota::per_hour(NonZeroU32::new(2).unwrap()));
        assert_eq!([creations.take(), creations.take(), creations.take()], [true, true, false]);
        for _ in 0..5 {
            creations.give_back();
        }
        assert_eq!([creations.take(), creations.take(), creations.take()], [true, true, false]);
    }
}
