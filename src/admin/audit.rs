//! The audit trail, for operators to read.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::{model::AuditRow, queries::audit},
    error::Result,
    http::query::{Query, up_to},
};

/// A page of the trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Trail {
    /// Newest first.
    pub audit: Vec<AuditRow>,
}

/// Which lines to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TrailQuery {
    /// Lines before this one.
    before: Option<i64>,
    /// Only those about this target: a user, a key, a delivery.
    target: Option<String>,
    /// Lines on the page.
    #[serde(default = "most", deserialize_with = "up_to::<500, _>")]
    #[param(minimum = 1, maximum = 500)]
    limit: u32,
}

fn most() -> u32 {
    500
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(index))
}

/// Who did what, newest first.
#[utoipa::path(get, path = "/api/admin/audit", tag = "operators", params(TrailQuery),
    responses((status = 200, description = "A page", body = Trail)))]
async fn index(State(app): State<App>, Query(query): Query<TrailQuery>) -> Result<Json<Trail>> {
    let before = query.before.unwrap_or(i64::MAX);
    let page = app.store().catalog().query(move |conn| match query.target {
        Some(target) => audit::page_of(conn, &target, before, query.limit),
        None => audit::page(conn, before, query.limit),
    });
    Ok(Json(Trail { audit: page.await? }))
}
