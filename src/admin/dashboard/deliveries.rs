//! Webhook deliveries: the list, one with its payload, the replay.

use askama::Template;
use axum::{
    http::{Method, StatusCode},
    response::Response,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    operator::{Asked, Change, Operator},
    page::{Frame, html},
    sessions::Notice,
    view::{self, Choice, Fact, facts},
};
use crate::{
    catalog::model::{DeliveryOutcome, Recorded},
    http::{
        problem::Problem,
        segment::{Segment, encode, parameters},
    },
};

/// Deliveries on the page.
const LIMIT: u32 = 50;

/// What the route of the list answers.
#[derive(Deserialize)]
pub(super) struct Listed {
    pub(super) deliveries: Vec<Recorded>,
    next_cursor: Option<String>,
}

/// What the route of one answers.
#[derive(Deserialize)]
struct Found {
    #[serde(flatten)]
    recorded: Recorded,
    body: Option<String>,
}

/// A row of the list.
pub(super) struct Line {
    pub(super) href: String,
    pub(super) received: String,
    pub(super) kind: String,
    pub(super) user: String,
    pub(super) user_href: String,
    pub(super) outcome: &'static str,
    pub(super) attempts: u32,
    pub(super) error: String,
}

/// A delivery as a row.
pub(super) fn line(of: &Recorded) -> Line {
    let user = of.user_id.as_deref().unwrap_or_default();
    Line {
        href: format!("/admin/deliveries/{}", encode(&of.svix_id)),
        received: view::time(of.received),
        kind: view::cell(&of.r#type),
        user: view::cell(user),
        user_href: format!("/admin/tenants/{}", encode(user)),
        outcome: of.outcome.as_str(),
        attempts: of.attempts,
        error: view::optional(of.error.as_deref()),
    }
}

/// What the form above the list says.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    outcome: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    cursor: String,
}

/// The types that Cubby applies; others are ignored when they come.
const TYPES: [&str; 3] = ["user.created", "user.updated", "user.deleted"];

#[derive(Template)]
#[template(path = "deliveries.html")]
struct Page {
    frame: Frame,
    outcomes: Vec<Choice>,
    types: [&'static str; 3],
    kind: String,
    user: String,
    deliveries: Vec<Line>,
    next: Option<String>,
    /// The first page, on others.
    first: Option<String>,
}

/// `GET /admin/deliveries`.
pub(super) async fn page(operator: Operator, Asked(wanted): Asked<Wanted>) -> Result<Response, Problem> {
    let (user, kind) = (wanted.user.trim(), wanted.r#type.trim());
    let query = parameters(&[("outcome", wanted.outcome.as_str()), ("type", kind), ("user", user)]);
    let place = parameters(&[("cursor", &wanted.cursor)]);
    let found: Listed = operator.get(&format!("/api/admin/deliveries?limit={LIMIT}{query}{place}")).await?;
    let outcomes = DeliveryOutcome::ALL.map(|outcome| (outcome.as_str(), outcome.as_str().to_owned()));
    let at = |query: String| format!("/admin/deliveries?{}", query.trim_start_matches('&'));
    let page = Page {
        frame: operator.frame("Deliveries", "/admin/deliveries"),
        outcomes: Choice::all([("", "all outcomes".to_owned())].into_iter().chain(outcomes), &wanted.outcome),
        types: TYPES,
        kind: kind.to_owned(),
        user: user.to_owned(),
        next: found.next_cursor.map(|next| at(format!("{query}&cursor={}", encode(&next)))),
        first: (!wanted.cursor.is_empty()).then(|| at(query.clone())),
        deliveries: found.deliveries.iter().map(line).collect(),
    };
    Ok(html(StatusCode::OK, &page))
}

#[derive(Template)]
#[template(path = "delivery.html")]
struct One {
    frame: Frame,
    line: Line,
    facts: Vec<Fact>,
    error: String,
    /// The payload, in lines if it is JSON; none if it is no longer kept.
    body: Option<String>,
}

/// `GET /admin/deliveries/{delivery_id}`.
pub(super) async fn one(operator: Operator, Segment(id): Segment) -> Result<Response, Problem> {
    let found: Found = operator.get(&format!("/api/admin/deliveries/{}", encode(&id))).await?;
    let of = &found.recorded;
    let known = facts([
        ("Message", view::cell(&of.svix_id)),
        ("First received", view::time(of.received)),
        ("Last received", view::time(of.updated)),
        ("Attempts", of.attempts.to_string()),
        ("Took", of.duration_us.map(|us| format!("{us} µs")).unwrap_or_default()),
    ]);
    let page = One {
        frame: operator.frame(view::cell(&of.r#type), "/admin/deliveries"),
        line: line(of),
        facts: known,
        error: of.error.as_deref().map(view::long).unwrap_or_default(),
        body: found.body.map(|body| view::lines(&in_lines(body))),
    };
    Ok(html(StatusCode::OK, &page))
}

fn in_lines(body: String) -> String {
    let json: Option<Value> = serde_json::from_str(&body).ok();
    json.and_then(|json| serde_json::to_string_pretty(&json).ok()).unwrap_or(body)
}

/// The form of the replay.
#[derive(Deserialize)]
pub(super) struct Replay {
    #[serde(default)]
    confirm: bool,
}

/// `POST /admin/deliveries/{delivery_id}/replay`.
pub(super) async fn replay(Segment(id): Segment, Change { operator, form }: Change<Replay>) -> Response {
    let page = format!("/admin/deliveries/{}", encode(&id));
    if !form.confirm {
        let why = "It was not applied again: tick the box to confirm.";
        return operator.then(&page, Notice::failed(why));
    }
    let route = format!("/api/admin/deliveries/{}/replay", encode(&id));
    let notice = match operator.call::<Value>(Method::POST, &route, None).await {
        Ok(answer) => match (&answer["status"], answer["error"].as_str()) {
            (_, Some(why)) => Notice::failed(format!("It was applied again and is rejected: {}", view::long(why))),
            (Value::String(status), None) => Notice::done(format!("It was applied again: {}", view::cell(status))),
            _ => Notice::done("It was applied again."),
        },
        Err(problem) => Notice::failed(format!("It was not applied again: {}", view::long(&problem.detail))),
    };
    operator.then(&page, notice)
}
