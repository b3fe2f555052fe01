//! A part of a path that a route has a name for.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

use super::problem::Problem;

/// The one parameter of a route's path, decoded. What is not UTF-8 names nothing: 404, as any other name
/// that is unknown.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found = Path::<String>::from_request_parts(parts, state).await;
        found.map(|Path(text)| Self(text)).map_err(|_| Problem::no_route())
    }
}
