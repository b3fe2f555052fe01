//! One tenant: what is known, and what an operator can do.

use askama::Template;
use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    audit,
    deliveries::{self, Listed},
    operator::{Change, Operator},
    page::{Frame, html},
    sessions::Notice,
    tenants::who,
    view::{self, Fact, facts},
};
use crate::{
    admin::{audit::Trail, migrations::Migrated, tenants::OneTenant},
    catalog::model::{Row, State},
    http::{
        problem::Problem,
        segment::{Segment, encode},
    },
};

/// Deliveries and lines of the audit trail that are shown.
const RECENT: u32 = 20;

/// Which actions are offered. The routes decide what is possible; a page that is out of date is told so.
#[expect(clippy::struct_excessive_bools, reason = "one for each form of the page")]
struct Offered {
    suspend: bool,
    resume: bool,
    migrate: bool,
    delete: bool,
    restore: bool,
    purge: bool,
    revive: bool,
}

impl Offered {
    fn of(row: &Row, newest: i32) -> Self {
        let (state, purged) = (row.state, row.purged.is_some());
        let deleted = state == State::Deleted;
        Self {
            suspend: matches!(state, State::Active | State::Quarantined),
            resume: matches!(state, State::Suspended | State::Quarantined),
            migrate: !deleted && (row.schema_version != Some(newest) || state == State::Quarantined),
            delete: !deleted,
            restore: deleted && !purged,
            purge: !purged,
            revive: deleted && purged,
        }
    }
}

#[derive(Template)]
#[template(path = "tenant.html")]
struct Page {
    frame: Frame,
    id: String,
    href: String,
    who: String,
    state: &'static str,
    reason: String,
    fault: String,
    about: Vec<Fact>,
    profile: Vec<Fact>,
    metadata: String,
    offered: Offered,
    deliveries: Vec<deliveries::Line>,
    audit: Vec<audit::Line>,
    more_deliveries: String,
    more_audit: String,
}

/// `GET /admin/tenants/{user_id}`.
pub(super) async fn page(operator: Operator, Segment(id): Segment) -> Result<Response, Problem> {
    let name = encode(&id);
    let one: OneTenant = operator.get(&format!("/api/admin/tenants/{name}")).await?;
    let deliveries: Listed = operator.get(&format!("/api/admin/deliveries?user={name}&limit={RECENT}")).await?;
    let trail: Trail = operator.get(&format!("/api/admin/audit?target={name}&limit={RECENT}")).await?;
    let row = &one.row;
    let page = Page {
        frame: operator.frame(view::cell(&id), "/admin/tenants"),
        who: who(&row.profile),
        state: if row.purged.is_some() { "purged" } else { row.state.as_str() },
        reason: view::long(row.reason.as_deref().unwrap_or_default()),
        fault: row.fault.as_deref().map(view::long).unwrap_or_default(),
        about: about(&one),
        profile: profile(row),
        metadata: view::long(row.profile.provider_metadata.as_deref().unwrap_or_default()),
        offered: Offered::of(row, one.newest_schema),
        deliveries: deliveries.deliveries.iter().map(deliveries::line).collect(),
        audit: trail.audit.iter().map(audit::line).collect(),
        more_deliveries: format!("/admin/deliveries?user={name}"),
        more_audit: format!("/admin/audit?target={name}"),
        href: format!("/admin/tenants/{name}"),
        id,
    };
    Ok(html(StatusCode::OK, &page))
}

fn about(one: &OneTenant) -> Vec<Fact> {
    let row = &one.row;
    let time = |at| view::time_or(at, "");
    let schema = row.schema_version.map_or("unknown".to_owned(), |version| version.to_string());
    let before = row.state_before.map(|state| {
        let why = row.reason_before.as_deref().map(|why| format!(": {}", view::cell(why))).unwrap_or_default();
        format!("{state}{why}")
    });
    let attempts = match (row.state, row.consecutive_quarantines) {
        (State::Quarantined, n) => n.to_string(),
        _ => String::new(),
    };
    facts([
        ("File", view::cell(&one.path)),
        ("Size", one.file_bytes.map_or("the file is missing".to_owned(), view::size)),
        ("Schema", format!("{schema} (newest is {})", one.newest_schema)),
        ("Schema changed by SQL", time(row.drifted)),
        ("Last used", view::time_or(row.last_seen, "never")),
        ("Created", view::time(row.created)),
        ("Failed attempts", attempts),
        ("Tried again", time(row.retry_at)),
        ("Newest fault", time(row.fault_at)),
        ("Deleted", time(row.deleted)),
        ("Kept until", if row.purged.is_none() { time(row.purge_after) } else { String::new() }),
        ("Purged", time(row.purged)),
        ("When restored", before.unwrap_or_default()),
        ("Restored", time(row.restored)),
        ("Deletion reported", time(row.deletion_reported)),
    ])
}

fn profile(row: &Row) -> Vec<Fact> {
    let profile = &row.profile;
    let text = |text: &Option<String>| view::optional(text.as_deref());
    facts([
        ("Address", text(&profile.email)),
        ("First name", text(&profile.first_name)),
        ("Last name", text(&profile.last_name)),
        ("Username", text(&profile.username)),
        ("Role", text(&profile.role)),
        ("Workspace", view::cell(&row.workspace)),
        ("Picture", text(&profile.image_url)),
        ("Changed at the provider", view::time_or(profile.provider_updated_at, "")),
    ])
}

/// A form's address.
#[derive(Deserialize)]
pub(super) struct Target {
    user_id: String,
    action: String,
}

/// What the forms have.
#[derive(Deserialize)]
pub(super) struct Fields {
    #[serde(default)]
    reason: String,
    /// The id, typed by the operator, where something is lost by the action.
    #[serde(default)]
    confirm: String,
}

/// `POST /admin/tenants/{user_id}/{action}`: calls the route of the action and leads back to the tenant.
pub(super) async fn change(Segment(target): Segment<Target>, change: Change<Fields>) -> Response {
    let Change { operator, form } = change;
    let Target { user_id: id, action } = target;
    let (page, route) = (format!("/admin/tenants/{}", encode(&id)), format!("/api/admin/tenants/{}", encode(&id)));
    let confirmed = form.confirm.trim() == id;
    let (method, path, body) = match action.as_str() {
        "migrate" => {
            let notice = match operator.call::<Migrated>(Method::POST, &format!("{route}/migrate"), None).await {
                Ok(migrated) => Notice::done(format!("The database has schema {} now.", migrated.schema)),
                Err(problem) => Notice::failed(format!("Nothing was changed: {}", view::long(&problem.detail))),
            };
            return operator.then(&page, notice);
        }
        "delete" | "purge" if !confirmed => {
            let why = "Nothing was changed: the id that was typed is not this tenant's.";
            return operator.then(&page, Notice::failed(why));
        }
        "delete" => (Method::DELETE, route, None),
        "purge" => (Method::POST, format!("{route}/purge"), Some(json!({"yes": true}))),
        "suspend" => (Method::POST, format!("{route}/suspend"), Some(json!({"reason": form.reason.trim()}))),
        "resume" | "restore" | "revive" => (Method::POST, format!("{route}/{action}"), None),
        _ => return Problem::no_route().into_response(),
    };
    let notice = match operator.call::<Row>(method, &path, body).await {
        Ok(row) => {
            let state = if row.purged.is_some() { "purged" } else { row.state.as_str() };
            Notice::done(format!("The tenant is {state} now."))
        }
        Err(problem) => Notice::failed(format!("Nothing was changed: {}", view::long(&problem.detail))),
    };
    operator.then(&page, notice)
}
