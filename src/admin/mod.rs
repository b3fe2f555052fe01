//! What an operator does, over HTTP or from the command line.
//!
//! [`guard`] checks the operator's key and records attempts that are refused; [`tenants`], [`keys`],
//! [`sync`] and [`audit`] are the routes.

pub mod audit;
pub mod guard;
pub mod keys;
pub mod sync;
pub mod tenants;
pub mod watch;

use axum::{body::Body, extract::FromRequestParts, http::request::Parts};
use serde::de::DeserializeOwned;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::App,
    catalog::audit::Author,
    error::Error,
    http::{body, problem::Problem, segment::Segment},
    tenants::id::TenantId,
};

/// A call about the user of a path. An id that no user can have is an unknown user.
struct Call {
    app: App,
    author: Author,
    id: TenantId,
}

impl FromRequestParts<App> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Segment::<String>(id) = Segment::from_request_parts(parts, app).await?;
        let id = TenantId::parse(id.as_bytes()).map_err(|_| Error::unknown_tenant())?;
        let author = parts.extensions.get().cloned().ok_or_else(|| Error::internal("a route outside the guard"))?;
        Ok(Self { app: app.clone(), author, id })
    }
}

/// The largest body an operator sends, in bytes.
const MAX_BODY: usize = 64 << 10;

async fn read<T: DeserializeOwned>(app: &App, body: Body) -> Result<T, Problem> {
    Ok(body::parse(&body::read(body, MAX_BODY, app.config().limits.body_timeout).await?)?)
}

/// The operators' routes, behind the operator's key.
pub fn routes(app: &App) -> OpenApiRouter<App> {
    let routes = OpenApiRouter::new()
        .merge(tenants::routes())
        .merge(keys::routes())
        .merge(audit::routes())
        .merge(sync::routes());
    guard::protect(app, routes)
}
