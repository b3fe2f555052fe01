//! The operator's key.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::problem::Problem;
use crate::config::Secret;

/// Admits a request that carries `Authorization: Bearer` and the key.
///
/// # Errors
/// 503 `admin_not_configured` without a key to compare with, 401 `unauthorized` otherwise; the
/// answer says neither which part was wrong nor how nearly it was right.
pub fn check(key: Option<&Secret>, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(key) = key else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "admin_not_configured",
            "set ADMIN_API_KEY to use the admin API",
        ));
    };
    match matches(Some(key), headers) {
        Some(true) => Ok(()),
        _ => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "send the operator's key as Authorization: Bearer …",
        )
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"cubby admin\""))),
    }
}

/// Whether a request's bearer token is the key; none if it has none, or if there is no key.
pub fn matches(key: Option<&Secret>, headers: &HeaderMap) -> Option<bool> {
    is_key(key, bearer(headers)?)
}

/// Whether a text is the key; none if there is no key.
pub fn is_key(key: Option<&Secret>, given: &str) -> Option<bool> {
    Some(equal(given.trim(), key?.reveal().trim()))
}

/// The token of `Authorization: Bearer …`. The scheme's name has no case (RFC 9110, 11.1).
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares digests, so that the time does not depend on the key: neither on its length nor on how many of
/// its first bytes are right.
fn equal(given: &str, key: &str) -> bool {
    let (given, key) = (Sha256::digest(given.as_bytes()), Sha256::digest(key.as_bytes()));
    given.as_slice().ct_eq(key.as_slice()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_as_a_bearer_is_admitted() {
        let key: Secret = "correct horse".parse().unwrap();
        let with = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        for good in ["Bearer correct horse", "bearer correct horse", "BEARER  correct horse"] {
            assert!(check(Some(&key), &with(good)).is_ok(), "{good}");
        }
        for bad in ["", "correct horse", "Basic correct horse", "Bearer", "Bearer ", "Bearer correct hors", "Bearer x"]
        {
            let problem = check(Some(&key), &with(bad)).unwrap_err();
            assert_eq!((problem.status, problem.code), (StatusCode::UNAUTHORIZED, "unauthorized"), "{bad}");
        }
        assert_eq!(check(Some(&key), &HeaderMap::new()).unwrap_err().status, StatusCode::UNAUTHORIZED);
    }
}
