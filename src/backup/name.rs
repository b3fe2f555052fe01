//! The names of backups: when each was begun, and some letters, as in `20261123T071500Z-aetwvbnm`.

use std::{fmt, str::FromStr, time::UNIX_EPOCH};

use crate::clock::{Millis, millis, rfc3339};

/// The letters at the end of a name: first the milliseconds, as a number of these letters, so that names of one second sort,
/// too; then random ones.
const LETTERS: usize = 8;
const OF_MILLIS: usize = 3;

/// The name of a backup. Names sort by when the backups were begun.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    at: Millis,
    text: String,
}

impl Name {
    /// Of a backup that is begun now.
    pub fn new(now: Millis) -> Self {
        let letters: Vec<char> = ('a'..='z').collect();
        let (now, seconds) = (now.max(0), rfc3339(now).to_string());
        let digits: String = seconds.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
        let mut millis = now % 1000;
        let mut last: Vec<char> = Vec::new();
        for _ in 0..OF_MILLIS {
            last.push(usize::try_from(millis % 26).ok().and_then(|nth| letters.get(nth).copied()).unwrap_or('a'));
            millis /= 26;
        }
        let millis: String = last.into_iter().rev().collect();
        let text = format!("{digits}Z-{millis}{}", nanoid::nanoid!(LETTERS - OF_MILLIS, &letters));
        Self { at: now, text }
    }

    /// When the backup was begun.
    pub fn at(&self) -> Millis {
        self.at
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not the name of a backup; `cubby backup list` shows them");
        let (time, letters) = text.split_once('-').ok_or_else(wrong)?;
        let is_time = time.len() == 16
            && time.bytes().enumerate().all(|(at, byte)| match at {
                8 => byte == b'T',
                15 => byte == b'Z',
                _ => byte.is_ascii_digit(),
            });
        if !is_time || letters.len() != LETTERS || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(wrong());
        }
        let part = |from: usize, to: usize| &time[from..to];
        let long =
            format!("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 6), part(6, 8), part(9, 11), part(11, 13), part(13, 15));
        let at = humantime::parse_rfc3339(&long).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let of_millis = letters.bytes().take(OF_MILLIS).fold(0, |sum, letter| sum * 26 + Millis::from(letter - b'a'));
        // A name that somebody else has made up is of the second.
        let of_millis = if of_millis < 1000 { of_millis } else { 0 };
        Ok(Self { at: millis(at.ok_or_else(wrong)?) + of_millis, text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_when_it_was_and_sorts_by_that() {
        let name = Name::new(1_795_418_100_123);
        assert!(name.as_str().starts_with("20261123T071500Z-"), "{name}");
        let read: Name = name.as_str().parse().unwrap();
        assert_eq!((&read, read.at()), (&name, 1_795_418_100_123));
        assert!(name < Name::new(1_795_418_101_000) && Name::new(-5).as_str().parse::<Name>().is_ok());
        for millis in 0..1000 {
            let (one, next) = (Name::new(millis), Name::new(millis + 1));
            assert!(one.as_str() < next.as_str() && one.as_str().parse() == Ok(one.clone()), "{one} {next}");
        }
    }

    #[test]
    fn other_texts_are_no_names() {
        for text in [
            "",
            "20261123T071500Z",
            "20261123T071500Z-",
            "20261123T071500Z-abcdefg",
            "20261123T071500Z-abcdefgH",
            "20261123T071500Z-abcdefgh/..",
            "20261323T071500Z-abcdefgh",
            "2026-1123T07150Z-abcdefgh",
            "äöüäöüäöZ-abcdefgh",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }
}
