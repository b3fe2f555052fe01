//! A day of the calendar, in UTC.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Millis, millis, rfc3339};

const LENGTH: Millis = 86_400_000;

/// A day from 1970 to 9999, in UTC, written as `2026-11-22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The day of a time.
    pub fn of(at: Millis) -> Self {
        Self(at.div_euclid(LENGTH))
    }

    /// Days since 1970-01-01, as the catalog has it.
    pub fn number(self) -> i64 {
        self.0
    }

    /// The day of this number.
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// So many days before it.
    #[must_use]
    pub fn before(self, days: i64) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// The first day of its month.
    #[must_use]
    pub fn first_of_month(self) -> Self {
        let text = self.to_string();
        let day: i64 = text.get(8..).and_then(|day| day.parse().ok()).unwrap_or(1);
        self.before(day - 1)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = rfc3339(self.0.saturating_mul(LENGTH));
        f.pad(std::str::from_utf8(&text.as_bytes()[..10]).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Day {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).ok();
        let at = parsed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let day = at.map(|since| Self::of(millis(since))).filter(|day| day.to_string() == text);
        day.ok_or_else(|| "a day such as 2026-11-22".to_owned())
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_as_it_is_written() {
        for text in ["1970-01-01", "2024-02-29", "2026-11-22", "9999-12-31"] {
            assert_eq!(text.parse::<Day>().unwrap().to_string(), text);
        }
        for text in ["", "2026-11-31", "2025-02-29", "1969-12-31", "2026-1-2", "2026-11-22T00:00:00Z", "26-11-22", "x"]
        {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_day_ends_at_midnight() {
        let day = |at| Day::of(at).to_string();
        assert_eq!([day(0), day(LENGTH - 1), day(LENGTH)], ["1970-01-01", "1970-01-01", "1970-01-02"]);
        assert_eq!("2026-11-22".parse::<Day>().unwrap().first_of_month().to_string(), "2026-11-01");
        assert_eq!("2026-11-01".parse::<Day>().unwrap().first_of_month().to_string(), "2026-11-01");
    }
}
