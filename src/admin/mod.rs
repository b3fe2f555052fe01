//! What an operator does, over HTTP or from the command line.
//!
//! [`guard`] checks the operator's key and records attempts that are refused; [`tenants`], [`erasure`],
//! [`keys`], [`sync`] and [`audit`] are the routes.

pub mod audit;
pub mod erasure;
pub mod guard;
pub mod keys;
pub mod sync;
pub mod tenants;
pub mod watch;

use axum::{body::Body, extract::FromRequestParts, http::request::Parts};
use bytes::Bytes;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::App,
    error::Error,
    http::{body, problem::Problem, segment::Segment},
    tenants::id::TenantId,
};

/// The user of a path with `{user_id}`. An id that no user can have is an unknown user.
struct UserId(TenantId);

impl<S: Send + Sync> FromRequestParts<S> for UserId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Segment(id) = Segment::<String>::from_request_parts(parts, state).await?;
        Ok(Self(TenantId::parse(id.as_bytes()).map_err(|_| Error::unknown_tenant())?))
    }
}

/// The largest body an operator sends, in bytes.
const MAX_BODY: usize = 64 << 10;

async fn read(app: &App, body: Body) -> Result<Bytes, Problem> {
    body::read(body, MAX_BODY, app.config().limits.body_timeout).await
}

/// The operators' routes, behind the operator's key.
pub fn routes(app: &App) -> OpenApiRouter<App> {
    let routes = OpenApiRouter::new()
        .merge(tenants::routes())
        .merge(keys::routes())
        .merge(audit::routes())
        .merge(sync::routes())
        .merge(erasure::routes());
    guard::protect(app, routes)
}
