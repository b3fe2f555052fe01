//! Charts of the last hour, drawn as SVG: a line for each series, and the same in words.

use std::fmt::Write;

use super::view;
use crate::telemetry::recent::Sample;

/// A chart as its template shows it.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    /// What the left edge stands for.
    pub(super) from: String,
    /// What the upper edge stands for.
    pub(super) top: String,
    /// All of it in words.
    pub(super) words: String,
    pub(super) lines: Vec<Line>,
}

/// One series.
pub(super) struct Line {
    /// How it is drawn.
    pub(super) class: &'static str,
    pub(super) label: &'static str,
    /// Its newest value.
    pub(super) now: String,
    pub(super) path: String,
}

/// The size of the drawing.
pub(super) const WIDTH: u64 = 360;
pub(super) const HEIGHT: u64 = 100;

/// The shortest and the longest time that a chart is of, in milliseconds.
const SHORTEST: u64 = 5 * 60 * 1000;
const LONGEST: u64 = 60 * 60 * 1000;

/// Its value in a sample, in thousandths of the unit or in bytes; none where there is none.
type Value = fn(&Sample) -> Option<u64>;

struct Series {
    class: &'static str,
    label: &'static str,
    value: Value,
}

struct Kind {
    title: &'static str,
    unit: &'static str,
    show: fn(u64) -> String,
    /// What the upper edge stands for, where it does not follow the values.
    whole: Option<Value>,
    series: &'static [Series],
}

const fn series(class: &'static str, label: &'static str, value: Value) -> Series {
    Series { class, label, value }
}

const fn kind(title: &'static str, unit: &'static str, series: &'static [Series]) -> Kind {
    Kind { title, unit, show: decimal, whole: None, series }
}

const KINDS: [Kind; 9] = [
    kind(
        "Requests",
        "a second",
        &[
            series("first", "answered", |sample| Some(per_second(sample, sample.requests))),
            series("bad", "failed", |sample| Some(per_second(sample, sample.failed_requests))),
        ],
    ),
    kind(
        "Latency",
        "milliseconds",
        &[series("first", "median", |sample| sample.median_us), series("second", "99 of 100", |sample| sample.p99_us)],
    ),
    kind("Writes", "a second", &[series("first", "writes", |sample| Some(per_second(sample, sample.writes)))]),
    kind(
        "Commits",
        "a flush",
        &[series("first", "commits", |sample| (sample.commits * 1000).checked_div(sample.flushes))],
    ),
    kind("Open databases", "", &[series("first", "open", |sample| Some(sample.open.saturating_mul(1000)))]),
    kind(
        "Openings and evictions",
        "a minute",
        &[
            series("first", "opened", |sample| Some(per_minute(sample, sample.opened))),
            series("second", "evicted", |sample| Some(per_minute(sample, sample.evicted))),
        ],
    ),
    kind(
        "Deliveries",
        "a minute",
        &[
            series("first", "came", |sample| Some(per_minute(sample, sample.deliveries))),
            series("bad", "failed", |sample| Some(per_minute(sample, sample.failed_deliveries))),
        ],
    ),
    kind("Sign-ups", "a minute", &[series("first", "new tenants", |sample| Some(per_minute(sample, sample.sign_ups)))]),
    Kind {
        title: "Disk",
        unit: "",
        show: view::size,
        whole: Some(|sample| sample.disk),
        series: &[series("first", "used", |sample| Some(sample.disk?.saturating_sub(sample.disk_free?)))],
    },
];

fn per_second(sample: &Sample, count: u64) -> u64 {
    count.saturating_mul(1_000_000) / sample.span_ms
}

fn per_minute(sample: &Sample, count: u64) -> u64 {
    count.saturating_mul(60_000_000) / sample.span_ms
}

/// The charts of some samples, oldest first.
pub(super) fn charts(samples: &[Sample]) -> Vec<Chart> {
    KINDS.iter().map(|kind| chart(kind, samples)).collect()
}

/// How much time some samples cover.
pub(super) fn covered(samples: &[Sample]) -> String {
    view::span((millis(samples) / 1000).max(1))
}

fn millis(samples: &[Sample]) -> u64 {
    samples.iter().map(|sample| sample.span_ms).sum()
}

fn chart(kind: &Kind, samples: &[Sample]) -> Chart {
    let values: Vec<Vec<Option<u64>>> =
        kind.series.iter().map(|series| samples.iter().map(series.value).collect()).collect();
    let most = |values: &[Option<u64>]| values.iter().flatten().copied().max();
    let whole = kind.whole.and_then(|whole| most(&samples.iter().map(whole).collect::<Vec<_>>()));
    let top = whole.unwrap_or_else(|| round_up(values.iter().filter_map(|values| most(values)).max().unwrap_or(0)));
    let window = millis(samples).clamp(SHORTEST, LONGEST);
    let places = places(samples, window);
    let mut words = Vec::new();
    let mut lines = Vec::new();
    for (series, values) in kind.series.iter().zip(&values) {
        // Where nothing happened in the newest sample there is no latency of it.
        let now = values.last().copied().flatten().map_or("–".to_owned(), kind.show);
        let most = most(values).map_or("nothing".to_owned(), kind.show);
        words.push(format!("{} {now} now, {most} at most", series.label));
        lines.push(Line { class: series.class, label: series.label, now, path: path(&places, values, top) });
    }
    let unit = if kind.unit.is_empty() { String::new() } else { format!(" {}", kind.unit) };
    Chart {
        title: kind.title,
        unit: kind.unit,
        from: format!("{} ago", view::span(window / 60_000 * 60)),
        top: (kind.show)(top),
        words: format!("{}{unit} in the last {}: {}", kind.title, covered(samples), words.join("; ")),
        lines,
    }
}

/// Where samples are from left to right: the newest at the right edge, others by how long ago they were taken.
fn places(samples: &[Sample], window: u64) -> Vec<Option<u64>> {
    let mut ago = 0;
    let place = |sample: &Sample| {
        let place = WIDTH.checked_sub(ago * WIDTH / window);
        ago += sample.span_ms;
        place
    };
    let mut places: Vec<_> = samples.iter().rev().map(place).collect();
    places.reverse();
    places
}

/// The points of a line, broken where there is no value. Those amid a level stretch are left out.
fn path(places: &[Option<u64>], values: &[Option<u64>], top: u64) -> String {
    let height = |value: u64| {
        HEIGHT - u64::try_from(u128::from(value.min(top)) * u128::from(HEIGHT) / u128::from(top.max(1))).unwrap_or(0)
    };
    let points: Vec<Option<(u64, u64)>> =
        places.iter().zip(values).map(|(place, value)| Some(((*place)?, height((*value)?)))).collect();
    let at = |at: Option<usize>| at.and_then(|at| points.get(at).copied().flatten());
    let mut text = String::new();
    for (n, point) in points.iter().enumerate() {
        let Some((x, y)) = *point else { continue };
        let (before, after) = (at(n.checked_sub(1)), at(Some(n + 1)));
        // Text takes all that is written to it.
        let _ = match (before, after) {
            // One by itself is a dot.
            (None, None) => write!(text, "M{x} {y}h0"),
            (None, Some(_)) => write!(text, "M{x} {y}"),
            (Some((_, left)), Some((_, right))) if left == y && right == y => Ok(()),
            (Some(_), _) => write!(text, "L{x} {y}"),
        };
    }
    text
}

/// The next of 1, 2, 5, 10, 20 … units, in thousandths.
fn round_up(value: u64) -> u64 {
    let mut unit: u64 = 1000;
    loop {
        if let Some(found) = [1, 2, 5].into_iter().map(|n| unit.saturating_mul(n)).find(|step| *step >= value) {
            return found;
        }
        unit = unit.saturating_mul(10);
    }
}

/// A number of thousandths, in three digits or so.
fn decimal(thousandths: u64) -> String {
    let whole = thousandths / 1000;
    match thousandths % 1000 {
        0 => view::number(whole),
        rest if whole < 10 => format!("{whole}.{:02}", rest / 10),
        rest if whole < 100 => format!("{whole}.{}", rest / 100),
        _ => view::number(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(span_ms: u64, requests: u64, median_us: Option<u64>) -> Sample {
        Sample {
            at: 0,
            span_ms,
            requests,
            failed_requests: 0,
            median_us,
            p99_us: median_us,
            writes: 0,
            commits: 0,
            flushes: 0,
            open: 0,
            opened: 0,
            evicted: 0,
            deliveries: 0,
            failed_deliveries: 0,
            sign_ups: 0,
            disk: Some(1 << 30),
            disk_free: Some(1 << 29),
        }
    }

    #[test]
    fn a_line_is_level_where_nothing_changes_and_broken_where_nothing_was_measured() {
        let samples = [
            sample(10_000, 100, Some(500)),
            sample(10_000, 100, None),
            sample(10_000, 100, Some(1000)),
            sample(10_000, 100, None),
            sample(10_000, 200, Some(250)),
            sample(10_000, 200, Some(250)),
        ];
        let all = charts(&samples);
        assert_eq!(all[0].lines[0].path, "M300 50L336 50L348 0L360 0");
        assert_eq!(all[1].lines[0].path, "M300 50h0M324 0h0M348 75L360 75");
        assert_eq!((all[0].top.as_str(), all[1].top.as_str(), all[8].top.as_str()), ("20", "1", "1.0 GiB"));
        assert_eq!(
            all[0].words,
            "Requests a second in the last 1m: answered 20 now, 20 at most; failed 0 now, 0 at most"
        );
        assert_eq!(all[8].lines[0].path, "M300 50L360 50");
    }

    #[test]
    fn what_is_older_than_an_hour_is_left_out_and_no_sample_at_all_is_no_error() {
        let old = [sample(10_000, 1, None), sample(4_000_000, 1, None), sample(10_000, 1, None)];
        // One request in 4,000 seconds is none a second; the one before that is left of the edge.
        assert_eq!(charts(&old)[0].lines[0].path, "M359 100L360 90");
        assert_eq!((charts(&old)[0].from.as_str(), charts(&[])[0].from.as_str()), ("1h ago", "5m ago"));
        assert!(charts(&[]).iter().all(|chart| chart.lines.iter().all(|line| line.path.is_empty())));
    }

    #[test]
    fn numbers_have_about_three_digits() {
        assert_eq!([0, 250, 1000, 12_340, 999_900].map(decimal), ["0", "0.25", "1", "12.3", "999"]);
        assert_eq!([0, 1001, 2000, 5001, 40_000_000].map(round_up), [1000, 2000, 2000, 10_000, 50_000_000]);
        assert!(round_up(u64::MAX) == u64::MAX);
    }
}
