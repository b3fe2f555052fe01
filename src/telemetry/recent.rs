//! The last hour in memory, for a look without Prometheus: what has changed between two readings of the metrics is a sample.
//!
//! A sample is some 150 bytes and a reading takes microseconds, however many tenants and requests there are.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{
    disk::Space,
    measures::{self, Counts, quantile},
    metrics, routes,
};
use crate::clock::{Millis, rfc3339};

/// How often a sample is taken.
pub const EVERY: Duration = Duration::from_secs(10);

/// Samples that are kept: an hour's.
pub const KEPT: usize = 360;

/// What the metrics are at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The time of day.
    pub at: Millis,
    /// Databases that are open.
    pub open: u64,
    /// Users there have ever been; none where the catalog could not be read.
    pub users: Option<u64>,
    /// The disk of the data folder.
    pub disk: Option<Space>,
}

/// What happened between one reading and the next, and how things stood then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Sample {
    /// When it was taken.
    #[serde(serialize_with = "as_rfc3339")]
    #[schema(value_type = String)]
    pub at: Millis,
    /// How long after the one before, in milliseconds.
    pub span_ms: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Those of them with a status of 5xx.
    pub failed_requests: u64,
    /// Half of them took no longer, in microseconds; none if there were none.
    pub median_us: Option<u64>,
    /// 99 of 100 took no longer, in microseconds.
    pub p99_us: Option<u64>,
    /// Writes to users' databases and the catalog.
    pub writes: u64,
    /// Commits that flushes made durable.
    pub commits: u64,
    /// Flushes of the log.
    pub flushes: u64,
    /// Databases that were open when it was taken.
    pub open: u64,
    /// Databases that were opened.
    pub opened: u64,
    /// Databases that were closed, idle or to make room.
    pub evicted: u64,
    /// Webhook deliveries, repeats left out.
    pub deliveries: u64,
    /// Those of them that failed or were rejected.
    pub failed_deliveries: u64,
    /// Users who were not there before.
    pub sign_ups: u64,
    /// The size of the disk, in bytes; none where the system does not tell.
    pub disk: Option<u64>,
    /// What of it is free.
    pub disk_free: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn as_rfc3339<S: Serializer>(at: &Millis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(*at))
}

/// What only grows.
#[derive(Clone, Copy)]
struct Totals {
    times: Counts,
    failed_requests: u64,
    writes: u64,
    commits: u64,
    flushes: u64,
    opened: u64,
    evicted: u64,
    deliveries: u64,
    failed_deliveries: u64,
}

impl Totals {
    fn now() -> Self {
        let (times, failed_requests) = routes::totals();
        let number = |counts: Counts| counts.iter().sum();
        Self {
            times,
            failed_requests,
            writes: measures::COMMIT_WRITES.sum(),
            commits: measures::FLUSH_COMMITS.sum(),
            flushes: number(measures::FLUSH_COMMITS.counts()),
            opened: number(measures::OPEN_TIME.counts()),
            evicted: measures::CLOSED_IDLE.get() + measures::CLOSED_FOR_ROOM.get(),
            deliveries: metrics::DELIVERIES.get(),
            failed_deliveries: metrics::FAILED_DELIVERIES.get(),
        }
    }
}

/// The samples of the last hour.
pub struct Recent {
    state: Mutex<State>,
    /// Says that there is a new one.
    taken: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    before: Option<(Instant, Totals, Reading)>,
    samples: VecDeque<Sample>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { state: Mutex::default(), taken: watch::Sender::new(()) }
    }
}

impl Recent {
    /// Makes a sample of what has changed since the reading before; of the first reading there is none.
    pub fn add(&self, mut reading: Reading) {
        let (at, totals) = (Instant::now(), Totals::now());
        let mut state = self.state.lock();
        // Who came while the catalog could not be read is counted once it can be.
        reading.users = reading.users.or(state.before.and_then(|(_, _, before)| before.users));
        if let Some((then, old, before)) = state.before.replace((at, totals, reading)) {
            if state.samples.len() >= KEPT {
                state.samples.pop_front();
            }
            state.samples.push_back(sample(at - then, (&old, &totals), (&before, &reading)));
        }
        drop(state);
        self.taken.send_replace(());
    }

    /// The samples, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.state.lock().samples.iter().cloned().collect()
    }

    /// Hears of new samples.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.taken.subscribe()
    }
}

fn sample(span: Duration, (old, new): (&Totals, &Totals), (before, now): (&Reading, &Reading)) -> Sample {
    let mut times = new.times;
    for (count, old) in times.iter_mut().zip(&old.times) {
        *count = count.saturating_sub(*old);
    }
    let micros = |of_thousand| {
        let found = quantile(&times, of_thousand)?;
        Some(u64::try_from(found.as_micros()).unwrap_or(u64::MAX))
    };
    let grown = |field: fn(&Totals) -> u64| field(new).saturating_sub(field(old));
    Sample {
        at: now.at,
        span_ms: u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1),
        requests: times.iter().sum(),
        failed_requests: grown(|totals| totals.failed_requests),
        median_us: micros(500),
        p99_us: micros(990),
        writes: grown(|totals| totals.writes),
        commits: grown(|totals| totals.commits),
        flushes: grown(|totals| totals.flushes),
        open: now.open,
        opened: grown(|totals| totals.opened),
        evicted: grown(|totals| totals.evicted),
        deliveries: grown(|totals| totals.deliveries),
        failed_deliveries: grown(|totals| totals.failed_deliveries),
        sign_ups: now.users.zip(before.users).map_or(0, |(now, before)| now.saturating_sub(before)),
        disk: now.disk.map(|disk| disk.size),
        disk_free: now.disk.map(|disk| disk.free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Millis, users: u64) -> Reading {
        Reading { at, open: 1, users: Some(users), disk: None }
    }

    #[test]
    fn an_hour_is_kept_and_a_sample_is_what_has_changed() {
        let recent = Recent::default();
        recent.add(reading(0, 10));
        assert_eq!(recent.samples(), [], "there is nothing to compare the first reading with");
        let last = i64::try_from(KEPT).unwrap() + 5;
        for at in 1..=last {
            recent.add(reading(at, 10 + u64::try_from(at).unwrap() * 3));
        }
        let samples = recent.samples();
        assert_eq!((samples.len(), samples[0].at, samples[KEPT - 1].at), (KEPT, 6, last));
        assert!(samples.iter().all(|sample| sample.sign_ups == 3));
    }

    #[test]
    fn a_catalog_that_could_not_be_read_for_a_while_is_no_wave_of_sign_ups() {
        let recent = Recent::default();
        recent.add(reading(0, 10));
        recent.add(Reading { users: None, ..reading(1, 0) });
        recent.add(reading(2, 12));
        assert_eq!(recent.samples().iter().map(|sample| sample.sign_ups).collect::<Vec<_>>(), [0, 2]);
    }
}
