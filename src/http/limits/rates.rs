//! Token buckets: one for each user or address, and one for the users that requests create.
//!
//! What is kept must not grow with the callers that an attacker can invent: buckets are in a cache of fixed
//! size, whose policy keeps those that are used often. A bucket that is evicted starts anew, full.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
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
    config::limits::Rate,
    error::{Error, ErrorKind, Result},
    http::problem::Problem,
    tenants::open::opening::Counter,
};

/// Buckets kept of each kind: some 200 bytes each.
const BUCKETS: u64 = 50_000;

/// The buckets of one kind of caller.
pub struct Buckets<K> {
    name: &'static str,
    quota: Quota,
    kept: Cache<K, Arc<DefaultDirectRateLimiter>>,
    clock: DefaultClock,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Buckets<K> {
    /// Of a rate; none where it is off. `name` is what one caller is called in errors.
    pub fn new(name: &'static str, rate: Rate) -> Option<Self> {
        let quota = quota(rate)?;
        Some(Self { name, quota, kept: Cache::new(BUCKETS), clock: DefaultClock::default() })
    }

    /// Counts a request of this caller.
    ///
    /// # Errors
    /// 429 `rate_limited`, with when to come again.
    pub fn check(&self, key: &K) -> Result<(), Problem> {
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
