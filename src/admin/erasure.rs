//! The end of a user's data, and its second life, for an operator of a running server.

use axum::{Extension, Json, body::Body, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::{audit::Author, model::Row},
    error::{Error, Result},
    http::{body, problem::Problem, segment::Segment},
    tenants::id::TenantId,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(purge)).routes(routes!(revive)).routes(routes!(adopt))
}

/// That it is meant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Consent {
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

#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/purge", tag = "operators", description = "Removes the file of a deleted user, for good", params(("user_id" = String, Path, description = "The user", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$")), request_body = Consent, responses((status = 200, description = "The user", body = Row)))]
async fn purge(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
    body: Body,
) -> Result<Json<Row>, Problem> {
    let Consent { yes } = body::parse(&super::read(&app, body).await?)?;
    if !yes {
        return Err(Error::invalid("yes", "true: this erases the user's data for good").into());
    }
    Ok(Json(app.store().purge(&parse(&id)?, &author).await?))
}

#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/revive", tag = "operators", description = "Lets a purged user's id be used again, empty", params(("user_id" = String, Path, description = "The user", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$")), responses((status = 200, description = "The user", body = Row)))]
async fn revive(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
) -> Result<Json<Row>> {
    Ok(Json(app.store().revive(&parse(&id)?, &author).await?))
}

#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/adopt", tag = "operators", description = "Gives a user the data of another id", params(("user_id" = String, Path, description = "The user", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$")), request_body = Adoption, responses((status = 200, description = "The user", body = Row)))]
async fn adopt(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
    body: Body,
) -> Result<Json<Row>, Problem> {
    let Adoption { from, replace } = body::parse(&super::read(&app, body).await?)?;
    let from = TenantId::parse(from.as_bytes()).map_err(|e| Error::invalid("from", e.to_string()))?;
    Ok(Json(app.store().adopt(&parse(&id)?, &from, replace, &author).await?))
}

fn parse(id: &str) -> Result<TenantId> {
    TenantId::parse(id.as_bytes()).map_err(|_| Error::unknown_tenant())
}
