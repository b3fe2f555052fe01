//! The address that a request comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{extract::Request, http::HeaderMap};

use crate::config::limits::Network;

/// The other end of the connection; the accept loop puts it into each request that needs it.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
#[derive(Debug, Clone)]
pub struct Proxies(Vec<Network>);

impl Proxies {
    /// Those in these networks.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is that of a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Whether a trusted proxy says that a request came to it by https.
    pub fn came_encrypted(&self, request: &Request) -> bool {
        let by_proxy = request.extensions().get::<Peer>().is_some_and(|peer| self.contains(peer.0.ip()));
        by_proxy && request.headers().get("x-forwarded-proto").is_some_and(|scheme| scheme == "https")
    }

    /// The address a request comes from: the other end's, or what a trusted proxy says it is.
    pub fn origin(&self, request: &Request) -> IpAddr {
        let peer = request.extensions().get::<Peer>();
        self.nearest(request.headers(), peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip()))
    }

    /// The same for a connection from `peer`: from the right, the first address that is not a trusted proxy.
    /// Everything left of it was written by the caller, who may write anything.
    pub fn nearest(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if !self.contains(nearest) {
            return nearest;
        }
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        for hop in lines.flat_map(|line| line.to_str().unwrap_or("").rsplit(',')).map(str::trim) {
            let address = hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|with_port| with_port.ip()));
            let Ok(address): Result<IpAddr, _> = address else { break };
            nearest = address.to_canonical();
            if !self.contains(nearest) {
                break;
            }
        }
        nearest
    }
}

/// What counts as one address: of IPv6 a network of 64 bits, which is what one customer is given.
pub fn block(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => (1 << 64) | u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let of = |text: &str| block(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("1.2.3.4"), of("::ffff:1.2.3.4"));
        assert_ne!(of("1.2.3.4"), of("1.2.3.5"));
    }
}
