//! A tenant's past: the moments that the bucket has, a look at one, and a tenant put back to it or begun with it.

use askama::Template;
use axum::{
    Router,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    operator::{Asked, Change, Operator},
    page::{Frame, html},
    seat::Seat,
    sessions::Notice,
    view,
};
use crate::{
    admin::replica::History,
    clock::{Millis, rfc3339},
    http::{
        problem::Problem,
        segment::{Segment, encode, parameters},
    },
    replica::{
        history::{Moment, What},
        moments::{Forked, Rewound, TableRows},
    },
};

/// Moments on a page.
const LIMIT: u32 = 50;

/// What each of these pages has.
struct Head {
    id: String,
    /// The tenant's page, and that of its moments.
    tenant: String,
    moments: String,
}

impl Head {
    fn of(id: &str) -> Self {
        let tenant = format!("/admin/tenants/{}", encode(id));
        Self { id: view::cell(id), moments: format!("{tenant}/moments"), tenant }
    }

    fn frame(&self, operator: &Operator) -> Frame {
        operator.frame(format!("{} · moments", self.id), "/admin/tenants")
    }
}

struct Line {
    at: String,
    what: &'static str,
    size: String,
    /// The page with this moment in its forms; empty if nobody can be put back to it.
    href: String,
}

#[derive(Template)]
#[template(path = "moments.html")]
struct Page {
    frame: Frame,
    head: Head,
    /// Whether anything is copied to a bucket.
    copied: bool,
    lines: Vec<Line>,
    /// The moment in the forms.
    at: String,
    next: Option<String>,
    /// The first page, on others.
    begin: Option<String>,
}

/// What a tenant would be put back to.
#[derive(Template)]
#[template(path = "moments_look.html")]
struct LookPage {
    frame: Frame,
    head: Head,
    asked: String,
    /// The same for the form.
    at: String,
    newest: String,
    size: String,
    tables: Vec<Table>,
}

struct Table {
    name: String,
    now: String,
    then: String,
    changes: bool,
}

pub(super) fn routes() -> Router<Seat> {
    Router::new()
        .route("/admin/tenants/{user_id}/moments", get(page))
        .route("/admin/tenants/{user_id}/moments/{action}", post(change))
}

/// Where the list begins, and which moment was chosen.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    before: String,
    #[serde(default)]
    at: String,
}

/// `GET /admin/tenants/{user_id}/moments`.
async fn page(operator: Operator, Segment(id): Segment, Asked(wanted): Asked<Wanted>) -> Result<Response, Problem> {
    let head = Head::of(&id);
    let place = parameters(&[("before", wanted.before.as_str())]);
    let found = operator.get::<History>(&format!("/api{}/history?limit={LIMIT}{place}", head.tenant)).await;
    let found = match found {
        Ok(found) => Some(found),
        Err(problem) if problem.code == "not_replicated" => None,
        Err(problem) => return Err(problem),
    };
    let page = Page {
        frame: head.frame(&operator),
        copied: found.is_some(),
        at: view::cell(&wanted.at),
        next: found
            .as_ref()
            .and_then(|found| found.next_before.as_ref())
            .map(|before| format!("{}?before={}", head.moments, encode(before))),
        begin: (!wanted.before.is_empty()).then(|| head.moments.clone()),
        lines: found.map_or_else(Vec::new, |found| found.moments.iter().map(|moment| line(&head, moment)).collect()),
        head,
    };
    Ok(html(StatusCode::OK, &page))
}

/// A time, to the millisecond: there may be several moments in a second.
fn exactly(at: Millis) -> String {
    rfc3339(at).to_string()[..23].replace('T', " ")
}

fn line(head: &Head, moment: &Moment) -> Line {
    let (what, is_a_state) = match moment.kind {
        What::Commits => ("commits", true),
        What::Whole => ("commits, with all of the database", true),
        What::Base => ("whole copy", true),
        What::End => ("end: deleted, replaced, or not copied for a while", false),
        What::Damaged => ("damaged", false),
    };
    let at = rfc3339(moment.at).to_string();
    Line {
        at: exactly(moment.at),
        what,
        size: view::size(moment.bytes),
        href: if is_a_state { format!("{}?at={}", head.moments, encode(&at)) } else { String::new() },
    }
}

/// A form's address.
#[derive(Deserialize)]
struct Target {
    user_id: String,
    action: String,
}

/// What the forms have.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    at: String,
    #[serde(default)]
    to: String,
    /// The id, typed by the operator.
    #[serde(default)]
    confirm: String,
}

/// `POST /admin/tenants/{user_id}/moments/{action}`.
async fn change(Segment(target): Segment<Target>, Change { operator, form }: Change<Fields>) -> Response {
    let Target { user_id: id, action } = target;
    match action.as_str() {
        "look" => look(&operator, &id, form.at.trim()).await,
        "rewind" => rewind(&operator, &id, &form).await,
        "fork" => fork(&operator, &id, &form).await,
        _ => Problem::no_route().into_response(),
    }
}

/// Shows what a tenant would be put back to. Nothing is changed.
async fn look(operator: &Operator, id: &str, at: &str) -> Response {
    let head = Head::of(id);
    let draft = json!({"at": at, "dry_run": true});
    match operator.call::<Rewound>(Method::POST, &format!("/api{}/rewind", head.tenant), Some(draft)).await {
        Ok(found) => html(StatusCode::OK, &looked(operator, head, &found)),
        Err(problem) => {
            let back = parameters(&[("at", at)]);
            let back = format!("{}?{}", head.moments, back.trim_start_matches('&'));
            let why = view::long(problem.detail.trim_end_matches('.'));
            operator.then(&back, Notice::failed(format!("Nothing was changed: {why}.")))
        }
    }
}

fn looked(operator: &Operator, head: Head, found: &Rewound) -> LookPage {
    LookPage {
        frame: head.frame(operator),
        asked: exactly(found.asked),
        at: rfc3339(found.asked).to_string(),
        newest: exactly(found.at),
        size: view::size(found.bytes),
        tables: found.tables.iter().map(table).collect(),
        head,
    }
}

fn table(of: &TableRows) -> Table {
    let shown = |rows: Option<u64>, none: &str| rows.map_or_else(|| none.to_owned(), view::number);
    Table {
        name: view::cell(&of.table),
        now: shown(of.now, "not known"),
        then: shown(of.then, "no such table"),
        changes: of.now != of.then,
    }
}

/// Puts a tenant back.
async fn rewind(operator: &Operator, id: &str, form: &Fields) -> Response {
    let head = Head::of(id);
    if form.confirm.trim() != id {
        let why = "Nothing was changed: the id that was typed is not this tenant's.";
        return operator.then(&head.moments, Notice::failed(why));
    }
    let draft = json!({"at": form.at.trim(), "dry_run": false});
    match operator.call::<Rewound>(Method::POST, &format!("/api{}/rewind", head.tenant), Some(draft)).await {
        Ok(done) => {
            let kept = done
                .replaced
                .map(|path| format!(" What there was is in {} until its retention ends.", view::long(&path)));
            let text = format!(
                "The tenant is put back to {}: the last commits before it were made at {}.{}",
                exactly(done.asked),
                exactly(done.at),
                kept.unwrap_or_default()
            );
            operator.then(&head.tenant, Notice::done(text))
        }
        Err(problem) => operator.then(&head.moments, Notice::refused(&problem)),
    }
}

/// Begins another tenant with what this one has, or had.
async fn fork(operator: &Operator, id: &str, form: &Fields) -> Response {
    let head = Head::of(id);
    let at = Some(form.at.trim()).filter(|at| !at.is_empty());
    let draft = json!({"to": form.to.trim(), "at": at});
    match operator.call::<Forked>(Method::POST, &format!("/api{}/fork", head.tenant), Some(draft)).await {
        Ok(done) => {
            let text = format!("It was begun with what {} had after its commits at {}.", head.id, exactly(done.at));
            let new = format!("/admin/tenants/{}", encode(done.tenant.id.as_str()));
            operator.then(&new, Notice::done(text))
        }
        Err(problem) => operator.then(&head.moments, Notice::refused(&problem)),
    }
}
