//! The deadline for a client that reads its answer slowly.

use std::time::Duration;

use tokio::time::Instant;

/// Time that passes while nothing can be written, and that is given back for bytes that the client reads: one
/// that reads nothing is cut off after all of it, one that reads less than the rate a little later, and one
/// that reads more never.
pub struct WriteDeadline {
    most: Duration,
    left: Duration,
    /// Bytes a second; with 0, any byte gives back all of the time.
    rate: u64,
    /// Since when nothing could be written.
    since: Option<Instant>,
}

impl WriteDeadline {
    pub fn new(most: Duration, rate: u64) -> Self {
        Self { most, left: most, rate, since: None }
    }

    /// Whether none of the time is used, so that writes need not be reported.
    pub fn is_whole(&self) -> bool {
        self.since.is_none() && self.left == self.most
    }

    /// Nothing can be written now. Gives the time by which that must have changed.
    pub fn blocked(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now) + self.left
    }

    /// So many bytes were written. False if that came too late.
    pub fn wrote(&mut self, bytes: u64, now: Instant) -> bool {
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

    /// After how many seconds a client is cut off that reads so many bytes every so often.
    fn cut_off(rate: u64, bytes: u64, every: u64) -> Option<u64> {
        let start = Instant::now();
        let mut deadline = WriteDeadline::new(Duration::from_secs(30), rate);
        for n in 0..10_000 {
            let at = |seconds| start + Duration::from_secs(seconds);
            let end = deadline.blocked(at(n * every));
            if end <= at((n + 1) * every) {
                return Some((end - start).as_secs());
            }
            assert!(deadline.wrote(bytes, at((n + 1) * every)));
        }
        None
    }

    #[test]
    fn a_client_that_reads_too_little_is_cut_off_and_one_that_reads_enough_is_not() {
        assert_eq!(cut_off(16 * KIB, 0, 60), Some(30), "nothing");
        assert_eq!(cut_off(16 * KIB, 64 * KIB, 8), Some(54), "64 KiB every 8 s");
        assert_eq!(cut_off(16 * KIB, 64 * KIB, 4), None, "16 KiB a second");
        assert_eq!(cut_off(16 * KIB, 400 * KIB, 25), None, "16 KiB a second, in bursts");
        assert_eq!(cut_off(0, 1, 29), None, "without a rate any byte will do");
        assert_eq!(cut_off(0, 1, 31), Some(30));
    }

    #[test]
    fn what_is_read_at_once_uses_no_time() {
        let mut deadline = WriteDeadline::new(Duration::from_secs(1), KIB);
        let now = Instant::now();
        assert!(deadline.is_whole() && deadline.wrote(1, now) && deadline.is_whole());
        deadline.blocked(now);
        assert!(!deadline.is_whole());
        assert!(!deadline.wrote(1, now + Duration::from_secs(2)), "too late");
    }
}
