//! A value as it is shown: whole if it is short, else its beginning and its length.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sqlite::guest::ValueRef;

/// The longest text that is shown whole, and the same of a blob, in bytes.
const TEXT: usize = 512;
const BLOB: usize = 64;

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cell {
    /// `null`, `integer`, `real`, `text` or `blob`.
    pub kind: String,
    /// The value; of a blob its bytes in hexadecimal. What is no UTF-8 is replaced.
    pub text: String,
    /// The length of the value in bytes, where `text` is its beginning only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub bytes: Option<u64>,
}

impl Cell {
    /// Of a value.
    pub fn of(value: ValueRef<'_>) -> Self {
        let whole = |kind: &str, text: String| Self { kind: kind.to_owned(), text, bytes: None };
        let cut = |length: usize, most: usize| (length > most).then_some(length as u64);
        match value {
            ValueRef::Null => whole("null", String::new()),
            ValueRef::Integer(number) => whole("integer", number.to_string()),
            ValueRef::Real(number) => whole("real", format!("{number:?}")),
            ValueRef::Text(bytes) => {
                let mut end = bytes.len().min(TEXT);
                // Not in the middle of a character.
                while end < bytes.len() && end > 0 && bytes[end] & 0xc0 == 0x80 && TEXT - end < 3 {
                    end -= 1;
                }
                let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
                Self { bytes: cut(bytes.len(), TEXT), ..whole("text", text) }
            }
            ValueRef::Blob(bytes) => {
                let text = hex::encode(&bytes[..bytes.len().min(BLOB)]);
                Self { bytes: cut(bytes.len(), BLOB), ..whole("blob", text) }
            }
        }
    }

    /// What it takes of an answer, in bytes.
    pub(super) fn length(&self) -> usize {
        // Its field names, quotes and commas.
        self.text.len() + 48
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_its_beginning_and_its_length() {
        let long = format!("{}é{}", "x".repeat(TEXT - 1), "y".repeat(9999));
        let cell = Cell::of(ValueRef::Text(long.as_bytes()));
        assert_eq!((cell.text, cell.bytes), ("x".repeat(TEXT - 1), Some(long.len() as u64)));
        let cell = Cell::of(ValueRef::Blob(&[0xab; 1000]));
        assert_eq!((cell.text.len(), cell.bytes), (2 * BLOB, Some(1000)));
        let cell = Cell::of(ValueRef::Text(b"a\0<\xff"));
        assert_eq!((cell.text.as_str(), cell.bytes), ("a\0<\u{fffd}", None));
        assert_eq!(Cell::of(ValueRef::Integer(i64::MAX)).text, "9223372036854775807");
        // Bytes that are no text are not looked through to their beginning.
        assert_eq!(Cell::of(ValueRef::Text(&[0x80; 600])).bytes, Some(600));
    }
}
