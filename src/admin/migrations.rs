//! `/api/admin/migrations`: all users' databases to the newest schema, while they are served.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::call::Call;
use crate::{
    app::App,
    catalog::{audit::Author, queries::rollouts},
    config::provider::Part,
    error::{Error, ErrorKind},
    http::{
        problem::Problem,
        query::{Query, up_to},
        segment::{Segment, UserPath},
    },
    rollout::report::{Options, Report},
};

/// Users who have one version of the schema.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SchemaShare)]
pub struct Share {
    /// The version; none where it is not known.
    pub schema: Option<i32>,
    /// The users who are not deleted and have it.
    pub users: u64,
    /// Those of them who are quarantined.
    pub quarantined: u64,
}

/// How far the schema is, and the newest run.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Migrations)]
pub struct Overview {
    /// The newest schema.
    pub schema: i32,
    /// How many users have which, oldest first.
    pub schemas: Vec<Share>,
    /// The newest run.
    pub run: Option<Report>,
}

/// A user's migration.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Migrated {
    /// The schema that the file had; none if it had the newest.
    pub from: Option<i32>,
    /// The schema that it has.
    pub schema: i32,
}

/// How to migrate. An unknown parameter is refused, since a misspelt `canary` would migrate all.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct RunQuery {
    /// Users to migrate before all others; the first of them that fails stops the run. 0 for none.
    #[serde(default = "canary", deserialize_with = "canaries")]
    #[param(maximum = 100_000)]
    canary: u32,
    /// Users at once.
    #[serde(default = "jobs", deserialize_with = "up_to::<64, _>")]
    #[param(minimum = 1, maximum = 64)]
    jobs: u32,
    /// The failures after which it stops: 25, 10% or 10%,10, of which the larger counts.
    #[serde(default = "max_failures")]
    #[param(value_type = String, pattern = "^([0-9]{1,9}|[0-9]{1,2}%|100%)(,([0-9]{1,9}|[0-9]{1,2}%|100%))?$")]
    max_failures: Part,
}

/// The most users in a canary.
const MOST_CANARIES: u32 = 100_000;

fn canary() -> u32 {
    10
}

fn jobs() -> u32 {
    2
}

fn max_failures() -> Part {
    Part::of_either(1, 10)
}

fn canaries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer).ok().filter(|number| *number <= MOST_CANARIES);
    number.ok_or_else(|| de::Error::custom(format_args!("a number from 0 to {MOST_CANARIES}")))
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(overview, start))
        .routes(routes!(look_at))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(migrate))
}

/// Migrates all users who are behind: a few first, then the others, while they are served.
///
/// Answers at once, and says where to look for the run.
#[utoipa::path(post, path = "/api/admin/migrations", tag = "operators", params(RunQuery),
    responses((status = 202, description = "It runs", body = Report)))]
async fn start(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Query(query): Query<RunQuery>,
) -> Result<Response, Problem> {
    let RunQuery { canary, jobs, max_failures } = query;
    let options = Options { canary, jobs, max_failures };
    let started = app.rollouts().start(options, author).await.map_err(conflict("migration_running"))?;
    accepted(&started)
}

/// How many users have which schema, and the newest run.
#[utoipa::path(get, path = "/api/admin/migrations", tag = "operators",
    responses((status = 200, description = "Both", body = Overview)))]
async fn overview(State(app): State<App>) -> Result<Json<Overview>, Problem> {
    let shares = app.rollouts().shares().await?.into_iter();
    let share =
        |share: rollouts::Share| Share { schema: share.schema, users: share.tenants, quarantined: share.quarantined };
    let run = app.rollouts().newest().await?;
    Ok(Json(Overview { schema: app.store().schema().version(), schemas: shares.map(share).collect(), run }))
}

/// One run: how far it is, and what failed for which reason.
#[utoipa::path(get, path = "/api/admin/migrations/{run}", tag = "operators",
    params(("run" = String, Path, description = "The name of the run")),
    responses((status = 200, description = "The run", body = Report)))]
async fn look_at(State(app): State<App>, Segment(run): Segment) -> Result<Json<Report>, Problem> {
    let unknown = || Error::new(ErrorKind::NotFound, "there is no such run, or it is not remembered any more");
    Ok(Json(app.rollouts().find(&run).await?.ok_or_else(unknown)?))
}

/// Pauses a run, which finishes what it has begun.
#[utoipa::path(post, path = "/api/admin/migrations/{run}/pause", tag = "operators",
    params(("run" = String, Path, description = "The name of the run")),
    responses((status = 200, description = "The run", body = Report)))]
async fn pause(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(run): Segment,
) -> Result<Json<Report>, Problem> {
    Ok(Json(app.rollouts().pause(&run, author).await.map_err(conflict("migration_not_running"))?))
}

/// Resumes the newest run, which was paused, stopped or interrupted.
#[utoipa::path(post, path = "/api/admin/migrations/{run}/resume", tag = "operators",
    params(("run" = String, Path, description = "The name of the run")),
    responses((status = 202, description = "It runs", body = Report)))]
async fn resume(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(run): Segment,
) -> Result<Response, Problem> {
    let resumed = app.rollouts().resume(&run, author).await.map_err(conflict("migration_not_resumable"))?;
    accepted(&resumed)
}

/// Migrates one user's database now.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/migrate", tag = "operators",
    params(UserPath), responses((status = 200, description = "It has the newest schema", body = Migrated)))]
async fn migrate(Call { app, author, id }: Call) -> Result<Json<Migrated>, Problem> {
    let from = app.store().migrate(&id, &author).await.map_err(|error| match error.kind() {
        // To a caller the reason is not told; to an operator it is all that helps.
        ErrorKind::Quarantined | ErrorKind::Damaged => {
            Problem::new(StatusCode::CONFLICT, "migration_failed", error.detail())
        }
        _ => error.into(),
    })?;
    Ok(Json(Migrated { from, schema: app.store().schema().version() }))
}

fn conflict(code: &'static str) -> impl Fn(Error) -> Problem {
    move |error| match error.kind() {
        ErrorKind::Conflict => Problem::new(StatusCode::CONFLICT, code, error.message()),
        _ => error.into(),
    }
}

fn accepted(report: &Report) -> Result<Response, Problem> {
    let place = HeaderValue::from_str(&format!("/api/admin/migrations/{}", report.run));
    let place = place.map_err(|e| Error::internal("the name of a run").with_source(e))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(report)).into_response())
}
