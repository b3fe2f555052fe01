//! One tenant: what is known, and what an operator can do.

use askama::Template;
use axum::{http::StatusCode, response::Response};

use super::{
    audit,
    chart::{Chart, charts, first_day},
    deliveries::{self, Listed},
    operator::Operator,
    page::{Frame, html},
    tenants::who,
    view::{self, Fact, facts},
};
use crate::{
    admin::{
        audit::Trail,
        quota::SetBy,
        tenants::{OneTenant, TenantFile, TenantMigration},
        usage::Usage,
    },
    catalog::model::{Row, State},
    clock::day::Day,
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
    adopt: bool,
    quota: bool,
    export: bool,
    import: bool,
    browse: bool,
}

impl Offered {
    fn of(row: &Row, newest: i32, browse: bool) -> Self {
        let (state, purged) = (row.state, row.purged.is_some());
        let deleted = state == State::Deleted;
        let is_readable = !purged && state != State::Quarantined && row.state_before != Some(State::Quarantined);
        Self {
            suspend: matches!(state, State::Active | State::Quarantined),
            resume: matches!(state, State::Suspended | State::Quarantined),
            migrate: !deleted && (row.schema_version != Some(newest) || state == State::Quarantined),
            delete: !deleted,
            restore: deleted && !purged,
            purge: !purged,
            revive: deleted && purged,
            adopt: state == State::Active,
            quota: !deleted,
            export: is_readable,
            import: !deleted,
            browse: is_readable && browse,
        }
    }
}

/// How much of its quota is used.
struct Used {
    bytes: u64,
    most: u64,
    text: String,
}

/// A file that it has.
struct File {
    path: String,
    size: String,
}

/// A migration of the schema.
struct Migration {
    name: String,
    ran: bool,
}

/// What the form of the quota has in it: what an operator has set.
struct OwnQuota {
    bytes: String,
    rate: String,
    text: String,
}

/// What there is of its past.
#[cfg_attr(not(feature = "replicate"), expect(dead_code, reason = "this program copies nothing"))]
enum Past {
    /// Nothing to tell: it was purged, or this program copies nothing.
    None,
    /// It would be there if the server copied what is written.
    Off,
    /// The bucket has it.
    There,
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
    used: Option<Used>,
    about: Vec<Fact>,
    files: Vec<File>,
    migrations: Vec<Migration>,
    quota: OwnQuota,
    charts: Vec<Chart>,
    past: Past,
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
    let config = operator.seat.app.config();
    let today = Day::of(operator.seat.app.clock().now());
    let used: Usage = operator.get(&format!("/api/admin/usage?user={name}&from={}", first_day(today))).await?;
    let row = &one.row;
    let file = |file: &TenantFile| File { path: view::cell(&file.path), size: view::size(file.bytes) };
    let page = Page {
        used: used_of(&one, config.quota.0),
        files: one.files.iter().map(file).collect(),
        migrations: one.migrations.iter().map(migration).collect(),
        quota: own_quota(&one),
        charts: charts(today, &used.usage),
        past: past(&operator, row),
        frame: operator.frame(view::cell(&id), "/admin/tenants"),
        who: who(&row.profile),
        state: if row.purged.is_some() { "purged" } else { row.state.as_str() },
        reason: view::long(row.reason.as_deref().unwrap_or_default()),
        fault: row.fault.as_deref().map(view::long).unwrap_or_default(),
        about: about(&one),
        profile: profile(row),
        metadata: view::long(row.profile.provider_metadata.as_deref().unwrap_or_default()),
        offered: Offered::of(row, one.newest_schema, config.browse.admin_browse),
        deliveries: deliveries.deliveries.iter().map(deliveries::line).collect(),
        audit: trail.audit.iter().map(audit::line).collect(),
        more_deliveries: format!("/admin/deliveries?user={name}"),
        more_audit: format!("/admin/audit?target={name}"),
        href: format!("/admin/tenants/{name}"),
        id,
    };
    Ok(html(StatusCode::OK, &page))
}

#[cfg(feature = "replicate")]
fn past(operator: &Operator, row: &Row) -> Past {
    match operator.seat.app.replica() {
        _ if row.purged.is_some() => Past::None,
        None => Past::Off,
        Some(_) => Past::There,
    }
}

#[cfg(not(feature = "replicate"))]
fn past(_: &Operator, _: &Row) -> Past {
    Past::None
}

/// The size over the quota; none where there is no file, or no bound.
fn used_of(one: &OneTenant, of_all: u64) -> Option<Used> {
    let (bytes, most) = (one.file_bytes?, one.may_use.quota.bytes.unwrap_or(of_all));
    let text = format!("{} of {}", view::size(bytes), view::size(most));
    (most > 0).then_some(Used { bytes: bytes.min(most), most, text })
}

fn migration(of: &TenantMigration) -> Migration {
    Migration { name: view::cell(&of.name), ran: of.ran }
}

fn own_quota(one: &OneTenant) -> OwnQuota {
    let (set, quota) = (one.row.quota, &one.may_use);
    let by = |by: SetBy| match by {
        SetBy::Operator => "an operator",
        SetBy::Metadata => "the provider's metadata",
        SetBy::Settings => "the settings for all",
    };
    OwnQuota {
        bytes: set.bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
        rate: set.rate.map(|rate| rate.to_string()).unwrap_or_default(),
        text: format!("The size is set by {}, the rate by {}.", by(quota.bytes_by), by(quota.rate_by)),
    }
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
