//! Where a request comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{extract::Request, http::HeaderMap};

use super::limits::Bounds;

/// The other end of the connection; the accept loop leaves it with each request that needs it.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The address a request comes from: the other end's, or what a trusted proxy says it is.
pub fn origin(limits: &Bounds, request: &Request) -> IpAddr {
    let peer = request.extensions().get::<Peer>();
    nearest(limits, request.headers(), peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip()))
}

/// The same for a connection from `peer`.
pub fn nearest(limits: &Bounds, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let peer = peer.to_canonical();
    match limits.is_proxy(peer) {
        true => forwarded(limits, headers, peer),
        false => peer,
    }
}

/// From the right, the first address that no proxy of ours vouches for: everything left of it was
/// written by the caller, who may write anything.
fn forwarded(limits: &Bounds, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let mut nearest = peer;
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        for hop in line.to_str().unwrap_or("").rsplit(',') {
            let hop = hop.trim();
            let address = hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|with_port| with_port.ip()));
            let Ok(address) = address.map(|address: IpAddr| address.to_canonical()) else { return nearest };
            nearest = address;
            if !limits.is_proxy(address) {
                return nearest;
            }
        }
    }
    nearest
}
