//! The audit trail: who did what to whom, from where, and what came of it.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::{model::AuditRow, queries::audit},
    error::{Error, Result},
    http::query::parameters,
};

/// A page of the trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Trail {
    /// Newest first.
    pub audit: Vec<AuditRow>,
}

const PAGE: u32 = 500;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(index))
}

#[utoipa::path(get, path = "/api/admin/audit", tag = "operators", description = "Who did what, newest first", params(("before" = Option<i64>, Query, description = "Lines before this one"), ("limit" = Option<u32>, Query, description = "Lines on the page", minimum = 1, maximum = 500)), responses((status = 200, description = "A page", body = Trail)))]
async fn index(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Trail>> {
    let (mut before, mut limit) = (i64::MAX, PAGE);
    for (name, value) in parameters(query.as_deref()) {
        let value = value.unwrap_or_default();
        match name.as_ref() {
            "before" => {
                before = value.parse().map_err(|_| Error::malformed("before", "before is the id of a line"))?;
            }
            "limit" => {
                let number = value.parse().ok().filter(|n| (1..=PAGE).contains(n));
                limit = number.ok_or_else(|| Error::malformed("limit", format!("limit is from 1 to {PAGE}")))?;
            }
            _ => {}
        }
    }
    Ok(Json(Trail { audit: app.store().catalog().query(move |conn| audit::page(conn, before, limit)).await? }))
}
