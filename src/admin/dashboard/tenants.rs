//! The list of tenants: search, filter, order, pages.

use askama::Template;
use axum::{http::StatusCode, response::Response};
use serde::Deserialize;

use super::{
    operator::{Asked, Operator},
    page::{Frame, html},
    view::{self, Choice},
};
use crate::{
    admin::tenants::Tenants,
    catalog::{
        model::{Counts, Profile, Row, State},
        queries::search::SHORTEST,
    },
    http::{
        problem::Problem,
        segment::{encode, parameters},
    },
};

/// Tenants on a page.
const LIMIT: u32 = 50;

/// What the form above the list says.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    q: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    sort: String,
    #[serde(default)]
    cursor: String,
}

/// A row of the list.
struct Line {
    href: String,
    id: String,
    who: String,
    state: &'static str,
    reason: String,
    size: String,
    seen: String,
    created: String,
}

#[derive(Template)]
#[template(path = "tenants.html")]
struct Page {
    frame: Frame,
    states: Vec<Choice>,
    sorts: Vec<Choice>,
    lines: Vec<Line>,
    searched: bool,
    /// Whether ids alone are searched, by their beginning.
    short: bool,
    /// The state that is asked for, as it was sent.
    state: String,
    next: Option<String>,
    /// The first page, on others.
    first: Option<String>,
}

/// `GET /admin/tenants`.
pub(super) async fn page(operator: Operator, Asked(wanted): Asked<Wanted>) -> Result<Response, Problem> {
    let Wanted { q, state, sort, cursor } = wanted;
    let q = q.trim();
    let filters = [("q", q), ("state", state.as_str()), ("sort", sort.as_str())];
    let query = parameters(&filters);
    let place = parameters(&[("cursor", &cursor)]);
    let found: Tenants = operator.get(&format!("/api/admin/tenants?limit={LIMIT}{query}{place}")).await?;
    let mut frame = operator.frame("Tenants", "/admin/tenants");
    q.clone_into(&mut frame.q);
    let next = found.next_cursor.map(|next| format!("/admin/tenants?{}", tail(&query, &next)));
    let page = Page {
        states: states(found.counts, &state),
        sorts: sorts(&sort),
        lines: found.tenants.iter().map(line).collect(),
        searched: !q.is_empty(),
        short: q.chars().count() < SHORTEST,
        state: state.clone(),
        next,
        first: (!cursor.is_empty()).then(|| format!("/admin/tenants?{}", query.trim_start_matches('&'))),
        frame,
    };
    Ok(html(StatusCode::OK, &page))
}

fn tail(query: &str, cursor: &str) -> String {
    format!("{query}&cursor={}", encode(cursor)).trim_start_matches('&').to_owned()
}

fn states(counts: Counts, chosen: &str) -> Vec<Choice> {
    let all = counts.active + counts.suspended + counts.deleted + counts.quarantined;
    let count = |state| match state {
        State::Active => counts.active,
        State::Suspended => counts.suspended,
        State::Deleted => counts.deleted,
        State::Quarantined => counts.quarantined,
    };
    let label = |name: &str, n| format!("{name} ({})", view::number(n));
    let each = State::ALL.map(|state| (state.as_str(), label(state.as_str(), count(state))));
    Choice::all([("", label("all states", all))].into_iter().chain(each), chosen)
}

fn sorts(chosen: &str) -> Vec<Choice> {
    let all = [("", "by id"), ("created", "newest first"), ("seen", "last used first"), ("size", "largest first")];
    Choice::all(all.map(|(value, label)| (value, label.to_owned())), if chosen == "id" { "" } else { chosen })
}

/// What a tenant is called, as far as is known.
pub(super) fn who(profile: &Profile) -> String {
    let names = [profile.first_name.as_deref(), profile.last_name.as_deref()];
    let name = names.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let parts = [name.as_str(), profile.email.as_deref().unwrap_or_default()];
    view::cell(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "))
}

fn line(row: &Row) -> Line {
    Line {
        href: format!("/admin/tenants/{}", encode(row.id.as_str())),
        id: row.id.as_str().to_owned(),
        who: who(&row.profile),
        state: if row.purged.is_some() { "purged" } else { row.state.as_str() },
        reason: view::optional(row.reason.as_deref()),
        size: row.bytes.map(view::size).unwrap_or_default(),
        seen: view::time_or(row.last_seen, "never"),
        created: view::time(row.created),
    }
}
