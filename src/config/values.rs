//! The types of settings' values.

use std::{convert::Infallible, fmt, str::FromStr, time::Duration};

/// Text that `Debug`, logs and errors do not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A number of bytes, written with or without a unit: `4096`, `64KiB`, `1MiB`, `2GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1_000,
            "kib" => 1 << 10,
            "m" | "mb" => 1_000_000,
            "mib" => 1 << 20,
            "g" | "gb" => 1_000_000_000,
            "gib" => 1 << 30,
            _ => return Err("use a number of bytes, or one with KiB, MiB, GiB, KB, MB or GB".into()),
        };
        let number: u64 = number.parse().map_err(|_| "starts with a whole number".to_owned())?;
        number.checked_mul(factor).map(Self).ok_or_else(|| "too large".into())
    }
}

/// A duration: `30s`, `5m`, `90d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; write it as 500ms, 30s, 5m, 12h or 30d"))
}

/// Words separated by commas or white space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl FromStr for List {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        Ok(Self(words.map(str::to_owned).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("0", 0), ("512", 512), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2GB", 2_000_000_000)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "1XB", "-1", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let secret: Secret = "whsec_abc".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "[secret]");
    }

    #[test]
    fn lists_are_separated_by_commas_or_spaces() {
        let list: List = " https://a.example, https://b.example\nhttps://c.example,".parse().unwrap();
        assert_eq!(list.0, ["https://a.example", "https://b.example", "https://c.example"]);
        assert_eq!("".parse(), Ok(List::default()));
    }
}
