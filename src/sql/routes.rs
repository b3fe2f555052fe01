//! The routes of SQL over HTTP, under `/{user_id}/sql`, and under `/{user_id}` for clients that drop the last segment of
//! an address.

mod access;

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::State as AppState,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};

use self::access::{Allowed, Received, read_body};
use super::{
    answer::Form,
    baton::{LIFETIME, Refused},
    limits::{Failure, Sql, Who},
    model::{Cursor, Execute, OneBatch, Pipeline, Request},
    program::Program,
    run::{self, Answered, Order},
    streams::{Gone, Owner, Stream},
};
use crate::{
    app::App,
    config::sql::SqlMode,
    http::{download, problem::Problem},
    tenants::{copy, tenant::Tenant},
};

/// The routes, to be mounted where a user's id is the first segment.
pub fn routes(app: &App) -> Router<App> {
    let mode = app.config().sql_mode();
    if mode == SqlMode::Off {
        return Router::new()
            .route("/{user_id}/sql", any(off))
            .route("/{user_id}/sql/{*rest}", any(off))
            .route("/{user_id}/v2/pipeline", any(off))
            .route("/{user_id}/v3/pipeline", any(off));
    }
    let sql = Arc::new(Sql::new(Who::Callers(mode), &app.config().sql, app.config().limits.answer_timeout));
    let routes = Router::new()
        .route("/v2", get(version))
        .route("/v3", get(version))
        .route("/v3-protobuf", get(no_protobuf))
        .route("/v2/pipeline", post(pipeline))
        .route("/v3/pipeline", post(pipeline))
        .route("/v3/cursor", post(cursor))
        .route("/v1/execute", post(execute))
        .route("/v1/batch", post(batch))
        .route("/dump", get(dump))
        .layer(Extension(sql));
    Router::new().nest("/{user_id}/sql", routes.clone()).nest("/{user_id}", routes)
}

/// The same for the operator, whose key the router asks for: what `cubby sql` needs.
pub fn operators(app: &App) -> Router<App> {
    const BASE: &str = "/api/admin/tenants/{user_id}/sql";
    if app.config().sql_mode() == SqlMode::Off {
        return Router::new().nest(BASE, Router::new().route("/{*rest}", any(off)));
    }
    let sql = Arc::new(Sql::new(Who::Operator, &app.config().sql, app.config().limits.answer_timeout));
    let routes = Router::new().route("/v3/pipeline", post(pipeline)).route("/v3/cursor", post(cursor));
    Router::new().nest(BASE, routes.layer(Extension(sql)))
}

async fn off() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "sql_off",
        "SQL over HTTP is off here: start the server with CUBBY_SQL=backend for API keys, or users for session tokens too",
    )
}

/// A version that is spoken: said to anybody.
async fn version() -> Response {
    json(b"{}".to_vec())
}

async fn no_protobuf() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "protocol buffers are not spoken here; use JSON, v3 or v2")
}

async fn pipeline(
    AppState(app): AppState<App>,
    Extension(sql): Extension<Arc<Sql>>,
    received: Received,
) -> Result<Response, Problem> {
    let (allowed, body) = (&received.allowed, read_body::<Pipeline>(&received.body)?);
    let mut turn = Turn::begin(&app, &sql, allowed, body.baton.as_deref()).await?;
    let program = Program::of(body.requests, &mut turn.stream.texts);
    let closes = program.closes;
    if !closes && !turn.stream.texts.is_empty() {
        // Before anything is done: there may be too many.
        sql.streams.count(&mut turn.stream, &turn.owner.tenant)?;
    }
    let answer = turn.run(program, Form::Pipeline).await?.answer.take();
    let baton = turn.end(closes)?;
    let mut body = Vec::with_capacity(answer.len() + 128);
    body.extend_from_slice(&head(baton.as_deref()));
    body.extend_from_slice(br#","results":["#);
    body.extend_from_slice(&answer);
    body.extend_from_slice(b"]}");
    Ok(json(body))
}

async fn cursor(
    AppState(app): AppState<App>,
    Extension(sql): Extension<Arc<Sql>>,
    received: Received,
) -> Result<Response, Problem> {
    let (allowed, body) = (&received.allowed, read_body::<Cursor>(&received.body)?);
    let mut turn = Turn::begin(&app, &sql, allowed, body.baton.as_deref()).await?;
    let program = Program::batch(body.batch, &turn.stream.texts);
    let Answered { mut answer, rest } = turn.run(program, Form::Cursor).await?;
    let baton = turn.end(false)?;
    let mut first = head(baton.as_deref());
    first.extend_from_slice(b"}\n");
    first.extend_from_slice(&answer.take());
    let body = match rest {
        None => Body::from(first),
        Some(rest) => {
            let first = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(first.into())]);
            let rest = futures_util::stream::unfold(rest, |mut rest| async { Some((Ok(rest.recv().await?), rest)) });
            Body::from_stream(futures_util::StreamExt::chain(first, rest))
        }
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))], body).into_response())
}

async fn execute(
    AppState(app): AppState<App>,
    Extension(sql): Extension<Arc<Sql>>,
    received: Received,
) -> Result<Response, Problem> {
    let body = read_body::<Execute>(&received.body)?;
    bare(&app, &sql, &received.allowed, Request::Execute(body.stmt)).await
}

async fn batch(
    AppState(app): AppState<App>,
    Extension(sql): Extension<Arc<Sql>>,
    received: Received,
) -> Result<Response, Problem> {
    let body = read_body::<OneBatch>(&received.body)?;
    bare(&app, &sql, &received.allowed, Request::Batch(body.batch)).await
}

/// A request of version 1, in a stream of its own.
async fn bare(app: &App, sql: &Arc<Sql>, allowed: &Allowed, request: Request) -> Result<Response, Problem> {
    let mut turn = Turn::begin(app, sql, allowed, None).await?;
    let program = Program::of(vec![request], &mut turn.stream.texts);
    let mut answer = turn.run(program, Form::Bare).await?.answer;
    let failed = answer.has_failed();
    let answer = answer.take();
    turn.end(true)?;
    if failed {
        let answer = (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, JSON)], answer);
        return Ok(answer.into_response());
    }
    Ok(json([br#"{"result":"#.as_slice(), &answer, b"}"].concat()))
}

async fn dump(
    AppState(app): AppState<App>,
    Extension(sql): Extension<Arc<Sql>>,
    allowed: Allowed,
) -> Result<Response, Problem> {
    let place = sql.dumps.take(allowed.id())?;
    let tenant = allowed.lease(app.door()).await?;
    let copy = tenant.copy(copy::Form::Database, app.config().request_timeout).await?;
    drop(tenant);
    Ok(download::answer(copy, place, download::DATABASE, &format!("{}.db", allowed.id())))
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// `{"baton":…,"base_url":null`.
fn head(baton: Option<&str>) -> Vec<u8> {
    match baton {
        // It is made of letters, digits, - and _.
        Some(baton) => format!(r#"{{"baton":"{baton}","base_url":null"#).into_bytes(),
        None => br#"{"baton":null,"base_url":null"#.to_vec(),
    }
}

/// One request of a stream.
struct Turn<'t> {
    sql: &'t Arc<Sql>,
    tenant: Tenant,
    owner: Owner,
    read_only: bool,
    stream: Stream,
}

impl<'t> Turn<'t> {
    async fn begin(app: &App, sql: &'t Arc<Sql>, allowed: &Allowed, baton: Option<&str>) -> Result<Self, Problem> {
        let owner = Owner { tenant: allowed.id().clone(), caller: allowed.caller.clone() };
        // A transaction that is open keeps the tenant open; one whose state forbids it has ended it.
        let stream = match baton {
            Some(baton) => sql.streams.take(baton, &owner).map_err(gone)?,
            None => sql.streams.open(),
        };
        let tenant = allowed.lease(app.door()).await?;
        if baton.is_none() {
            allowed.record(app).await?;
        }
        Ok(Self { sql, tenant, owner, read_only: allowed.read_only, stream })
    }

    async fn run(&mut self, program: Program, form: Form) -> Result<Answered, Problem> {
        let order = Order { program, form, read_only: self.read_only };
        let shared = (&self.sql.limits, &*self.sql.streams, &self.tenant);
        run::perform(shared, &mut self.stream, order).await.map_err(|failure| match failure {
            Failure::Ended(why) => Problem::new(StatusCode::BAD_REQUEST, EXPIRED, why),
            Failure::Problem(problem) => problem,
        })
    }

    /// The baton to go on with; none if the stream has ended.
    fn end(self, closes: bool) -> Result<Option<String>, Problem> {
        if closes {
            return Ok(None);
        }
        Ok(Some(self.sql.streams.park(self.stream, &self.owner)?))
    }
}

/// The code of a stream that is no longer there.
const EXPIRED: &str = "STREAM_EXPIRED";

/// Why a baton opens no stream.
fn gone(why: Gone) -> Problem {
    let (code, detail) = match why {
        Gone::Refused(Refused::Invalid) => (
            "BATON_INVALID",
            "the baton is none of this server's for this user and this caller, or from before a restart; open a new \
             stream, without a baton"
                .to_owned(),
        ),
        Gone::Refused(Refused::Used) => (
            "BATON_REUSED",
            "the baton was used before; each answer has a new one, to be used once, and a stream's requests come one \
             after the other"
                .to_owned(),
        ),
        Gone::Refused(Refused::Expired) => {
            (EXPIRED, format!("the stream was not used for {}; open a new one", humantime::format_duration(LIFETIME)))
        }
        Gone::RolledBack(idle) => (
            EXPIRED,
            format!(
                "the transaction was rolled back, since its next request did not come within {}; begin it again",
                humantime::format_duration(idle)
            ),
        ),
        Gone::Lost => (
            EXPIRED,
            "the stream is no longer there, and a transaction that was open in it is rolled back; open a new one"
                .to_owned(),
        ),
    };
    Problem::new(StatusCode::BAD_REQUEST, code, detail)
}
