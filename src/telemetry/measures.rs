//! What is counted on every floor: atomics of fixed number, which cost a request no lock and no memory.
//!
//! They are the process's: several stores in one process share them. None is by tenant, or by anything else that a
//! caller chooses. `telemetry/metrics.rs` writes them for Prometheus.

use std::{
    fmt::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A number that only grows.
pub struct Counter(AtomicU64);

impl Counter {
    /// None yet.
    pub const fn zero() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The most bounds of a histogram.
const MOST: usize = 14;

/// How many values are within each bound of a histogram.
pub type Counts = [u64; MOST + 1];

/// The time that so many of a thousand are within, of the counts of times. It is somewhere between two bounds: taken for as far
/// between them as it is among those that are.
pub fn quantile(counts: &Counts, of_thousand: u64) -> Option<Duration> {
    let all: u64 = counts.iter().sum();
    let rank = (all * of_thousand).div_ceil(1000).max(1);
    let (mut below, mut before) = (0, 0);
    for (bound, count) in SHORT.iter().zip(counts) {
        if before + count >= rank && *count > 0 {
            let part = u128::from(bound - below) * u128::from(rank - before) / u128::from(*count);
            return Some(Duration::from_nanos(below + u64::try_from(part).unwrap_or(0)));
        }
        (below, before) = (*bound, before + count);
    }
    // Of those beyond all bounds no more is known.
    (all > 0).then(|| Duration::from_nanos(below))
}

/// What the values of a histogram are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Nanoseconds, written as seconds.
    Time,
    /// Plain numbers.
    Number,
}

/// How many values were within which bounds.
pub struct Histogram {
    unit: Unit,
    /// The upper bounds, ascending.
    bounds: &'static [u64],
    /// One for each bound, and one for what is beyond them.
    buckets: [AtomicU64; MOST + 1],
    sum: AtomicU64,
}

/// Bounds of what should take microseconds to milliseconds, in nanoseconds.
const SHORT: &[u64] = &[
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// Bounds of what shares a commit or a flush.
const MANY: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

impl Histogram {
    const fn of(unit: Unit, bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= MOST, "more bounds than there are buckets");
        Self { unit, bounds, buckets: [const { AtomicU64::new(0) }; MOST + 1], sum: AtomicU64::new(0) }
    }

    /// Of times.
    pub const fn times() -> Self {
        Self::of(Unit::Time, SHORT)
    }

    /// Of numbers of things.
    pub const fn numbers() -> Self {
        Self::of(Unit::Number, MANY)
    }

    /// Counts a time.
    pub fn record_time(&self, took: Duration) {
        self.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts a number.
    pub fn record(&self, value: u64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many values are within each bound and beyond the one before it; the last is of those beyond all.
    pub fn counts(&self) -> Counts {
        self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed))
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// Writes its series; `labels` are those of all of them, such as `method="GET"`, or none.
    pub fn write(&self, page: &mut String, name: &str, labels: &str) -> fmt::Result {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bound, bucket) in self.bounds.iter().zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            writeln!(page, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}", Value(self.unit, *bound))?;
        }
        count += self.buckets[self.bounds.len()].load(Ordering::Relaxed);
        writeln!(page, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(page, "{name}_sum{braced} {}", Value(self.unit, self.sum.load(Ordering::Relaxed)))?;
        // The buckets' own sum: a count beside them could be another one for a moment.
        writeln!(page, "{name}_count{braced} {count}")
    }
}

struct Value(Unit, u64);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unit::Time => Duration::from_nanos(self.1).as_secs_f64().fmt(f),
            Unit::Number => self.1.fmt(f),
        }
    }
}

/// From the first record of a group to its flush.
pub static FLUSH_TIME: Histogram = Histogram::times();
/// Commits that one flush of the log made durable.
pub static FLUSH_COMMITS: Histogram = Histogram::numbers();
/// Groups that could not be written to the log.
pub static FLUSH_FAILURES: Counter = Counter::zero();
/// Writes that shared a commit.
pub static COMMIT_WRITES: Histogram = Histogram::numbers();
/// How long those waited whose database was not open.
pub static LEASE_WAIT: Histogram = Histogram::times();
/// How long it took to open a database.
pub static OPEN_TIME: Histogram = Histogram::times();
/// Databases closed because nobody used them.
pub static CLOSED_IDLE: Counter = Counter::zero();
/// Databases closed because another one needed the room.
pub static CLOSED_FOR_ROOM: Counter = Counter::zero();
/// Databases that were migrated.
pub static MIGRATED: Counter = Counter::zero();
/// Databases that were quarantined.
pub static QUARANTINED: Counter = Counter::zero();

/// Where a family's values are.
enum Values {
    Histogram(&'static Histogram),
    /// With the labels of each.
    Counters(&'static [(&'static str, &'static Counter)]),
}

/// What Prometheus is told of one measure.
struct Family {
    name: &'static str,
    help: &'static str,
    values: Values,
}

const FAMILIES: [Family; 9] = [
    Family {
        name: "cubby_flush_duration_seconds",
        help: "From the first commit of a group to the flush of the log that made it durable.",
        values: Values::Histogram(&FLUSH_TIME),
    },
    Family {
        name: "cubby_flush_commits",
        help: "Commits that one flush of the log made durable.",
        values: Values::Histogram(&FLUSH_COMMITS),
    },
    Family {
        name: "cubby_flush_failures_total",
        help: "Groups of commits that could not be written to the log.",
        values: Values::Counters(&[("", &FLUSH_FAILURES)]),
    },
    Family {
        name: "cubby_commit_writes",
        help: "Writes that shared one commit.",
        values: Values::Histogram(&COMMIT_WRITES),
    },
    Family {
        name: "cubby_lease_wait_seconds",
        help: "How long requests waited for a database that was not open, served or not.",
        values: Values::Histogram(&LEASE_WAIT),
    },
    Family {
        name: "cubby_open_duration_seconds",
        help: "How long it took to open a database.",
        values: Values::Histogram(&OPEN_TIME),
    },
    Family {
        name: "cubby_evictions_total",
        help: "Databases that were closed, idle or to make room for another one.",
        values: Values::Counters(&[("reason=\"idle\"", &CLOSED_IDLE), ("reason=\"room\"", &CLOSED_FOR_ROOM)]),
    },
    Family {
        name: "cubby_migrations_total",
        help: "Databases that were brought to the newest schema.",
        values: Values::Counters(&[("", &MIGRATED)]),
    },
    Family {
        name: "cubby_quarantines_total",
        help: "Databases that were quarantined.",
        values: Values::Counters(&[("", &QUARANTINED)]),
    },
];

/// Begins a family in Prometheus' text format.
pub fn head(page: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// Writes everything in Prometheus' text format.
pub fn write(page: &mut String) -> fmt::Result {
    for Family { name, help, values } in &FAMILIES {
        match values {
            Values::Histogram(histogram) => {
                head(page, name, "histogram", help)?;
                histogram.write(page, name, "")?;
            }
            Values::Counters(counters) => {
                head(page, name, "counter", help)?;
                for (labels, counter) in *counters {
                    let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                    writeln!(page, "{name}{braced} {}", counter.get())?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_every_bucket_from_its_own_on() {
        let histogram = Histogram::numbers();
        for value in [1, 2, 3, 5000] {
            histogram.record(value);
        }
        let mut page = String::new();
        histogram.write(&mut page, "x", "").unwrap();
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines[..3], ["x_bucket{le=\"1\"} 1", "x_bucket{le=\"2\"} 2", "x_bucket{le=\"4\"} 3"]);
        assert_eq!(lines[10..], ["x_bucket{le=\"1024\"} 3", "x_bucket{le=\"+Inf\"} 4", "x_sum 5006", "x_count 4"]);
    }

    #[test]
    fn a_quantile_is_between_the_bounds_of_those_it_is_among() {
        let histogram = Histogram::times();
        assert_eq!(quantile(&histogram.counts(), 500), None);
        (0..99).for_each(|_| histogram.record_time(Duration::from_micros(200)));
        histogram.record_time(Duration::from_millis(40));
        let counts = histogram.counts();
        let median = quantile(&counts, 500).unwrap();
        assert!((100..=250).contains(&median.as_micros()), "{median:?}");
        assert_eq!(quantile(&counts, 990), Some(Duration::from_micros(250)));
        assert_eq!(quantile(&counts, 1000), Some(Duration::from_millis(50)));
        histogram.record_time(Duration::from_secs(100));
        assert_eq!(quantile(&histogram.counts(), 1000), Some(Duration::from_secs(10)));
    }

    #[test]
    fn times_are_written_in_seconds() {
        let histogram = Histogram::times();
        histogram.record_time(Duration::from_micros(300));
        let mut page = String::new();
        histogram.write(&mut page, "x", "route=\"/\"").unwrap();
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines[0], "x_bucket{route=\"/\",le=\"0.0001\"} 0");
        assert_eq!(lines[2], "x_bucket{route=\"/\",le=\"0.0005\"} 1");
        assert_eq!(
            lines[14..],
            ["x_bucket{route=\"/\",le=\"+Inf\"} 1", "x_sum{route=\"/\"} 0.0003", "x_count{route=\"/\"} 1"]
        );
    }
}
