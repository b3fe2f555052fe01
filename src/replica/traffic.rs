//! How many requests and bytes a minute go to the bucket: what it costs.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::remote::Meter;

/// How far apart samples are.
const EVERY: Duration = Duration::from_secs(5);

/// How much of the past they are of.
const MINUTE: Duration = Duration::from_secs(60);

/// What was asked of the bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReplicaRequests)]
pub struct Requests {
    /// All requests. Those that the client repeats by itself count once.
    pub requests: u64,
    /// Objects written, and parts of them.
    pub puts: u64,
    /// Objects read, or looked at.
    pub gets: u64,
    /// Pages of lists.
    pub lists: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Requests that failed.
    pub failures: u64,
}

impl Requests {
    /// What was counted between two looks.
    pub fn between(before: &Meter, after: &Meter) -> Self {
        let since = |of: fn(&Meter) -> u64| of(after).saturating_sub(of(before));
        Self {
            requests: since(Meter::requests),
            puts: since(|meter| meter.puts + meter.parts + meter.copies),
            gets: since(|meter| meter.gets + meter.heads),
            lists: since(|meter| meter.lists),
            deletes: since(|meter| meter.deletes),
            bytes_out: since(|meter| meter.bytes_out),
            bytes_in: since(|meter| meter.bytes_in),
            failures: since(|meter| meter.failures),
        }
    }

    /// What was counted since the start.
    pub fn of(meter: &Meter) -> Self {
        Self::between(&Meter::default(), meter)
    }
}

/// Samples of the last minute.
pub struct Traffic(Mutex<VecDeque<(Instant, Meter)>>);

impl Traffic {
    /// Of a bucket of which nothing was asked before `now`.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(VecDeque::from([(now, Meter::default())])))
    }

    /// Takes a sample, if the last one is old enough.
    pub fn note(&self, now: Instant, meter: Meter) {
        let age = |at: Instant| now.saturating_duration_since(at);
        let mut samples = self.0.lock();
        if samples.back().is_some_and(|(at, _)| age(*at) < EVERY) {
            return;
        }
        samples.push_back((now, meter));
        // The oldest one is of a minute ago, or a little more.
        while samples.get(1).is_some_and(|(at, _)| age(*at) >= MINUTE) {
            samples.pop_front();
        }
    }

    /// What was asked in about the last minute.
    pub fn minute(&self, now: Instant, meter: &Meter) -> Requests {
        let samples = self.0.lock();
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < MINUTE + EVERY;
        let before = samples.iter().find(|(at, _)| is_recent(at)).or(samples.back());
        before.map_or_else(|| Requests::of(meter), |(_, before)| Requests::between(before, meter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(puts: u64) -> Meter {
        Meter { puts, bytes_out: puts * 10, ..Meter::default() }
    }

    #[test]
    fn the_last_minute_is_counted_and_nothing_before() {
        let begun = Instant::now();
        let traffic = Traffic::new(begun);
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(traffic.minute(at(1), &meter(3)).puts, 3);
        for second in 0..600 {
            traffic.note(at(second), meter(second));
        }
        let minute = traffic.minute(at(600), &meter(600));
        assert!((60..=66).contains(&minute.puts), "{minute:?}");
        assert_eq!((minute.bytes_out, minute.requests), (minute.puts * 10, minute.puts));
        assert!(traffic.0.lock().len() < 16);
        // Nobody took samples for an hour.
        assert_eq!(traffic.minute(at(4200), &meter(600)).puts, 5);
        assert_eq!(Requests::of(&meter(600)).puts, 600);
    }
}
