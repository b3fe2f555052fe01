//! What every page has: the frame around its content, headers that keep foreign scripts out, and errors as pages.

use std::fmt::Display;

use askama::Template;
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    assets,
    sessions::{Notice, Session},
};
use crate::{error::Error, http::problem::Problem};

/// A link of the navigation.
pub(super) struct Link {
    pub(super) href: &'static str,
    pub(super) label: &'static str,
    pub(super) current: bool,
}

const SECTIONS: &[(&str, &str)] = &[
    ("/admin", "Overview"),
    ("/admin/tenants", "Tenants"),
    ("/admin/bulk", "Bulk changes"),
    ("/admin/sync", "Reconcile"),
    ("/admin/deliveries", "Deliveries"),
    ("/admin/migrations", "Migrations"),
    #[cfg(feature = "replicate")]
    ("/admin/replica", "Replication"),
    ("/admin/keys", "Keys"),
    ("/admin/audit", "Audit"),
    ("/admin/settings", "Settings"),
    ("/admin/about", "About"),
];

/// What is around the content of a page.
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) links: Vec<Link>,
    pub(super) csrf: String,
    pub(super) notice: Option<Notice>,
    /// What is in the search field.
    pub(super) q: String,
    pub(super) css: &'static str,
    pub(super) js: &'static str,
}

impl Frame {
    /// Of a page in the section of `href`.
    pub(super) fn new(title: impl Into<String>, href: &str, session: &Session, notice: Option<Notice>) -> Self {
        let links = SECTIONS.iter().map(|&(to, label)| Link { href: to, label, current: to == href });
        Self {
            title: title.into(),
            links: links.collect(),
            csrf: session.csrf.clone(),
            notice,
            q: String::new(),
            css: assets::css(),
            js: assets::js(),
        }
    }
}

/// Nothing from elsewhere, no script or style in the text of a page, and no page in another's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Renders a page.
pub(super) fn html(status: StatusCode, page: &impl Template) -> Response {
    let text = match page.render() {
        Ok(text) => text,
        Err(error) => return Error::internal(format!("a page cannot be rendered: {error}")).into_response(),
    };
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Sends the browser to another page, which it asks for with GET.
pub(super) fn see(path: impl Display) -> Response {
    // Paths are made of encoded segments.
    let location = HeaderValue::try_from(path.to_string()).unwrap_or(HeaderValue::from_static("/admin"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'p> {
    css: &'static str,
    title: &'static str,
    status: u16,
    code: &'p str,
    detail: String,
}

/// Makes a page of a problem.
pub(super) async fn errors(mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let page = ErrorPage {
        css: assets::css(),
        title: problem.status.canonical_reason().unwrap_or("Error"),
        status: problem.status.as_u16(),
        code: problem.code,
        detail: super::view::long(&problem.detail),
    };
    let mut response = html(problem.status, &page);
    for (name, value) in &problem.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}
