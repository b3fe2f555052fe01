//! `/api/admin/recent`: the metrics of the last hour, from memory.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    telemetry::recent::{EVERY, Sample},
};

/// The last hour.
#[derive(Debug, Serialize, ToSchema)]
struct Recent {
    /// How many seconds there are between two samples.
    every: u64,
    /// Oldest first.
    samples: Vec<Sample>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(recent))
}

/// What the server did in the last hour, as far as it has run so long: a sample every ten seconds.
#[utoipa::path(get, path = "/api/admin/recent", tag = "operators",
    responses((status = 200, description = "The samples", body = Recent)))]
async fn recent(State(app): State<App>) -> Json<Recent> {
    Json(Recent { every: EVERY.as_secs(), samples: app.recent().samples() })
}
