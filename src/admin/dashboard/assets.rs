//! The stylesheet and the script, which are in the binary. Their addresses have their digest, so that a browser keeps them
//! and a new version has new ones.

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::http::{problem::Problem, segment::Segment};

const CSS: &str = include_str!("assets/seat.css");
const JS: &str = include_str!("assets/seat.js");

static CSS_NAME: LazyLock<String> = LazyLock::new(|| name(CSS, "css"));
static JS_NAME: LazyLock<String> = LazyLock::new(|| name(JS, "js"));

fn name(text: &str, kind: &str) -> String {
    format!("/admin/assets/{}.{kind}", hex::encode(&Sha256::digest(text)[..8]))
}

/// The address of the stylesheet.
pub(super) fn css() -> &'static str {
    &CSS_NAME
}

/// The address of the script.
pub(super) fn js() -> &'static str {
    &JS_NAME
}

/// `GET /admin/assets/{name}`. They are the same for everybody.
pub(super) async fn asset(Segment(name): Segment) -> Result<Response, Problem> {
    let path = format!("/admin/assets/{name}");
    let (text, kind) = match path {
        path if path == css() => (CSS, "text/css; charset=utf-8"),
        path if path == js() => (JS, "text/javascript; charset=utf-8"),
        _ => return Err(Problem::no_route()),
    };
    let kept = HeaderValue::from_static("public, max-age=31536000, immutable");
    let kind = HeaderValue::from_static(kind);
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, kept)], text).into_response())
}
