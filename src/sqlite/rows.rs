//! Rows as JSON, as CSV (RFC 4180) and as literals of SQL.
//!
//! In JSON and CSV a blob is base64, and what is no UTF-8 in a text is replaced. A literal of SQL is exact, but for the last
//! digits of some numbers with a point, which SQLite rounds as it reads them.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rusqlite::types::ValueRef;

/// The names by which SQLite knows the number that it gives to each row.
const ROWIDS: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// The name of a table's row numbers beside its columns, which may have some of these names instead; none if they have all.
pub fn rowid_beside(columns: &[impl AsRef<str>]) -> Option<&'static str> {
    let is_free = |name: &&str| !columns.iter().any(|column| column.as_ref().eq_ignore_ascii_case(name));
    ROWIDS.into_iter().find(is_free)
}

/// Writes a row as one JSON object and a line's end. An infinite number is null.
pub fn write_json<'v>(
    out: &mut impl Write,
    names: &[String],
    values: impl IntoIterator<Item = ValueRef<'v>>,
) -> io::Result<()> {
    out.write_all(b"{")?;
    for (n, (name, value)) in names.iter().zip(values).enumerate() {
        if n > 0 {
            out.write_all(b",")?;
        }
        serde_json::to_writer(&mut *out, name)?;
        out.write_all(b":")?;
        match value {
            ValueRef::Integer(number) => write!(out, "{number}")?,
            ValueRef::Real(number) if number.is_finite() => serde_json::to_writer(&mut *out, &number)?,
            ValueRef::Null | ValueRef::Real(_) => out.write_all(b"null")?,
            ValueRef::Text(text) => serde_json::to_writer(&mut *out, &String::from_utf8_lossy(text))?,
            ValueRef::Blob(bytes) => write!(out, "\"{}\"", BASE64_STANDARD.encode(bytes))?,
        }
    }
    out.write_all(b"}\n")
}

/// What a value is in CSV; none if it is null.
pub fn csv_field(value: ValueRef<'_>) -> Option<Cow<'_, str>> {
    Some(match value {
        ValueRef::Null => return None,
        ValueRef::Integer(number) => number.to_string().into(),
        ValueRef::Real(number) => format!("{number:?}").into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text),
        ValueRef::Blob(bytes) => BASE64_STANDARD.encode(bytes).into(),
    })
}

/// Writes a record. Null is an empty field, and an empty text one in quotes; but a record of a single null has quotes, too,
/// since many programs skip empty lines.
pub fn write_csv(out: &mut impl Write, fields: &[Option<Cow<'_, str>>]) -> io::Result<()> {
    for (n, field) in fields.iter().enumerate() {
        if n > 0 {
            out.write_all(b",")?;
        }
        match field {
            None if fields.len() > 1 => {}
            None => out.write_all(b"\"\"")?,
            Some(text) if text.is_empty() || text.contains(['"', ',', '\r', '\n']) => {
                write!(out, "\"{}\"", text.replace('"', "\"\""))?;
            }
            Some(text) => out.write_all(text.as_bytes())?,
        }
    }
    out.write_all(b"\r\n")
}

/// Writes a value as an expression that has it again.
pub fn write_literal(out: &mut impl Write, value: ValueRef<'_>) -> io::Result<()> {
    match value {
        ValueRef::Null => out.write_all(b"NULL"),
        ValueRef::Integer(number) => write!(out, "{number}"),
        // Out of the range of a double, which SQLite reads as infinite.
        ValueRef::Real(number) if number.is_infinite() => {
            out.write_all(if number > 0.0 { b"9e999" } else { b"-9e999" })
        }
        ValueRef::Real(number) => write!(out, "{number:?}"),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            // A text of SQL ends at a zero byte.
            Ok(text) if !text.contains('\0') => write!(out, "'{}'", text.replace('\'', "''")),
            _ => write!(out, "CAST(X'{}' AS TEXT)", hex::encode(text)),
        },
        ValueRef::Blob(bytes) => write!(out, "X'{}'", hex::encode(bytes)),
    }
}

/// A name in quotes, for a statement.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::types::Value;

    use super::*;
    use crate::sqlite::open;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<i32>().prop_map(|number| Value::Real(f64::from(number) / 8.0)),
            prop_oneof![Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(1e300)].prop_map(Value::Real),
            "\\PC*|[\0'\"\n]*".prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn a_literal_is_read_as_it_was_written(values in prop::collection::vec(value(), 1..8)) {
            let conn = open::in_memory().unwrap();
            for value in values {
                let mut sql = b"SELECT ".to_vec();
                write_literal(&mut sql, (&value).into()).unwrap();
                let sql = String::from_utf8(sql).unwrap();
                let found: Value = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
                prop_assert_eq!(found, value, "{}", sql);
            }
        }
    }

    #[test]
    fn a_text_that_is_no_utf_8_has_a_literal() {
        let conn = open::in_memory().unwrap();
        let mut sql = b"SELECT typeof(v), CAST(v AS BLOB) FROM (SELECT ".to_vec();
        write_literal(&mut sql, ValueRef::Text(b"a\xff")).unwrap();
        let sql = String::from_utf8(sql).unwrap() + " AS v)";
        let found: (String, Vec<u8>) = conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(found, ("text".to_owned(), b"a\xff".to_vec()));
    }
}
