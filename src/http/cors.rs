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
pub struct Origins {
    allowed: Arc<[HeaderValue]>,
    except: fn(&str) -> bool,
}

impl Origins {
    /// From the setting, which was validated; none if it is empty. Paths for which `except` holds are left out: pages with a
    /// session in a cookie, which a browser also sends for pages of other origins of the same site.
    pub fn new(origins: &[String], except: fn(&str) -> bool) -> Option<Self> {
        let origins: Vec<HeaderValue> =
            origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect();
        (!origins.is_empty()).then(|| Self { allowed: origins.into(), except })
    }
}

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE");
const HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, idempotency-key, last-event-id, x-request-id");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("location, x-request-id, retry-after, ratelimit, ratelimit-policy, idempotency-replayed");

/// Answers preflights and marks the answers that an allowed origin's page may read, but for the paths that are left out.
pub async fn cors(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    if (origins.except)(request.uri().path()) {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN).filter(|origin| origins.allowed.contains(origin)).cloned();
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
