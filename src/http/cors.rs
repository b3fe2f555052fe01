//! Which origins' pages may call from a browser (the Fetch standard's CORS protocol): none unless set; then
//! exactly those, with credentials.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// The allowed origins.
#[derive(Debug, Clone)]
pub struct Origins(Arc<[HeaderValue]>);

impl Origins {
    /// From the setting, which was validated; none if it is empty.
    pub fn new(origins: &[String]) -> Option<Self> {
        let origins: Vec<HeaderValue> =
            origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect();
        (!origins.is_empty()).then(|| Self(origins.into()))
    }
}

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE");
const HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, idempotency-key, last-event-id, x-request-id");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("location, x-request-id, retry-after, ratelimit, ratelimit-policy, idempotency-replayed");

/// Whether a path is one of the dashboard's pages.
pub fn is_dashboard(path: &str) -> bool {
    path.strip_prefix("/admin").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers preflights and marks the answers that an allowed origin's page may read. The dashboard is left out: its
/// session is a cookie, which a browser sends for pages of other origins of the same site too.
pub async fn cors(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    if is_dashboard(request.uri().path()) {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN).filter(|origin| origins.0.contains(origin)).cloned();
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&origin, preflight) {
        (Some(_), true) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            response
        }
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    // Also where the origin is not allowed: a cache must not give its answer to another.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}
