//! The route of a user's own export.

use std::sync::Arc;

use axum::{Extension, extract::State, http::StatusCode, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    http::{
        admission::Admission,
        auth::Caller,
        download::{self, Downloads},
        limits::rates::Buckets,
        problem::Problem,
        segment::UserPath,
    },
    tenants::{copy::Form, id::TenantId},
};

/// What the requests share.
struct Exports {
    /// How often each user may ask; none where it is off.
    rates: Option<Buckets<TenantId>>,
    downloads: Arc<Downloads>,
}

/// The route, to be mounted where a user's id is the first segment.
pub fn routes(app: &App) -> OpenApiRouter<App> {
    let rates = Buckets::new("export", app.config().export.user_export);
    let exports = Arc::new(Exports { rates, downloads: Arc::default() });
    OpenApiRouter::new().routes(routes!(send)).layer(Extension(exports))
}

#[utoipa::path(
    get, path = "/{user_id}/export", tag = "exports",
    description = "A user's own database as a SQLite file, as it is at one moment. The header Repr-Digest has its SHA-256",
    params(UserPath),
    responses((status = 200, description = "The file", body = Vec<u8>, content_type = "application/vnd.sqlite3",
        headers(("Repr-Digest" = String, description = "SHA-256 of the content (RFC 9530)")))),
)]
async fn send(
    State(app): State<App>,
    admission: Admission,
    Extension(exports): Extension<Arc<Exports>>,
) -> Result<Response, Problem> {
    let Some(rates) = &exports.rates else {
        let why = "users' exports are off here: CUBBY_USER_EXPORT says how often a user may ask, such as 4/h";
        return Err(Problem::new(StatusCode::NOT_FOUND, "export_off", why));
    };
    // The whole database is more than the routes of a program's key give, but for SQL's.
    if matches!(admission.caller, Some(Caller::Program(_))) {
        let why = "a user's export needs their session token; an API key that may send SQL has /sql/dump";
        return Err(Problem::new(StatusCode::FORBIDDEN, "export_not_allowed", why));
    }
    let place = exports.downloads.take(admission.id())?;
    let tenant = admission.lease(app.door()).await?;
    // Whoever is told to come again has used up nothing; a copy that is begun counts, since it is what costs.
    rates.check(admission.id())?;
    let copy = tenant.copy(Form::Database, app.config().export.transfer_timeout).await?;
    drop(tenant);
    Ok(download::answer(copy, place, download::DATABASE, &format!("{}.db", admission.id())))
}
