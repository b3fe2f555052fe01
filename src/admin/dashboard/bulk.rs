//! One change of many tenants: whom it is about, the typed confirmation, how far it is.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    operator::{Asked, Change, Operator, Watcher},
    page::{Frame, html},
    sessions::Notice,
    view,
};
use crate::{
    admin::bulk::Newest,
    bulk::report::{Action, Preview, Report},
    catalog::{model::State, queries::search::Sought},
    http::{
        problem::Problem,
        segment::{encode, parameters},
    },
};

const PAGE: &str = "/admin/bulk";
const ROUTE: &str = "/api/admin/bulk";

/// How a chosen tenant's checkbox is named, before its id: a form has each name once.
const CHOSEN: &str = "tenant.";

/// A run as the page shows it.
struct Shown {
    run: String,
    title: String,
    status: &'static str,
    tag: &'static str,
    running: bool,
    stopping: bool,
    total: u64,
    handled: u64,
    done: String,
    numbers: String,
    by: String,
    times: String,
    why: String,
    reason: String,
    failures: Vec<Failure>,
    /// Failures that are not named.
    more: u64,
}

struct Failure {
    id: String,
    href: String,
    error: String,
}

/// What is to be confirmed.
struct Asking {
    action: &'static str,
    whom: String,
    count: u64,
    as_of: i64,
    digest: String,
    some: Vec<String>,
    more: bool,
    /// How many the action cannot change, in words; empty if there are none.
    left_out: String,
    unknown: Vec<String>,
    /// The words to be typed.
    typed: String,
    suspends: bool,
    deletes: bool,
    /// What was typed before, if the question is asked again.
    reason: String,
    ids: String,
    state: String,
    q: String,
}

#[derive(Template)]
#[template(path = "bulk.html")]
struct Page {
    frame: Frame,
    asking: Option<Asking>,
    shown: Option<Shown>,
}

#[derive(Template)]
#[template(path = "bulk_progress.html")]
struct Progress {
    shown: Option<Shown>,
}

/// What the form of the list says, or a link.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    action: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    q: String,
}

async fn newest(operator: &Operator) -> Result<Option<Shown>, Problem> {
    Ok(operator.get::<Newest>(ROUTE).await?.run.map(|report| shown(&report)))
}

/// `GET /admin/bulk`: with an action, asks to confirm it for all that match.
pub(super) async fn page(operator: Operator, Asked(wanted): Asked<Wanted>) -> Result<Response, Problem> {
    let asking = match wanted.action.as_str() {
        "" => None,
        _ => Some(ask(&operator, &wanted, Vec::new()).await?),
    };
    answer(&operator, asking, None).await
}

/// `GET /admin/bulk/progress`: the part of the page that a script replaces.
pub(super) async fn progress(Watcher(operator): Watcher) -> Result<Response, Problem> {
    Ok(html(StatusCode::OK, &Progress { shown: newest(&operator).await? }))
}

/// `POST /admin/bulk/confirm`: asks to confirm a change of those that are chosen in the list, or of all that match.
pub(super) async fn confirm(change: Change<BTreeMap<String, String>>) -> Result<Response, Response> {
    let Change { operator, mut form } = change;
    let mut field = |name: &str| form.remove(name).unwrap_or_default();
    let wanted = Wanted { action: field("action"), state: field("state"), q: field("q") };
    let all = field("whom") == "all";
    let ids: Vec<String> = form.keys().filter_map(|name| name.strip_prefix(CHOSEN)).map(str::to_owned).collect();
    if ids.is_empty() && !all {
        let back = parameters(&[("state", wanted.state.as_str()), ("q", wanted.q.as_str())]);
        let back = format!("/admin/tenants?{}", back.trim_start_matches('&'));
        return Ok(
            operator.then(&back, Notice::failed("Nobody is chosen. Tick some tenants, or choose all that match."))
        );
    }
    let ids = if all { Vec::new() } else { ids };
    let asking = ask(&operator, &wanted, ids).await.map_err(IntoResponse::into_response)?;
    answer(&operator, Some(asking), None).await.map_err(IntoResponse::into_response)
}

async fn answer(operator: &Operator, asking: Option<Asking>, notice: Option<Notice>) -> Result<Response, Problem> {
    let shown = newest(operator).await?;
    let mut frame = operator.frame("Many tenants", PAGE);
    if notice.is_some() {
        frame.notice = notice;
    }
    Ok(html(StatusCode::OK, &Page { frame, asking, shown }))
}

/// All of a state and a text, in words.
fn described(state: &str, q: &str) -> String {
    let text = Sought::new(q).map(|sought| match sought {
        Sought::Beginning(_) => format!("whose id begins with “{}”", view::cell(q.trim())),
        Sought::Anywhere(_) => format!("whose id, address or name has “{}”", view::cell(q.trim())),
    });
    let state = (!state.is_empty()).then(|| format!("that are {}", view::cell(state)));
    let parts: Vec<String> = state.into_iter().chain(text).collect();
    if parts.is_empty() { "all tenants".to_owned() } else { format!("all {}", parts.join(" and ")) }
}

/// What the route is told of whom a change is about.
fn whom(ids: &[String], state: &str, q: &str) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    match ids {
        [] => json!({"filter": {"state": some(state), "q": some(q)}}),
        ids => json!({"ids": ids}),
    }
}

async fn ask(operator: &Operator, wanted: &Wanted, ids: Vec<String>) -> Result<Asking, Problem> {
    let Wanted { action, state, q } = wanted;
    let mut draft = whom(&ids, state, q.trim());
    draft["action"] = json!(action);
    let preview: Preview = operator.call(Method::POST, &format!("{ROUTE}?dry_run=true"), Some(draft)).await?;
    let action = preview.action.as_str();
    let whom = if ids.is_empty() { described(state, q) } else { "those that were chosen".to_owned() };
    let left_out = match (preview.left_out, ids.is_empty()) {
        (0, _) => String::new(),
        (n, true) => format!("{} more match, whose state this does not change: they are left out.", view::number(n)),
        (n, false) => format!("{} of them, whose state this does not change, are passed over.", view::number(n)),
    };
    Ok(Asking {
        action,
        whom,
        more: preview.count > preview.some.len() as u64,
        some: preview.some,
        unknown: preview.unknown,
        typed: format!("{action} {}", preview.count),
        suspends: preview.action == Action::Suspend,
        deletes: preview.action == Action::Delete,
        count: preview.count,
        as_of: preview.as_of,
        digest: preview.digest,
        left_out,
        reason: String::new(),
        ids: ids.join(" "),
        state: state.clone(),
        q: q.trim().to_owned(),
    })
}

/// The form of the confirmation.
#[derive(Deserialize)]
pub(super) struct Confirmed {
    #[serde(default)]
    action: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    ids: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    q: String,
    count: u64,
    as_of: i64,
    /// Of the question: a form without it would change others than it has shown, and again when it is sent again.
    digest: String,
    /// What the operator has typed: the number, or the action and the number.
    #[serde(default)]
    confirm: String,
}

/// `POST /admin/bulk/start`.
pub(super) async fn start(Change { operator, form }: Change<Confirmed>) -> Response {
    let Confirmed { action, reason, ids, state, q, count, as_of, digest, confirm } = form;
    let ids: Vec<String> = ids.split_whitespace().map(str::to_owned).collect();
    let typed = confirm.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    if typed != count.to_string() && typed != format!("{action} {count}") {
        let why =
            format!("Nothing was changed: what was typed is neither {count} nor “{} {count}”.", view::cell(&action));
        let again = ask_again(&operator, &Wanted { action, state, q }, ids, reason, Notice::failed(why)).await;
        return again.unwrap_or_else(IntoResponse::into_response);
    }
    let mut draft = whom(&ids, &state, &q);
    (draft["action"], draft["count"], draft["as_of"]) = (json!(action), json!(count), json!(as_of));
    draft["digest"] = json!(digest);
    if !reason.trim().is_empty() {
        draft["reason"] = json!(reason.trim());
    }
    let notice = match operator.call::<Report>(Method::POST, ROUTE, Some(draft)).await {
        Ok(report) => {
            Notice::done(format!("{} has begun: {} tenants.", title(report.action), view::number(report.total)))
        }
        // Another answer may do.
        Err(problem) if matches!(problem.code, "bulk_changed" | "bulk_grew") || is_about_reason(&problem) => {
            let wanted = Wanted { action, state, q };
            let again = ask_again(&operator, &wanted, ids, reason, Notice::refused(&problem)).await;
            return again.unwrap_or_else(IntoResponse::into_response);
        }
        Err(problem) => Notice::refused(&problem),
    };
    operator.then(PAGE, notice)
}

fn is_about_reason(problem: &Problem) -> bool {
    problem.field.as_deref() == Some("reason")
}

/// The same question as it is now, with what was ticked: no address has that.
async fn ask_again(
    operator: &Operator,
    wanted: &Wanted,
    ids: Vec<String>,
    reason: String,
    notice: Notice,
) -> Result<Response, Problem> {
    let asking = ask(operator, wanted, ids).await?;
    answer(operator, Some(Asking { reason, ..asking }), Some(notice)).await
}

/// The form of the stop.
#[derive(Deserialize)]
pub(super) struct Running {
    run: String,
}

/// `POST /admin/bulk/stop`.
pub(super) async fn stop(Change { operator, form }: Change<Running>) -> Response {
    let notice =
        match operator.call::<Newest>(Method::DELETE, &format!("{ROUTE}?run={}", encode(&form.run)), None).await {
            Ok(_) => Notice::done("It begins no further tenant. What was done stays."),
            Err(problem) => Notice::failed(format!("It was not stopped: {}", view::long(&problem.detail))),
        };
    operator.then(PAGE, notice)
}

fn title(action: Action) -> &'static str {
    match action {
        Action::Suspend => "Suspend",
        Action::Resume => "Resume",
        Action::Migrate => "Migrate",
        Action::Delete => "Delete",
    }
}

fn shown(report: &Report) -> Shown {
    let whom = report.filter.as_ref().map_or("those that were chosen".to_owned(), |filter| {
        described(filter.state.map_or("", State::as_str), filter.q.as_deref().unwrap_or_default())
    });
    let left = report.seconds_left.map_or(String::new(), |left| format!(", about {} left", view::span(left)));
    let running = report.status.is_under_way();
    Shown {
        run: report.run.clone(),
        title: format!("{}: {whom}", title(report.action)),
        status: report.status.as_str(),
        tag: match (running, report.why.is_some() || report.failed > 0) {
            (false, true) => "failed",
            _ => "good",
        },
        running,
        stopping: running && report.status.as_str() == "stopping",
        total: report.total,
        handled: report.handled,
        done: format!(
            "{} of {} handled{}",
            view::number(report.handled),
            view::number(report.total),
            if running { left.as_str() } else { "" }
        ),
        numbers: format!(
            "{} {}, {} needed nothing, {} deleted or unknown, {} failed",
            view::number(report.changed),
            report.action.past(),
            view::number(report.unchanged),
            view::number(report.gone),
            view::number(report.failed)
        ),
        by: view::cell(&report.by),
        times: match &report.ended {
            Some(ended) => format!("{} to {}", clock(&report.started), clock(ended)),
            None => format!("since {}", clock(&report.started)),
        },
        why: report.why.as_deref().map(view::long).unwrap_or_default(),
        reason: report.reason.as_deref().map(view::long).unwrap_or_default(),
        failures: report.failures.iter().map(failure).collect(),
        more: report.failed.saturating_sub(report.failures.len() as u64),
    }
}

/// A time of a report, to the second.
fn clock(text: &str) -> String {
    text.get(..19).unwrap_or(text).replace('T', " ")
}

fn failure(of: &crate::bulk::report::Failure) -> Failure {
    let href = format!("/admin/tenants/{}", encode(&of.id));
    Failure { id: of.id.clone(), href, error: view::cell(&of.error) }
}
