//! What the dashboard's pages share.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use axum::{
    Router,
    http::{HeaderMap, request::Parts},
};

use super::{cookies, sessions::Sessions};
use crate::{app::App, http::peer::Peer};

/// The state of the pages. Cloning shares it.
#[derive(Clone)]
pub(super) struct Seat(Arc<Shared>);

/// Its parts.
pub(super) struct Shared {
    pub(super) app: App,
    /// The operators' routes, for requests in this process.
    pub(super) operators: Router,
    pub(super) sessions: Sessions,
}

impl Seat {
    pub(super) fn new(app: App, operators: Router) -> Self {
        Self(Arc::new(Shared { app, operators, sessions: Sessions::default() }))
    }

    /// Whether a request has the cookie of a session.
    pub(super) fn is_signed_in(&self, headers: &HeaderMap) -> bool {
        let token = cookies::get(headers, cookies::SESSION);
        token.is_some_and(|token| self.sessions.has(token, self.app.clock().now()))
    }

    /// The address that a request comes from.
    pub(super) fn origin(&self, parts: &Parts) -> IpAddr {
        let peer = parts.extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip());
        self.app.door().limits.proxies.nearest(&parts.headers, peer)
    }
}

impl Deref for Seat {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Whether the browser speaks HTTPS, as a proxy tells. One who lies about it harms only themselves, so any is believed.
pub(super) fn is_https(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}
