//! What the dashboard's pages share.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use axum::{
    Router,
    http::{HeaderMap, request::Parts},
};
use tokio::sync::Semaphore;

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
    /// Pages that may be kept up to date at once.
    pub(super) streams: Arc<Semaphore>,
}

/// Each holds a connection and costs a few queries with each sample.
const STREAMS: usize = 32;

impl Seat {
    pub(super) fn new(app: App, operators: Router) -> Self {
        Self(Arc::new(Shared {
            app,
            operators,
            sessions: Sessions::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
        }))
    }

    /// Says whether a request has the cookie of a session. It does not keep the server's parts, which have it.
    pub(super) fn is_signed_in(&self) -> impl Fn(&HeaderMap) -> bool + Send + Sync + 'static {
        let seat = Arc::downgrade(&self.0);
        move |headers| {
            let token = cookies::get(headers, cookies::SESSION);
            token
                .zip(seat.upgrade())
                .is_some_and(|(token, seat)| seat.sessions.look(token, seat.app.clock().now()).is_some())
        }
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
