//! The audit trail.

use askama::Template;
use axum::{http::StatusCode, response::Response};
use serde::Deserialize;

use super::{
    operator::{Asked, Operator},
    page::{Frame, html},
    view,
};
use crate::{
    admin::audit::Trail,
    catalog::model::AuditRow,
    http::{problem::Problem, segment::encode},
    tenants::id::TenantId,
};

/// Lines on a page.
const LIMIT: usize = 100;

/// A line of the trail.
pub(super) struct Line {
    pub(super) at: String,
    pub(super) actor: String,
    pub(super) origin: String,
    pub(super) action: String,
    pub(super) target: String,
    pub(super) target_href: String,
    pub(super) result: String,
    pub(super) good: bool,
}

/// A line as pages show it.
pub(super) fn line(row: &AuditRow) -> Line {
    let target = row.target.as_deref().unwrap_or_default();
    // What a change is about is the first word of its name.
    let target_href = match row.action.split(' ').next() {
        // What was refused may be about somebody who cannot be.
        Some("tenants" | "sql") if TenantId::parse(target.as_bytes()).is_ok() => {
            format!("/admin/tenants/{}", encode(target))
        }
        Some("deliveries") => format!("/admin/deliveries/{}", encode(target)),
        _ => String::new(),
    };
    Line {
        at: view::time(row.at),
        actor: view::cell(&row.actor),
        origin: view::optional(row.origin.as_deref()),
        action: view::cell(&row.action),
        target: view::cell(target),
        target_href: if target.is_empty() { String::new() } else { target_href },
        result: view::cell(&row.result),
        // A refusal is a status and its code.
        good: !row.result.starts_with(|c: char| c.is_ascii_digit())
            && !matches!(row.result.as_str(), "rejected" | "failed"),
    }
}

/// What the form above the trail says.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    target: String,
    before: Option<i64>,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Page {
    frame: Frame,
    target: String,
    audit: Vec<Line>,
    next: Option<String>,
}

/// `GET /admin/audit`.
pub(super) async fn page(operator: Operator, Asked(wanted): Asked<Wanted>) -> Result<Response, Problem> {
    let target = wanted.target.trim();
    let filter = if target.is_empty() { String::new() } else { format!("&target={}", encode(target)) };
    let before = wanted.before.map_or(String::new(), |before| format!("&before={before}"));
    let found: Trail = operator.get(&format!("/api/admin/audit?limit={LIMIT}{filter}{before}")).await?;
    let last = found.audit.last().filter(|_| found.audit.len() >= LIMIT);
    let page = Page {
        frame: operator.frame("Audit", "/admin/audit"),
        target: target.to_owned(),
        audit: found.audit.iter().map(line).collect(),
        next: last.map(|row| format!("/admin/audit?before={}{filter}", row.id)),
    };
    Ok(html(StatusCode::OK, &page))
}
