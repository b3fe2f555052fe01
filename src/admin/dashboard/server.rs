//! Settings, and what is known of the program and its process.

use askama::Template;
use axum::{http::StatusCode, response::Response};

use super::{
    operator::Operator,
    page::{Frame, html},
    view::{self, Fact, facts},
};
use crate::{
    admin::{about::About, settings::Settings},
    config::told::Setting,
    http::problem::Problem,
};

/// A row of the settings.
struct Line {
    variable: String,
    flag: String,
    value: String,
    source: String,
    /// Whether it is not the default.
    set: bool,
    help: String,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    frame: Frame,
    lines: Vec<Line>,
}

/// `GET /admin/settings`.
pub(super) async fn settings(operator: Operator) -> Result<Response, Problem> {
    let found: Settings = operator.get("/api/admin/settings").await?;
    let line = |setting: Setting| Line {
        value: setting.value.as_deref().map_or("not set".to_owned(), view::cell),
        set: !matches!(setting.source.as_str(), "default" | "not set"),
        variable: setting.variable,
        flag: setting.flag,
        source: setting.source,
        help: view::long(&setting.help),
    };
    let mut lines: Vec<Line> = found.settings.into_iter().map(line).collect();
    // What somebody has decided comes first.
    lines.sort_by_key(|line| !line.set);
    Ok(html(StatusCode::OK, &SettingsPage { frame: operator.frame("Settings", "/admin/settings"), lines }))
}

#[derive(Template)]
#[template(path = "about.html")]
struct AboutPage {
    frame: Frame,
    facts: Vec<Fact>,
}

/// `GET /admin/about`.
pub(super) async fn about(operator: Operator) -> Result<Response, Problem> {
    let found: About = operator.get("/api/admin/about").await?;
    let of = |part: Option<u64>, whole: Option<u64>, show: fn(u64) -> String| match (part, whole) {
        (Some(part), Some(whole)) => format!("{} of {}", show(part), show(whole)),
        (Some(part), None) => show(part),
        (None, _) => String::new(),
    };
    let known = facts([
        ("Version", found.version),
        ("Serving for", view::span(found.uptime)),
        ("Newest schema", found.newest_schema.to_string()),
        ("Data folder", view::cell(&found.data)),
        ("Open databases", of(Some(found.open), Some(found.capacity), view::number)),
        ("Descriptors", of(found.descriptors, found.descriptors_limit, view::number)),
        ("Memory", found.memory.map(view::size).unwrap_or_default()),
        ("Free on the disk", of(found.disk_free, found.disk, view::size)),
        ("Traces", found.traces.map_or("not exported".to_owned(), |to| format!("to {}", view::cell(&to)))),
    ]);
    Ok(html(StatusCode::OK, &AboutPage { frame: operator.frame("About", "/admin/about"), facts: known }))
}
