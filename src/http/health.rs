//! `/healthz`: the process answers. `/readyz`: it can do its work.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
};
use serde_json::{Value, json};

use super::{door::Door, problem::Problem};

/// The process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "health", description = "The process answers",
    responses((status = 200, description = "It does", body = Object)),
)]
pub async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// The catalog can be written, the disk has free space, no other part of the server has failed, and it is not shutting down.
/// What somebody should look after is among the warnings.
#[utoipa::path(
    get, path = "/readyz", tag = "health", description = "The server can do its work",
    responses((status = 200, description = "It can", body = Object)),
)]
pub async fn ready(door: Door) -> Result<Json<Value>, Problem> {
    let red = |why: String| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    };
    if door.is_draining() {
        return Err(red("the server is shutting down".into()));
    }
    let warnings = door.readiness.others().map_err(red)?;
    let free = door.readiness.check(&door.store).await.map_err(red)?;
    Ok(Json(json!({
        "status": "ready",
        "open": door.store.open_count(),
        "capacity": door.store.capacity(),
        "free_bytes": free,
        "warnings": warnings,
    })))
}
