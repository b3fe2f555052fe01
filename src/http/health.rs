//! `/healthz`: the process answers. `/readyz`: it can do its work.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
};
use serde_json::{Value, json};

use super::problem::Problem;
use crate::app::App;

/// Free space below which the server calls itself not ready: new commits are about to fail.
const LOW_DISK: u64 = 16 << 20;

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "health", description = "The process answers", responses((status = 200, description = "It does", body = Object)))]
pub async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// The catalog can be written, the disk has room, and nobody is shutting down.
#[utoipa::path(get, path = "/readyz", tag = "health", description = "The server can do its work", responses((status = 200, description = "It can", body = Object)))]
pub async fn ready(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let red = |why: String| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    };
    if app.is_draining() {
        return Err(red("the server is shutting down".into()));
    }
    let root = app.store().layout().root().to_owned();
    let free = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&root))
        .await
        .map_err(|_| red("the disk could not be asked".into()))?
        .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))
        .map_err(|e| red(format!("the data folder cannot be reached: {e}")))?;
    if free < LOW_DISK {
        return Err(red(format!("the disk is nearly full: {free} bytes are left")));
    }
    app.store().catalog().prove_writable().await.map_err(|e| {
        tracing::error!(error = %e, "the catalog cannot be written");
        red(format!("the catalog cannot be written: {}", e.message()))
    })?;
    Ok(Json(json!({
        "status": "ready",
        "open": app.store().open_count(),
        "capacity": app.store().capacity(),
        "free_bytes": free,
    })))
}
