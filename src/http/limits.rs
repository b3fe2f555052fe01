//! How much one may ask and hold: rates for each user and address, and bounds on the requests and bytes
//! that are in flight.
//!
//! | file | has |
//! |---|---|
//! | [`rates`] | token buckets for users, addresses and creations |
//! | [`in_flight`] | the requests and bytes in flight |
//! | [`shares`] | the counters of these |
//! | [`delivery_slots`] | slots for signed deliveries that are coming in |
//!
//! On loopback nothing is limited that is not set, unless a proxy stands in front: then the callers are elsewhere.

pub mod delivery_slots;
pub mod in_flight;
pub mod rates;
pub mod shares;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::http::HeaderMap;

use self::{
    delivery_slots::{DeliverySlot, DeliverySlots},
    in_flight::{InFlight, Totals, overloaded},
    rates::{Buckets, Creations},
    shares::{Keys, Shares, Total},
};
use super::{
    connection, operator_key,
    peer::{Proxies, block},
    problem::Problem,
};
use crate::{
    config::{Secret, ServeConfig, Size},
    error::Result,
    rate::Rate,
    tenants::{id::TenantId, lifecycle::quota::OwnRate},
};

/// Requests of operators in flight.
const OPERATORS: u64 = 64;

// Defaults where callers come from elsewhere. `--help` tells them.
const PER_TENANT: Rate = Rate::Of { count: 100, per: Duration::from_secs(1), burst: 400 };
const PER_ADDRESS: Rate = Rate::Of { count: 200, per: Duration::from_secs(1), burst: 800 };
const CREATIONS: Rate = Rate::Of { count: 600, per: Duration::from_secs(60), burst: 600 };
const KEY_FAILURES: Rate = Rate::Of { count: 30, per: Duration::from_secs(60), burst: 30 };
const CONNECTIONS: u32 = 256;
const ADDRESS_IN_FLIGHT: u32 = 512;
const ADDRESS_BYTES: Size = Size(64 << 20);

/// The limits of one server, and how much of them is used.
pub struct Limits {
    tenants: Buckets<TenantId>,
    addresses: Option<Buckets<u128>>,
    /// Counts the tenants that requests create.
    pub creations: Option<Arc<Creations>>,
    /// Of requests to the operators' listener without the key.
    operators_addresses: Option<Buckets<u128>>,
    key_failures: Option<Buckets<u128>>,
    /// Whether one address may have only a share of the connections to the operators' listener.
    shares_operators: bool,
    operators_key: Option<Secret>,
    /// Whether a request has the session of an operator who signed in with the key.
    sessions: OnceLock<IsSignedIn>,
    keys: Keys,
    totals: Arc<Totals>,
    /// Whether requests or bytes in flight are counted by address.
    counts_addresses: bool,
    deliveries: DeliverySlots,
    address_connections: Option<u32>,
    /// The trusted proxies.
    pub proxies: Proxies,
    audience: fn(&str) -> Audience,
}

/// Whether the headers of a request prove a session of an operator.
pub type IsSignedIn = Box<dyn Fn(&HeaderMap) -> bool + Send + Sync>;

/// Which listener a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// The one for all.
    Public,
    /// The one for operators alone.
    Operators,
}

/// Whom a path is for, which says by which limits it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Users: by all limits.
    Users,
    /// Operators: by limits of their own with the operator's key, as users without it.
    Operators,
    /// Senders of signed deliveries: by the rate of their address and the delivery slots.
    Senders,
    /// What probes the server: by none.
    Probes,
}

impl Audience {
    /// Of a path in a server with no paths for operators and senders.
    pub fn of(path: &str) -> Self {
        match path {
            "/healthz" | "/readyz" => Self::Probes,
            _ => Self::Users,
        }
    }
}

/// Why a request was refused: put into its extensions for the envelope, which answers it.
#[derive(Clone)]
pub struct Refused(pub Problem);

impl Limits {
    /// By the settings.
    pub fn new(config: &ServeConfig, audience: fn(&str) -> Audience) -> Result<Self> {
        let limits = &config.limits;
        let proxies = Proxies::new(limits.proxies()?);
        let is_exposed = |listen: SocketAddr| !listen.ip().is_loopback();
        let exposed = is_exposed(config.listen);
        let limited = exposed || !proxies.is_empty();
        // An exposed operators' listener does not expose the users' one.
        let operators_exposed = limits.admin_listen.is_some_and(is_exposed);
        let rate =
            |set: Option<Rate>, limited: bool, default: Rate| set.unwrap_or(if limited { default } else { Rate::Off });
        let address_in_flight = limits.address_in_flight.or(limited.then_some(ADDRESS_IN_FLIGHT));
        let address_bytes = limits.address_bytes_in_flight.or(limited.then_some(ADDRESS_BYTES));
        let keys = Keys::default();
        Ok(Self {
            tenants: Buckets::with_own("user", rate(limits.tenant_rate, limited, PER_TENANT)),
            addresses: Buckets::new("address", rate(limits.address_rate, limited, PER_ADDRESS)),
            creations: Creations::new(rate(limits.creation_rate, limited, CREATIONS)).map(Arc::new),
            operators_addresses: Buckets::new("address", rate(limits.address_rate, operators_exposed, PER_ADDRESS)),
            key_failures: Buckets::new(
                "address",
                rate(limits.key_failures, limited || operators_exposed, KEY_FAILURES),
            ),
            shares_operators: limits.address_connections.is_some() || exposed || operators_exposed,
            operators_key: config.admin_api_key.clone(),
            sessions: OnceLock::new(),
            totals: Arc::new(Totals {
                requests: Total::of(limits.max_in_flight.into()),
                operators: Total::of(OPERATORS),
                of_user: Shares::of(limits.tenant_in_flight.into()),
                of_address: Shares::of(address_in_flight.map_or(u64::MAX, u64::from)),
                bytes: Total::of(limits.bytes_in_flight.0),
                bytes_of_user: Shares::of(limits.tenant_bytes_in_flight.0),
                bytes_of_address: Shares::of(address_bytes.map_or(u64::MAX, |most| most.0)),
                unknown_user: keys.of(""),
            }),
            counts_addresses: address_in_flight.is_some() || address_bytes.is_some(),
            keys,
            deliveries: DeliverySlots::of(limits.deliveries_in_flight),
            address_connections: limits.address_connections.or(exposed.then_some(CONNECTIONS)),
            proxies,
            audience,
        })
    }

    /// Lets requests with a session of an operator in as those with the key. Called once, before the first request.
    pub fn let_in_sessions(&self, is_signed_in: IsSignedIn) {
        let _ = self.sessions.set(is_signed_in);
    }

    fn addresses(&self, listener: Listener) -> Option<&Buckets<u128>> {
        match listener {
            Listener::Public => self.addresses.as_ref(),
            Listener::Operators => self.operators_addresses.as_ref().or(self.addresses.as_ref()),
        }
    }

    /// The requests in flight that are not operators'.
    pub fn in_flight(&self) -> u64 {
        self.totals.requests.held()
    }

    /// Whom a path is for.
    pub fn audience(&self, path: &str) -> Audience {
        (self.audience)(path)
    }

    /// Connections that one address may have; proxies may have any number.
    pub fn connections_of(&self, address: IpAddr) -> Option<u32> {
        self.address_connections.filter(|_| !self.proxies.contains(address))
    }

    /// Whether an address may have only a share of the connections to the operators' listener.
    pub fn shares_operators(&self, address: IpAddr) -> bool {
        self.shares_operators && !self.proxies.contains(address)
    }

    /// Lets a request in, if the limits allow it. Requests with the operator's key, or a session of the dashboard, have a
    /// limit of their own: other callers' requests keep no operator out.
    ///
    /// # Errors
    /// 503 `overloaded`, 429 `rate_limited` or `too_much_at_once`.
    pub fn enter(
        &self,
        listener: Listener,
        peer: IpAddr,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<InFlight, Problem> {
        let mut in_flight = self.nothing();
        let audience = self.audience(path);
        if audience == Audience::Probes {
            return Ok(in_flight);
        }
        let address = || block(self.proxies.nearest(headers, peer));
        if listener == Listener::Operators || audience == Audience::Operators {
            if self.sessions.get().is_some_and(|is_signed_in| is_signed_in(headers)) {
                in_flight.enter_as_operator()?;
                return Ok(in_flight);
            }
            match operator_key::matches(self.operators_key.as_ref(), headers) {
                Some(true) => {
                    in_flight.enter_as_operator()?;
                    return Ok(in_flight);
                }
                // The right key is accepted after any number of wrong ones: guessing does not find it, and an
                // operator who shares an address with an attacker must not be locked out. The limit bounds
                // what guessing costs.
                Some(false) => self.key_failures.as_ref().map_or(Ok(()), |failures| failures.check(&address()))?,
                None => {}
            }
        }
        let addresses = self.addresses(listener);
        let address = (self.counts_addresses || addresses.is_some()).then(address);
        if let (Some(addresses), Some(address)) = (addresses, &address) {
            addresses.check(address)?;
        }
        if audience != Audience::Senders {
            in_flight.enter(address.map(|address| self.keys.of(&address)))?;
        }
        Ok(in_flight)
    }

    /// Counts a wrong operator's key that did not come in a header; see [`enter`](Self::enter).
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn key_failed(&self, address: IpAddr) -> Result<(), Problem> {
        self.key_failures.as_ref().map_or(Ok(()), |failures| failures.check(&block(address)))
    }

    /// For a request that was refused.
    pub fn nothing(&self) -> InFlight {
        InFlight::nothing(&self.totals)
    }

    /// A slot for a delivery that is coming in.
    ///
    /// # Errors
    /// 503 `overloaded` if as many as there may be are being applied.
    pub fn delivery(&self) -> Result<DeliverySlot, Problem> {
        self.deliveries.take().ok_or_else(Self::no_delivery_slot)
    }

    /// The answer to a delivery that has no slot, or has lost it.
    pub fn no_delivery_slot() -> Problem {
        overloaded("more deliveries are coming in than this server may take")
    }

    /// Counts a request of a user's, who may have a rate of their own.
    ///
    /// # Errors
    /// 429 `rate_limited` or `too_much_at_once`.
    pub fn of_tenant(&self, id: &TenantId, own: OwnRate) -> Result<(), Problem> {
        self.tenants.check_own(id, own)?;
        connection::in_flight(|in_flight| in_flight.of_user(self.keys.of(id))).unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        config: ServeConfig,
    }

    fn limits(flags: &[&str]) -> Limits {
        let serve: Serve = clap::Parser::try_parse_from([&["cubby"], flags].concat()).unwrap();
        Limits::new(&serve.config, Audience::of).unwrap()
    }

    #[test]
    fn limits_are_on_where_others_may_come_from() {
        let limited = |flags: &[&str]| {
            let limits = limits(flags);
            let elsewhere = "203.0.113.1".parse().unwrap();
            [
                limits.tenants.is_on(),
                limits.addresses.is_some(),
                limits.creations.is_some(),
                limits.connections_of(elsewhere).is_some(),
            ]
        };
        assert_eq!(limited(&["--listen", "127.0.0.1:0"]), [false; 4]);
        assert_eq!(limited(&["--listen", "127.0.0.1:0", "--admin-listen", "10.0.0.1:0"]), [false; 4]);
        assert_eq!(limited(&["--listen", "0.0.0.0:0"]), [true; 4]);
        // Connections are the proxy's then.
        assert_eq!(limited(&["--trusted-proxies", "127.0.0.1"]), [true, true, true, false]);
        assert_eq!(limited(&["--listen", "0.0.0.0:0", "--tenant-rate", "off"]), [false, true, true, true]);
        assert_eq!(limited(&["--creation-rate", "5/m"]), [false, false, true, false]);
    }

    #[test]
    fn bytes_that_came_before_their_user_was_known_count_as_that_users_from_then_on() {
        const MIB: u64 = 1 << 20;
        let limits = limits(&["--tenant-bytes-in-flight", "2MiB"]);
        let enter = || limits.enter(Listener::Public, [127, 0, 0, 1].into(), "/ada", &HeaderMap::new()).unwrap();
        let ada = limits.keys.of("ada");
        let mut first = enter();
        first.body(2 * MIB).unwrap();
        first.of_user(ada).unwrap();
        let mut unknown = enter();
        unknown.body(2 * MIB).expect("the share of requests without a user is free again");
        let mut second = enter();
        second.of_user(ada).unwrap();
        assert!(second.body(MIB).is_err(), "the first holds all of this user's share");
        assert!(unknown.of_user(ada).is_err(), "its bytes do not fit this user's share");
        drop((first, unknown));
        second.body(2 * MIB).expect("all is given back");
        drop(second);
        let mut next = enter();
        next.body(2 * MIB).expect("and the share of requests without a user too");
    }

    #[test]
    fn the_defaults_are_those_that_help_tells() {
        use clap::Args;
        let command = crate::config::limits::LimitsConfig::augment_args(clap::Command::new("cubby"));
        let told = |name: &str| {
            let setting = command.get_arguments().find(|argument| argument.get_id() == name).unwrap();
            let help = setting.get_help().unwrap().to_string();
            help.split_once("[default: ").unwrap().1.split(';').next().unwrap().to_owned()
        };
        for (name, default) in [
            ("tenant_rate", PER_TENANT),
            ("address_rate", PER_ADDRESS),
            ("creation_rate", CREATIONS),
            ("key_failures", KEY_FAILURES),
        ] {
            assert_eq!(told(name).parse(), Ok(default), "{name}");
        }
        assert_eq!(told("address_connections").parse(), Ok(CONNECTIONS));
        assert_eq!(told("address_in_flight").parse(), Ok(ADDRESS_IN_FLIGHT));
        assert_eq!(told("address_bytes_in_flight").parse(), Ok(ADDRESS_BYTES));
    }
}
