//! The end of a user's data, and its second life, for an operator of a running server.

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    routing::post,
};
use serde::Deserialize;

use crate::{
    app::App,
    catalog::model::Row,
    error::{Error, Result},
    http::{body, problem::Problem},
    tenants::id::TenantId,
};

/// Who the audit trail says it was; the guard adds from where.
const ACTOR: &str = "operator";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/admin/tenants/{user_id}/purge", post(purge))
        .route("/api/admin/tenants/{user_id}/revive", post(revive))
        .route("/api/admin/tenants/{user_id}/adopt", post(adopt))
}

/// That it is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Consent {
    yes: bool,
}

/// Whose data is to be adopted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adoption {
    from: String,
    #[serde(default)]
    replace: bool,
}

async fn purge(State(app): State<App>, Path(id): Path<String>, body: Body) -> Result<Json<Row>, Problem> {
    let Consent { yes } = body::parse(&super::read(&app, body).await?)?;
    if !yes {
        return Err(Error::invalid("yes", "true: this erases the user's data for good").into());
    }
    Ok(Json(app.store().purge(&parse(&id)?, ACTOR, None).await?))
}

async fn revive(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Row>> {
    Ok(Json(app.store().revive(&parse(&id)?, ACTOR).await?))
}

async fn adopt(State(app): State<App>, Path(id): Path<String>, body: Body) -> Result<Json<Row>, Problem> {
    let Adoption { from, replace } = body::parse(&super::read(&app, body).await?)?;
    let from = TenantId::parse(from.as_bytes()).map_err(|e| Error::invalid("from", e.to_string()))?;
    Ok(Json(app.store().adopt(&parse(&id)?, &from, replace, ACTOR).await?))
}

fn parse(id: &str) -> Result<TenantId> {
    TenantId::parse(id.as_bytes()).map_err(|_| Error::unknown_tenant())
}
