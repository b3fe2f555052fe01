//! How much one may ask and hold: token buckets for each user and each address, and bounds on the requests
//! that are answered at once and on the bytes of those that are large.
//!
//! What is kept of a caller must not grow with the callers that an attacker can invent: buckets are
//! in a cache of fixed size, whose policy keeps those that come often. One that is evicted starts
//! anew, full.

use std::{hash::Hash, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use moka::sync::Cache;

use super::{
    admin_key, connection,
    creations::Creations,
    delivery_slots::{DeliverySlot, DeliverySlots},
    health::Readiness,
    peer,
    problem::Problem,
    shares::{Key, Keys, Shares, Total},
};
use crate::{
    config::{
        Secret, ServeConfig, Size,
        limits::{Network, Rate},
    },
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

/// Buckets kept of each kind: some 200 bytes each.
const BUCKETS: u64 = 50_000;

const PER_TENANT: Rate = Rate::Of { count: 100, per: Duration::from_secs(1), burst: 400 };
const PER_ADDRESS: Rate = Rate::Of { count: 200, per: Duration::from_secs(1), burst: 800 };
const CREATIONS: Rate = Rate::Of { count: 600, per: Duration::from_secs(60), burst: 600 };
const KEY_FAILURES: Rate = Rate::Of { count: 30, per: Duration::from_secs(60), burst: 30 };
const CONNECTIONS: u32 = 256;
const ADDRESS_IN_FLIGHT: u32 = 512;
const ADDRESS_BYTES: Size = Size(64 << 20);

/// Requests of operators being answered at once.
const OPERATORS: u64 = 64;

/// What a body may have without being counted: connections and requests at once bound how much that is.
pub const SMALL: u64 = 64 << 10;

/// The bounds of one server, and how much of them is used.
pub struct Bounds {
    tenants: Option<Buckets<TenantId>>,
    addresses: Option<Buckets<u128>>,
    creations: Option<Creations>,
    /// Of those who come to the operators' listener and do not show the key.
    operators_addresses: Option<Buckets<u128>>,
    key_failures: Option<Buckets<u128>>,
    /// Whether one address may have only a share of the connections to the operators' listener.
    shares_operators: bool,
    admin_key: Option<Secret>,
    keys: Keys,
    totals: Arc<Totals>,
    deliveries: DeliverySlots,
    address_connections: Option<u32>,
    /// For `/readyz`, which is asked at no rate.
    pub(super) readiness: Readiness,
    proxies: Vec<Network>,
}

/// What is in_flight now, and how much may be.
struct Totals {
    requests: Total,
    operators: Total,
    requests_of_user: Shares,
    requests_of_address: Option<Shares>,
    bytes: Total,
    bytes_of_user: Shares,
    bytes_of_address: Option<Shares>,
    /// Whose share it is of which nobody has said whose it is.
    nobody: Key,
}

struct Buckets<K> {
    name: &'static str,
    quota: Quota,
    kept: Cache<K, Arc<DefaultDirectRateLimiter>>,
    clock: DefaultClock,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Buckets<K> {
    fn new(name: &'static str, rate: Rate) -> Option<Self> {
        let quota = quota(rate)?;
        Some(Self { name, quota, kept: Cache::new(BUCKETS), clock: DefaultClock::default() })
    }

    fn check(&self, key: &K) -> Result<(), Problem> {
        let bucket = match self.kept.get(key) {
            Some(bucket) => bucket,
            None => self.kept.get_with(key.clone(), || Arc::new(RateLimiter::direct(self.quota))),
        };
        bucket.check().map_err(|until| self.refuse(until.wait_time_from(self.clock.now())))
    }

    /// 429 with the fields of draft-ietf-httpapi-ratelimit-headers-10.
    fn refuse(&self, wait: Duration) -> Problem {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let burst = self.quota.burst_size().get();
        let window = self.quota.burst_size_replenished_in().as_secs().max(1);
        let text = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1"));
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            format!("too many requests for one {}; wait {seconds} s", self.name),
        )
        .with_header(header::RETRY_AFTER, text(seconds.to_string()))
        .with_header(POLICY, text(format!("\"{}\";q={burst};w={window}", self.name)))
        .with_header(LIMIT, text(format!("\"{}\";r=0;t={seconds}", self.name)))
    }
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

fn quota(rate: Rate) -> Option<Quota> {
    let Rate::Of { count, per, burst } = rate else { return None };
    Some(Quota::with_period(per / count)?.allow_burst(NonZeroU32::new(burst)?))
}

/// Whose bound on requests at once a request comes under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// That of all who have not shown the operator's key.
    Ordinary,
    /// That of operators.
    Operator,
    /// None here: whoever watches over the server must see it when it is busiest, and deliveries have
    /// places of their own.
    None,
}

/// What a request holds, until dropped.
pub struct InFlight {
    totals: Arc<Totals>,
    class: Class,
    address: Option<Key>,
    user: Option<Key>,
    bytes: u64,
}

impl InFlight {
    /// Whether the request came with the operator's key.
    pub fn is_operators(&self) -> bool {
        self.class == Class::Operator
    }

    /// Counts the request as this user's from now on.
    fn of_user(&mut self, user: Key) -> Result<(), Problem> {
        if self.user.is_some() || self.class != Class::Ordinary {
            return Ok(());
        }
        if !self.totals.requests_of_user.take(user, 1) {
            return Err(too_much("user", "requests being answered"));
        }
        // What has come already counted as nobody's.
        if self.bytes > 0 {
            if !self.totals.bytes_of_user.take(user, self.bytes) {
                self.totals.requests_of_user.give(user, 1);
                return Err(too_much("user", "bytes being received and sent"));
            }
            self.totals.bytes_of_user.give(self.totals.nobody, self.bytes);
        }
        self.user = Some(user);
        Ok(())
    }

    /// Counts a body of so many bytes as far as it has come.
    pub fn body(&mut self, bytes: u64) -> Result<(), Problem> {
        if self.class != Class::Ordinary || bytes <= SMALL.max(self.bytes) {
            return Ok(());
        }
        // In steps, so that it is not each piece that is counted.
        let more = bytes.next_multiple_of(SMALL) - self.bytes;
        let user = self.user.unwrap_or(self.totals.nobody);
        let Totals { bytes: all, bytes_of_user: users, bytes_of_address: addresses, .. } = &*self.totals;
        if !users.take(user, more) {
            return Err(too_much("user", "bytes being received and sent"));
        }
        if let (Some(addresses), Some(address)) = (addresses, self.address)
            && !addresses.take(address, more)
        {
            users.give(user, more);
            return Err(too_much("address", "bytes being received and sent"));
        }
        if !all.take(more) {
            users.give(user, more);
            if let (Some(addresses), Some(address)) = (addresses, self.address) {
                addresses.give(address, more);
            }
            return Err(overloaded("more bytes are being received and sent than this server may hold"));
        }
        self.bytes += more;
        Ok(())
    }

    /// Counts the answer in place of the body, which is done with. One that tells of a change whose
    /// body had room is told although it is a little longer.
    pub fn answer(&mut self, bytes: u64, is_told_anyway: bool) -> Result<(), Problem> {
        match self.body(bytes) {
            Err(problem) if !is_told_anyway => Err(problem),
            _ => {
                let rest = if bytes <= SMALL { 0 } else { bytes.next_multiple_of(SMALL).min(self.bytes) };
                self.give_bytes(self.bytes - rest);
                Ok(())
            }
        }
    }

    /// Gives the class back of a request whose user is not known, once its answer is made: whoever shows
    /// nothing could hold it by reading nothing. What of its answer waits to be written is bounded by the
    /// connection, and by its bytes if it is large.
    pub fn is_answered(&mut self) {
        if self.class == Class::Ordinary && self.user.is_none() {
            self.release_request();
        }
    }

    fn release_request(&mut self) {
        match std::mem::replace(&mut self.class, Class::None) {
            Class::None => {}
            Class::Operator => self.totals.operators.give(1),
            Class::Ordinary => {
                self.totals.requests.give(1);
                if let Some(user) = self.user {
                    self.totals.requests_of_user.give(user, 1);
                }
                if let (Some(addresses), Some(address)) = (&self.totals.requests_of_address, self.address) {
                    addresses.give(address, 1);
                }
            }
        }
    }

    fn give_bytes(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        self.bytes -= count;
        self.totals.bytes.give(count);
        self.totals.bytes_of_user.give(self.user.unwrap_or(self.totals.nobody), count);
        if let (Some(addresses), Some(address)) = (&self.totals.bytes_of_address, self.address) {
            addresses.give(address, count);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.give_bytes(self.bytes);
        self.release_request();
    }
}

/// 503 because of everybody.
fn overloaded(why: &'static str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", format!("{why}; try again in a moment"))
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// Whether this was refused because of everybody.
pub fn is_shed(problem: &Problem) -> bool {
    problem.code == "overloaded"
}

/// 429 because of one.
fn too_much(whose: &'static str, what: &'static str) -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_much_at_once",
        format!("too many {what} for one {whose}; wait for answers to arrive and read them, then try again"),
    )
    .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// Which door a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Everybody's.
    Public,
    /// The listener for operators alone.
    Operators,
}

/// A request that was not let in: put into its extensions for the envelope, which knows how to say it.
#[derive(Clone)]
pub struct Refused(pub Problem);

impl Bounds {
    /// By the settings. On loopback nothing is limited that is not asked for, unless a proxy stands
    /// in front: then the callers are elsewhere.
    pub fn new(config: &ServeConfig) -> Result<Self> {
        let limits = &config.limits;
        let proxies = limits.proxies()?;
        let outside = |listen: std::net::SocketAddr| !listen.ip().is_loopback();
        let exposed = outside(config.listen);
        let limited = exposed || !proxies.is_empty();
        // Whoever comes to the operators' listener from elsewhere says nothing of where users come from.
        let operators_exposed = limits.admin_listen.is_some_and(outside);
        let of = |set: Option<Rate>, limited: bool, default: Rate| match limited {
            true => set.unwrap_or(default),
            false => set.unwrap_or(Rate::Off),
        };
        let or = |set: Option<Rate>, default: Rate| of(set, limited, default);
        let keys = Keys::default();
        let requests_of_address = limits.address_in_flight.or(limited.then_some(ADDRESS_IN_FLIGHT));
        let bytes_of_address = limits.address_bytes_in_flight.or(limited.then_some(ADDRESS_BYTES));
        Ok(Self {
            tenants: Buckets::new("user", or(limits.tenant_rate, PER_TENANT)),
            addresses: Buckets::new("address", or(limits.address_rate, PER_ADDRESS)),
            creations: quota(or(limits.creation_rate, CREATIONS)).map(Creations::new),
            operators_addresses: Buckets::new("address", of(limits.address_rate, operators_exposed, PER_ADDRESS)),
            key_failures: Buckets::new("address", of(limits.key_failures, limited || operators_exposed, KEY_FAILURES)),
            admin_key: config.admin_api_key.clone(),
            totals: Arc::new(Totals {
                requests: Total::of(limits.max_in_flight.into()),
                operators: Total::of(OPERATORS),
                requests_of_user: Shares::of(limits.tenant_in_flight.into()),
                requests_of_address: requests_of_address.map(|most| Shares::of(most.into())),
                bytes: Total::of(limits.bytes_in_flight.0),
                bytes_of_user: Shares::of(limits.tenant_bytes_in_flight.0),
                bytes_of_address: bytes_of_address.map(|most| Shares::of(most.0)),
                nobody: keys.of(""),
            }),
            keys,
            deliveries: DeliverySlots::of(limits.deliveries_in_flight),
            address_connections: limits.address_connections.or(exposed.then_some(CONNECTIONS)),
            readiness: Readiness::default(),
            shares_operators: limits.address_connections.is_some() || exposed || operators_exposed,
            proxies,
        })
    }

    fn addresses(&self, door: Door) -> Option<&Buckets<u128>> {
        match door {
            Door::Public => self.addresses.as_ref(),
            Door::Operators => self.operators_addresses.as_ref().or(self.addresses.as_ref()),
        }
    }

    fn count_addresses(&self, door: Door) -> bool {
        self.addresses(door).is_some()
            || self.totals.requests_of_address.is_some()
            || self.totals.bytes_of_address.is_some()
    }

    /// Whether proxies speak for callers, so that requests must carry where they come from.
    pub fn trusts_proxies(&self) -> bool {
        !self.proxies.is_empty()
    }

    /// Connections that one address may have; proxies may have any number.
    pub fn connections_of(&self, address: IpAddr) -> Option<u32> {
        self.address_connections.filter(|_| !self.is_proxy(address))
    }

    /// Whether an address may have only a share of the connections to the operators' listener.
    pub fn shares_operators(&self, address: IpAddr) -> bool {
        self.shares_operators && !self.is_proxy(address)
    }

    /// Whether an address's word on where a request comes from is believed.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(address))
    }

    /// Lets a request in, if there is room and its address may. Whoever shows the operator's key has
    /// turns of their own: that others hold all of theirs keeps no operator out.
    ///
    /// # Errors
    /// 503 `overloaded`, 429 `rate_limited` or `too_much_at_once`.
    pub fn enter(&self, door: Door, peer: IpAddr, path: &str, headers: &HeaderMap) -> Result<InFlight, Problem> {
        let mut in_flight = self.nothing();
        if matches!(path, "/healthz" | "/readyz") {
            return Ok(in_flight);
        }
        let address = || block(peer::nearest(self, headers, peer));
        if door == Door::Operators || is_operators(path) {
            match admin_key::shown(self.admin_key.as_ref(), headers) {
                Some(true) if !self.totals.operators.take(1) => {
                    return Err(overloaded("more requests of operators are being answered than this server may take"));
                }
                Some(true) => {
                    in_flight.class = Class::Operator;
                    return Ok(in_flight);
                }
                // The right key is let in however many wrong ones came: none is found by trying, and
                // whoever shares an address with an attacker is not to be locked out. What is bounded is
                // what trying costs.
                Some(false) => self.key_failures.as_ref().map_or(Ok(()), |failures| failures.check(&address()))?,
                None => {}
            }
        }
        let address = self.count_addresses(door).then(address);
        if let (Some(addresses), Some(address)) = (self.addresses(door), &address) {
            addresses.check(address)?;
        }
        if is_delivery(path) {
            return Ok(in_flight);
        }
        if !self.totals.requests.take(1) {
            return Err(overloaded("more requests are being answered than this server may take"));
        }
        in_flight.class = Class::Ordinary;
        if let Some(address) = address.map(|address| self.keys.of(&address)) {
            if let Some(shares) = &self.totals.requests_of_address
                && !shares.take(address, 1)
            {
                return Err(too_much("address", "requests being answered"));
            }
            in_flight.address = Some(address);
        }
        Ok(in_flight)
    }

    /// What a request holds that was not let in.
    pub fn nothing(&self) -> InFlight {
        InFlight { totals: self.totals.clone(), class: Class::None, address: None, user: None, bytes: 0 }
    }

    /// A place for a delivery that is coming in.
    ///
    /// # Errors
    /// 503 `overloaded` if as many as there may be are being applied.
    pub fn delivery(&self) -> Result<DeliverySlot, Problem> {
        self.deliveries.take().ok_or_else(Self::no_place)
    }

    /// What a delivery is told that has no place, or has lost it.
    pub fn no_place() -> Problem {
        overloaded("more deliveries are coming in than this server may take")
    }

    /// Counts a request of a user's.
    pub fn of_tenant(&self, id: &TenantId) -> Result<(), Problem> {
        self.tenants.as_ref().map_or(Ok(()), |tenants| tenants.check(id))?;
        connection::in_flight(|in_flight| in_flight.of_user(self.keys.of(id))).unwrap_or(Ok(()))
    }

    /// Whether creations are counted.
    pub fn count_creations(&self) -> bool {
        self.creations.is_some()
    }

    /// Counts the creation of a tenant.
    pub fn creation(&self) -> Result<()> {
        match self.creations.as_ref().is_none_or(Creations::take) {
            true => Ok(()),
            false => {
                Err(Error::new(ErrorKind::TooMany, "too many users are being created at once; try again in a minute"))
            }
        }
    }

    /// Takes a creation back that was counted and came to nothing.
    pub fn uncount_creation(&self) {
        if let Some(creations) = &self.creations {
            creations.give_back();
        }
    }
}

/// Whether a path is one of the operator's, or of those who watch for them.
pub fn is_operators(path: &str) -> bool {
    path.starts_with("/api/admin/") || path.starts_with("/api/health/") || path == "/metrics"
}

fn is_delivery(path: &str) -> bool {
    path.ends_with("/webhooks/clerk") && matches!(path, "/webhooks/clerk" | "/api/webhooks/clerk")
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
    fn buckets_stay_bounded_against_invented_callers() {
        let buckets = Buckets::<u128>::new("address", PER_ADDRESS).unwrap();
        for key in 0..u128::from(BUCKETS) * 4 {
            buckets.check(&key).unwrap();
        }
        buckets.kept.run_pending_tasks();
        assert!(buckets.kept.entry_count() <= BUCKETS);
    }

    #[test]
    fn a_bucket_is_used_up_and_says_when_to_come_again() {
        let rate = Rate::Of { count: 1, per: Duration::from_secs(60), burst: 3 };
        let buckets = Buckets::<u128>::new("address", rate).unwrap();
        for _ in 0..3 {
            buckets.check(&1).unwrap();
        }
        let refused = buckets.check(&1).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code), (429, "rate_limited"));
        let value = |name: HeaderName| {
            let found = refused.headers.iter().find(|(n, _)| *n == name).expect("the header");
            found.1.to_str().unwrap().to_owned()
        };
        assert_eq!(value(header::RETRY_AFTER), "60");
        assert_eq!(value(POLICY), "\"address\";q=3;w=180");
        assert_eq!(value(LIMIT), "\"address\";r=0;t=60");
        buckets.check(&2).unwrap();
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

    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        config: ServeConfig,
    }

    #[test]
    fn limits_are_on_where_others_may_come_from() {
        let limited = |flags: &[&str]| {
            let serve: Serve = clap::Parser::try_parse_from([&["cubby"], flags].concat()).unwrap();
            let bounds = Bounds::new(&serve.config).unwrap();
            let elsewhere = "203.0.113.1".parse().unwrap();
            [
                bounds.tenants.is_some(),
                bounds.addresses.is_some(),
                bounds.creations.is_some(),
                bounds.connections_of(elsewhere).is_some(),
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
        let flags = ["cubby", "--tenant-bytes-in-flight", "2MiB"];
        let serve: Serve = clap::Parser::try_parse_from(flags).unwrap();
        let bounds = Bounds::new(&serve.config).unwrap();
        let enter = || bounds.enter(Door::Public, [127, 0, 0, 1].into(), "/ada", &HeaderMap::new()).unwrap();
        let ada = bounds.keys.of("ada");
        let mut first = enter();
        first.body(2 * MIB).unwrap();
        first.of_user(ada).unwrap();
        let mut unknown = enter();
        unknown.body(2 * MIB).expect("the share of nobody is free again");
        let mut second = enter();
        second.of_user(ada).unwrap();
        assert!(second.body(MIB).is_err(), "the first holds all that is this user's");
        // Whoever's user has no room for them is refused.
        assert!(unknown.of_user(ada).is_err());
        drop((first, unknown));
        second.body(2 * MIB).expect("all is given back");
        drop(second);
        let mut next = enter();
        next.body(2 * MIB).expect("and the share of nobody too");
    }

    #[test]
    fn ipv6_neighbours_are_one() {
        let of = |text: &str| block(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("1.2.3.4"), of("::ffff:1.2.3.4"));
        assert_ne!(of("1.2.3.4"), of("1.2.3.5"));
    }
}
