//! The copies in the bucket, for an operator: how they are doing, whether they are whole, and users' past.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    call::{Call, read},
    guard::NotRecorded,
};
use crate::{
    app::App,
    catalog::audit::Author,
    clock::{Millis, moment::parse_moment},
    config::provider::Part,
    error::{Error, ErrorKind, Result},
    http::{
        problem::Problem,
        query::{Query, up_to},
        segment::UserPath,
    },
    replica::{
        history::Moment,
        moments::{self, Forked, Rewound},
        running::Replica,
        status::{self, Status},
        verify::{Verified, verify},
    },
    tenants::id::TenantId,
};

/// How long nothing is sent of a verification, at most: a proxy on the way may not wait for longer.
const SILENCE: Duration = Duration::from_secs(5);

/// Which users to look at.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct VerifyDraft {
    /// How many of the active users, such as `25`, `1%` or `1%,25`, of which the larger counts; one at least. 1% if not given.
    #[schema(value_type = Option<String>)]
    sample: Option<Part>,
    /// All of them.
    all: bool,
}

/// A line of the answer of a verification.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerifyLine {
    /// What was found so far.
    #[serde(flatten)]
    pub verified: Verified,
    /// Whether this is the last line.
    pub is_over: bool,
    /// Why it ended before all were looked at.
    pub error: Option<String>,
}

/// The moments of a user.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Newest first.
    pub moments: Vec<Moment>,
    /// The `before` of the next page; none on the last one.
    pub next_before: Option<String>,
}

/// Which moments.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    /// The `next_before` of the page before.
    before: Option<String>,
    /// Moments on the page.
    #[serde(default = "hundred", deserialize_with = "up_to::<1000, _>")]
    #[param(minimum = 1, maximum = 1000)]
    limit: u32,
}

fn hundred() -> u32 {
    100
}

/// To which moment a user is put back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RewindDraft {
    /// RFC 3339, or how long ago, such as `20 minutes ago`.
    #[schema(example = "20 minutes ago")]
    at: String,
    /// Make and look through the file, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Who is to have the data of a user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ForkDraft {
    /// The new user's id.
    to: String,
    /// As it was at this moment: RFC 3339, or how long ago, such as `20 minutes ago`. As it is if not given.
    #[serde(default)]
    at: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(look))
        .routes(routes!(check))
        .routes(routes!(history))
        .routes(routes!(rewind))
        .routes(routes!(fork))
        .layer(Extension(Arc::new(Semaphore::new(1))))
}

/// What replicates this server's data.
fn replica(app: &App) -> Result<Arc<Replica>, Problem> {
    app.replica().cloned().ok_or_else(|| {
        let why = "nothing is copied to a bucket, so there is no past: set CUBBY_REPLICATE, or --replicate, and start the \
                   server again";
        Problem::new(StatusCode::CONFLICT, "not_replicated", why)
    })
}

/// A problem with the bucket or a user's past.
fn problem(error: Error) -> Problem {
    match error.kind() {
        // It is of the bucket, and not of the user's file. To ask again is of no use.
        ErrorKind::Damaged => Problem::new(StatusCode::CONFLICT, "chain_broken", error.message()),
        // To an operator the reason is all that helps.
        ErrorKind::Config => Problem::new(StatusCode::CONFLICT, "bucket_refuses", error.detail()),
        _ => error.into(),
    }
}

/// How the replication is doing.
#[utoipa::path(get, path = "/api/admin/replica", tag = "operators",
    responses((status = 200, description = "How far behind it is, and what it costs", body = Status)))]
async fn look(State(app): State<App>) -> Result<Json<Status>, Problem> {
    Ok(Json(status::status(&*replica(&app)?).await?))
}

/// Restores some of the active users to temporary files, and compares them with what they have.
///
/// Answers with a line of JSON whenever it is further; the last one has `is_over`.
#[utoipa::path(post, path = "/api/admin/replica/verify", tag = "operators", request_body = VerifyDraft,
    responses((status = 200, description = "Lines of JSON", content((String = "application/x-ndjson")))))]
async fn check(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Extension(turns): Extension<Arc<Semaphore>>,
    body: Body,
) -> Result<Response, Problem> {
    let VerifyDraft { sample, all } = read(&app, body).await?;
    let sample = match (sample, all) {
        (Some(_), true) => return Err(Error::invalid("sample", "leave it out, or leave out all").into()),
        (_, true) => Part::of_either(100, 0),
        (sample, false) => sample.unwrap_or(Part::of_either(1, 1)),
    };
    let replica = replica(&app)?;
    let turn = turns
        .try_acquire_owned()
        .map_err(|_| Error::new(ErrorKind::Busy, "a verification is under way already; try again when it is done"))?;
    let (now, result) = (app.clock().now(), format!("began: {sample} of the users"));
    let write = move |tx: &Transaction| author.record(tx, now, "replica verify", None::<&str>, &result);
    app.store().catalog().write(write).await?;
    let mut response = Body::from_stream(lines(app, replica, sample, turn)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// A verification that is under way. Dropped with the answer, it ends.
struct Lines {
    work: Pin<Box<dyn Future<Output = VerifyLine> + Send>>,
    so_far: watch::Receiver<Verified>,
    is_over: bool,
}

fn lines(
    app: App,
    replica: Arc<Replica>,
    sample: Part,
    turn: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let (told, so_far) = watch::channel(Verified::default());
    let last = so_far.clone();
    let work = async move {
        let progress = |verified: &Verified| drop(told.send_replace(verified.clone()));
        let done = verify(&replica, app.store(), sample, progress).await;
        drop(turn);
        let error = done.as_ref().err().map(Error::detail);
        let verified = done.unwrap_or_else(|_| last.borrow().clone());
        VerifyLine { verified, is_over: true, error }
    };
    stream::unfold(Lines { work: Box::pin(work), so_far, is_over: false }, |mut lines| async move {
        if lines.is_over {
            return None;
        }
        let line = tokio::select! {
            biased;
            line = &mut lines.work => line,
            Ok(()) = lines.so_far.changed() => line_of(&mut lines.so_far),
            () = tokio::time::sleep(SILENCE) => line_of(&mut lines.so_far),
        };
        lines.is_over = line.is_over;
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Some((Ok(text.into()), lines))
    })
}

fn line_of(verified: &mut watch::Receiver<Verified>) -> VerifyLine {
    VerifyLine { verified: verified.borrow_and_update().clone(), is_over: false, error: None }
}

/// Which moments of a user's past there are.
#[utoipa::path(get, path = "/api/admin/tenants/{user_id}/history", tag = "operators", params(UserPath, HistoryQuery),
    responses((status = 200, description = "A page of them", body = History)))]
async fn history(Call { app, id, .. }: Call, Query(query): Query<HistoryQuery>) -> Result<Json<History>, Problem> {
    let before = query.before.as_deref().map(parse_place).transpose()?;
    let replica = replica(&app)?;
    app.store().find(&id).await?.ok_or_else(Error::unknown_tenant)?;
    let limit = query.limit as usize;
    // One more says whether there are more.
    let mut moments = moments::history(&replica, &id, limit + 1, before).await.map_err(problem)?;
    let is_last = moments.len() <= limit;
    moments.truncate(limit);
    let last = moments.last().filter(|_| !is_last);
    let next_before = last.map(|moment| format!("{:x}-{:x}", moment.epoch, moment.seq));
    Ok(Json(History { moments, next_before }))
}

/// A place in a history.
fn parse_place(text: &str) -> Result<(u64, u64)> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let place = text.split_once('-').and_then(|(epoch, seq)| Some((number(epoch)?, number(seq)?)));
    place.ok_or_else(|| Error::malformed("before", "before: the next_before of the page before"))
}

/// Puts a user back to a moment of their past.
///
/// What they have is kept until the retention ends. With `dry_run` all is done but that.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/rewind", tag = "operators", params(UserPath),
    request_body = RewindDraft, responses((status = 200, description = "What they have then", body = Rewound)))]
async fn rewind(call: Call, body: Body) -> Response {
    let draft: RewindDraft = match read(&call.app, body).await {
        Ok(draft) => draft,
        Err(problem) => return problem.into_response(),
    };
    let mut response = match Box::pin(put_back(&call, &draft)).await {
        Ok(rewound) => Json(rewound).into_response(),
        Err(problem) => problem.into_response(),
    };
    if draft.dry_run {
        response.extensions_mut().insert(NotRecorded);
    }
    response
}

async fn put_back(Call { app, author, id }: &Call, draft: &RewindDraft) -> Result<Rewound, Problem> {
    let at = moment(app, &draft.at)?;
    let replica = replica(app)?;
    let rewound = moments::rewind(&replica, app.store(), id, at, draft.dry_run, author);
    Box::pin(rewound).await.map_err(problem)
}

/// Creates a user with the data that another one has, or had at a moment.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/fork", tag = "operators", params(UserPath),
    request_body = ForkDraft, responses((status = 201, description = "The new user", body = Forked)))]
async fn fork(Call { app, author, id }: Call, body: Body) -> Result<(StatusCode, Json<Forked>), Problem> {
    let ForkDraft { to, at } = read(&app, body).await?;
    let to = TenantId::parse(to.as_bytes()).map_err(|e| Error::invalid("to", e.to_string()))?;
    let at = at.map(|at| moment(&app, &at)).transpose()?;
    let replica = replica(&app)?;
    let forked = Box::pin(moments::fork(&replica, app.store(), &id, &to, at, &author)).await.map_err(problem)?;
    Ok((StatusCode::CREATED, Json(forked)))
}

fn moment(app: &App, text: &str) -> Result<Millis> {
    parse_moment(text, app.clock().now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_history_is_read_as_it_was_written() {
        assert_eq!(parse_place("19b1c0ffee0000-2a").unwrap(), (0x0019_b1c0_ffee_0000, 42));
        for text in ["", "1", "-", "1-", "x-1", "1-2-3"] {
            assert!(parse_place(text).is_err(), "{text}");
        }
    }
}
