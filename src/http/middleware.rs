//! What every request goes through: an id, a span, a time limit, and errors in one shape.

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use hyper::body::Body as _;

use super::{
    connection,
    door::Door,
    host::Hosts,
    limits::{Refused, in_flight::SMALL},
    problem::Problem,
};
use crate::telemetry::{
    self, routes,
    trace::{self, Incoming},
};

/// The header with the request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request that takes longer is logged as slow.
const SLOW: Duration = Duration::from_secs(1);

/// Answers what no route answers.
pub fn with_fallbacks<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    let missing = || async {
        let mut problem = Problem::no_route();
        problem.detail.push_str("; it may be mistyped, end in a slash, or lack the user's id");
        problem
    };
    routes.fallback(missing).method_not_allowed_fallback(|| async { Problem::wrong_method() })
}

/// The same, with the envelope around all: all requests have an id, a time limit and one shape of errors.
pub fn enclose<S: Clone + Send + Sync + 'static>(routes: Router<S>, door: &Door, listen: SocketAddr) -> Router<S> {
    let hosts = Hosts::new(&door.config.door, listen);
    with_fallbacks(routes).layer(from_fn_with_state((door.clone(), hosts), envelope))
}

/// Wraps every route. Host names are checked here rather than in a layer of their own, which would cost two
/// allocations a request.
pub async fn envelope(
    State((door, hosts)): State<(Door, Option<Hosts>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = request_id(&request);
    let refused = request.extensions_mut().remove::<Refused>();
    let refused = match (refused, &hosts) {
        (Some(Refused(problem)), _) => Some(problem),
        (None, Some(hosts)) => hosts.check(&request).err(),
        (None, None) => None,
    };
    // The body of a change, or what it removes, was within the limits, and the answer is about as long.
    let answers_change = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    // The pattern of a route, of which there are so many as routes; a path is the caller's.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let pattern = matched.as_ref().map(MatchedPath::as_str);
    let method = method_name(request.method());
    let measured = routes::route(request.method().as_str(), pattern);
    let most = match pattern {
        // It ends by itself within its own time, and says what has become of it.
        Some(pattern) if (door.is_transfer)(pattern) => {
            door.config.export.transfer_timeout.saturating_add(door.config.request_timeout)
        }
        _ => door.config.request_timeout,
    };
    let text: Arc<str> = id.to_str().unwrap_or("").into();
    let plain = (door.plain_problems)(request.uri().path());
    let render = |problem: &Problem| if plain { problem.render_plain() } else { problem.render(&text) };
    let span = trace::request(|| {
        let of = |name: &str| only(request.headers(), name);
        Incoming {
            method: request.method().as_str(),
            route: pattern,
            id: &text,
            encrypted: door.limits.proxies.came_encrypted(&request),
            host: of("host"),
            traceparent: of("traceparent"),
            tracestate: of("tracestate"),
        }
    });
    let answered = async {
        let started = tokio::time::Instant::now();
        let handled = async {
            match refused {
                None => next.run(request).await,
                Some(problem) => problem.into_response(),
            }
        };
        let handled = AssertUnwindSafe(handled).catch_unwind();
        let response = match tokio::time::timeout(most, handled).await {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => {
                let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                tracing::error!(panic = text, "a handler panicked");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "something went wrong here")
                    .into_response()
            }
            Err(_) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "request_timeout",
                "the request took too long; the outcome of a write is unknown",
            )
            .into_response(),
        };
        let mut code = response.extensions().get::<Problem>().map(|problem| problem.code);
        let overloaded = code == Some("overloaded");
        let mut response = match response.extensions().get::<Problem>() {
            Some(problem) => {
                let mut rendered = render(problem);
                // axum put it into a 405.
                rendered
                    .headers_mut()
                    .extend(response.headers().get(header::ALLOW).map(|v| (header::ALLOW, v.clone())));
                rendered
            }
            None => match response.body().size_hint().exact().filter(|length| *length > SMALL) {
                None => response,
                Some(length) => match connection::hold_answer(length, answers_change) {
                    Ok(()) => response,
                    Err(problem) => {
                        code = Some(problem.code);
                        render(&problem)
                    }
                },
            },
        };
        let took = started.elapsed();
        let status = response.status();
        measured.record(status.as_u16(), took);
        span.answered(status.as_u16());
        let route = pattern.unwrap_or("none");
        if status.is_server_error() && !(overloaded && is_logged_this_second()) {
            tracing::warn!(method, route, code, status = status.as_u16(), took = ?took, "failed");
        } else if took > SLOW {
            tracing::warn!(method, route, code, status = status.as_u16(), took = ?took, "slow");
        } else {
            tracing::debug!(status = status.as_u16(), took = ?took, "answered");
        }
        mark(&mut response, id);
        response
    };
    telemetry::in_request(text.clone(), span.around(answered)).await
}

/// A method's name in the log. One that is not HTTP's own is the caller's text.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The value of a header that was sent once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Sets the headers that every answer has.
fn mark(response: &mut Response, id: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// Gives preflights an id and answers those that are refused. They are answered by the CORS layer and come to
/// no route, so the envelope does not see them.
pub async fn preflight(mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    if request.method() != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return next.run(request).await;
    }
    let id = request_id(&request);
    let mut response = match request.extensions_mut().remove::<Refused>() {
        Some(Refused(problem)) => problem.render(id.to_str().unwrap_or("")),
        None => {
            // One that comes to a route after all has the same id.
            request.headers_mut().insert(REQUEST_ID, id.clone());
            next.run(request).await
        }
    };
    mark(&mut response, id);
    response
}

/// Whether a request that was refused for overload is in the log in this second: a flood of requests must
/// not fill the disk with lines.
fn is_logged_this_second() -> bool {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    static LOGGED: AtomicU64 = AtomicU64::new(0);
    let second = START.elapsed().as_secs() + 1;
    LOGGED.swap(second, Ordering::Relaxed) == second
}

/// The caller's own id if it is harmless in a log line, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    });
    given.cloned().unwrap_or_else(new_id)
}

/// Sixteen hex digits: a counter behind a multiplication by an odd number, which visits every value once,
/// from a random start. Unique within a process, unlikely to repeat across two.
fn new_id() -> HeaderValue {
    static START: LazyLock<u64> = LazyLock::new(|| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(std::process::id())
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(*START);
    let mut text = [b'0'; 16];
    // Sixteen digits have room.
    let _ = hex::encode_to_slice(number.to_be_bytes(), &mut text);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}
