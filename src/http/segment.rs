//! The parameters of a route's path.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use utoipa::IntoParams;

use super::problem::Problem;
use crate::tenants::id::TenantId;

/// `{user_id}` in the document of a route.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UserPath {
    /// The user.
    #[param(inline)]
    pub user_id: TenantId,
}

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
