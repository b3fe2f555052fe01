//! The dashboard at `/admin`: pages over the operators' routes.
//!
//! A page is made of what the routes answer, and a form is a request to one of them, in this process and in the name of the
//! operator who is signed in. So pages decide nothing, and what they change is in the audit trail as any other change.
//!
//! | file | has |
//! |---|---|
//! | `sign_in`, `sessions`, `cookies` | signing in with the operator's key, and who is |
//! | `operator` | what handlers ask for: the operator, a form of theirs, a query |
//! | `page`, `view`, `assets` | frame and headers of a page, data as it is shown, stylesheet and script |
//! | `charts`, `troubles` | what the overview draws, and what it says is wrong |
//! | `tenant`, `actions`, `import`, `chart`, `data` | one tenant: its page, its forms, a file to be taken, its use, its tables |
//! | `moments` | one tenant's past: what the bucket has of it, and a tenant put back or begun with it |
//! | `replica`, `verification`, `backups` | copies elsewhere |
//! | `overview`, `first_run`, `tenants`, `bulk`, `sync`, `deliveries`, `migrations`, `keys`, `audit`, `server` | the pages |

mod actions;
mod assets;
mod audit;
#[cfg(feature = "replicate")]
mod backups;
mod bulk;
mod chart;
mod charts;
mod cookies;
mod data;
mod deliveries;
mod first_run;
mod import;
mod keys;
mod migrations;
#[cfg(feature = "replicate")]
mod moments;
mod operator;
mod overview;
mod page;
#[cfg(feature = "replicate")]
mod replica;
mod seat;
mod server;
mod sessions;
mod sign_in;
mod sync;
mod tenant;
mod tenants;
mod troubles;
#[cfg(feature = "replicate")]
mod verification;
mod view;

use axum::{
    Router,
    middleware::{from_fn, map_response},
    routing::{any, get, post},
};

use crate::app::App;

/// Whether a path is one of the dashboard's pages.
pub fn is_page(path: &str) -> bool {
    path.strip_prefix("/admin").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The pages. `operators` are the operators' routes for requests in this process.
pub fn routes(app: &App, operators: Router) -> Router<App> {
    let seat = seat::Seat::new(app.clone(), operators);
    app.door().limits.let_in_sessions(Box::new(seat.is_signed_in()));
    let pages = Router::new()
        .route("/admin", get(overview::page))
        .route("/admin/events", get(overview::listen))
        .route("/admin/first-run", get(first_run::page))
        .route("/admin/first-run/{action}", post(first_run::change))
        .route("/admin/sign-in", get(sign_in::page).post(sign_in::enter))
        .route("/admin/sign-out", post(sign_in::leave))
        .route("/admin/tenants", get(tenants::page))
        .route("/admin/tenants/{user_id}", get(tenant::page))
        .route("/admin/tenants/{user_id}/{action}", post(actions::change))
        .route("/admin/tenants/{user_id}/data", get(data::page).post(data::select))
        .route("/admin/tenants/{user_id}/export", get(actions::export))
        .route("/admin/tenants/{user_id}/import", post(import::take))
        .route("/admin/bulk", get(bulk::page))
        .route("/admin/bulk/progress", get(bulk::progress))
        .route("/admin/bulk/confirm", post(bulk::confirm))
        .route("/admin/bulk/start", post(bulk::start))
        .route("/admin/bulk/stop", post(bulk::stop))
        .route("/admin/sync", get(sync::page))
        .route("/admin/sync/look", post(sync::look))
        .route("/admin/sync/apply", post(sync::apply))
        .route("/admin/sync/{run}", get(sync::one))
        .route("/admin/sync/{run}/progress", get(sync::progress))
        .route("/admin/deliveries", get(deliveries::page))
        .route("/admin/deliveries/{delivery_id}", get(deliveries::one))
        .route("/admin/deliveries/{delivery_id}/replay", post(deliveries::replay))
        .route("/admin/migrations", get(migrations::page))
        .route("/admin/migrations/progress", get(migrations::part))
        .route("/admin/migrations/{action}", post(migrations::change))
        .route("/admin/keys", get(keys::page))
        .route("/admin/keys/make", post(keys::make))
        .route("/admin/keys/revoke", post(keys::revoke))
        .route("/admin/audit", get(audit::page))
        .route("/admin/settings", get(server::settings))
        .route("/admin/about", get(server::about))
        .route("/admin/assets/{name}", get(assets::asset));
    #[cfg(feature = "replicate")]
    let pages = pages.merge(replica::routes()).merge(moments::routes());
    pages
        .route("/admin/{*rest}", any(sign_in::missing))
        .method_not_allowed_fallback(sign_in::above)
        .layer(from_fn(operator::own_pages_only))
        .layer(map_response(page::errors))
        .with_state(seat)
}
