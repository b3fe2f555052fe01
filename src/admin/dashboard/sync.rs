//! The reconcile: a dry run to look at, the plan that it made applied, runs of the past.

use askama::Template;
use axum::{
    http::{Method, StatusCode},
    response::Response,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    operator::{Asked, Change, Operator, Watcher},
    page::{Frame, html, see},
    sessions::Notice,
    view::{self, Fact, facts},
};
use crate::{
    admin::sync::{PastRun, PastRuns},
    http::{
        problem::Problem,
        segment::{Segment, encode, parameters},
    },
    reconcile::{
        report::{Entries, Report, RunOutcome},
        runs::{Progress, RunStatus},
    },
};

const PAGE: &str = "/admin/sync";
const ROUTE: &str = "/api/admin/sync-users";

/// Runs on a page, and names of a list that are shown at once.
const LIMIT: u32 = 50;
const NAMED: usize = 20;

/// One of the lists of a report.
struct List {
    title: &'static str,
    count: String,
    names: Vec<Name>,
    more: bool,
    /// What to know of it.
    hint: &'static str,
    bad: bool,
}

struct Name {
    text: String,
    href: String,
}

/// A report as the page shows it.
struct Shown {
    outcome: &'static str,
    good: bool,
    dry_run: bool,
    error: String,
    /// Whether another dry run may help.
    again: bool,
    facts: Vec<Fact>,
    lists: Vec<List>,
    differences: u64,
    plan: Option<Plan>,
    held: u64,
}

/// A plan that can be applied.
struct Plan {
    digest: String,
    forced: bool,
    /// Users that it deletes, which are typed to confirm.
    deletes: u64,
    changes: u64,
}

/// A run under way.
struct Running {
    phase: &'static str,
    done: u64,
    total: u64,
    numbers: String,
}

struct Line {
    href: String,
    run: String,
    started: String,
    finished: String,
    outcome: String,
    good: bool,
    numbers: [u64; 6],
}

#[derive(Template)]
#[template(path = "sync.html")]
struct Page {
    frame: Frame,
    running: Option<String>,
    lines: Vec<Line>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "sync_run.html")]
struct One {
    frame: Frame,
    run: String,
    href: String,
    running: Option<Running>,
    shown: Option<Shown>,
    lost: bool,
}

#[derive(Template)]
#[template(path = "sync_progress.html")]
struct ProgressPart {
    running: Option<Running>,
}

/// Where the list of runs begins.
#[derive(Deserialize)]
pub(super) struct Wanted {
    before: Option<i64>,
}

/// What the route tells of the run that is under way.
#[derive(Deserialize)]
struct Looked {
    running: Option<Under>,
}

#[derive(Deserialize)]
struct Under {
    run: String,
}

/// `GET /admin/sync`.
pub(super) async fn page(operator: Operator, Asked(wanted): Asked<Wanted>) -> Result<Response, Problem> {
    let looked: Looked = operator.get(ROUTE).await?;
    let before = wanted.before.map_or(String::new(), |before| format!("&before={before}"));
    let past: PastRuns = operator.get(&format!("{ROUTE}/runs?limit={LIMIT}{before}")).await?;
    let page = Page {
        frame: operator.frame("Reconcile", PAGE),
        running: looked.running.map(|under| format!("{PAGE}/{}", encode(&under.run))),
        lines: past.runs.into_iter().map(line).collect(),
        next: past.next_before.map(|before| format!("{PAGE}?before={before}")),
    };
    Ok(html(StatusCode::OK, &page))
}

fn line(of: PastRun) -> Line {
    let outcome = of.outcome.unwrap_or_else(|| if of.finished.is_none() { "not ended" } else { "" }.to_owned());
    Line {
        href: format!("{PAGE}/{}", encode(&of.run)),
        run: view::cell(&of.run),
        started: view::time(of.started),
        finished: view::time_or(of.finished, ""),
        good: outcome == "done",
        outcome: view::cell(&outcome),
        numbers: [of.created, of.updated, of.restored, of.deleted, of.held, of.errors],
    }
}

/// What became of a run. Other routes are below the same path.
async fn status_of(operator: &Operator, run: &str) -> Result<RunStatus, Problem> {
    match run.starts_with("run_") {
        true => operator.get(&format!("{ROUTE}/{}", encode(run))).await,
        false => Err(Problem::no_route()),
    }
}

/// `GET /admin/sync/{run}`.
pub(super) async fn one(operator: Operator, Segment(run): Segment) -> Result<Response, Problem> {
    let status = status_of(&operator, &run).await?;
    let (mut running, mut ended, mut lost) = (None, None, false);
    match status {
        RunStatus::Running { progress } => running = Some(under_way(progress)),
        RunStatus::Ended { report } => ended = Some(shown(&report)),
        RunStatus::Lost => lost = true,
    }
    let page = One {
        frame: operator.frame("Reconcile", PAGE),
        href: format!("{PAGE}/{}", encode(&run)),
        run: view::cell(&run),
        running,
        shown: ended,
        lost,
    };
    Ok(html(StatusCode::OK, &page))
}

/// `GET /admin/sync/{run}/progress`: the part of the page that a script replaces.
pub(super) async fn progress(Watcher(operator): Watcher, Segment(run): Segment) -> Result<Response, Problem> {
    let status = status_of(&operator, &run).await?;
    let running = match status {
        RunStatus::Running { progress } => Some(under_way(progress)),
        _ => None,
    };
    Ok(html(StatusCode::OK, &ProgressPart { running }))
}

fn under_way(Progress { phase, done, total }: Progress) -> Running {
    Running {
        phase: phase.as_str(),
        done,
        total: total.max(done).max(1),
        numbers: format!("{} of {}", view::number(done), view::number(total.max(done))),
    }
}

/// The form that starts a dry run.
#[derive(Deserialize)]
pub(super) struct Look {
    #[serde(default)]
    force: bool,
}

/// `POST /admin/sync/look`: starts a dry run and leads to it.
pub(super) async fn look(Change { operator, form }: Change<Look>) -> Response {
    begin(&operator, &format!("dry_run=true&force={}", form.force)).await
}

/// The form that applies a plan.
#[derive(Deserialize)]
pub(super) struct Apply {
    #[serde(default)]
    run: String,
    #[serde(default)]
    plan: String,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    deletes: u64,
    /// What the operator has typed: how many are deleted, or the word and the number.
    #[serde(default)]
    confirm: String,
}

/// `POST /admin/sync/apply`.
pub(super) async fn apply(Change { operator, form }: Change<Apply>) -> Response {
    let Apply { run, plan, force, deletes, confirm } = form;
    let typed = confirm.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    if deletes > 0 && typed != deletes.to_string() && typed != format!("delete {deletes}") {
        let why = format!("Nothing was changed: what was typed is neither {deletes} nor “delete {deletes}”.");
        return operator.then(&format!("{PAGE}/{}", encode(&run)), Notice::failed(why));
    }
    // Without a plan the route would apply whatever it finds.
    let plan = if plan.is_empty() { "none" } else { &plan };
    begin(&operator, &format!("force={force}{}", parameters(&[("plan", plan)]))).await
}

async fn begin(operator: &Operator, query: &str) -> Response {
    let started = operator.call::<Value>(Method::POST, &format!("{ROUTE}?{query}&wait=false"), None).await;
    match started {
        Ok(answer) => see(format!("{PAGE}/{}", encode(answer["run"].as_str().unwrap_or_default()))),
        Err(problem) => operator.then(PAGE, Notice::refused(&problem)),
    }
}

fn shown(report: &Report) -> Shown {
    let ended_well = matches!(report.outcome, RunOutcome::Done | RunOutcome::Held);
    let changes: u64 =
        [&report.created, &report.updated, &report.restored, &report.deleted].iter().map(|list| list.count).sum();
    let plan = report.plan.as_ref().filter(|_| report.dry_run && ended_well && changes > 0).map(|digest| Plan {
        digest: digest.clone(),
        forced: report.forced,
        deletes: report.deleted.count,
        changes,
    });
    let stopped = report.stopped.map(|phase| format!(" (while {})", phase.as_str())).unwrap_or_default();
    Shown {
        outcome: report.outcome.as_str(),
        good: report.outcome == RunOutcome::Done && report.errors.count == 0,
        dry_run: report.dry_run,
        error: report.error.as_deref().map(|error| view::long(&format!("{error}{stopped}"))).unwrap_or_default(),
        again: !ended_well,
        facts: facts([
            ("Started", report.started.get(..19).unwrap_or(&report.started).replace('T', " ")),
            ("Took", format!("{} ms", view::number(report.duration_ms))),
            ("Users at Clerk", view::number(report.provider_count)),
            ("Listed by it", view::number(report.provider_listed)),
            ("Here before", view::number(report.local_count)),
            ("Unchanged", view::number(report.unchanged)),
            ("Limit on deletions", if report.forced { "off".to_owned() } else { String::new() }),
            ("Plan", report.plan.clone().unwrap_or_default()),
        ]),
        lists: lists(report),
        differences: report.differences(),
        plan,
        held: report.held.count,
    }
}

fn lists(report: &Report) -> Vec<List> {
    let (created, updated, restored, deleted) = match report.dry_run {
        true => ("To be created", "To be changed", "To be restored", "To be deleted"),
        false => ("Created", "Changed", "Restored", "Deleted"),
    };
    let all = [
        list(created, &report.created, "at Clerk, and not here", true, false),
        list(updated, &report.updated, "their profile at Clerk is newer", true, false),
        list(restored, &report.restored, "deleted here, and at Clerk", true, false),
        list(
            deleted,
            &report.deleted,
            "here, and not at Clerk; their files are kept until the retention ends",
            true,
            true,
        ),
        list("Held back", &report.held, "not deleted: they are more than CUBBY_SYNC_MAX_DELETE allows", true, true),
        list("Not done", &report.undone, "the run stopped before Clerk was asked for all of them", true, true),
        list("Left alone", &report.unlisted, "not listed by Clerk, but known to it", true, false),
        list("Shared addresses", &report.shared_emails, "legal; worth a look", false, false),
        list("Files of nobody", &report.orphan_files, "cubby doctor says whose they are", false, false),
        list("Ids that cannot be used", &report.unusable_ids, "", false, false),
        list("Errors", &report.errors, "the run went on", false, true),
    ];
    all.into_iter().flatten().collect()
}

fn list(title: &'static str, of: &Entries, hint: &'static str, are_ids: bool, bad: bool) -> Option<List> {
    let href = |text: &str| if are_ids { format!("/admin/tenants/{}", encode(text)) } else { String::new() };
    let names = of.named.iter().take(NAMED).map(|text| Name { href: href(text), text: view::cell(text) });
    let names: Vec<Name> = names.collect();
    (of.count > 0).then(|| List {
        title,
        count: view::number(of.count),
        more: of.count > names.len() as u64,
        names,
        hint,
        bad,
    })
}
