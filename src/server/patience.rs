//! How long a client that takes its answer slowly is waited for.

use std::time::Duration;

use tokio::time::Instant;

/// A time that passes while nothing can be written, and that is earned back by what is taken: a client that
/// takes nothing uses it up in its whole length, one that takes less than the rate a little later, and
/// one that takes more never.
pub struct Patience {
    most: Duration,
    left: Duration,
    /// Bytes a second; of nought, any byte earns back all.
    rate: u64,
    /// Since when nothing can be written.
    since: Option<Instant>,
}

impl Patience {
    pub fn new(most: Duration, rate: u64) -> Self {
        Self { most, left: most, rate, since: None }
    }

    /// Whether anything has to be told of what is taken.
    pub fn is_whole(&self) -> bool {
        self.since.is_none() && self.left == self.most
    }

    /// Nothing can be written now. Says when that must have changed.
    pub fn blocked(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now) + self.left
    }

    /// So many bytes were taken. False if the patience was over before.
    pub fn took(&mut self, bytes: u64, now: Instant) -> bool {
        let waited = self.since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let Some(left) = self.left.checked_sub(waited) else { return false };
        let earned = match self.rate {
            0 => self.most,
            rate => Duration::from_micros(bytes.saturating_mul(1_000_000) / rate),
        };
        self.left = self.most.min(left.saturating_add(earned));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    /// After how many seconds a client is given up that takes so much every so often.
    fn given_up(rate: u64, bytes: u64, every: u64) -> Option<u64> {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(30), rate);
        for n in 0..10_000 {
            let at = |seconds| start + Duration::from_secs(seconds);
            let end = patience.blocked(at(n * every));
            if end <= at((n + 1) * every) {
                return Some((end - start).as_secs());
            }
            assert!(patience.took(bytes, at((n + 1) * every)));
        }
        None
    }

    #[test]
    fn who_takes_too_little_is_given_up_and_who_takes_enough_never() {
        assert_eq!(given_up(16 * KIB, 0, 60), Some(30), "who takes nothing");
        assert_eq!(given_up(16 * KIB, 64 * KIB, 8), Some(54), "64 KiB every 8 s");
        assert_eq!(given_up(16 * KIB, 64 * KIB, 4), None, "16 KiB a second");
        assert_eq!(given_up(16 * KIB, 400 * KIB, 25), None, "16 KiB a second, in gusts");
        assert_eq!(given_up(0, 1, 29), None, "without a rate any byte will do");
        assert_eq!(given_up(0, 1, 31), Some(30));
    }

    #[test]
    fn what_is_taken_at_once_costs_no_patience() {
        let mut patience = Patience::new(Duration::from_secs(1), KIB);
        let now = Instant::now();
        assert!(patience.is_whole() && patience.took(1, now) && patience.is_whole());
        patience.blocked(now);
        assert!(!patience.is_whole());
        assert!(!patience.took(1, now + Duration::from_secs(2)), "too late");
    }
}
