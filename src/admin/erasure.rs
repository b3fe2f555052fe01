//! Purging, reviving and adopting: the routes that erase a user's data or replace it.

use axum::{Extension, Json, body::Body, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::UserId;
use crate::{
    app::App,
    catalog::{audit::Author, model::Row},
    error::{Error, Result},
    http::{body, problem::Problem, segment::UserPath},
    tenants::id::TenantId,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(purge)).routes(routes!(revive)).routes(routes!(adopt))
}

/// The confirmation of a purge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    yes: bool,
}

/// Whose data is to be adopted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Adoption {
    from: String,
    #[serde(default)]
    replace: bool,
}

/// Erases a user's data, for good.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/purge", tag = "operators", params(UserPath),
    request_body = Confirmation, responses((status = 200, description = "The user", body = Row)))]
async fn purge(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    UserId(id): UserId,
    body: Body,
) -> Result<Json<Row>, Problem> {
    let Confirmation { yes } = body::parse(&super::read(&app, body).await?)?;
    if !yes {
        return Err(Error::invalid("yes", "true: this erases the user's data for good").into());
    }
    Ok(Json(app.store().purge(&id, &author).await?))
}

/// Lets a purged user's id be used again, empty.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/revive", tag = "operators", params(UserPath),
    responses((status = 200, description = "The user", body = Row)))]
async fn revive(State(app): State<App>, Extension(author): Extension<Author>, UserId(id): UserId) -> Result<Json<Row>> {
    Ok(Json(app.store().revive(&id, &author).await?))
}

/// Gives a user the data of another id.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/adopt", tag = "operators", params(UserPath),
    request_body = Adoption, responses((status = 200, description = "The user", body = Row)))]
async fn adopt(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    UserId(id): UserId,
    body: Body,
) -> Result<Json<Row>, Problem> {
    let Adoption { from, replace } = body::parse(&super::read(&app, body).await?)?;
    let from = TenantId::parse(from.as_bytes()).map_err(|e| Error::invalid("from", e.to_string()))?;
    Ok(Json(app.store().adopt(&id, &from, replace, &author).await?))
}
