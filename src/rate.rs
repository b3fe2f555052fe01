//! A rate and its burst, as settings and the catalog write it.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A rate and its burst: `100/s`, `600/m`, `20/s:200`; or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// No bound.
    Off,
    /// `count` every `per`, and `burst` at once.
    Of {
        /// How many.
        count: u32,
        /// In what time.
        per: Duration,
        /// How many at once.
        burst: u32,
    },
}

/// While callers' requests are in flight, work in the background pauses after each piece: this many times as long as that took.
#[cfg(feature = "server")]
const PAUSE: u32 = 3;
#[cfg(feature = "server")]
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
#[cfg(feature = "server")]
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long work in the background pauses after a piece of it, so that callers are not kept waiting.
#[cfg(feature = "server")]
pub fn pause_after(took: Duration) -> Duration {
    (took * PAUSE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

const UNITS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("m", Duration::from_secs(60)), ("h", Duration::from_secs(3600))];

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write it as 100/s, 600/m or 1000/h, with a burst as in 100/s:400; or off".to_owned();
        if text == "off" {
            return Ok(Self::Off);
        }
        let (rate, burst) = text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
        let (count, per) = rate.split_once('/').ok_or_else(wrong)?;
        let (_, per) = UNITS.into_iter().find(|(unit, _)| *unit == per).ok_or_else(wrong)?;
        let number = |text: &str| text.parse().ok().filter(|n: &u32| (1..=1_000_000).contains(n)).ok_or_else(wrong);
        let count = number(count)?;
        let burst = burst.map_or(Ok(count.saturating_mul(2).min(1_000_000)), number)?;
        Ok(Self::Of { count, per, burst })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::Of { count, per, burst } => {
                let unit = UNITS.into_iter().find(|(_, length)| length == per).map_or("s", |(unit, _)| unit);
                f.pad(&format!("{count}/{unit}:{burst}"))
            }
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let of = |count, secs, burst| Ok(Rate::Of { count, per: Duration::from_secs(secs), burst });
        assert_eq!("100/s".parse(), of(100, 1, 200));
        assert_eq!("600/m:5".parse(), of(600, 60, 5));
        assert_eq!("off".parse(), Ok(Rate::Off));
        for text in ["", "100", "0/s", "1/d", "1/s:0", "-1/s", "1/s:"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_is_read_as_it_is_written() {
        for text in ["off", "100/s:200", "600/m:5", "1/h:1", "1000000/h:1000000"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        let most: Rate = "1000000/s".parse().unwrap();
        assert_eq!(most.to_string().parse(), Ok(most));
    }
}
