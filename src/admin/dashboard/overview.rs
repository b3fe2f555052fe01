//! The overview: what is wrong comes first, each with where to go.

use askama::Template;
use axum::{http::StatusCode, response::Response};

use super::{
    audit,
    operator::Operator,
    page::{Frame, html},
    view,
};
use crate::{
    admin::{about::About, audit::Trail},
    http::problem::Problem,
    reconcile::health::Seen,
};

/// Lines of the audit trail that are shown.
const RECENT: u32 = 10;

/// What is wrong, and where to go.
struct Trouble {
    what: String,
    href: &'static str,
    action: &'static str,
}

/// A number and its page.
struct Figure {
    label: &'static str,
    value: String,
    href: &'static str,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    troubles: Vec<Trouble>,
    figures: Vec<Figure>,
    audit: Vec<audit::Line>,
}

/// `GET /admin`.
pub(super) async fn page(operator: Operator) -> Result<Response, Problem> {
    let seen = operator.seat.app.health().look().await?;
    let about: About = operator.get("/api/admin/about").await?;
    let trail: Trail = operator.get(&format!("/api/admin/audit?limit={RECENT}")).await?;
    let page = Page {
        frame: operator.frame("Overview", "/admin"),
        troubles: troubles(&seen, &about),
        figures: figures(&seen, &about),
        audit: trail.audit.iter().map(audit::line).collect(),
    };
    Ok(html(StatusCode::OK, &page))
}

fn troubles(seen: &Seen, about: &About) -> Vec<Trouble> {
    let mut all = Vec::new();
    if seen.local.quarantined > 0 {
        all.push(Trouble {
            what: format!("{} quarantined: their files could not be opened", view::number(seen.local.quarantined)),
            href: "/admin/tenants?state=quarantined",
            action: "Show them",
        });
    }
    if let (Some(free), Some(disk)) = (about.disk_free, about.disk)
        && free < disk / 10
    {
        let what = format!("The disk is nearly full: {} of {} are free", view::size(free), view::size(disk));
        all.push(Trouble { what, href: "/admin/tenants?sort=size", action: "Show the largest" });
    }
    if let (Some(open), Some(limit)) = (about.descriptors, about.descriptors_limit)
        && open > limit / 10 * 9
    {
        let what = format!("{} of {} descriptors are in use", view::number(open), view::number(limit));
        all.push(Trouble { what, href: "/admin/about", action: "Show the process" });
    }
    let failing = seen.failing_deliveries > 0;
    all.extend(seen.warnings.iter().map(|warning| Trouble {
        what: view::long(warning),
        href: if failing { "/admin/deliveries?outcome=failed" } else { "/admin/deliveries" },
        action: if failing { "Show those that failed" } else { "Show deliveries" },
    }));
    all
}

fn figures(seen: &Seen, about: &About) -> Vec<Figure> {
    let figure = |label, value, href| Figure { label, value, href };
    let mut all = vec![
        figure("active", view::number(seen.local.active), "/admin/tenants?state=active"),
        figure("suspended", view::number(seen.local.suspended), "/admin/tenants?state=suspended"),
        figure("quarantined", view::number(seen.local.quarantined), "/admin/tenants?state=quarantined"),
        figure("deleted", view::number(seen.local.deleted), "/admin/tenants?state=deleted"),
        figure("open databases", view::number(about.open), "/admin/about"),
    ];
    let age = seen.last_delivery_age.map_or("never".to_owned(), |age| format!("{} ago", view::span(age)));
    all.push(figure("newest delivery", age, "/admin/deliveries"));
    if let Some(free) = about.disk_free {
        all.push(figure("free on the disk", view::size(free), "/admin/about"));
    }
    if let Some(count) = seen.provider_count {
        all.push(figure("users at the provider", view::number(count), "/admin/deliveries"));
    }
    all
}
