//! A moment of the past, as an operator writes it.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Millis, millis, rfc3339};
use crate::error::{Error, Result};

/// Reads a moment: RFC 3339 with any offset, or how long ago it was, as in `20 minutes ago`.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it is neither, or has not come yet.
pub fn parse_moment(text: &str, now: Millis) -> Result<Millis> {
    let text = text.trim();
    let at = match text.strip_suffix("ago") {
        Some(long) => humantime::parse_duration(long.trim()).ok().map(|long| now.saturating_sub(millis(long))),
        None => OffsetDateTime::parse(text, &Rfc3339).ok().and_then(|at| {
            let nanoseconds = at.unix_timestamp_nanos();
            Millis::try_from(nanoseconds.div_euclid(1_000_000)).ok()
        }),
    };
    let Some(at) = at else {
        return Err(Error::invalid(
            "at",
            format!("{text:?} is no moment; write it as {} or \"20 minutes ago\"", rfc3339(now)),
        ));
    };
    if at > now {
        let why = format!("{} has not come yet: it is {}", rfc3339(at), rfc3339(now));
        return Err(Error::invalid("at", format!("{why}. Choose a moment before now, such as \"20 minutes ago\"")));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const NOW: Millis = 1_790_000_000_000;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        for (text, expected) in [
            ("2026-09-21T14:13:20Z", NOW),
            ("2026-09-21T14:13:20.000Z", NOW),
            ("2026-09-21T16:13:19.5+02:00", NOW - 500),
            (" 20 minutes ago ", NOW - 20 * 60_000),
            ("2h ago", NOW - 2 * 3_600_000),
            ("1day 2h ago", NOW - 26 * 3_600_000),
            ("0s ago", NOW),
            ("1970-01-01T00:00:00.0019Z", 1),
            ("1969-12-31T23:59:59.9999Z", -1),
        ] {
            assert_eq!(parse_moment(text, NOW).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_of_the_past_is_refused_with_an_example() {
        for text in
            ["", "ago", "yesterday", "20", "20 minutes", "2026-09-21", "2026-09-21T14:13:20", "-5m ago", "5 apples ago"]
        {
            let refused = parse_moment(text, NOW).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{text}");
            assert!(refused.message().contains("20 minutes ago"), "{refused}");
        }
        let refused = parse_moment("2026-09-21T14:13:20.001Z", NOW).unwrap_err();
        assert!(refused.message().contains("has not come yet"), "{refused}");
    }
}
