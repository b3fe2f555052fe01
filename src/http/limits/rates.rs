//! Token buckets, one for each user or address.
//!
//! What is kept must not grow with the callers that an attacker can invent: buckets are in a cache of fixed
//! size, whose policy keeps those that are used often. A bucket that is evicted starts anew, full.

use std::{hash::Hash, num::NonZeroU32, sync::Arc, time::Duration};

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use moka::sync::Cache;

use crate::{config::limits::Rate, http::problem::Problem};

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

/// A rate as the token buckets take it; none where it is off.
pub fn quota(rate: Rate) -> Option<Quota> {
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
    fn an_empty_bucket_refuses_and_says_when_to_come_again() {
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
}
