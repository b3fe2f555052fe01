//! The time of day as an argument, so that tests and reconciles can set it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub mod day;
#[cfg(feature = "server")]
pub mod moment;

/// Milliseconds since the Unix epoch, UTC.
pub type Millis = i64;

/// The time of day, for expiry and timestamps. Timeouts use the monotonic clock, which cannot be set back.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Millis + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::new(|| match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        })
    }

    /// A clock that calls `now`.
    pub fn new(now: impl Fn() -> Millis + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now.
    pub fn now(&self) -> Millis {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// A duration in milliseconds, for sums with [`Millis`].
pub fn millis(duration: Duration) -> Millis {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A time in RFC 3339, in UTC with milliseconds: always twenty-four bytes. Times outside the years 1970–9999 are
/// clamped.
///
/// Hand-made: a page of notes has two for each note, and a formatter over `fmt` took a seventh of the time to
/// answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rfc3339([u8; 24]);

/// Formats a time.
pub fn rfc3339(at: Millis) -> Rfc3339 {
    const LAST: u64 = 253_402_300_799_999;
    const DAY: u64 = 86_400_000;
    let at = u64::try_from(at).unwrap_or(0).min(LAST);
    let (days, rest) = (at / DAY, at % DAY);
    // Days to a date in the proleptic Gregorian calendar, counted from 1 March 0000 in eras of 400
    // years, as in "chrono-Compatible Low-Level Date Algorithms" (Howard Hinnant, days_from_civil).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);

    let mut text = *b"0000-00-00T00:00:00.000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], rest / 3_600_000);
    digits(&mut text[14..16], rest / 60_000 % 60);
    digits(&mut text[17..19], rest / 1000 % 60);
    digits(&mut text[20..23], rest % 1000);
    Rfc3339(text)
}

fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

impl Rfc3339 {
    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.0).map_err(|_| fmt::Error)?)
    }
}

/// Times on the wire: RFC 3339 in JSON, milliseconds inside. `#[serde(with = "wire")]` on a [`Millis`] or an
/// `Option` of one.
pub mod wire {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::{Millis, millis, rfc3339};

    /// Writes a time, or null.
    pub fn serialize<S: Serializer>(at: &(impl Copy + Into<Option<Millis>>), serializer: S) -> Result<S::Ok, S::Error> {
        match (*at).into() {
            Some(at) => serializer.collect_str(&rfc3339(at)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads what [`serialize`] writes.
    pub fn deserialize<'de, D: Deserializer<'de>, T: Time>(deserializer: D) -> Result<T, D::Error> {
        let wrong = || D::Error::custom("a time is RFC 3339 in UTC");
        let at = match Option::<String>::deserialize(deserializer)? {
            Some(text) => Some(humantime::parse_rfc3339(&text).map_err(|_| wrong())?),
            None => None,
        };
        T::read(at.map(|at| millis(at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()))).ok_or_else(wrong)
    }

    /// A time that must be there, or one that may be null.
    pub trait Time: Sized {
        /// The time as it was read.
        fn read(at: Option<Millis>) -> Option<Self>;
    }

    impl Time for Millis {
        fn read(at: Option<Millis>) -> Option<Self> {
            at
        }
    }

    impl Time for Option<Millis> {
        fn read(at: Option<Millis>) -> Option<Self> {
            Some(at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted_as_by_humantime() {
        // Every hour and a bit over a century, so every day of it, leap days included.
        for at in (0..4_102_444_800_000).step_by(3_723_457 * 7) {
            let theirs = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at));
            assert_eq!(rfc3339(at.try_into().unwrap()).to_string(), theirs.to_string());
        }
        assert_eq!(rfc3339(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(-1).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn times_on_the_wire_are_read_as_they_were_written() {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Times {
            #[serde(with = "wire")]
            at: Millis,
            #[serde(with = "wire")]
            until: Option<Millis>,
        }
        for (times, json) in [
            (Times { at: 1_700_000_000_123, until: None }, r#"{"at":"2023-11-14T22:13:20.123Z","until":null}"#),
            (
                Times { at: 0, until: Some(1) },
                r#"{"at":"1970-01-01T00:00:00.000Z","until":"1970-01-01T00:00:00.001Z"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&times).unwrap(), json);
            assert_eq!(serde_json::from_str::<Times>(json).unwrap(), times);
        }
        for wrong in [r#"{"at":null,"until":null}"#, r#"{"at":1,"until":null}"#, r#"{"at":"today","until":null}"#] {
            serde_json::from_str::<Times>(wrong).unwrap_err();
        }
    }
}
