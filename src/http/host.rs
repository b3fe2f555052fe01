//! The host names that the server answers to.
//!
//! A page in a browser may resolve its own name to 127.0.0.1 while it is open (DNS rebinding): then the
//! browser takes it for a page of this server, and it may read and write all data. It cannot change the name
//! in `Host`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::Request,
    http::{StatusCode, header},
};

use super::problem::Problem;
use crate::config::{door::DoorConfig, endpoint::is_this_machine};

/// The names that one listener answers to.
#[derive(Debug, Clone)]
pub struct Hosts {
    listen: IpAddr,
    names: Arc<[String]>,
}

impl Hosts {
    /// The rule of a listener; none where any name is allowed. Names are checked on loopback if callers are
    /// not authenticated, and wherever they are set.
    pub fn new(config: &DoorConfig, listen: SocketAddr) -> Option<Self> {
        let (listen, names) = (listen.ip(), &config.allowed_hosts.0);
        let open_here = config.auth.is_open() && listen.is_loopback();
        (open_here || !names.is_empty()).then(|| Self { listen, names: names.as_slice().into() })
    }

    /// Refuses a request for another host.
    ///
    /// # Errors
    /// 421 `host_not_allowed`, and 400 where no host is named or several are.
    pub fn check(&self, request: &Request) -> Result<(), Problem> {
        let mut given = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (given.next(), given.next()) else {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "malformed_request",
                "send the header Host once: it names the server that the request is for",
            ));
        };
        // A target that names a host goes before the header (RFC 9112, 3.2.2); both must be allowed.
        let target = request.uri().authority().map(axum::http::uri::Authority::as_str);
        let allowed = host.to_str().is_ok_and(|host| self.has(host)) && target.is_none_or(|target| self.has(target));
        if allowed {
            return Ok(());
        }
        tracing::debug!(?host, "a request for a name that is not allowed");
        Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "host_not_allowed",
            "this server does not answer to the name in Host, so that no other site's page can reach it through a \
             browser; ask it as 127.0.0.1 or localhost, or set CUBBY_ALLOWED_HOSTS to the names that it has",
        ))
    }

    fn has(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        // An address is not a name that a page can rebind, so where the listener has all addresses all are allowed.
        let is_own = |address: IpAddr| self.listen.is_unspecified() || address == self.listen;
        is_this_machine(name)
            || name.parse().is_ok_and(is_own)
            || self.names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }
}

/// The host of `host` or `host:port`, without the brackets of an IPv6 address.
fn name_of(host: &str) -> Option<&str> {
    let (name, rest) = match host.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = rest.strip_prefix(':').unwrap_or(rest);
    (!name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}
