//! Signing in with the operator's key, and out.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    assets, cookies,
    operator::{Asked, Change, Operator, forged, read_form},
    page::{html, see},
    seat::{Seat, is_https},
    sessions::{LONGEST, random, same},
};
use crate::{
    catalog::audit::Author,
    http::{operator_key, problem::Problem, query::parse_form},
};

/// How long the form may be open.
const FORM: Duration = Duration::from_secs(60 * 60);

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page {
    css: &'static str,
    csrf: String,
    next: String,
    /// Why one has to sign in again, or what was wrong.
    notice: &'static str,
    /// Whether there is a key to sign in with.
    configured: bool,
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    next: String,
    #[serde(default)]
    expired: bool,
}

/// `GET /admin/sign-in`.
pub(super) async fn page(State(seat): State<Seat>, Asked(wanted): Asked<Wanted>, headers: HeaderMap) -> Response {
    let notice = if wanted.expired { "Your session has ended. Sign in to go on where you were." } else { "" };
    form(&seat, &headers, StatusCode::OK, &wanted.next, notice)
}

fn form(seat: &Seat, headers: &HeaderMap, status: StatusCode, next: &str, notice: &'static str) -> Response {
    let configured = seat.app.config().admin_api_key.is_some();
    // A page that is open in another tab keeps its token.
    let csrf = cookies::get(headers, cookies::SIGN_IN).filter(|token| token.len() == 32);
    let csrf = csrf.map_or_else(random, str::to_owned);
    let status = if configured { status } else { StatusCode::SERVICE_UNAVAILABLE };
    let cookie = cookies::set(cookies::SIGN_IN, &csrf, FORM, is_https(headers));
    let mut response = html(status, &Page { css: assets::css(), csrf, next: local(next), notice, configured });
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response
}

#[derive(Deserialize)]
struct Form {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    next: String,
}

/// `POST /admin/sign-in`. The right key is accepted after any number of wrong ones, as over the API.
pub(super) async fn enter(State(seat): State<Seat>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let text = read_form(&parts, body, &seat).await?;
    let Form { csrf, key, next } = parse_form(&text)?;
    if !cookies::get(&parts.headers, cookies::SIGN_IN).is_some_and(|cookie| same(cookie, &csrf)) {
        return Err(forged());
    }
    let address = seat.origin(&parts);
    match operator_key::is_key(seat.app.config().admin_api_key.as_ref(), &key) {
        Some(true) => {}
        Some(false) => {
            tracing::warn!(origin = %address, "the dashboard was tried with a wrong operator's key");
            seat.app.door().limits.key_failed(address)?;
            return Ok(form(&seat, &parts.headers, StatusCode::UNAUTHORIZED, &next, "That is not the operator's key."));
        }
        None => return Ok(form(&seat, &parts.headers, StatusCode::SERVICE_UNAVAILABLE, &next, "")),
    }
    let now = seat.app.clock().now();
    let author = Author::operator(&address);
    seat.app
        .store()
        .catalog()
        .write(move |tx| author.record(tx, now, "dashboard sign-in", None::<&str>, "done"))
        .await?;
    let token = seat.sessions.open(now);
    let secure = is_https(&parts.headers);
    let mut response = see(local(&next));
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, cookies::set(cookies::SESSION, &token, LONGEST, secure));
    headers.append(header::SET_COOKIE, cookies::remove(cookies::SIGN_IN, secure));
    Ok(response)
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

/// `POST /admin/sign-out`.
pub(super) async fn leave(headers: HeaderMap, Change { operator, .. }: Change<Nothing>) -> Response {
    operator.seat.sessions.end(&operator.session);
    let mut response = see("/admin/sign-in");
    let cookie = cookies::remove(cookies::SESSION, is_https(&headers));
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response
}

/// A page of the dashboard, and the first one for anything else: a link must not lead elsewhere by the sign-in.
fn local(path: &str) -> String {
    let below = path.strip_prefix("/admin").is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let clean = path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') && !path.starts_with("/admin/sign-");
    if below && clean { path.to_owned() } else { "/admin".to_owned() }
}

/// `/admin/{*rest}`: no page has this address. Whoever is not signed in does not learn that.
pub(super) async fn missing(State(seat): State<Seat>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    match Operator::from_request_parts(&mut parts, &seat).await {
        Ok(_) => Problem::no_route().into_response(),
        Err(sign_in) => sign_in,
    }
}

/// The address of a form, as it is left in the browser: the page that the form is on is above it.
pub(super) async fn above(State(seat): State<Seat>, request: Request) -> Response {
    if !request.method().is_safe() {
        return Problem::wrong_method().into_response();
    }
    let (mut parts, _) = request.into_parts();
    match Operator::from_request_parts(&mut parts, &seat).await {
        Ok(_) => see(parts.uri.path().rsplit_once('/').map_or("/admin", |(above, _)| above).to_owned()),
        Err(sign_in) => sign_in,
    }
}

#[cfg(test)]
mod tests {
    use super::local;

    #[test]
    fn the_sign_in_leads_to_no_other_site() {
        for good in ["/admin", "/admin?x=1", "/admin/tenants/ada?q=%0a"] {
            assert_eq!(local(good), good);
        }
        for bad in [
            "",
            "//evil.example",
            "https://evil.example",
            "/administrator",
            "/admin/\\evil",
            "/admin/\r\nx",
            "/admin/sign-in",
        ] {
            assert_eq!(local(bad), "/admin", "{bad:?}");
        }
    }
}
