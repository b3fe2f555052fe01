//! `/api/admin/sync-users`: a reconcile with the provider, by hand.

use std::time::Duration;

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::queries::runs,
    error::{Error, ErrorKind},
    http::{admin_key, problem::Problem},
    sync::{
        report::{Outcome, Report},
        run::Options,
    },
};

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(run, look))
}

/// Runs one and answers with its report: 200 when it is done or held deletions back, 502 when it
/// stopped. One that takes longer than a request may goes on by itself, and the answer is 202.
#[utoipa::path(post, path = "/api/admin/sync-users", tag = "operators", description = "Compares the catalog with the provider and mends the difference", params(("dry_run" = Option<bool>, Query, description = "Change nothing"), ("force" = Option<bool>, Query, description = "Delete however many there are")), responses((status = 200, description = "The report", body = Object), (status = 202, description = "It goes on", body = Object), (status = 502, description = "The provider did not answer as it should", body = Object)))]
async fn run(State(app): State<App>, headers: HeaderMap, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    admin_key::check(app.config().admin_api_key.as_ref(), &headers)?;
    let options = options(query.as_deref().unwrap_or(""))?;
    let running = app.syncer().start(options).map_err(|error| match error.kind() {
        ErrorKind::Config => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "provider_not_configured", error.message()),
        ErrorKind::Conflict => Problem::new(StatusCode::CONFLICT, "sync_running", error.message()),
        _ => error.into(),
    })?;
    let limit = app.config().request_timeout;
    let patience = limit.saturating_sub(Duration::from_secs(1)).max(limit / 2);
    match tokio::time::timeout(patience, running).await {
        Ok(Ok(report)) => Ok(answer(&report)),
        Ok(Err(error)) => Err(Error::internal("a reconcile did not finish").with_source(error).into()),
        Err(_) => {
            let mut response = (StatusCode::ACCEPTED, Json(json!({"status": "running"}))).into_response();
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/api/admin/sync-users"));
            Ok(response)
        }
    }
}

/// Whether one is running, how far it is, and the report of the last.
#[utoipa::path(get, path = "/api/admin/sync-users", tag = "operators", description = "The comparison that runs, and the last", responses((status = 200, description = "Both", body = Object)))]
async fn look(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    admin_key::check(app.config().admin_api_key.as_ref(), &headers)?;
    let last = app.store().catalog().query(runs::last).await?;
    let last: Value = last.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    let running = app.syncer().is_running().then(|| {
        let progress = *app.syncer().progress().borrow();
        json!({"phase": progress.phase, "done": progress.done, "total": progress.total})
    });
    Ok(Json(json!({"running": running, "last": last})))
}

/// A run that stopped is answered like a problem too, with what it did all the same.
fn answer(report: &Report) -> Response {
    match report.outcome {
        Outcome::Done | Outcome::Held => Json(report).into_response(),
        Outcome::Failed => {
            let mut body = json!(report);
            body["code"] = json!("sync_failed");
            body["detail"] = json!(report.error);
            (StatusCode::BAD_GATEWAY, Json(body)).into_response()
        }
    }
}

fn options(query: &str) -> Result<Options, Error> {
    let mut options = Options::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let value = match value {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return Err(Error::invalid(name.to_owned(), "true or false")),
        };
        match name {
            "dry_run" => options.dry_run = value,
            "force" => options.force = value,
            // One that is misspelt must not delete anybody.
            _ => return Err(Error::invalid(name.to_owned(), "there are dry_run and force")),
        }
    }
    Ok(options)
}
