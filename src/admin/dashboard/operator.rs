//! What the pages' handlers ask for: an operator who is signed in, a form of theirs, a query.
//!
//! A page without a session leads to the sign-in, which leads back.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    cookies,
    page::{Frame, see},
    seat::Seat,
    sessions::{Notice, Session, same},
};
use crate::{
    admin::in_process::ask,
    catalog::audit::Author,
    error::Error,
    http::{body, problem::Problem, query::parse_form, segment::encode},
};

/// The largest form, in bytes.
const MAX_FORM: usize = 64 << 10;

/// Who is signed in.
pub(super) struct Operator {
    pub(super) seat: Seat,
    pub(super) session: Session,
    author: Author,
    /// The path that was asked for.
    path: String,
}

impl FromRequestParts<Seat> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, seat: &Seat) -> Result<Self, Response> {
        let token = cookies::get(&parts.headers, cookies::SESSION);
        let now = seat.app.clock().now();
        match token.and_then(|token| seat.sessions.find(token, now)) {
            Some(session) => {
                let author = Author::operator(&seat.origin(parts));
                Ok(Self { seat: seat.clone(), session, author, path: parts.uri.path().to_owned() })
            }
            None => Err(see(sign_in(parts, token.is_some()))),
        }
    }
}

/// Who is signed in and has a page open that asks by itself: that does not make the session last longer.
pub(super) struct Watcher(pub(super) Operator);

impl FromRequestParts<Seat> for Watcher {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, seat: &Seat) -> Result<Self, Response> {
        let token = cookies::get(&parts.headers, cookies::SESSION);
        match token.and_then(|token| seat.sessions.look(token, seat.app.clock().now())) {
            Some(session) => {
                let author = Author::operator(&seat.origin(parts));
                Ok(Self(Operator { seat: seat.clone(), session, author, path: parts.uri.path().to_owned() }))
            }
            None => Err(see(sign_in(parts, token.is_some()))),
        }
    }
}

/// The address of the sign-in that leads back to where a request was to go.
fn sign_in(parts: &Parts, expired: bool) -> String {
    let target = parts.uri.path_and_query().map_or("/admin", |target| target.as_str());
    let back = match parts.method {
        Method::GET | Method::HEAD => target,
        // The page that a form was on is above the form's address.
        _ => parts.uri.path().rsplit_once('/').map_or("/admin", |(above, _)| above),
    };
    let expired = if expired { "&expired" } else { "" };
    format!("/admin/sign-in?next={}{expired}", encode(back))
}

impl Operator {
    /// The frame of a page in the section of `href`.
    pub(super) fn frame(&self, title: impl Into<String>, href: &str) -> Frame {
        Frame::new(title, href, &self.session, self.seat.sessions.told(&self.session, &self.path))
    }

    /// Whether the session holds still.
    pub(super) fn is_signed_in(&self) -> bool {
        self.seat.sessions.holds(&self.session, self.seat.app.clock().now())
    }

    /// Asks one of the operators' routes.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.call(Method::GET, path, None).await
    }

    /// Changes something by one of the operators' routes, which records it.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, Problem> {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let answer = self.pass(method, path, body).await?;
        let bytes = answer.into_body().collect().await.map_err(|e| Error::internal("an answer").with_source(e))?;
        let read = serde_json::from_slice(&bytes.to_bytes());
        Ok(read.map_err(|e| Error::internal(format!("an answer of {path}")).with_source(e))?)
    }

    /// The answer of one of the operators' routes as it is.
    pub(super) async fn pass(&self, method: Method, path: &str, body: Body) -> Result<Response, Problem> {
        ask(&self.seat.operators, self.author.clone(), method, path, body).await
    }

    /// Leads to a page that tells what came of a change.
    pub(super) fn then(&self, path: &str, notice: Notice) -> Response {
        let page = path.split_once('?').map_or(path, |(page, _)| page);
        self.seat.sessions.tell(&self.session, page, notice);
        see(path)
    }
}

/// A form of a session, which proves that it is of a page of ours.
pub(super) struct Change<T> {
    pub(super) operator: Operator,
    pub(super) form: T,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    csrf: String,
}

impl<T: DeserializeOwned> FromRequest<Seat> for Change<T> {
    type Rejection = Response;

    async fn from_request(request: Request, seat: &Seat) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let operator = Operator::from_request_parts(&mut parts, seat).await?;
        let text = read_form(&parts, body, seat).await.map_err(IntoResponse::into_response)?;
        let token: Token = parse_form(&text).map_err(IntoResponse::into_response)?;
        if !same(&token.csrf, &operator.session.csrf) {
            tracing::warn!(path = parts.uri.path(), "a form without the token of its session");
            return Err(forged().into_response());
        }
        let form = parse_form(&text).map_err(IntoResponse::into_response)?;
        Ok(Self { operator, form })
    }
}

/// The answer to a form that is not of the session.
pub(super) fn forged() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "forged_form",
        "nothing was changed: the form is not of this session. Go back, load the page again and send it from there",
    )
}

/// Refuses what a page of another origin asks for, also one of the same site, whose requests have the session's cookie. A
/// link from there may be followed. Browsers since 2023 say where a request comes from
/// (<https://www.w3.org/TR/fetch-metadata/>); in older ones the token of each form protects.
pub(super) async fn own_pages_only(request: Request, next: Next) -> Response {
    if !is_foreign(request.method(), request.headers()) {
        return next.run(request).await;
    }
    let problem = Problem::new(
        StatusCode::FORBIDDEN,
        "foreign_origin",
        "a page of another origin may not use the dashboard: open it at its own address",
    );
    problem.into_response()
}

fn is_foreign(method: &Method, headers: &HeaderMap) -> bool {
    let said = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let is_own = matches!(said("sec-fetch-site"), None | Some(b"same-origin" | b"none"));
    let follows_link = method == Method::GET && said("sec-fetch-mode") == Some(b"navigate");
    !is_own && !follows_link
}

/// Reads a form.
pub(super) async fn read_form(parts: &Parts, body: axum::body::Body, seat: &Seat) -> Result<String, Problem> {
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "send a form"));
    }
    let bytes: Bytes = body::read(body, MAX_FORM, seat.app.config().limits.body_timeout).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The query that a form made.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Seat> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Seat) -> Result<Self, Problem> {
        Ok(Self(parse_form(parts.uri.query().unwrap_or_default())?))
    }
}
