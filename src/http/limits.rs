//! How much one may ask: token buckets for each user and each address, and a bound on what is
//! answered at once.
//!
//! What is kept of a caller must not grow with the callers that an attacker can invent: buckets are
//! in a cache of fixed size, whose policy keeps those that come often. One that is evicted starts
//! anew, full.

use std::{
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use moka::sync::Cache;

use super::{creations::Creations, peer, problem::Problem};
use crate::{
    config::{
        ServeConfig,
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
const CONNECTIONS: u32 = 256;

/// The bounds of one server, and how much of them is used.
pub struct Bounds {
    tenants: Option<Buckets<TenantId>>,
    addresses: Option<Buckets<u128>>,
    creations: Option<Creations>,
    in_flight: AtomicUsize,
    most_in_flight: usize,
    address_connections: Option<u32>,
    proxies: Vec<Network>,
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

/// A request that is being answered.
pub struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bounds {
    /// By the settings. On loopback nothing is limited that is not asked for, unless a proxy stands
    /// in front: then the callers are elsewhere.
    pub fn new(config: &ServeConfig) -> Result<Self> {
        let limits = &config.limits;
        let proxies = limits.proxies()?;
        let exposed = !config.listen.ip().is_loopback();
        let or = |set: Option<Rate>, default: Rate| match exposed || !proxies.is_empty() {
            true => set.unwrap_or(default),
            false => set.unwrap_or(Rate::Off),
        };
        Ok(Self {
            tenants: Buckets::new("user", or(limits.tenant_rate, PER_TENANT)),
            addresses: Buckets::new("address", or(limits.address_rate, PER_ADDRESS)),
            creations: quota(or(limits.creation_rate, CREATIONS)).map(Creations::new),
            in_flight: AtomicUsize::new(0),
            most_in_flight: limits.max_in_flight as usize,
            address_connections: limits.address_connections.or(exposed.then_some(CONNECTIONS)),
            proxies,
        })
    }

    /// Whether requests must carry where they come from: they are counted by it, or a proxy speaks for them.
    pub fn count_addresses(&self) -> bool {
        self.addresses.is_some() || !self.proxies.is_empty()
    }

    /// Connections that one address may have; proxies may have any number.
    pub fn connections_of(&self, address: IpAddr) -> Option<u32> {
        self.address_connections.filter(|_| !self.is_proxy(address))
    }

    /// Whether an address's word on where a request comes from is believed.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(address))
    }

    /// Lets a request in, if there is room and its address may.
    pub fn enter(&self, request: &Request) -> Result<Option<Turn<'_>>, Problem> {
        // Whoever watches over the server must see it when it is busiest.
        if matches!(request.uri().path(), "/healthz" | "/readyz") {
            return Ok(None);
        }
        let turn = Turn(&self.in_flight);
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.most_in_flight {
            return Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "more requests are being answered than this server may take; try again in a moment",
            )
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1")));
        }
        if let Some(addresses) = &self.addresses {
            addresses.check(&block(peer::origin(self, request)))?;
        }
        Ok(Some(turn))
    }

    /// Counts a request of a user's.
    pub fn of_tenant(&self, id: &TenantId) -> Result<(), Problem> {
        self.tenants.as_ref().map_or(Ok(()), |tenants| tenants.check(id))
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
        for (name, default) in
            [("tenant_rate", PER_TENANT), ("address_rate", PER_ADDRESS), ("creation_rate", CREATIONS)]
        {
            assert_eq!(told(name).parse(), Ok(default), "{name}");
        }
        assert_eq!(told("address_connections").parse(), Ok(CONNECTIONS));
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
        assert_eq!(limited(&["--listen", "0.0.0.0:0"]), [true; 4]);
        // Connections are the proxy's then.
        assert_eq!(limited(&["--trusted-proxies", "127.0.0.1"]), [true, true, true, false]);
        assert_eq!(limited(&["--listen", "0.0.0.0:0", "--tenant-rate", "off"]), [false, true, true, true]);
        assert_eq!(limited(&["--creation-rate", "5/m"]), [false, false, true, false]);
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
