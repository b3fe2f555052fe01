//! `/api/admin/bulk`: one change of many users.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{call::read_up_to, guard::NotRecorded, tenants::checked_reason};
use crate::{
    app::App,
    bulk::{
        report::{Action, Filter, Order, Preview, Report, Selection},
        run::{Refusal, distinct, filter},
    },
    catalog::audit::Author,
    error::Error,
    http::{problem::Problem, query::Query},
    tenants::id::TenantId,
};

/// The most ids in one request, and the largest body, in bytes.
const MOST_IDS: usize = 10_000;
const MAX_BODY: usize = 2 << 20;

/// What to do, and to whom: `ids` or `filter`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BulkDraft {
    action: Action,
    /// What suspended users are told, 1 to 500 characters, without control characters; with `suspend` only.
    #[serde(default)]
    reason: Option<String>,
    /// These, at most 10,000.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    ids: Option<Vec<TenantId>>,
    /// All that match; an empty one matches everybody.
    #[serde(default)]
    filter: Option<Filter>,
    /// The number that is confirmed: what a dry run answered. Needed with `filter`.
    #[serde(default)]
    count: Option<u64>,
    /// What the dry run answered. Needed with `filter`.
    #[serde(default)]
    as_of: Option<i64>,
    /// What the dry run answered. With it the run starts only while the users are the same, and only once.
    #[serde(default)]
    digest: Option<String>,
}

/// How to run. An unknown parameter is refused, since a misspelt `dry_run` would change users.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct BulkQuery {
    /// Count only.
    #[serde(default)]
    dry_run: bool,
}

/// Which run to stop.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct StopQuery {
    /// Only this one.
    run: Option<String>,
}

/// The newest run.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Bulk)]
pub struct Newest {
    /// How far it is; none if there was none.
    pub run: Option<Report>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(look, start, stop))
}

/// Suspends, resumes, migrates or deletes many users: those of some ids, or all that match a filter.
///
/// With `dry_run` it counts them. A run answers at once, goes on while users are served, and handles at most as many
/// as were confirmed, and nobody who was created after the count. With the `digest` of a dry run it starts only while those
/// that were counted are those that match, and only once.
#[utoipa::path(post, path = "/api/admin/bulk", tag = "operators", params(BulkQuery), request_body = BulkDraft, responses(
    (status = 200, description = "A dry run: how many it is about", body = Preview),
    (status = 202, description = "It runs", body = Report)))]
async fn start(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Query(BulkQuery { dry_run }): Query<BulkQuery>,
    body: Body,
) -> Response {
    let answer = match read_up_to(&app, body, MAX_BODY).await {
        Ok(draft) if dry_run => count(&app, draft).await,
        Ok(draft) => begin(&app, draft, author).await,
        Err(problem) => Err(problem),
    };
    let mut response = answer.into_response();
    if dry_run {
        response.extensions_mut().insert(NotRecorded);
    }
    response
}

async fn count(app: &App, draft: BulkDraft) -> Result<Response, Problem> {
    let action = draft.action;
    let selection = selection(draft.ids, draft.filter)?;
    Ok(Json(app.bulks().preview(action, &selection).await?).into_response())
}

async fn begin(app: &App, draft: BulkDraft, author: Author) -> Result<Response, Problem> {
    let BulkDraft { action, reason, ids, filter, count, as_of, digest } = draft;
    let reason = match (action, reason) {
        (Action::Suspend, None) => return Err(Error::invalid("reason", "say what the users are told").into()),
        (Action::Suspend, Some(reason)) => checked_reason(&reason)?,
        (_, Some(reason)) if !reason.trim().is_empty() => {
            return Err(Error::invalid("reason", "a reason is for suspend only").into());
        }
        _ => String::new(),
    };
    let selection = selection(ids, filter)?;
    let (count, as_of) = match (&selection, count, as_of) {
        (Selection::Ids(ids), count, _) => {
            let there = ids.len() as u64;
            if let Some(count) = count.filter(|count| *count != there) {
                let why = format!("{count} were confirmed and {there} ids given; nothing was changed");
                return Err(Error::invalid("count", why).into());
            }
            (there, i64::MAX)
        }
        (_, Some(count), Some(as_of)) => (count, as_of),
        (_, count, _) => {
            let missing = if count.is_none() { "count" } else { "as_of" };
            let why = "a filter needs the count and as_of that a dry run with the same filter answers";
            return Err(Error::invalid(missing, why).into());
        }
    };
    let order = Order { action, reason, selection, count, as_of, digest };
    let report = app.bulks().start(order, author).await.map_err(|refusal| match refusal {
        Refusal::Running(error) => conflict("bulk_running", &error),
        Refusal::Grew(error) => conflict("bulk_grew", &error),
        Refusal::Changed(error) => conflict("bulk_changed", &error),
        Refusal::Other(error) => error.into(),
    })?;
    let place = HeaderValue::from_static("/api/admin/bulk");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(report)).into_response())
}

fn conflict(code: &'static str, error: &Error) -> Problem {
    Problem::new(StatusCode::CONFLICT, code, error.message())
}

fn selection(ids: Option<Vec<TenantId>>, sent: Option<Filter>) -> Result<Selection, Problem> {
    match (ids, sent) {
        (Some(ids), None) if ids.is_empty() => Err(Error::invalid("ids", "name at least one user").into()),
        (Some(ids), None) if ids.len() > MOST_IDS => {
            let why = format!("at most {MOST_IDS} ids at once, and these are {}; send them in parts", ids.len());
            Err(Error::invalid("ids", why).into())
        }
        (Some(ids), None) => Ok(Selection::Ids(distinct(ids))),
        (None, Some(Filter { q: Some(q), .. })) if q.trim().is_empty() => {
            Err(Error::invalid("q", "a blank text matches every user; leave q away if you mean them").into())
        }
        (None, Some(Filter { state, q })) => Ok(Selection::Matching(filter(state, q)?)),
        _ => Err(Error::invalid("ids", "send either ids or filter").into()),
    }
}

/// The newest run: how far it is, and who failed for which reason.
#[utoipa::path(get, path = "/api/admin/bulk", tag = "operators",
    responses((status = 200, description = "The run", body = Newest)))]
async fn look(State(app): State<App>) -> Result<Json<Newest>, Problem> {
    Ok(Json(Newest { run: app.bulks().newest().await? }))
}

/// Stops the run, which finishes what it has begun.
#[utoipa::path(delete, path = "/api/admin/bulk", tag = "operators", params(StopQuery),
    responses((status = 200, description = "The run", body = Newest)))]
async fn stop(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Query(StopQuery { run }): Query<StopQuery>,
) -> Result<Json<Newest>, Problem> {
    match app.bulks().stop(run.as_deref(), author).await? {
        Some(report) => Ok(Json(Newest { run: Some(report) })),
        None => {
            let why = match run {
                Some(run) => format!("the run {run} is not under way; nothing was changed"),
                None => "no run is under way; nothing was changed".to_owned(),
            };
            Err(Problem::new(StatusCode::CONFLICT, "bulk_not_running", why))
        }
    }
}
