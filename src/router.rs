//! Every route and the order of the middleware, on one screen.

use axum::{Router, middleware, routing::get};

use crate::{
    admin,
    app::App,
    error::Result,
    http::{health, middleware::envelope, problem::Problem, watch},
    notes, webhooks,
};

/// The table that the notes API needs; a schema of one's own may do without.
pub const NOTES_TABLE: &str = "notes";

/// The server's routes.
///
/// # Errors
/// If a setting that a route needs cannot be used.
pub fn router(app: App) -> Result<Router> {
    let mut routes = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(watch::page))
        .route("/api/health/user-sync", get(watch::user_sync))
        .merge(webhooks::routes::routes(&app)?)
        .merge(admin::routes(&app))
        .merge(admin::guard::protect(&app, webhooks::routes::log::routes()));
    if app.store().has_table(NOTES_TABLE) {
        routes = routes.merge(notes::routes::routes());
    }
    Ok(routes
        .fallback(|| async { Problem::no_route() })
        .method_not_allowed_fallback(|| async { Problem::wrong_method() })
        // Outermost: everything inside has an id, a time limit and one shape of errors.
        .layer(middleware::from_fn_with_state(app.clone(), envelope))
        .with_state(app))
}
