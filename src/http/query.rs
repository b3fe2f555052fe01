//! Query strings: the one place that takes them apart.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameters of a query string in their order, names and values percent-decoded. A value is absent
/// where there is no `=`. A `+` is a plus, as in a path: ids may have one. What is not UTF-8 is replaced,
/// and so is no word that any route knows.
pub fn parameters(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Option<Cow<'_, str>>)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| match pair.split_once('=') {
        Some((name, value)) => (decode(name), Some(decode(value))),
        None => (decode(pair), None),
    })
}

fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let all = |query| parameters(query).map(|(n, v)| (n.into_owned(), v.map(Cow::into_owned))).collect::<Vec<_>>();
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(all(None), []);
        assert_eq!(all(Some("")), []);
        assert_eq!(
            all(Some("limit=%31&&c%75rsor=a=b&flag&empty=&after=a+b&x=%FF&y=%2")),
            [
                pair("limit", Some("1")),
                pair("cursor", Some("a=b")),
                pair("flag", None),
                pair("empty", Some("")),
                pair("after", Some("a+b")),
                pair("x", Some("\u{fffd}")),
                pair("y", Some("%2")),
            ]
        );
    }
}
