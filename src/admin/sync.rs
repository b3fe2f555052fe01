//! `/api/admin/sync-users`: a reconcile that an operator starts.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::guard::NotRecorded;
use crate::{
    app::App,
    catalog::{audit::Author, queries::runs},
    error::{Error, ErrorKind},
    http::{problem::Problem, query::Query, segment::Segment},
    reconcile::{report::RunOutcome, run::Options, runs::RunStatus},
};

/// How to run. An unknown parameter is refused, since a misspelt `dry_run` would change users.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SyncQuery {
    /// Change nothing.
    #[serde(default)]
    dry_run: bool,
    /// Delete however many there are.
    #[serde(default)]
    force: bool,
    /// False: answer 202 at once.
    wait: Option<bool>,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(run, look)).routes(routes!(look_at))
}

/// Compares the catalog with the provider and changes the catalog to match.
///
/// Answers 200 with the report when the run is done or held deletions back, and 502 when it stopped. A run
/// that takes longer than a request may, or one with `wait=false`, goes on: the answer is 202 and says where
/// to look for it.
#[utoipa::path(post, path = "/api/admin/sync-users", tag = "operators", params(SyncQuery), responses(
    (status = 200, description = "The report", body = Object), (status = 202, description = "It goes on", body = Object),
    (status = 502, description = "The provider did not answer as it should", body = Object)))]
async fn run(State(app): State<App>, Extension(author): Extension<Author>, Query(query): Query<SyncQuery>) -> Response {
    let is_dry = query.dry_run;
    let mut response = start(&app, author, query).await.into_response();
    if is_dry {
        response.extensions_mut().insert(NotRecorded);
    }
    response
}

async fn start(app: &App, author: Author, query: SyncQuery) -> Result<Response, Problem> {
    let options = Options { dry_run: query.dry_run, force: query.force };
    let started = app.reconciler().start(options, author).map_err(|error| match error.kind() {
        ErrorKind::Config => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "provider_not_configured", error.message()),
        ErrorKind::Conflict => Problem::new(StatusCode::CONFLICT, "sync_running", error.message()),
        _ => error.into(),
    })?;
    let limit = app.config().request_timeout;
    let patience = if query.wait.unwrap_or(true) {
        limit.saturating_sub(Duration::from_secs(1)).max(limit / 2)
    } else {
        Duration::ZERO
    };
    match tokio::time::timeout(patience, started.report).await {
        // A run that stopped has the `code` and `detail` of a problem beside its report.
        Ok(Ok(report)) if report.outcome == RunOutcome::Failed => {
            let mut body = json!(report);
            body["code"] = json!("sync_failed");
            body["detail"] = json!(report.error);
            Ok((StatusCode::BAD_GATEWAY, Json(body)).into_response())
        }
        Ok(Ok(report)) => Ok(Json(report).into_response()),
        Ok(Err(error)) => Err(Error::internal("a reconcile did not finish").with_source(error).into()),
        Err(_) => {
            let body = json!({"run": started.run, "status": "running"});
            let place = HeaderValue::from_str(&format!("/api/admin/sync-users/{}", started.run));
            let place = place.map_err(|e| Error::internal("the name of a run").with_source(e))?;
            Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(body)).into_response())
        }
    }
}

/// The run that is under way, how far it is, and the report of the last one that ended.
#[utoipa::path(get, path = "/api/admin/sync-users", tag = "operators",
    responses((status = 200, description = "Both", body = Object)))]
async fn look(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let last = app.store().catalog().query(runs::last).await?;
    let last: Value = last.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    let running = app.reconciler().running().map(|(run, progress)| {
        let mut running = json!(progress);
        running["run"] = json!(run);
        running
    });
    Ok(Json(json!({"running": running, "last": last})))
}

/// One run: how far it is, its report, or that the server ended before it did.
#[utoipa::path(get, path = "/api/admin/sync-users/{run}", tag = "operators",
    params(("run" = String, Path, description = "The name of the run")),
    responses((status = 200, description = "The run", body = Object)))]
async fn look_at(State(app): State<App>, Segment(run): Segment) -> Result<Json<RunStatus>, Problem> {
    let status = app.reconciler().status(&run).await?;
    let unknown = || Error::new(ErrorKind::NotFound, "there is no such run, or it is not remembered any more");
    Ok(Json(status.ok_or_else(unknown)?))
}
