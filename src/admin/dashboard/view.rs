//! Data as pages show it: what hides or turns other text is escaped, long text is cut, numbers have units.

use std::time::Duration;

use crate::{
    catalog::model::Millis,
    clock::rfc3339,
    http::{
        problem::brief,
        text::{shown, shown_lines},
    },
};

/// The longest text in a table, the longest reason in one, and the longest text by itself, in bytes.
const CELL: usize = 160;
const REASON: usize = 1000;
const LONG: usize = 4096;
const VALUE: usize = 600;

/// Text in a table.
pub(super) fn cell(text: &str) -> String {
    shown(&brief(text, CELL))
}

/// The same of text that may be missing.
pub(super) fn optional(text: Option<&str>) -> String {
    text.map(cell).unwrap_or_default()
}

/// A reason in a table.
pub(super) fn reason(text: &str) -> String {
    shown(&brief(text, REASON))
}

/// Text by itself.
pub(super) fn long(text: &str) -> String {
    shown(&brief(text, LONG))
}

/// A value of a user's table.
pub(super) fn value(text: &str) -> String {
    shown(&brief(text, VALUE))
}

/// Text of several lines, whole.
pub(super) fn lines(text: &str) -> String {
    shown_lines(text)
}

/// A time, to the second.
pub(super) fn time(at: Millis) -> String {
    rfc3339(at).to_string()[..19].replace('T', " ")
}

/// The same of a time that may be missing.
pub(super) fn time_or(at: Option<Millis>, missing: &str) -> String {
    at.map_or_else(|| missing.to_owned(), time)
}

/// A number of bytes with a unit.
#[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = bytes;
    while rest >= 1024 && unit + 1 < UNITS.len() {
        rest /= 1024;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / 1024_f64.powi(i32::try_from(unit).unwrap_or(0)), UNITS[unit]),
    }
}

/// A number with its thousands apart.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A time span, in its largest two units.
pub(super) fn span(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// One of several values of a filter.
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) label: String,
    pub(super) chosen: bool,
}

impl Choice {
    /// The values of a filter, of which `chosen` is set.
    pub(super) fn all(values: impl IntoIterator<Item = (&'static str, String)>, chosen: &str) -> Vec<Self> {
        let choice = |(value, label): (&str, String)| Self { value: value.to_owned(), label, chosen: value == chosen };
        values.into_iter().map(choice).collect()
    }
}

/// A name and a value, of a list of what is known.
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// The facts that are known.
pub(super) fn facts(all: impl IntoIterator<Item = (&'static str, String)>) -> Vec<Fact> {
    let known = all.into_iter().filter(|(_, value)| !value.is_empty());
    known.map(|(name, value)| Fact { name, value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_numbers_and_spans_have_units() {
        assert_eq!([0, 1023, 1536, 5 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!([7, 1000, 1_234_567].map(number), ["7", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!([59, 3_700, 90_061].map(span), ["59s", "1h 1m", "1day 1h"]);
    }

    #[test]
    fn text_is_cut_and_what_turns_it_around_is_escaped() {
        assert_eq!(cell("a\u{202e}b"), "a\\u{202e}b");
        assert!(cell(&"x".repeat(10_000)).len() < 200);
    }
}
