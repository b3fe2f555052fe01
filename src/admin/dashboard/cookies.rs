//! The dashboard's two cookies. Both are for `/admin` alone, for no script, and for no request that another site makes.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};

/// The session's token.
pub(super) const SESSION: &str = "cubby_operator";

/// What the sign-in form sends back, before there is a session.
pub(super) const SIGN_IN: &str = "cubby_sign_in";

/// The value of a cookie of a request.
pub(super) fn get<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(given, _)| *given == name).map(|(_, value)| value)
}

/// `Set-Cookie`. `secure` where the browser speaks HTTPS, since it would not send such a cookie otherwise.
pub(super) fn set(name: &str, value: &str, lasts: Duration, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/admin; Max-Age={}; HttpOnly; SameSite=Strict{secure}", lasts.as_secs());
    // Names and tokens are ASCII.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// `Set-Cookie` of a cookie that is to go.
pub(super) fn remove(name: &str, secure: bool) -> HeaderValue {
    set(name, "", Duration::ZERO, secure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; xcubby_operator=no;cubby_operator=yes=; b"));
        headers.append(header::COOKIE, HeaderValue::from_static("cubby_sign_in=form"));
        assert_eq!(get(&headers, SESSION), Some("yes="));
        assert_eq!(get(&headers, SIGN_IN), Some("form"));
        assert_eq!(get(&headers, "b"), None);
    }

    #[test]
    fn a_cookie_is_for_the_dashboard_alone() {
        let text = |secure| set(SESSION, "x", Duration::from_secs(60), secure).to_str().unwrap().to_owned();
        assert_eq!(text(false), "cubby_operator=x; Path=/admin; Max-Age=60; HttpOnly; SameSite=Strict");
        assert!(text(true).ends_with("; Secure"));
    }
}
