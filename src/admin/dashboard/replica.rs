//! The replication: how far behind the bucket is, what it costs, whether it is whole; and backups.

use std::{sync::Arc, time::Duration};

use askama::Template;
use axum::{
    Extension, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    backups::{self, Backups, Running},
    operator::{Change, Operator, Watcher},
    page::{Frame, html},
    seat::Seat,
    sessions::Notice,
    troubles::Trouble,
    verification::{Shown, Verification},
    view::{self, Fact, facts},
};
use crate::{
    http::{problem::Problem, segment::Segment},
    replica::{
        status::{ShardStatus, Status},
        traffic::Requests,
    },
};

const PAGE: &str = "/admin/replica";
const ROUTE: &str = "/api/admin/replica";

/// How far the bucket may be behind before that is a trouble, in milliseconds.
const BEHIND: u64 = 60_000;

/// How long the overview waits for what the bucket is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// The replication as the page shows it.
struct Copies {
    bucket: String,
    state: &'static str,
    tag: &'static str,
    wrong: Vec<String>,
    facts: Vec<Fact>,
    costs: Vec<Cost>,
    shards: Vec<Shard>,
}

/// What was asked of the bucket.
struct Cost {
    name: &'static str,
    minute: String,
    start: String,
}

struct Shard {
    number: u8,
    generation: u64,
    tenants: String,
    bytes: String,
    behind: String,
    stuck: bool,
}

#[derive(Template)]
#[template(path = "replica.html")]
struct Page {
    frame: Frame,
    copies: Option<Copies>,
    check: Option<Shown>,
    backups: Backups,
    running: Option<Running>,
}

/// The verification that is under way, by itself.
#[derive(Template)]
#[template(path = "replica_check.html")]
struct CheckPart {
    check: Option<Shown>,
}

/// The backup that is being made, by itself.
#[derive(Template)]
#[template(path = "replica_backup.html")]
struct BackupPart {
    running: Option<Running>,
}

pub(super) fn routes() -> Router<Seat> {
    Router::new()
        .route("/admin/replica", get(page))
        .route("/admin/replica/verifying", get(verifying))
        .route("/admin/replica/backing-up", get(backing_up))
        .route("/admin/replica/{action}", post(change))
        .layer(Extension(Arc::<Verification>::default()))
}

/// How the replication is doing; none if there is none.
async fn status_of(operator: &Operator) -> Result<Option<Status>, Problem> {
    match operator.get(ROUTE).await {
        Ok(status) => Ok(Some(status)),
        Err(problem) if problem.code == "not_replicated" => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// `GET /admin/replica`.
async fn page(operator: Operator, Extension(verification): Extension<Arc<Verification>>) -> Result<Response, Problem> {
    let mut backups = backups::look(&operator).await?;
    let page = Page {
        copies: status_of(&operator).await?.as_ref().map(copies),
        check: verification.shown(),
        running: backups.running.take(),
        backups,
        frame: operator.frame("Replication", PAGE),
    };
    Ok(html(StatusCode::OK, &page))
}

/// `GET /admin/replica/verifying`: the part of the page that a script replaces.
async fn verifying(Watcher(_): Watcher, Extension(verification): Extension<Arc<Verification>>) -> Response {
    html(StatusCode::OK, &CheckPart { check: verification.shown() })
}

/// `GET /admin/replica/backing-up`: likewise.
async fn backing_up(Watcher(operator): Watcher) -> Result<Response, Problem> {
    Ok(html(StatusCode::OK, &BackupPart { running: backups::look(&operator).await?.running }))
}

fn copies(status: &Status) -> Copies {
    let wrong = wrong(status);
    let (state, tag) = match (status.taken_over, wrong.is_empty()) {
        (true, _) => ("taken over", "failed"),
        (false, false) => ("behind", "failed"),
        (false, true) => ("replicating", "good"),
    };
    let users: u64 = status.shards.iter().map(|shard| shard.users).sum();
    let owner = match (status.taken_over, &status.taken_over_by) {
        (false, _) => "this server".to_owned(),
        (true, Some(by)) => view::cell(by),
        (true, None) => "another server".to_owned(),
    };
    Copies {
        bucket: view::long(&status.bucket),
        state,
        tag,
        wrong,
        facts: facts([
            ("Behind", age(status.behind_ms)),
            ("Answers are sent", answered(&status.mode)),
            ("The past is kept for", view::span(status.window_seconds)),
            ("Encrypted with", status.encrypted_with.as_deref().map_or("nothing".to_owned(), view::cell)),
            ("Who writes", owner),
            ("Log that waits", format!("{} of {}", view::size(status.log_bytes), view::size(status.backlog_bytes))),
            ("Tenants that wait", view::number(users)),
            ("Whole copies wanted", view::number(status.bases_wanted)),
            ("Fell out of the log", view::number(status.fallen_out)),
            (
                "Batches",
                format!("{}, and {} failed", view::number(status.batches), view::number(status.failed_batches)),
            ),
        ]),
        costs: costs(&status.last_minute, &status.since_start),
        shards: status.shards.iter().map(shard).collect(),
    }
}

/// What an operator should look after.
fn wrong(status: &Status) -> Vec<String> {
    let mut all = Vec::new();
    if status.taken_over {
        let by = status.taken_over_by.as_deref().map(|by| format!(": {}", view::cell(by))).unwrap_or_default();
        all.push(format!(
            "Another server has taken over the bucket{by}. Nothing is written here any more: send requests there, and stop \
             this one."
        ));
        return all;
    }
    let stuck = status.shards.iter().filter(|shard| shard.stuck).count();
    if stuck > 0 {
        let of = status.shards.len();
        all.push(format!("The bucket does not take what is written to {stuck} of {of} shards: the log says why."));
    }
    if status.behind_ms > BEHIND {
        all.push(format!("The bucket is {} behind.", age(status.behind_ms)));
    }
    all
}

/// When answers are sent, in words.
fn answered(mode: &str) -> String {
    match mode {
        "async" => "at once (async)".to_owned(),
        "sync" => "when the bucket has the write (sync)".to_owned(),
        bound => format!("while the bucket is not further behind ({})", view::cell(bound)),
    }
}

/// A time span of milliseconds.
fn age(millis: u64) -> String {
    match millis {
        0 => "0 s".to_owned(),
        1..1000 => format!("{millis} ms"),
        _ => view::span(millis / 1000),
    }
}

fn costs(minute: &Requests, start: &Requests) -> Vec<Cost> {
    let of = |name, count: fn(&Requests) -> u64, show: fn(u64) -> String| Cost {
        name,
        minute: show(count(minute)),
        start: show(count(start)),
    };
    vec![
        of("Objects and parts written", |all| all.puts, view::number),
        of("Objects read, or looked at", |all| all.gets, view::number),
        of("Pages of lists", |all| all.lists, view::number),
        of("Objects deleted", |all| all.deletes, view::number),
        of("All requests", |all| all.requests, view::number),
        of("Requests that failed", |all| all.failures, view::number),
        of("Written", |all| all.bytes_out, view::size),
        of("Read", |all| all.bytes_in, view::size),
    ]
}

fn shard(of: &ShardStatus) -> Shard {
    Shard {
        number: of.number,
        generation: of.generation,
        tenants: view::number(of.users),
        bytes: view::size(of.bytes),
        behind: age(of.behind_ms),
        stuck: of.stuck,
    }
}

/// What is wrong with the copies elsewhere, for the overview.
pub(super) async fn troubles(operator: &Operator) -> Vec<Trouble> {
    let mut all = Vec::new();
    if operator.seat.app.replica().is_some() {
        let unknown = |why: String| vec![format!("How the replication stands is not known: {why}")];
        all = match tokio::time::timeout(PATIENCE, status_of(operator)).await {
            Ok(Ok(status)) => status.as_ref().map(wrong).unwrap_or_default(),
            Ok(Err(problem)) => unknown(view::cell(&problem.detail)),
            Err(_) => unknown("the bucket does not answer".to_owned()),
        };
    }
    all.extend(backups::trouble(operator).await);
    all.into_iter().map(|what| Trouble { what, href: PAGE, action: "Show the replication" }).collect()
}

/// What the forms have.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    sample: String,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    to: String,
    #[serde(default)]
    run: String,
}

/// `POST /admin/replica/{action}`.
async fn change(
    Extension(verification): Extension<Arc<Verification>>,
    Segment(action): Segment,
    Change { operator, form }: Change<Fields>,
) -> Response {
    let notice = match action.as_str() {
        "verify" => match verification.start(&operator, &chosen(&form)).await {
            Ok(()) => Notice::done("Tenants are restored to temporary files, and compared."),
            Err(problem) => Notice::failed(format!("Nothing is compared: {}", view::long(&problem.detail))),
        },
        "verify-stop" => match verification.stop(operator.seat.app.clock().now()) {
            true => Notice::done("It compares no further tenant."),
            false => Notice::failed("It was not stopped: it is over already."),
        },
        "back-up" => backups::start(&operator, &form.to).await,
        "back-up-stop" => backups::stop(&operator, &form.run).await,
        _ => return Problem::no_route().into_response(),
    };
    operator.then(PAGE, notice)
}

/// Whom to compare.
fn chosen(form: &Fields) -> Value {
    match (form.all, form.sample.trim()) {
        (true, _) => json!({"all": true}),
        (false, "") => json!({}),
        (false, sample) => json!({"sample": sample}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_times_are_told_in_milliseconds() {
        assert_eq!([0, 999, 1000, 61_000].map(age), ["0 s", "999 ms", "1s", "1m 1s"]);
    }
}
