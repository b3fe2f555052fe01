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
//! | `overview`, `tenants`, `tenant`, `deliveries`, `keys`, `audit`, `server` | the pages |

mod assets;
mod audit;
mod cookies;
mod deliveries;
mod keys;
mod operator;
mod overview;
mod page;
mod seat;
mod server;
mod sessions;
mod sign_in;
mod tenant;
mod tenants;
mod view;

use axum::{
    Router,
    middleware::{from_fn, map_response},
    routing::{any, get, post},
};

use crate::app::App;

/// The pages. `operators` are the operators' routes for requests in this process.
pub fn routes(app: &App, operators: Router) -> Router<App> {
    let seat = seat::Seat::new(app.clone(), operators);
    let known = seat.clone();
    app.door().limits.let_in_sessions(Box::new(move |headers| known.is_signed_in(headers)));
    Router::new()
        .route("/admin", get(overview::page))
        .route("/admin/sign-in", get(sign_in::page).post(sign_in::enter))
        .route("/admin/sign-out", post(sign_in::leave))
        .route("/admin/tenants", get(tenants::page))
        .route("/admin/tenants/{user_id}", get(tenant::page))
        .route("/admin/tenants/{user_id}/{action}", post(tenant::change))
        .route("/admin/deliveries", get(deliveries::page))
        .route("/admin/deliveries/{delivery_id}", get(deliveries::one))
        .route("/admin/deliveries/{delivery_id}/replay", post(deliveries::replay))
        .route("/admin/keys", get(keys::page))
        .route("/admin/keys/make", post(keys::make))
        .route("/admin/keys/revoke", post(keys::revoke))
        .route("/admin/audit", get(audit::page))
        .route("/admin/settings", get(server::settings))
        .route("/admin/about", get(server::about))
        .route("/admin/assets/{name}", get(assets::asset))
        .route("/admin/{*rest}", any(sign_in::missing))
        .layer(from_fn(operator::own_pages_only))
        .layer(map_response(page::errors))
        .with_state(seat)
}
