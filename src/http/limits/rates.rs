//! Token buckets: one for each user or address, and one for the users that requests create.
//!
//! What is kept must not grow with the callers that an attacker can invent: buckets are in a cache of fixed
//! size, whose policy keeps those that are used often. A bucket that is evicted starts anew, full.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use moka::sync::Cache;

use crate::{
    error::{Error, ErrorKind, Result},
    http::problem::Problem,
    rate::Rate,
    tenants::{lifecycle::quota::OwnRate, open::opening::Counter},
};

/// Buckets kept of each kind: some 200 bytes each.
const BUCKETS: u64 = 50_000;

/// The buckets of one kind of caller.
pub struct Buckets<K> {
    name: &'static str,
    /// Of callers without a rate of their own; none if that is off.
    default: Option<Quota>,
    kept: Cache<K, Arc<Bucket>>,
    /// Whether a caller with a rate of its own was ever counted.
    own: AtomicBool,
    clock: DefaultClock,
}

/// The bucket of one caller.
struct Bucket {
    /// The caller's own rate, if it has one.
    own: Option<Rate>,
    /// None if the rate is off.
    limit: Option<(Quota, DefaultDirectRateLimiter)>,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Buckets<K> {
    /// Of a rate; none where it is off. `name` is what one caller is called in errors.
    pub fn new(name: &'static str, rate: Rate) -> Option<Self> {
        Some(Self::with_own(name, rate)).filter(Self::is_on)
    }

    /// Of a rate, for callers who may have one of their own.
    pub fn with_own(name: &'static str, rate: Rate) -> Self {
        let (kept, own) = (Cache::new(BUCKETS), AtomicBool::new(false));
        Self { name, default: quota(rate), kept, own, clock: DefaultClock::default() }
    }

    /// Whether there is a rate for callers without one of their own.
    pub fn is_on(&self) -> bool {
        self.default.is_some()
    }

    /// Counts a request of this caller.
    ///
    /// # Errors
    /// 429 `rate_limited`, with when to come again.
    pub fn check(&self, key: &K) -> Result<(), Problem> {
        self.check_own(key, OwnRate::Unknown)
    }

    /// The same for a caller who may have a rate of its own. While that is not known, the one that was known last counts,
    /// and the one for all before.
    ///
    /// # Errors
    /// 429 `rate_limited`, with when to come again.
    pub fn check_own(&self, key: &K, own: OwnRate) -> Result<(), Problem> {
        if let OwnRate::Is(Some(_)) = own {
            self.own.store(true, Ordering::Relaxed);
        } else if self.default.is_none() && !self.own.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bucket = match (self.kept.get(key), own) {
            (Some(bucket), OwnRate::Unknown) => bucket,
            (Some(bucket), OwnRate::Is(own)) if bucket.own == own => bucket,
            (Some(_), OwnRate::Is(own)) => {
                // It was changed: a new bucket, full.
                let bucket = self.bucket(own);
                self.kept.insert(key.clone(), bucket.clone());
                bucket
            }
            (None, OwnRate::Is(own)) => self.kept.get_with(key.clone(), || self.bucket(own)),
            (None, OwnRate::Unknown) => self.kept.get_with(key.clone(), || self.bucket(None)),
        };
        let Some((quota, limiter)) = &bucket.limit else { return Ok(()) };
        limiter.check().map_err(|until| self.refuse(*quota, until.wait_time_from(self.clock.now())))
    }

    fn bucket(&self, own: Option<Rate>) -> Arc<Bucket> {
        let quota = own.map_or(self.default, quota);
        Arc::new(Bucket { own, limit: quota.map(|quota| (quota, RateLimiter::direct(quota))) })
    }

    /// 429 with the fields of draft-ietf-httpapi-ratelimit-headers-10.
    fn refuse(&self, quota: Quota, wait: Duration) -> Problem {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let burst = quota.burst_size().get();
        let window = quota.burst_size_replenished_in().as_secs().max(1);
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

/// The rate at which requests create tenants; only those count that were created.
pub struct Creations {
    bucket: DefaultDirectRateLimiter,
    /// Counted creations that did not happen, a burst of them at most: the next ones take these first.
    unused: AtomicU32,
    burst: u32,
}

impl Creations {
    /// Of a rate; none where it is off.
    pub fn new(rate: Rate) -> Option<Self> {
        let quota = quota(rate)?;
        let burst = quota.burst_size().get();
        Some(Self { bucket: RateLimiter::direct(quota), unused: AtomicU32::new(0), burst })
    }
}

impl Counter for Creations {
    fn count(&self) -> Result<()> {
        let change = |unused: u32| unused.checked_sub(1);
        let unused = self.unused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok();
        if unused || self.bucket.check().is_ok() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::TooMany, "too many users are being created at once; try again in a minute"))
    }

    fn uncount(&self) {
        let change = |unused: u32| (unused < self.burst).then_some(unused + 1);
        let _ = self.unused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

/// A rate as the token buckets take it; none where it is off.
fn quota(rate: Rate) -> Option<Quota> {
    let Rate::Of { count, per, burst } = rate else { return None };
    Some(Quota::with_period(per / count)?.allow_burst(NonZeroU32::new(burst)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stay_bounded_against_invented_callers() {
        let rate = Rate::Of { count: 200, per: Duration::from_secs(1), burst: 800 };
        let buckets = Buckets::<u128>::new("address", rate).unwrap();
        for key in 0..u128::from(BUCKETS) * 4 {
            buckets.check(&key).unwrap();
        }
        buckets.kept.run_pending_tasks();
        assert!(buckets.kept.entry_count() <= BUCKETS);
    }

    #[test]
    fn a_caller_has_its_own_rate_from_when_it_is_known_until_another_is() {
        let rate = |burst| Rate::Of { count: 1, per: Duration::from_secs(3600), burst };
        let allowed = |buckets: &Buckets<u128>, own| (0..10).take_while(|_| buckets.check_own(&1, own).is_ok()).count();
        for (default, first) in [(rate(2), 2), (Rate::Off, 10)] {
            let buckets = Buckets::<u128>::with_own("user", default);
            assert_eq!(allowed(&buckets, OwnRate::Unknown), first);
            assert_eq!(allowed(&buckets, OwnRate::Is(Some(rate(3)))), 3);
            assert_eq!(allowed(&buckets, OwnRate::Unknown), 0, "it is closed, and its bucket stays");
            assert_eq!(allowed(&buckets, OwnRate::Is(Some(rate(4)))), 4);
            assert_eq!(allowed(&buckets, OwnRate::Is(Some(Rate::Off))), 10);
            assert_eq!(allowed(&buckets, OwnRate::Is(None)), first);
        }
    }

    #[test]
    fn a_creation_that_is_given_back_may_happen_and_at_most_a_burst_is_kept() {
        let creations = Creations::new(Rate::Of { count: 2, per: Duration::from_secs(3600), burst: 2 }).unwrap();
        let three = || [(); 3].map(|()| creations.count().is_ok());
        assert_eq!(three(), [true, true, false]);
        for _ in 0..5 {
            creations.uncount();
        }
        assert_eq!(three(), [true, true, false]);
    }
}
