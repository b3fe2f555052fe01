//! How often an open tenant is leased, counted at two atomic operations a lease.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::slots::Tick;

/// A window is so many nanoseconds as a power of two: 4.3 seconds.
const BITS: u32 = 32;

/// The leases of this window and of the one before. Counts of several threads at the turn of a window may be off by a few.
#[derive(Debug, Default)]
pub struct Activity {
    window: AtomicU64,
    current: AtomicU64,
    previous: AtomicU64,
}

impl Activity {
    /// Counts a lease.
    pub fn count(&self, now: Tick) {
        let (window, seen) = (now >> BITS, self.window.load(Relaxed));
        if seen < window && self.window.compare_exchange(seen, window, Relaxed, Relaxed).is_ok() {
            let last = self.current.swap(0, Relaxed);
            self.previous.store(if seen + 1 == window { last } else { 0 }, Relaxed);
        }
        self.current.fetch_add(1, Relaxed);
    }

    /// Leases a second in the last window or so.
    #[expect(clippy::cast_precision_loss, reason = "a rate is for people")]
    pub fn rate(&self, now: Tick) -> f64 {
        let (current, previous) = (self.current.load(Relaxed), self.previous.load(Relaxed));
        let (current, previous) = match (now >> BITS).saturating_sub(self.window.load(Relaxed)) {
            0 => (current, previous),
            1 => (0, current),
            _ => (0, 0),
        };
        let length = (1u64 << BITS) as f64;
        let gone = (now % (1 << BITS)) as f64 / length;
        (current as f64 + previous as f64 * (1.0 - gone)) / (length / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds_and_ends_after_them() {
        let activity = Activity::default();
        let second = 1_000_000_000;
        for n in 0..2000 {
            activity.count(100 * second + n * second / 100);
        }
        let near = |now, wanted: f64| {
            let rate = activity.rate(now);
            assert!((rate - wanted).abs() <= wanted / 20.0, "{rate}");
        };
        near(120 * second, 100.0);
        assert!(activity.rate(124 * second) < 60.0);
        near(130 * second, 0.0);
        assert!((Activity::default().rate(5 * second)).abs() < f64::EPSILON);
    }
}
