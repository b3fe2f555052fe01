//! Values as clients send them and are sent them.

use std::{borrow::Cow, fmt};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Deserializer, de::Visitor};

use crate::sqlite::guest::{SqlError, Value, ValueRef};

/// An argument of a statement, by its type.
#[derive(Debug, Deserialize)]
#[serde(try_from = "WireValue")]
pub struct Argument(pub Value);

#[derive(Deserialize)]
#[serde(expecting = r#"an argument with its type, such as {"type":"integer","value":"1"}"#)]
struct WireValue<'a> {
    r#type: Cow<'a, str>,
    #[serde(default)]
    value: Option<Scalar>,
    #[serde(default)]
    base64: Option<String>,
}

/// Decodes with the padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    // Without padding, as clients have always got it: some take no other.
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl TryFrom<WireValue<'_>> for Argument {
    type Error = String;

    fn try_from(wire: WireValue<'_>) -> Result<Self, String> {
        let value = match (&*wire.r#type, wire.value) {
            ("null", _) => Value::Null,
            ("integer", Some(Scalar::Integer(number))) => Value::Integer(number),
            ("integer", Some(Scalar::Text(digits))) => Value::Integer(
                digits.parse().map_err(|_| format!("{digits:.40?} is not an integer of 64 bits, in digits"))?,
            ),
            ("integer", _) => return Err("an integer's value is a string of digits".to_owned()),
            ("float", Some(Scalar::Float(number))) => Value::Real(number),
            #[expect(clippy::cast_precision_loss, reason = "it was sent as a float")]
            ("float", Some(Scalar::Integer(number))) => Value::Real(number as f64),
            ("float", _) => return Err("a float's value is a finite number; NaN and infinity are none".to_owned()),
            ("text", Some(Scalar::Text(text))) => Value::Text(text),
            ("text", _) => return Err("a text's value is a string".to_owned()),
            ("blob", value) => {
                let ((Some(text), _) | (None, Some(Scalar::Text(text)))) = (wire.base64, value) else {
                    return Err("a blob has its bytes in base64".to_owned());
                };
                Value::Blob(BASE64.decode(text).map_err(|e| format!("a blob is not base64: {e}"))?)
            }
            (other, _) => {
                return Err(format!(
                    "there is no value of the type {other:.40?}; there are null, integer, float, text and blob"
                ));
            }
        };
        Ok(Self(value))
    }
}

/// What a value's `value` may be.
enum Scalar {
    Integer(i64),
    Float(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number or a string")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value))
            }

            #[expect(clippy::cast_precision_loss, reason = "no integer of 64 bits: only a float may be this large")]
            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(i64::try_from(value).map_or(Scalar::Float(value as f64), Scalar::Integer))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Scalar, E> {
                Ok(Scalar::Text(value))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The least bytes that a value takes when it is written.
pub fn length(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(text) => text.len(),
        ValueRef::Blob(bytes) => bytes.len() / 3 * 4,
        _ => 0,
    }
}

/// Writes a value of a row.
///
/// # Errors
/// If JSON cannot carry it: an infinite number, or a text that is not UTF-8.
pub fn write(out: &mut Vec<u8>, value: ValueRef<'_>) -> Result<(), SqlError> {
    match value {
        ValueRef::Null => out.extend_from_slice(br#"{"type":"null"}"#),
        ValueRef::Integer(number) => {
            out.extend_from_slice(br#"{"type":"integer","value":""#);
            out.extend_from_slice(number.to_string().as_bytes());
            out.extend_from_slice(br#""}"#);
        }
        ValueRef::Real(number) if number.is_finite() => {
            out.extend_from_slice(br#"{"type":"float","value":"#);
            write_json(out, &number);
            out.push(b'}');
        }
        ValueRef::Real(_) => {
            return Err(SqlError::new("SQLITE_MISMATCH", "a row has an infinite number, which JSON does not have"));
        }
        ValueRef::Text(text) => {
            let Ok(text) = std::str::from_utf8(text) else {
                let why = "a row has a text that is not UTF-8; select it as CAST(… AS BLOB)";
                return Err(SqlError::new("SQLITE_MISMATCH", why));
            };
            out.extend_from_slice(br#"{"type":"text","value":"#);
            write_json(out, text);
            out.push(b'}');
        }
        ValueRef::Blob(bytes) => {
            out.extend_from_slice(br#"{"type":"blob","base64":""#);
            let start = out.len();
            out.resize(start + base64::encoded_len(bytes.len(), false).unwrap_or(0), 0);
            // It has exactly this length.
            let _ = BASE64.encode_slice(bytes, &mut out[start..]);
            out.extend_from_slice(br#""}"#);
        }
    }
    Ok(())
}

/// Writes what has no way to fail as JSON.
pub fn write_json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn value(json: &Json) -> Result<Value, String> {
        serde_json::from_str::<Argument>(&json.to_string()).map(|v| v.0).map_err(|e| e.to_string())
    }

    #[test]
    fn values_are_read_by_their_type_and_not_by_their_look() {
        for (json, wanted) in [
            (json!({"type": "null"}), Value::Null),
            (json!({"type": "null", "value": null}), Value::Null),
            (json!({"type": "integer", "value": "9223372036854775807"}), Value::Integer(i64::MAX)),
            (json!({"value": "-9223372036854775808", "type": "integer"}), Value::Integer(i64::MIN)),
            (json!({"type": "integer", "value": 7}), Value::Integer(7)),
            (json!({"type": "float", "value": 1}), Value::Real(1.0)),
            (json!({"type": "float", "value": -0.5, "extra": {}}), Value::Real(-0.5)),
            (json!({"type": "text", "value": "a\u{0}é"}), Value::Text("a\u{0}é".into())),
            (json!({"type": "blob", "base64": "/w=="}), Value::Blob(vec![255])),
            (json!({"type": "blob", "base64": "/w"}), Value::Blob(vec![255])),
            (json!({"type": "blob", "base64": ""}), Value::Blob(vec![])),
        ] {
            assert_eq!(value(&json), Ok(wanted), "{json}");
        }
        for json in [
            json!({"type": "integer", "value": "9223372036854775808"}),
            json!({"type": "integer", "value": "1.5"}),
            json!({"type": "integer", "value": 1.5}),
            json!({"type": "integer"}),
            json!({"type": "float", "value": null}),
            json!({"type": "float", "value": "NaN"}),
            json!({"type": "text", "value": 1}),
            json!({"type": "blob", "base64": "_-"}),
            json!({"type": "date", "value": "x"}),
            json!({"value": "x"}),
        ] {
            assert!(value(&json).is_err(), "{json}");
        }
        for json in [json!("x"), json!(1), json!(null), json!(true)] {
            let error = value(&json).unwrap_err();
            let wanted = r#"expected an argument with its type, such as {"type":"integer","value":"1"}"#;
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        let written = |value: ValueRef<'_>| {
            let mut out = Vec::new();
            write(&mut out, value).map(|()| serde_json::from_slice::<Json>(&out).unwrap()).map_err(|e| e.message)
        };
        for (value, wanted) in [
            (ValueRef::Null, json!({"type": "null"})),
            (ValueRef::Integer(i64::MIN), json!({"type": "integer", "value": "-9223372036854775808"})),
            (ValueRef::Real(1.0), json!({"type": "float", "value": 1.0})),
            (ValueRef::Text(b"a\0\"\n\xc3\xa9"), json!({"type": "text", "value": "a\u{0}\"\n\u{e9}"})),
            (ValueRef::Blob(&[255]), json!({"type": "blob", "base64": "/w"})),
            (ValueRef::Blob(b""), json!({"type": "blob", "base64": ""})),
        ] {
            assert_eq!(written(value), Ok(wanted));
        }
        assert!(written(ValueRef::Real(f64::INFINITY)).unwrap_err().contains("infinite"));
        assert!(written(ValueRef::Text(b"\xff")).unwrap_err().contains("UTF-8"));
    }
}
