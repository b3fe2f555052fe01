//! What an operator does, over HTTP or from the command line.
//!
//! [`guard`] lets only the operator in and writes every change to the audit trail; [`tenants`],
//! [`erasure`], [`keys`], [`sync`] and [`audit`] are the routes.

pub mod audit;
pub mod erasure;
pub mod guard;
pub mod keys;
pub mod sync;
pub mod tenants;
pub mod watch;

use axum::body::Body;
use bytes::Bytes;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::App,
    http::{body, problem::Problem},
};

/// The largest body an operator sends, in bytes.
const MAX_BODY: usize = 64 << 10;

async fn read(app: &App, body: Body) -> Result<Bytes, Problem> {
    body::read(body, MAX_BODY, app.config().limits.body_timeout).await
}

/// Every route of the operator's, behind the operator's key.
pub fn routes(app: &App) -> OpenApiRouter<App> {
    let routes = OpenApiRouter::new()
        .merge(tenants::routes())
        .merge(keys::routes())
        .merge(audit::routes())
        .merge(sync::routes())
        .merge(erasure::routes());
    guard::protect(app, routes)
}
