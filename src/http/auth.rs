//! Who is calling: from the request's headers to a [`Caller`], or 401.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use reqwest::Url;

use super::{door::Door, operator_key, peer::Peer, problem::Problem};
use crate::{
    catalog::audit::Author,
    clock::Millis,
    error::Result,
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
    /// Whether this caller may reach a tenant. Decided before any storage is touched, so that the time of
    /// the answer does not tell whether the tenant exists.
    pub fn reaches(&self, id: &TenantId) -> bool {
        match self {
            Self::User(session) => session.user == *id,
            Self::Program(key) => key.row.tenant.as_ref().is_none_or(|only| only == id),
        }
    }

    /// Whether a request of this caller proves that the tenant's user exists.
    pub fn proves_user(&self) -> bool {
        matches!(self, Self::User(_))
    }

    /// Whether what this caller showed still holds, for an answer that takes long.
    pub fn is_valid(&self, door: &Door) -> bool {
        let now = door.clock().now();
        match self {
            Self::User(session) => now < session.until,
            Self::Program(key) => door.identity.keys().holds(key, now),
        }
    }

    /// When it ends by itself.
    pub fn expires(&self) -> Option<Millis> {
        match self {
            Self::User(session) => Some(session.until),
            Self::Program(key) => key.row.expires,
        }
    }

    /// Whether this caller may change anything.
    pub fn may_write(&self) -> bool {
        !matches!(self, Self::Program(key) if key.row.read_only)
    }
}

/// Authenticates a caller, in a server that requires it.
pub async fn authenticate(door: &Door, parts: &Parts) -> Result<Caller, Problem> {
    let bearer = bearer(&parts.headers)?;
    if let Some(key) = bearer
        && door.identity.takes_keys()
        && key.starts_with(keys::PREFIX)
    {
        let found = door.identity.keys().find(key, door.clock().now());
        return found
            .map(Caller::Program)
            .ok_or_else(|| refused(Refusal("the API key is unknown, revoked or expired")));
    }
    // The header comes before the cookie: it was set on purpose.
    let Some(token) = bearer.or_else(|| cookie(parts, door)) else {
        let detail = match (door.identity.sessions().is_some(), door.identity.takes_keys()) {
            (false, _) => "send an API key as Authorization: Bearer …",
            (true, false) => "send a session token as Authorization: Bearer …",
            (true, true) => "send a session token or an API key as Authorization: Bearer …",
        };
        return Err(unauthorized("unauthorized", detail));
    };
    let Some(verifier) = door.identity.sessions() else {
        return Err(refused(Refusal("only API keys are accepted here")));
    };
    match verifier.verify(token).await {
        Verdict::Session(session) => {
            if let Some(by) = &session.impersonator {
                by.recorded.get_or_try_init(|| record_impersonation(door, &session.user, &by.id)).await?;
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

/// The token of the `Authorization` header, if there is one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    match headers.get_all(header::AUTHORIZATION).iter().count() {
        0 => Ok(None),
        1 => match operator_key::bearer(headers) {
            None => Err(refused(Refusal("the Authorization header must be: Bearer and a token"))),
            token => Ok(token),
        },
        _ => Err(refused(Refusal("more than one Authorization header was sent"))),
    }
}

/// The token of the session cookie, if the page that sent it may use it.
fn cookie<'a>(parts: &'a Parts, door: &Door) -> Option<&'a str> {
    let cookies = parts.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, token) = pairs.find(|(name, value)| *name == door.config.door.session_cookie && !value.is_empty())?;
    (!is_foreign_page(parts, door)).then_some(token)
}

/// A browser sends the cookie with requests of any site's page, so a request whose `Origin` is neither this
/// server's nor in the settings is not authenticated by it (cross-site request forgery).
pub fn is_foreign_page(parts: &Parts, door: &Door) -> bool {
    if !parts.headers.contains_key(header::ORIGIN) {
        return false;
    }
    let Some(origin) = only(&parts.headers, &header::ORIGIN) else { return true };
    let (parties, pages) = (&door.config.door.authorized_parties.0, &door.config.limits.cors_origins.0);
    !parties.iter().chain(pages).any(|known| known == origin) && !is_own_origin(origin, parts, door)
}

/// Whether an origin is this server's own as the caller sees it: scheme, host and port. Without the scheme,
/// an attacker on the network could serve a page at `http://` this host that uses the cookie of `https://`.
fn is_own_origin(origin: &str, parts: &Parts, door: &Door) -> bool {
    let Some(host) = only(&parts.headers, &header::HOST) else { return false };
    let by_proxy = parts.extensions.get::<Peer>().is_some_and(|peer| door.limits.proxies.contains(peer.0.ip()));
    let scheme = match only(&parts.headers, &FORWARDED_PROTO).filter(|_| by_proxy) {
        Some("https") => "https",
        // A request that no trusted proxy forwarded came as it is, unencrypted.
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
    unauthorized("invalid_token", refusal.0)
}

/// 401 as RFC 6750 requires it: no error code when no credential was sent.
fn unauthorized(code: &'static str, detail: &'static str) -> Problem {
    let challenge = match code {
        "invalid_token" => "Bearer realm=\"cubby\", error=\"invalid_token\"",
        _ => "Bearer realm=\"cubby\"",
    };
    Problem::new(StatusCode::UNAUTHORIZED, code, detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// Writes the audit row of a token by which someone acts in a user's name, before it gives access.
async fn record_impersonation(door: &Door, user: &TenantId, by: &str) -> Result<()> {
    let author = Author { actor: format!("impersonator {by}"), origin: None };
    tracing::info!(tenant = %user, actor = author.actor, "impersonated");
    let (now, user) = (door.clock().now(), user.clone());
    let write = door.store.catalog().write(move |tx| author.record(tx, now, "impersonate", user.as_str(), "let in"));
    write.await.inspect_err(|error| tracing::error!(error = %error, "an impersonation could not be recorded"))
}
