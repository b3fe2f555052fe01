//! `/api/admin/backups`: everybody's database, and the catalog, at another place, while they are served.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::call::read;
use crate::{
    app::App,
    backup::{report::Report, run::Order},
    catalog::audit::Author,
    config::replicate::Keep,
    error::{Error, ErrorKind},
    http::{problem::Problem, segment::Segment},
};

/// A backup to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BackupDraft {
    /// Where it goes: a folder of the server's machine, with its whole path, or a URL; where the server's go, if not said.
    #[serde(default)]
    to: Option<String>,
    /// Which backups are kept there when it is whole, such as `7d,4w`: the newest of each of so many days, and of so many
    /// weeks. With a `to` all, if not said; else as the server keeps them.
    #[serde(default)]
    keep: Option<String>,
}

/// Backups.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Backups)]
pub struct Overview {
    /// Where the server's go; none if it makes none by itself.
    pub to: Option<String>,
    /// The one that is being made.
    pub run: Option<Report>,
    /// Those that are over since the server began, the newest first; the last 16.
    pub last: Vec<Report>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(overview, start)).routes(routes!(look_at, stop))
}

/// Makes a backup, while users are served.
///
/// Answers at once, and says where to look for it. One that was cut short before is gone on with.
#[utoipa::path(post, path = "/api/admin/backups", tag = "operators", request_body = BackupDraft,
    responses((status = 202, description = "It is being made", body = Report)))]
async fn start(State(app): State<App>, Extension(author): Extension<Author>, body: Body) -> Result<Response, Problem> {
    let BackupDraft { to, keep } = read(&app, body).await?;
    if to.as_deref().is_some_and(|to| !to.contains("://") && !to.starts_with('/')) {
        return Err(
            Error::invalid("to", "name a folder with its whole path, or a URL such as s3://bucket/prefix").into()
        );
    }
    let keep = keep.map(|text| text.parse::<Keep>().map_err(|why| Error::invalid("keep", why))).transpose()?;
    let order = Order { to, keep };
    let (started, _) = app.backups().start(order, author).await.map_err(|error| match error.kind() {
        ErrorKind::Conflict => Problem::new(StatusCode::CONFLICT, "backup_running", error.message()),
        // To a caller it would be a fault of the server; here it is what was sent.
        ErrorKind::Config => Error::invalid("to", error.detail()).into(),
        _ => error.into(),
    })?;
    let place = HeaderValue::from_str(&format!("/api/admin/backups/{}", started.run));
    let place = place.map_err(|e| Error::internal("the name of a backup").with_source(e))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(started)).into_response())
}

/// The backup that is being made, and what came of the last ones.
#[utoipa::path(get, path = "/api/admin/backups", tag = "operators",
    responses((status = 200, description = "Both", body = Overview)))]
async fn overview(State(app): State<App>) -> Result<Json<Overview>, Problem> {
    let backups = app.backups();
    let to = backups.to().map(str::to_owned);
    Ok(Json(Overview { to, run: backups.running(), last: backups.last() }))
}

/// One backup: how far it is, or what came of it.
#[utoipa::path(get, path = "/api/admin/backups/{run}", tag = "operators",
    params(("run" = String, Path, description = "The name of the backup")),
    responses((status = 200, description = "The backup", body = Report)))]
async fn look_at(State(app): State<App>, Segment(run): Segment) -> Result<Json<Report>, Problem> {
    Ok(Json(app.backups().find(&run).ok_or_else(unknown)?))
}

/// Stops a backup that is being made; the next one to the same place goes on.
#[utoipa::path(delete, path = "/api/admin/backups/{run}", tag = "operators",
    params(("run" = String, Path, description = "The name of the backup")),
    responses((status = 200, description = "The backup", body = Report)))]
async fn stop(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(run): Segment,
) -> Result<Json<Report>, Problem> {
    if let Some(report) = app.backups().stop(Some(&run), author).await {
        return Ok(Json(report));
    }
    let report = app.backups().find(&run).ok_or_else(unknown)?;
    let why = format!("{run} is not being made: it is {}; nothing was changed", report.status.as_str());
    Err(Problem::new(StatusCode::CONFLICT, "backup_not_running", why))
}

fn unknown() -> Error {
    Error::new(
        ErrorKind::NotFound,
        "there is no such backup since the server began; `cubby backup list` looks at the place",
    )
}
