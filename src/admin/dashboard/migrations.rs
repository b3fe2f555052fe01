//! Migrations: which schema how many tenants have, a run as it goes on, and its start, pause and resumption.

use askama::Template;
use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    operator::{Change, Operator, Watcher},
    page::{Frame, html},
    sessions::Notice,
    view::{self, Fact, facts},
};
use crate::{
    admin::migrations::{Overview, Share},
    http::{
        problem::Problem,
        segment::{Segment, encode, parameters},
    },
    rollout::report::{Report, Status},
};

/// Tenants that have one schema.
struct ShareLine {
    schema: String,
    is_newest: bool,
    tenants: u64,
    number: String,
    quarantined: String,
}

/// Tenants that failed for one reason.
struct FailureLine {
    error: String,
    count: String,
    tenants: Vec<TenantLink>,
    more: bool,
}

struct TenantLink {
    id: String,
    href: String,
}

/// The newest run.
struct Run {
    name: String,
    status: &'static str,
    phase: &'static str,
    schema: i32,
    reason: String,
    handled: u64,
    total: u64,
    words: String,
    facts: Vec<Fact>,
    failures: Vec<FailureLine>,
}

/// How things stand, which the page asks for again while a run is under way.
struct Progress {
    newest: i32,
    tenants: u64,
    /// How many of them are behind or quarantined.
    behind: String,
    shares: Vec<ShareLine>,
    run: Option<Run>,
    under_way: bool,
}

#[derive(Template)]
#[template(path = "migrations.html")]
struct Page {
    frame: Frame,
    progress: Progress,
    resumable: bool,
}

/// The part of the page that changes, by itself.
#[derive(Template)]
#[template(path = "migrations_progress.html")]
struct Part {
    progress: Progress,
}

/// `GET /admin/migrations`.
pub(super) async fn page(operator: Operator) -> Result<Response, Problem> {
    let found: Overview = operator.get("/api/admin/migrations").await?;
    let resumable = found.run.as_ref().is_some_and(|run| {
        run.schema == found.schema && matches!(run.status, Status::Paused | Status::Stopped | Status::Interrupted)
    });
    let frame = operator.frame("Migrations", "/admin/migrations");
    Ok(html(StatusCode::OK, &Page { frame, progress: progress(&found), resumable }))
}

/// `GET /admin/migrations/progress`: what the page replaces a part of itself with.
pub(super) async fn part(Watcher(operator): Watcher) -> Result<Response, Problem> {
    let found: Overview = operator.get("/api/admin/migrations").await?;
    Ok(html(StatusCode::OK, &Part { progress: progress(&found) }))
}

fn progress(found: &Overview) -> Progress {
    let count =
        |some: fn(&Share, i32) -> u64| -> u64 { found.schemas.iter().map(|share| some(share, found.schema)).sum() };
    let behind: u64 = count(|share, newest| match share.schema == Some(newest) {
        true => share.quarantined,
        false => share.users,
    });
    Progress {
        newest: found.schema,
        tenants: count(|share, _| share.users),
        behind: view::number(behind),
        shares: found.schemas.iter().map(|share| share_line(share, found.schema)).collect(),
        under_way: found.run.as_ref().is_some_and(|run| run.status.is_under_way()),
        run: found.run.as_ref().map(run),
    }
}

fn share_line(share: &Share, newest: i32) -> ShareLine {
    ShareLine {
        schema: share.schema.map_or("unknown".to_owned(), |schema| schema.to_string()),
        is_newest: share.schema == Some(newest),
        tenants: share.users,
        number: view::number(share.users),
        quarantined: view::number(share.quarantined),
    }
}

fn run(report: &Report) -> Run {
    let time = |at: &str| view::cell(&at.get(..19).unwrap_or(at).replace('T', " "));
    let left = report.seconds_left.filter(|_| report.status.is_under_way());
    let left = left.map_or(String::new(), |seconds| format!(", about {} left", view::span(seconds)));
    let words = format!("{} of {}{left}", view::number(report.handled), view::number(report.total));
    let options = &report.options;
    let counted = |count: u64| if count == 0 { String::new() } else { view::number(count) };
    Run {
        name: view::cell(&report.run),
        status: report.status.as_str(),
        phase: report.phase.as_str(),
        schema: report.schema,
        reason: report.reason.as_deref().map(view::reason).unwrap_or_default(),
        handled: report.handled,
        total: report.total.max(1),
        words,
        facts: facts([
            ("Migrated", view::number(report.migrated)),
            ("Failed", view::number(report.failed)),
            ("Had it already", counted(report.already_current)),
            ("Deleted meanwhile", counted(report.gone)),
            ("Still quarantined", counted(report.still_quarantined)),
            ("Canary", format!("{} of {}", report.canaries, options.canary)),
            ("At once", options.jobs.to_string()),
            ("Failures allowed", options.max_failures.to_string()),
            ("Started (UTC)", time(&report.started)),
            ("Ended (UTC)", report.ended.as_deref().map(time).unwrap_or_default()),
        ]),
        failures: report
            .failures
            .iter()
            .map(|failure| FailureLine {
                error: view::reason(&failure.error),
                count: view::number(failure.count),
                more: u64::try_from(failure.tenants.len()).is_ok_and(|named| named < failure.count),
                tenants: failure.tenants.iter().map(|id| link(id)).collect(),
            })
            .collect(),
    }
}

fn link(id: &str) -> TenantLink {
    TenantLink { id: view::cell(id), href: format!("/admin/tenants/{}", encode(id)) }
}

/// What the forms have.
#[derive(Deserialize)]
pub(super) struct Fields {
    #[serde(default)]
    canary: String,
    #[serde(default)]
    jobs: String,
    #[serde(default)]
    max_failures: String,
    #[serde(default)]
    run: String,
}

/// `POST /admin/migrations/{action}`: starts, pauses or resumes a run by the route of that.
pub(super) async fn change(Segment(action): Segment, Change { operator, form }: Change<Fields>) -> Response {
    let run = encode(form.run.trim());
    let path = match action.as_str() {
        "start" => {
            let pairs = [
                ("canary", form.canary.trim()),
                ("jobs", form.jobs.trim()),
                ("max_failures", form.max_failures.trim()),
            ];
            format!("/api/admin/migrations?{}", parameters(&pairs).trim_start_matches('&'))
        }
        "pause" | "resume" => format!("/api/admin/migrations/{run}/{action}"),
        _ => return Problem::no_route().into_response(),
    };
    let notice = match operator.call::<Report>(Method::POST, &path, None).await {
        Ok(report) => Notice::done(format!("The migration is {}.", report.status.as_str())),
        Err(problem) => Notice::refused(&problem),
    };
    operator.then("/admin/migrations", notice)
}
