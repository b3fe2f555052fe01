//! Who is calling: from the request's headers to a [`Caller`], or 401.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use reqwest::Url;
use rusqlite::Transaction;

use super::{peer::Peer, problem::Problem};
use crate::{
    app::App,
    catalog::audit::Author,
    identity::{
        claims::{Refusal, Session},
        jwt::Verdict,
        keys::{self, Key},
    },
    tenants::id::TenantId,
};

/// How the caller reached the proxy.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Someone who has proven who they are.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A user, by a session token.
    User(Arc<Session>),
    /// A program, by an API key.
    Program(Arc<Key>),
}

impl Caller {
    /// Whether this caller may know of a tenant. Decided before any storage is touched: the answer
    /// takes as long for one that exists as for one that does not.
    pub fn reaches(&self, id: &TenantId) -> bool {
        match self {
            Self::User(session) => session.user == *id,
            Self::Program(key) => key.tenant.as_ref().is_none_or(|only| only == id),
        }
    }

    /// Whether this caller's coming proves that the tenant's user exists.
    pub fn proves_user(&self) -> bool {
        match self {
            Self::User(_) => true,
            Self::Program(_) => false,
        }
    }

    /// Whether this caller may change anything.
    pub fn may_write(&self) -> bool {
        match self {
            Self::User(_) => true,
            Self::Program(key) => !key.read_only,
        }
    }
}

/// What a request shows as proof.
enum Shown<'a> {
    Bearer(&'a str),
    Cookie(&'a str),
}

/// Who is calling. Only where callers must show something.
pub async fn authenticate(app: &App, parts: &Parts) -> Result<Caller, Problem> {
    let shown = shown(parts, app)?;
    let Some(shown) = shown else {
        return Err(unauthorized(None, "show who you are: send Authorization: Bearer …"));
    };
    if let Shown::Bearer(key) = shown
        && app.identity().takes_keys()
        && key.starts_with(keys::PREFIX)
    {
        let found = app.identity().keys().find(key, app.clock().now());
        return found
            .map(Caller::Program)
            .ok_or_else(|| refused(Refusal("the API key is unknown, revoked or expired")));
    }
    let (Shown::Bearer(token) | Shown::Cookie(token)) = shown;
    let Some(verifier) = app.identity().sessions() else {
        return Err(refused(Refusal("only API keys are accepted here")));
    };
    match verifier.verify(token).await {
        Verdict::Session(session, first) => {
            if first && session.actor.is_some() {
                record_impersonation(app, &session);
            }
            Ok(Caller::User(session))
        }
        Verdict::Refused(refusal) => Err(refused(refusal)),
        Verdict::Unavailable => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "identity_unavailable",
            "the issuer's keys could not be fetched, so no token can be verified; try again in a moment",
        )
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))),
    }
}

/// The header comes before the cookie: it was set on purpose.
fn shown<'a>(parts: &'a Parts, app: &App) -> Result<Option<Shown<'a>>, Problem> {
    let headers = &parts.headers;
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = given.next() {
        if given.next().is_some() {
            return Err(refused(Refusal("more than one Authorization header was sent")));
        }
        let text = value.to_str().ok().and_then(|text| text.split_once(' '));
        return match text {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(Shown::Bearer(token.trim()))),
            _ => Err(refused(Refusal("the Authorization header must be: Bearer and a token"))),
        };
    }
    Ok(cookie(headers, &app.config().door.session_cookie).filter(|_| !is_foreign_page(parts, app)).map(Shown::Cookie))
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|pair| {
        let (given, value) = pair.trim().split_once('=')?;
        (given == name && !value.is_empty()).then_some(value)
    })
}

/// A browser sends a cookie whoever's page asks for it; an `Origin` that is neither this server's
/// nor an authorized party's makes the cookie worthless (cross-site request forgery).
fn is_foreign_page(parts: &Parts, app: &App) -> bool {
    let mut origins = parts.headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return false };
    let (Ok(origin), None) = (origin.to_str(), origins.next()) else { return true };
    let parties = &app.config().door.authorized_parties.0;
    let pages = &app.config().limits.cors_origins.0;
    !parties.iter().chain(pages).any(|known| known == origin) && !is_own_origin(origin, parts, app)
}

/// Whether an origin is this server's own as the caller sees it: scheme, host and port. Otherwise
/// whoever is on the way to `http://` this host could put a page there that uses the cookie of `https://`.
fn is_own_origin(origin: &str, parts: &Parts, app: &App) -> bool {
    let Some(host) = only(&parts.headers, &header::HOST) else { return false };
    let by_proxy = parts.extensions.get::<Peer>().is_some_and(|peer| app.limits().is_proxy(peer.0.ip()));
    let scheme = match only(&parts.headers, &FORWARDED_PROTO).filter(|_| by_proxy) {
        Some("https") => "https",
        // Without a proxy's word a request came as it is, unencrypted.
        Some("http") | None => "http",
        Some(_) => return false,
    };
    let own = Url::parse(&format!("{scheme}://{host}"));
    own.is_ok_and(|own| Url::parse(origin).is_ok_and(|origin| origin.origin() == own.origin()))
}

/// The value of a header that was sent once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn refused(refusal: Refusal) -> Problem {
    tracing::debug!(reason = refusal.0, "a caller was refused");
    unauthorized(Some("invalid_token"), refusal.0)
}

/// 401 as RFC 6750 wants it: no error code when nothing was shown.
fn unauthorized(error: Option<&'static str>, detail: &'static str) -> Problem {
    let challenge = match error {
        None => "Bearer realm=\"cubby\"",
        Some(_) => "Bearer realm=\"cubby\", error=\"invalid_token\"",
    };
    Problem::new(StatusCode::UNAUTHORIZED, error.unwrap_or("unauthorized"), detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// Once for each token, beside the request: someone acting in a user's name leaves a trace.
fn record_impersonation(app: &App, session: &Session) {
    let (app, session) = (app.clone(), session.clone());
    tokio::spawn(async move {
        let actor = format!("impersonator {}", session.actor.as_deref().unwrap_or_default());
        tracing::info!(tenant = %session.user, actor, "impersonated");
        let now = app.clock().now();
        let author = Author { actor, origin: None };
        let write = move |tx: &Transaction| author.record(tx, now, "impersonate", session.user.as_str(), "let in");
        let written = app.store().catalog().write(write);
        if let Err(error) = written.await {
            tracing::error!(error = %error, "an impersonation could not be recorded");
        }
    });
}
