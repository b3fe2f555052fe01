//! Backups, as the page of the replication shows them: the one that is being made, what came of others, and the form.

use axum::http::Method;
use serde_json::json;

use super::{operator::Operator, sessions::Notice, view};
use crate::{
    admin::backups::Overview,
    backup::report::{Report, Status},
    http::{problem::Problem, segment::encode},
};

const ROUTE: &str = "/api/admin/backups";

/// Backups as the page shows them.
pub(super) struct Backups {
    /// Where the server's go; empty if it makes none by itself.
    pub(super) to: String,
    pub(super) every: String,
    pub(super) running: Option<Running>,
    pub(super) lines: Vec<Line>,
}

/// The one that is being made.
pub(super) struct Running {
    pub(super) run: String,
    pub(super) status: &'static str,
    pub(super) stopping: bool,
    pub(super) words: String,
    pub(super) to: String,
    pub(super) by: String,
    pub(super) handled: u64,
    pub(super) total: u64,
}

/// One that is over.
pub(super) struct Line {
    pub(super) started: String,
    pub(super) ended: String,
    pub(super) run: String,
    pub(super) status: &'static str,
    pub(super) to: String,
    pub(super) tenants: String,
    pub(super) copied: String,
    pub(super) missing: u64,
    pub(super) bytes: String,
    pub(super) why: String,
    pub(super) some_missing: Vec<Missing>,
}

/// A tenant whose database is not in one.
pub(super) struct Missing {
    pub(super) id: String,
    pub(super) href: String,
    pub(super) why: String,
}

/// What there is.
pub(super) async fn look(operator: &Operator) -> Result<Backups, Problem> {
    let told: Overview = operator.get(ROUTE).await?;
    Ok(Backups {
        to: told.to.as_deref().map(view::long).unwrap_or_default(),
        every: view::span(operator.seat.app.config().replicate.backup_every.as_secs()),
        running: told.run.as_ref().map(running),
        lines: told.last.iter().map(line).collect(),
    })
}

/// What is wrong with the newest one.
pub(super) async fn trouble(operator: &Operator) -> Option<String> {
    let told: Overview = operator.get(ROUTE).await.ok()?;
    let newest = told.last.first().filter(|report| report.status == Status::Failed)?;
    let why = newest.why.as_deref().map(view::cell).unwrap_or_default();
    Some(format!("The newest backup is not whole: {why}"))
}

fn running(report: &Report) -> Running {
    let left = report.seconds_left.map_or(String::new(), |left| format!(", about {} left", view::span(left)));
    let read = report.bytes_per_second.map_or(String::new(), |bytes| format!(", {} a second read", view::size(bytes)));
    Running {
        run: view::cell(&report.run),
        status: report.status.as_str(),
        stopping: report.status == Status::Stopping,
        words: format!(
            "{}: {} of {}{read}{left}",
            report.phase.as_str(),
            view::number(report.handled),
            view::number(report.total)
        ),
        to: view::cell(&report.to),
        by: view::cell(&report.by),
        handled: report.handled,
        total: report.total.max(report.handled).max(1),
    }
}

fn line(report: &Report) -> Line {
    let missing = |of: &crate::backup::report::Missing| Missing {
        id: view::cell(&of.id),
        href: format!("/admin/tenants/{}", encode(&of.id)),
        why: view::reason(&of.why),
    };
    Line {
        started: clock(&report.started),
        ended: report.ended.as_deref().map(clock).unwrap_or_default(),
        run: view::cell(&report.run),
        status: report.status.as_str(),
        to: view::cell(&report.to),
        tenants: view::number(report.handled),
        copied: view::number(report.uploaded),
        missing: report.missing,
        bytes: view::size(report.bytes),
        why: report.why.as_deref().map(view::reason).unwrap_or_default(),
        some_missing: report.some_missing.iter().map(missing).collect(),
    }
}

/// A time of a report, to the second.
fn clock(text: &str) -> String {
    view::cell(&text.get(..19).unwrap_or(text).replace('T', " "))
}

/// Makes one, at a place of its own if one is named.
pub(super) async fn start(operator: &Operator, to: &str) -> Notice {
    let order = match to.trim() {
        "" => json!({}),
        to => json!({"to": to}),
    };
    match operator.call::<Report>(Method::POST, ROUTE, Some(order)).await {
        Ok(report) => Notice::done(format!("A backup is being made to {}.", view::cell(&report.to))),
        Err(problem) => Notice::failed(format!("No backup was begun: {}", view::long(&problem.detail))),
    }
}

/// Stops one.
pub(super) async fn stop(operator: &Operator, run: &str) -> Notice {
    match operator.call::<Report>(Method::DELETE, &format!("{ROUTE}/{}", encode(run)), None).await {
        Ok(report) => Notice::done(format!(
            "The backup is {}. What it has copied is used by the next one to the same place.",
            report.status.as_str()
        )),
        Err(problem) => Notice::failed(format!("It was not stopped: {}", view::long(&problem.detail))),
    }
}
