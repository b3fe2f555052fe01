//! What an operator does, over HTTP or from the command line.
//!
//! [`guard`] checks the operator's key and records attempts that are refused; [`tenants`], [`keys`],
//! [`sync`] and [`audit`] are the routes.

pub mod audit;
mod call;
pub mod guard;
pub mod keys;
pub mod sync;
pub mod tenants;
pub mod watch;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// The operators' routes, behind the operator's key.
pub fn routes(app: &App) -> OpenApiRouter<App> {
    let routes = OpenApiRouter::new()
        .merge(tenants::routes())
        .merge(keys::routes())
        .merge(audit::routes())
        .merge(sync::routes());
    guard::protect(app, routes)
}
