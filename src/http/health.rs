//! `/healthz`: the process answers. `/readyz`: it can do its work.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::{app::App, tenants::store::Store};

/// Free space below which the server calls itself not ready: new commits are about to fail.
const LOW_DISK: u64 = 16 << 20;

/// The look at the disk and the catalog that is under way. Whoever asks meanwhile shares it: nobody is asked
/// who they are, and a disk that hangs must not take a thread for each.
#[derive(Default)]
pub struct Readiness(Mutex<Option<Look>>);

/// How many bytes of the disk are free, or why the server is not ready.
type Look = Shared<BoxFuture<'static, Result<u64, String>>>;

impl Readiness {
    fn look(&self, store: &Store) -> Look {
        let mut last = self.0.lock();
        if let Some(under_way) = last.as_ref().filter(|look| look.peek().is_none()) {
            return under_way.clone();
        }
        let looking = tokio::spawn(look(store.clone()));
        let new = async { looking.await.unwrap_or_else(|_| Err("the look at the disk did not finish".into())) };
        let new = new.boxed().shared();
        // It ends although whoever began it is gone.
        tokio::spawn(new.clone());
        *last = Some(new.clone());
        new
    }
}

async fn look(store: Store) -> Result<u64, String> {
    let root = store.layout().root().to_owned();
    let free = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&root))
        .await
        .map_err(|_| "the disk could not be asked".to_owned())?
        .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))
        .map_err(|e| format!("the data folder cannot be reached: {e}"))?;
    if free < LOW_DISK {
        return Err(format!("the disk is nearly full: {free} bytes are left"));
    }
    let proven = store.catalog().prove_writable().await;
    proven.map_err(|e| format!("the catalog cannot be written: {}", e.message()))?;
    Ok(free)
}

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
    let free = app.limits().readiness.look(app.store()).await.map_err(red)?;
    Ok(Json(json!({
        "status": "ready",
        "open": app.store().open_count(),
        "capacity": app.store().capacity(),
        "free_bytes": free,
    })))
}
