//! Query strings, and what a route reads of them.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Display},
};

use axum::{extract::FromRequestParts, http::request::Parts};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, IntoDeserializer, Visitor, value::MapDeserializer},
    forward_to_deserialize_any,
};

use super::problem::Problem;
use crate::error::{Error, Result};

/// The parameters of a request's query, as a struct with a field for each. Of a parameter that is sent
/// twice the last value counts. Parameters that the struct does not have are ignored, since caches and
/// trackers add some; with `#[serde(deny_unknown_fields)]` they are refused.
///
/// # Errors
/// 400 `malformed_request` that names the parameter whose value is wrong, 422 `invalid_field` that names
/// one that is not known.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(parse(parts.uri.query())?))
    }
}

/// Reads a query string.
pub fn parse<T: DeserializeOwned>(query: Option<&str>) -> Result<T> {
    // A `+` is a plus, as in a path, because ids may have one. What is not UTF-8 is replaced, and so equals no
    // word that a route knows.
    let decode = |text| percent_decode_str(text).decode_utf8_lossy();
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let pairs: BTreeMap<Cow<str>, Value> = pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => (decode(name), Value(Some(decode(value)))),
            None => (decode(pair), Value(None)),
        })
        .collect();
    serde_path_to_error::deserialize(MapDeserializer::new(pairs.into_iter())).map_err(|error| {
        let name = error.path().to_string();
        match error.into_inner() {
            Wrong::Value(what) => {
                let message = format!("{name}: {what}");
                Error::malformed(name, message)
            }
            Wrong::Missing(name) => Error::malformed(name, format!("{name} is missing")),
            Wrong::Unknown(known) => Error::invalid(name, format!("unknown parameter; there are {}", known.join(", "))),
        }
    })
}

/// Reads the body of a form, or the query that one makes: as a query, but a `+` is a space.
pub fn parse_form<T: DeserializeOwned>(text: &str) -> Result<T> {
    parse(Some(&text.replace('+', "%20")))
}

/// Reads a number from 1 to `MOST`: `#[serde(deserialize_with = "up_to::<500, _>")]`.
pub fn up_to<'de, const MOST: u32, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer).ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| de::Error::custom(format_args!("a number from 1 to {MOST}")))
}

/// A parameter's value; none where there is no `=`.
struct Value<'q>(Option<Cow<'q, str>>);

impl Value<'_> {
    fn text(self) -> String {
        self.0.unwrap_or_default().into_owned()
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $kind:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            let number: Option<$kind> = self.text().parse().ok();
            visitor.$visit(number.ok_or_else(|| de::Error::custom("a whole number"))?)
        }
    )*};
}

impl IntoDeserializer<'_, Wrong> for Value<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_string(self.text())
    }

    /// A name alone is `true`.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0.as_deref() {
            None | Some("true" | "1") => visitor.visit_bool(true),
            Some("false" | "0") => visitor.visit_bool(false),
            _ => Err(de::Error::custom("true or false")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_enum(self.text().into_deserializer())
    }

    numbers! {
        deserialize_i64 visit_i64 i64, deserialize_u64 visit_u64 u64, deserialize_u32 visit_u32 u32
    }

    forward_to_deserialize_any! {
        i8 i16 i32 u8 u16 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

/// Why a query cannot be read.
#[derive(Debug)]
enum Wrong {
    /// What the value at fault may be.
    Value(String),
    Missing(&'static str),
    /// The parameters that there are.
    Unknown(&'static [&'static str]),
}

impl Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: Display>(message: T) -> Self {
        Self::Value(message.to_string())
    }

    fn missing_field(name: &'static str) -> Self {
        Self::Missing(name)
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::Unknown(known)
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::custom(known.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[derive(Debug, Deserialize, PartialEq, Eq)]
    #[serde(rename_all = "lowercase")]
    enum Order {
        Asc,
        Desc,
    }

    fn ten() -> u32 {
        10
    }

    #[derive(Debug, Deserialize, PartialEq, Eq)]
    #[serde(deny_unknown_fields)]
    struct Page {
        #[serde(default = "ten", deserialize_with = "up_to::<20, _>")]
        limit: u32,
        before: Option<i64>,
        after: Option<String>,
        order: Option<Order>,
        force: bool,
    }

    const PAGE: Page = Page { limit: 10, before: None, after: None, order: None, force: true };

    #[test]
    fn names_and_values_are_decoded_and_the_last_of_a_name_counts() {
        for (query, page) in [
            ("force", PAGE),
            ("limit=%32&&force=1", Page { limit: 2, ..PAGE }),
            ("limit=x&force&limit=3", Page { limit: 3, ..PAGE }),
            ("b%65fore=-1&force=true", Page { before: Some(-1), ..PAGE }),
            ("after=a+b=%FF&force=0", Page { after: Some("a+b=\u{fffd}".into()), force: false, ..PAGE }),
            ("after&order=de%73c&force", Page { after: Some(String::new()), order: Some(Order::Desc), ..PAGE }),
        ] {
            assert_eq!(parse::<Page>(Some(query)).unwrap(), page, "{query}");
        }
    }

    #[test]
    fn an_error_names_the_parameter_and_says_what_it_may_be() {
        use ErrorKind::{Invalid, Malformed};
        for (query, kind, field, message) in [
            ("limit=0", Malformed, "limit", "limit: a number from 1 to 20"),
            ("limit=21", Malformed, "limit", "limit: a number from 1 to 20"),
            ("limit", Malformed, "limit", "limit: a number from 1 to 20"),
            ("before=1.5", Malformed, "before", "before: a whole number"),
            ("force=yes", Malformed, "force", "force: true or false"),
            ("force=", Malformed, "force", "force: true or false"),
            ("order=Asc", Malformed, "order", "order: asc or desc"),
            ("", Malformed, "force", "force is missing"),
            ("wiat=1", Invalid, "wiat", "unknown parameter; there are limit, before, after, order, force"),
        ] {
            let error = parse::<Page>(Some(query)).unwrap_err();
            assert_eq!((error.kind(), error.field(), error.message()), (kind, Some(field), message), "{query}");
        }
    }
}
