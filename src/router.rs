//! Every route and the order of the middleware, on one screen.

use std::net::SocketAddr;

use axum::{Router, middleware};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    admin,
    app::App,
    changes,
    error::Result,
    export,
    http::{
        cors::{Origins, cors},
        health,
        middleware::{enclose, preflight, with_fallbacks},
        openapi::{self, Group},
    },
    notes, sql, webhooks,
};

/// The table that the notes API needs. It is not mounted over a schema without it.
pub const NOTES_TABLE: &str = "notes";

/// The server's routes.
///
/// # Errors
/// If a setting that a route needs cannot be used.
pub fn router(app: &App) -> Result<Router> {
    let mut routes = OpenApiRouter::new()
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(admin::watch::user_sync))
        .merge(changes::routes::routes())
        .merge(export::routes::routes(app))
        .merge(webhooks::routes::routes(app)?);
    if app.config().limits.admin_listen.is_none() {
        routes = routes.merge(operators_only(app)).merge(dashboard(app));
    }
    if app.store().has_table(NOTES_TABLE) {
        routes = routes.merge(notes::routes::routes(app));
    }
    let routes = finish(app, routes.merge(sql::routes::routes(app).into()), app.config().listen);
    // Outside of the envelope, so that a page may read errors too.
    Ok(match Origins::new(&app.config().limits.cors_origins.0, admin::dashboard::is_page) {
        Some(origins) => {
            routes.layer(middleware::from_fn_with_state(origins, cors)).layer(middleware::from_fn(preflight))
        }
        None => routes,
    })
}

/// The routes of the operators' own listener.
pub fn operators(app: &App) -> Router {
    let routes = OpenApiRouter::new().routes(routes!(health::alive)).routes(routes!(health::ready));
    let listen = app.config().limits.admin_listen.unwrap_or(app.config().listen);
    finish(app, routes.merge(operators_only(app)).merge(dashboard(app)), listen)
}

/// The operators' routes for commands in this process. Their requests come over no connection, so nothing
/// limits their time or checks their host.
pub fn in_process(app: &App) -> Router {
    with_fallbacks(operators_only(app).into()).with_state(app.clone())
}

fn operators_only(app: &App) -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(admin::watch::page))
        .merge(admin::routes(app))
        .merge(admin::guard::protect(app, webhooks::routes::log::routes()))
        .merge(admin::guard::protect(app, webhooks::routes::test_delivery::routes()))
        .merge(admin::guard::protect(app, sql::routes::operators(app).into()))
}

/// The dashboard's pages, which make requests of their own to the operators' routes.
fn dashboard(app: &App) -> OpenApiRouter<App> {
    admin::dashboard::routes(app, in_process(app)).into()
}

fn finish(app: &App, routes: OpenApiRouter<App>, listen: SocketAddr) -> Router {
    // The document is made of the mounted routes, so it has exactly those.
    let (routes, document) = routes.split_for_parts();
    let routes = routes.merge(openapi::routes(&openapi::complete(document, &groups(app))));
    enclose(routes, app.door(), listen).with_state(app.clone())
}

/// What the document says of each group of routes.
fn groups(app: &App) -> [Group; 11] {
    let operators = Group {
        tag: "operators",
        prefix: "/api/admin/",
        scheme: Some("operator"),
        problems: &[400, 401, 404, 422, 429, 500, 503],
        problems_of_changes: &[403, 408, 409, 413, 502, 507],
    };
    let exports = Group {
        prefix: "/api/admin/tenants/{user_id}/export",
        problems: &[400, 401, 404, 409, 422, 429, 500, 503, 507],
        ..operators
    };
    let browse = Group {
        prefix: "/api/admin/tenants/{user_id}/browse",
        problems: &[400, 401, 403, 404, 409, 413, 422, 429, 500, 503],
        ..operators
    };
    let replica =
        Group { prefix: "/api/admin/replica", problems: &[400, 401, 404, 409, 422, 429, 500, 503], ..operators };
    let history = Group { prefix: "/api/admin/tenants/{user_id}/history", ..replica };
    let watch = Group { prefix: "", scheme: operators.scheme.filter(|_| !app.is_watched_openly()), ..operators };
    let notes = Group {
        tag: "notes",
        prefix: "",
        scheme: (!app.identity().is_open()).then_some("caller"),
        problems: &[400, 401, 403, 404, 429, 500, 503],
        problems_of_changes: &[408, 413, 415, 422, 507],
    };
    let changes =
        Group { tag: "changes", problems: &[401, 403, 404, 429, 500, 503], problems_of_changes: &[], ..notes };
    let own = Group { tag: "exports", problems: &[401, 403, 404, 429, 500, 503, 507], ..changes };
    let webhooks = Group {
        tag: "webhooks",
        prefix: "",
        scheme: None,
        problems: &[400, 401, 429, 500, 503],
        problems_of_changes: &[408, 413, 422],
    };
    let ready =
        Group { tag: "health", prefix: "/readyz", scheme: None, problems: &[500, 503], problems_of_changes: &[] };
    [exports, browse, replica, history, operators, watch, notes, changes, own, webhooks, ready]
}
