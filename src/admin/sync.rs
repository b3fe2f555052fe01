//! `/api/admin/sync-users`: a reconcile with the provider, by hand.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::{audit::Author, queries::runs},
    error::{Error, ErrorKind},
    http::{problem::Problem, query::parameters, segment::Segment},
    reconcile::{
        report::{Report, RunOutcome},
        run::Options,
        runs::RunStatus,
    },
};

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(run, look)).routes(routes!(look_at))
}

/// Runs one and answers with its report: 200 when it is done or held deletions back, 502 when it
/// stopped. One that takes longer than a request may, or that nobody wants to wait for, goes on by
/// itself: the answer is 202 and says where to look for it.
#[utoipa::path(post, path = "/api/admin/sync-users", tag = "operators", description = "Compares the catalog with the provider and mends the difference", params(("dry_run" = Option<bool>, Query, description = "Change nothing"), ("force" = Option<bool>, Query, description = "Delete however many there are"), ("wait" = Option<bool>, Query, description = "False: answer 202 at once")), responses((status = 200, description = "The report", body = Object), (status = 202, description = "It goes on", body = Object), (status = 502, description = "The provider did not answer as it should", body = Object)))]
async fn run(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Asked { options, wait } = Asked::parse(query.as_deref())?;
    let started = app.syncer().start(options, author).map_err(|error| match error.kind() {
        ErrorKind::Config => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "provider_not_configured", error.message()),
        ErrorKind::Conflict => Problem::new(StatusCode::CONFLICT, "sync_running", error.message()),
        _ => error.into(),
    })?;
    let limit = app.config().request_timeout;
    let patience = if wait { limit.saturating_sub(Duration::from_secs(1)).max(limit / 2) } else { Duration::ZERO };
    match tokio::time::timeout(patience, started.report).await {
        Ok(Ok(report)) => Ok(answer(&report)),
        Ok(Err(error)) => Err(Error::internal("a reconcile did not finish").with_source(error).into()),
        Err(_) => {
            let body = json!({"run": started.run, "status": "running"});
            let place = HeaderValue::from_str(&format!("/api/admin/sync-users/{}", started.run));
            let place = place.map_err(|e| Error::internal("the name of a run").with_source(e))?;
            Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(body)).into_response())
        }
    }
}

/// Whether one is running, how far it is, and the report of the last.
#[utoipa::path(get, path = "/api/admin/sync-users", tag = "operators", description = "The comparison that runs, and the last", responses((status = 200, description = "Both", body = Object)))]
async fn look(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let last = app.store().catalog().query(runs::last).await?;
    let last: Value = last.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    let running = app.syncer().running().map(|(run, progress)| {
        let mut running = json!(progress);
        running["run"] = json!(run);
        running
    });
    Ok(Json(json!({"running": running, "last": last})))
}

/// What became of one run: it is under way, it ended with this report, or the server ended first.
#[utoipa::path(get, path = "/api/admin/sync-users/{run}", tag = "operators", description = "One comparison: how far it is, or what came of it", params(("run" = String, Path, description = "What it is called")), responses((status = 200, description = "It", body = Object)))]
async fn look_at(State(app): State<App>, Segment(run): Segment) -> Result<Json<RunStatus>, Problem> {
    let status = app.syncer().status(&run).await?;
    let unknown = || Error::new(ErrorKind::NotFound, "there is no such run, or it is not remembered any more");
    Ok(Json(status.ok_or_else(unknown)?))
}

/// A run that stopped is answered like a problem too, with what it did all the same.
fn answer(report: &Report) -> Response {
    match report.outcome {
        RunOutcome::Done | RunOutcome::Held => Json(report).into_response(),
        RunOutcome::Failed => {
            let mut body = json!(report);
            body["code"] = json!("sync_failed");
            body["detail"] = json!(report.error);
            (StatusCode::BAD_GATEWAY, Json(body)).into_response()
        }
    }
}

struct Asked {
    options: Options,
    wait: bool,
}

impl Asked {
    fn parse(query: Option<&str>) -> Result<Self, Error> {
        let mut asked = Self { options: Options::default(), wait: true };
        for (name, value) in parameters(query) {
            let value = match value.as_deref() {
                None | Some("true" | "1") => true,
                Some("false" | "0") => false,
                _ => return Err(Error::invalid(name.into_owned(), "true or false")),
            };
            match name.as_ref() {
                "dry_run" => asked.options.dry_run = value,
                "force" => asked.options.force = value,
                "wait" => asked.wait = value,
                // One that is misspelt must not delete anybody.
                _ => return Err(Error::invalid(name.into_owned(), "there are dry_run, force and wait")),
            }
        }
        Ok(asked)
    }
}
