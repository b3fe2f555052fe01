//! `/api/admin/sync-users`: a reconcile that an operator starts.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::guard::NotRecorded;
use crate::{
    app::App,
    catalog::{audit::Author, queries::runs},
    clock::{Millis, wire},
    error::{Error, ErrorKind},
    http::{
        problem::Problem,
        query::{Query, up_to},
        segment::Segment,
    },
    reconcile::{
        plan::PlanDigest,
        report::{Report, RunOutcome},
        run::Options,
        runs::RunStatus,
    },
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
    /// Do exactly what the dry run told whose report has this `plan`; where the plan is another one now, do nothing and answer
    /// 409 `sync_changed`. With the same `force`.
    plan: Option<String>,
    /// False: answer 202 at once.
    wait: Option<bool>,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(run, look)).routes(routes!(past)).routes(routes!(look_at))
}

/// Compares the catalog with the provider and changes the catalog to match.
///
/// Answers 200 with the report when the run is done or held deletions back, and 502 when it stopped. A run
/// that takes longer than a request may, or one with `wait=false`, goes on: the answer is 202 and says where
/// to look for it.
#[utoipa::path(post, path = "/api/admin/sync-users", tag = "operators", params(SyncQuery), responses(
    (status = 200, description = "The report", body = Object), (status = 202, description = "It goes on", body = Object),
    (status = 409, description = "Another one runs, or the plan is not what was confirmed", body = Object),
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
    if query.dry_run && query.plan.is_some() {
        return Err(Error::invalid("plan", "a dry run makes a plan; leave out one of both").into());
    }
    let plan = query.plan.map(|plan| plan.parse::<PlanDigest>().map_err(|why| Error::invalid("plan", why)));
    let options = Options { dry_run: query.dry_run, force: query.force, plan: plan.transpose()? };
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
        Ok(Ok(report)) if report.outcome == RunOutcome::Failed => {
            Ok(stopped(StatusCode::BAD_GATEWAY, "sync_failed", &report))
        }
        Ok(Ok(report)) if report.outcome == RunOutcome::Changed => {
            Ok(stopped(StatusCode::CONFLICT, "sync_changed", &report))
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

/// A run that stopped has the `code` and `detail` of a problem beside its report.
fn stopped(status: StatusCode, code: &str, report: &Report) -> Response {
    let mut body = json!(report);
    body["code"] = json!(code);
    body["detail"] = json!(report.error);
    (status, Json(body)).into_response()
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

/// A run of the past.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PastRun {
    /// Its id.
    pub run: String,
    /// When it started.
    #[serde(with = "wire")]
    #[schema(value_type = String, format = DateTime)]
    pub started: Millis,
    /// When it ended; none if it runs, or the server ended before it did.
    #[serde(with = "wire")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished: Option<Millis>,
    /// How it ended.
    pub outcome: Option<String>,
    /// Users it created.
    pub created: u64,
    /// Users it updated.
    pub updated: u64,
    /// Users it restored.
    pub restored: u64,
    /// Users it deleted.
    pub deleted: u64,
    /// Deletions that it held back.
    pub held: u64,
    /// Steps that failed.
    pub errors: u64,
}

/// A page of runs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PastRuns {
    /// Newest first. Dry runs are not among them.
    pub runs: Vec<PastRun>,
    /// The `before` of the next page; none on the last one.
    pub next_before: Option<i64>,
}

/// Which runs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PastQuery {
    /// The `next_before` of the page before.
    before: Option<i64>,
    /// Runs on the page.
    #[serde(default = "some", deserialize_with = "up_to::<200, _>")]
    #[param(minimum = 1, maximum = 200)]
    limit: u32,
}

fn some() -> u32 {
    50
}

/// Runs of the past, newest first.
#[utoipa::path(get, path = "/api/admin/sync-users/runs", tag = "operators", params(PastQuery),
    responses((status = 200, description = "A page", body = PastRuns)))]
async fn past(State(app): State<App>, Query(query): Query<PastQuery>) -> Result<Json<PastRuns>, Problem> {
    let (before, limit) = (query.before.unwrap_or(i64::MAX), query.limit);
    let mut found = app.store().catalog().query(move |conn| runs::page(conn, before, limit + 1)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_before = found.last().filter(|_| more).map(|last| last.id);
    Ok(Json(PastRuns { runs: found.into_iter().map(past_run).collect(), next_before }))
}

fn past_run(kept: runs::Kept) -> PastRun {
    // Reports of older programs may lack some of it.
    let report: Value = kept.report.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let count = |name: &str| report[name]["count"].as_u64().unwrap_or(0);
    PastRun {
        run: kept.name,
        started: kept.started,
        finished: kept.finished,
        outcome: kept.outcome,
        created: count("created"),
        updated: count("updated"),
        restored: count("restored"),
        deleted: count("deleted"),
        held: count("held"),
        errors: count("errors"),
    }
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
