//! `/api/admin/settings`: what is set and from where.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, config::told::Setting};

/// The settings of the server.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    /// By the names of their variables. Empty where the server was not started from a command line.
    pub settings: Vec<Setting>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(settings))
}

/// What is set and from where. Of a secret only whether it is set.
#[utoipa::path(get, path = "/api/admin/settings", tag = "operators",
    responses((status = 200, description = "All of them", body = Settings)))]
async fn settings(State(app): State<App>) -> Json<Settings> {
    Json(Settings { settings: app.config().told.clone() })
}
