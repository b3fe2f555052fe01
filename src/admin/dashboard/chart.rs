//! A tenant's use by day, as bars that are drawn here.

use std::collections::BTreeMap;

use super::view;
use crate::{catalog::usage::DayUse, clock::day::Day};

/// Days that are shown, the last one today.
pub(super) const DAYS: i64 = 30;

/// The size of a drawing, in its own units.
const WIDTH: i64 = 600;
const HEIGHT: u64 = 100;

/// A bar.
pub(super) struct Bar {
    pub(super) x: i64,
    pub(super) width: i64,
    pub(super) y: u64,
    pub(super) height: u64,
    /// Of the part in front.
    pub(super) front_y: u64,
    pub(super) front_height: u64,
    /// What it says.
    pub(super) title: String,
}

/// A drawing.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) bars: Vec<Bar>,
    /// What it shows, in words.
    pub(super) label: String,
    pub(super) first: String,
    pub(super) last: String,
}

/// The day that charts begin with.
pub(super) fn first_day(today: Day) -> Day {
    today.before(DAYS - 1)
}

/// Requests and writes, and the size; none for a tenant who was not used in these days.
pub(super) fn charts(today: Day, days: &[DayUse]) -> Vec<Chart> {
    if days.is_empty() {
        return Vec::new();
    }
    let of: BTreeMap<Day, &DayUse> = days.iter().map(|day| (day.day, day)).collect();
    let count = |day: &DayUse| {
        format!("{} requests, {} writes", view::number(day.count.requests), view::number(day.count.writes))
    };
    let requests =
        draw("Requests, and writes in front", today, &of, |day| (day.count.requests, day.count.writes), count);
    let size = draw("Size", today, &of, |day| (day.bytes, 0), |day| view::size(day.bytes));
    vec![requests, size]
}

fn draw(
    title: &'static str,
    today: Day,
    of: &BTreeMap<Day, &DayUse>,
    values: impl Fn(&DayUse) -> (u64, u64),
    told: impl Fn(&DayUse) -> String,
) -> Chart {
    let first = first_day(today);
    let most = of.values().map(|day| values(day).0.max(values(day).1)).max().unwrap_or(0).max(1);
    // Something is seen of what is more than nothing.
    let height = |value: u64| match value {
        0 => 0,
        _ => u64::try_from(u128::from(value) * u128::from(HEIGHT) / u128::from(most)).unwrap_or(HEIGHT).max(1),
    };
    let step = WIDTH / DAYS;
    let bar = |(place, day): (i64, Day)| {
        let used = of.get(&day).copied();
        let (back, front) = used.map_or((0, 0), &values);
        let (back, front) = (height(back), height(front));
        Bar {
            x: place * step + 1,
            width: step - 2,
            y: HEIGHT - back,
            height: back,
            front_y: HEIGHT - front,
            front_height: front,
            title: format!("{day}: {}", used.map_or("not used".to_owned(), &told)),
        }
    };
    let days = (0..DAYS).map(|place| (place, Day::from_number(first.number() + place)));
    let highest = of.values().max_by_key(|day| values(day).0);
    let label = highest.map(|day| format!("{title} by day. Most on {}: {}.", day.day, told(day))).unwrap_or_default();
    Chart { title, bars: days.map(bar).collect(), label, first: first.to_string(), last: today.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::usage::Count;

    #[test]
    fn the_highest_bar_is_as_high_as_the_drawing_and_little_is_more_than_nothing() {
        let today: Day = "2026-11-22".parse().unwrap();
        let used = |back, requests, writes| DayUse {
            day: today.before(back),
            user_id: "ada".parse().unwrap(),
            bytes: u64::MAX,
            count: Count { requests, writes },
        };
        let drawn = charts(today, &[used(1, 100_000, 50_000), used(0, 1, 0)]);
        let bars = &drawn[0].bars;
        assert_eq!(bars.len(), usize::try_from(DAYS).unwrap());
        let ends: Vec<_> = bars[28..].iter().map(|bar| (bar.y, bar.height, bar.front_height)).collect();
        assert_eq!(ends, [(0, HEIGHT, HEIGHT / 2), (HEIGHT - 1, 1, 0)]);
        assert!(bars[..28].iter().all(|bar| bar.height == 0));
        assert_eq!(drawn[1].bars[29].height, HEIGHT);
        assert!(drawn[0].label.contains("2026-11-21"), "{}", drawn[0].label);
        assert!(charts(today, &[]).is_empty());
    }
}
