//! Figures beside what is asked of them.

use std::fmt;

struct Line {
    row: String,
    figure: String,
    bar: String,
    /// None where nothing is asked of it.
    meets: Option<bool>,
}

#[derive(Default)]
pub struct Table(Vec<Line>);

impl Table {
    /// A figure with a bar. It is also printed at once, since all of them together take long.
    pub fn judge(&mut self, row: &str, figure: String, bar: &str, meets: bool) {
        self.add(row, figure, bar, Some(meets));
    }

    /// A figure to know.
    pub fn tell(&mut self, row: &str, figure: String) {
        self.add(row, figure, "", None);
    }

    fn add(&mut self, row: &str, figure: String, bar: &str, meets: Option<bool>) {
        println!("  {row}: {figure} {}", verdict(meets));
        self.0.push(Line { row: row.to_owned(), figure, bar: bar.to_owned(), meets });
    }

    pub fn is_met(&self) -> bool {
        self.0.iter().all(|line| line.meets != Some(false))
    }
}

fn verdict(meets: Option<bool>) -> &'static str {
    match meets {
        Some(true) => "ok",
        Some(false) => "misses",
        None => "",
    }
}

impl fmt::Display for Table {
    /// As Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| row | figure | bar | |\n|---|---|---|---|")?;
        for Line { row, figure, bar, meets } in &self.0 {
            writeln!(f, "| {row} | {figure} | {bar} | {} |", verdict(*meets))?;
        }
        Ok(())
    }
}

/// A part of times, which need not be sorted, in milliseconds.
pub fn at(times: &mut [u32], share: f64) -> f64 {
    times.sort_unstable();
    times.get(((times.len().max(1) - 1) as f64 * share) as usize).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
}

/// The middle of some.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

/// How far the largest is from the smallest, as a part of the middle.
pub fn spread(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    (most - least) / median(values.iter().copied())
}
