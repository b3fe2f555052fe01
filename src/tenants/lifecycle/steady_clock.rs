//! Whether the time of day advances as the monotonic clock does.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Millis, millis};

/// How far the time of day may deviate from the monotonic clock between two readings and be called steady. Readings
/// are a minute apart, and a clock that is slewed deviates by milliseconds.
const JUMP: Duration = Duration::from_secs(60);

/// Since when the time of day has advanced as the monotonic clock does.
#[derive(Debug)]
pub(in crate::tenants) struct SteadyClock {
    since: Instant,
    last: (Instant, Millis),
}

impl SteadyClock {
    /// Starts at both clocks' present reading.
    pub(in crate::tenants) fn new(now: Instant, time_of_day: Millis) -> Self {
        Self { since: now, last: (now, time_of_day) }
    }

    /// Compares both clocks; says for how long they have agreed.
    pub(in crate::tenants) fn look(&mut self, now: Instant, time_of_day: Millis) -> Duration {
        let (then, last) = self.last;
        let expected = last.saturating_add(millis(now - then));
        if time_of_day.abs_diff(expected) > millis(JUMP).unsigned_abs() {
            tracing::warn!("the time of day jumped; nothing is removed by it until it has been steady for a while");
            self.since = now;
        }
        self.last = (now, time_of_day);
        now - self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_time_of_day_is_steady_an_hour_after_the_start_and_after_each_jump() {
        let start = Instant::now();
        let (mut told, mut clock) = (1_700_000_000_000, SteadyClock::new(start, 1_700_000_000_000));
        let mut steady_at = |minute: u32, jump: Millis| {
            told += jump + millis(MINUTE);
            clock.look(start + MINUTE * minute, told)
        };
        assert_eq!(steady_at(1, 0), MINUTE);
        // A slewed clock is steady.
        for minute in 2..=60 {
            steady_at(minute, 30);
        }
        assert_eq!(steady_at(61, 0), MINUTE * 61);
        for (minute, days) in [(62, 40), (64, -40)] {
            assert_eq!(steady_at(minute, days * 86_400_000), Duration::ZERO, "{days} days");
            assert_eq!(steady_at(minute + 1, 0), MINUTE);
        }
    }
}
