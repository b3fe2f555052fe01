//! For monitoring: metrics for Prometheus, and whether catalog and provider agree.
//!
//! Both name no user. Where callers are authenticated, these need the operator's key.

#[cfg(feature = "replicate")]
mod replication;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};

use crate::{
    app::App,
    catalog::queries::{self, deliveries},
    http::{operator_key, problem::Problem},
    reconcile::{health::Seen, run::live},
    telemetry::{disk, metrics},
};

fn admit(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    match app.is_watched_openly() {
        true => Ok(()),
        false => operator_key::check(app.config().admin_api_key.as_ref(), headers),
    }
}

/// `GET /metrics`. What is a state is looked up now: four rows and the end of an index. The provider
/// is asked how many users it has at most once a minute.
#[utoipa::path(get, path = "/metrics", tag = "operators", description = "Measurements, for Prometheus",
    responses((status = 200, description = "The page", body = String, content_type = "text/plain")))]
pub async fn page(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    admit(&app, &headers)?;
    let looked = app.store().catalog().query(|conn| Ok((queries::counts(conn)?, deliveries::newest(conn)?)));
    let (counts, newest) = looked.await?;
    let states = [
        ("active", counts.active),
        ("suspended", counts.suspended),
        ("deleted", counts.deleted),
        ("quarantined", counts.quarantined),
    ];
    metrics::tenants(states, app.store().open_count(), app.store().capacity());
    let root = app.store().layout().root().to_owned();
    if let Ok(Some(disk)) = tokio::task::spawn_blocking(move || disk::space(&root)).await {
        metrics::disk(disk.size, disk.free);
    }
    #[cfg(feature = "replicate")]
    replication::tell(&app);
    if let Some(newest) = newest {
        metrics::delivery_age(app.clock().now() - newest);
    }
    // Monitoring may ask for this page alone. It does not wait for the provider: the next page has its
    // answer.
    let (there, stale) = app.health().known();
    if let Some(there) = there {
        metrics::discrepancy(there.abs_diff(live(counts)));
    }
    if stale {
        let app = app.clone();
        tokio::spawn(async move { app.health().refresh().await });
    }
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], metrics::render()).into_response())
}

/// `GET /api/health/user-sync`. Always 200: it is for people, and a balancer must not take a server out of
/// use because a webhook failed.
#[utoipa::path(get, path = "/api/health/user-sync", tag = "operators",
    description = "Whether catalog and provider agree",
    responses((status = 200, description = "What is seen", body = Object)))]
pub async fn user_sync(State(app): State<App>, headers: HeaderMap) -> Result<Json<Seen>, Problem> {
    admit(&app, &headers)?;
    Ok(Json(app.health().look().await?))
}
