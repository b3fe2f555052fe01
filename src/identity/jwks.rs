//! The issuer's public keys (JWKS, RFC 7517), fetched from its URL and cached.
//!
//! An attacker chooses the `kid` of a token, so an unknown one must not cause a request each time: one fetch at
//! a time, and at least `MIN_INTERVAL` between two.
//!
//! An issuer withdraws a key by no longer publishing it. So the cache ages (`docs/decisions/0009`):
//!
//! ```text
//!   0 ──────────── 1 min ─────────────── 5 min ──────────────────────── 1 h (a setting) ────▶
//!     fresh         stale: used, and      expired: a request waits       unusable: no token is
//!                   fetched in the        for the fetch; if it fails,    accepted until the
//!                   background            the keys are used              issuer answers
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Limited};
use jsonwebtoken::Algorithm;
use parking_lot::RwLock;
use reqwest::{Client, Url};

use super::{
    key_set::{FRESH, Freshness, Keys, Known, MAX_AGE, parse, since},
    public_key::PublicKey,
};
use crate::{
    clock::{Clock, Millis, millis},
    config::endpoint::Endpoint,
    error::{Error, Result},
};

/// The shortest time between two fetches.
const MIN_INTERVAL: Millis = 30_000;

/// The same while no key is usable, since no token can be verified until there is one.
const MIN_INTERVAL_WITHOUT_KEYS: Millis = 5_000;

/// The timeout of a fetch.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The largest response, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// The keys of one issuer. Cloning shares them.
#[derive(Clone)]
pub struct Jwks {
    inner: Arc<Inner>,
}

struct Inner {
    url: Url,
    http: Client,
    /// The maximum age of keys while the issuer is down.
    grace: Millis,
    clock: Clock,
    known: RwLock<Known>,
    /// A copy of `known.fetched`, never later than it, so that the hot path takes no lock.
    fetched: AtomicI64,
    /// Locked while fetching: requests that need the keys wait for one response.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

/// The result of looking a key up.
pub enum Found {
    /// The key.
    Key(Arc<PublicKey>),
    /// The issuer publishes no such key.
    Unknown,
    /// The keys could not be fetched, and none of those in the cache is usable.
    Unavailable,
}

impl Jwks {
    /// The keys published at `endpoint`, usable for `grace` while the issuer is down, five minutes at least.
    pub fn new(endpoint: &Endpoint, grace: Duration, clock: &Clock) -> Result<Self> {
        let http = endpoint.client().timeout(TIMEOUT).build();
        let http = http.map_err(|e| Error::config("no TLS client can be made").with_source(e))?;
        Ok(Self {
            inner: Arc::new(Inner {
                url: endpoint.url().clone(),
                http,
                grace: millis(grace).max(MAX_AGE),
                clock: clock.clone(),
                known: RwLock::default(),
                fetched: AtomicI64::new(Millis::MIN),
                fetching: Arc::default(),
            }),
        })
    }

    /// Whether the keys are fresh. Each request calls this: no lock, no allocation.
    pub fn are_fresh(&self, now: Millis) -> bool {
        let fetched = self.inner.fetched.load(Ordering::Acquire);
        now >= fetched && now.saturating_sub(fetched) <= FRESH
    }

    /// Fetches the keys if they are not fresh; returns whether they may be used.
    pub async fn ensure_usable(&self) -> bool {
        match self.freshness() {
            Freshness::Fresh => true,
            Freshness::Stale => {
                self.fetch_in_background();
                true
            }
            Freshness::Expired | Freshness::Unusable => {
                self.fetch_if(|this| matches!(this.freshness(), Freshness::Expired | Freshness::Unusable)).await;
                self.freshness() != Freshness::Unusable
            }
        }
    }

    /// The key with this id and algorithm. Fetches the keys if it is unknown and the last fetch is long enough ago.
    pub async fn key(&self, kid: String, algorithm: Algorithm) -> Found {
        if !self.ensure_usable().await {
            return Found::Unavailable;
        }
        let wanted = (kid, algorithm);
        if let Some(key) = self.known(&wanted) {
            return Found::Key(key);
        }
        let name = wanted.clone();
        self.fetch_if(move |this| this.known(&name).is_none()).await;
        match self.known(&wanted) {
            Some(key) => Found::Key(key),
            None if self.freshness() == Freshness::Unusable => Found::Unavailable,
            None => Found::Unknown,
        }
    }

    /// Fetches the keys before the first request; logs an error if that fails.
    pub async fn prefetch(&self) {
        self.fetch_if(|_| true).await;
    }

    fn known(&self, name: &(String, Algorithm)) -> Option<Arc<PublicKey>> {
        self.inner.known.read().keys.get(name).cloned()
    }

    fn freshness(&self) -> Freshness {
        self.inner.known.read().freshness(self.inner.clock.now(), self.inner.grace)
    }

    fn may_fetch(&self) -> bool {
        let (known, now) = (self.inner.known.read(), self.inner.clock.now());
        let unusable = known.freshness(now, self.inner.grace) == Freshness::Unusable;
        since(known.attempted, now) >= if unusable { MIN_INTERVAL_WITHOUT_KEYS } else { MIN_INTERVAL }
    }

    /// Fetches the keys if they are still `wanted` once the lock is taken: the caller before may have fetched them.
    /// A task of its own, so that the fetch is not cancelled with the request that started it.
    async fn fetch_if(&self, wanted: impl Fn(&Self) -> bool + Send + 'static) {
        if !self.may_fetch() {
            return;
        }
        let this = self.clone();
        let fetch = tokio::spawn(async move {
            let _fetching = this.inner.fetching.lock().await;
            if wanted(&this) && this.may_fetch() {
                this.refresh().await;
            }
        });
        if let Err(error) = fetch.await {
            tracing::error!(error = %error, "fetching the issuer's keys did not finish");
        }
    }

    /// Fetches the keys in the background, unless a fetch is under way.
    fn fetch_in_background(&self) {
        if !self.may_fetch() {
            return;
        }
        let Ok(fetching) = self.inner.fetching.clone().try_lock_owned() else { return };
        let this = self.clone();
        tokio::spawn(async move {
            if this.may_fetch() {
                this.refresh().await;
            }
            drop(fetching);
        });
    }

    /// The caller holds the lock `fetching`.
    async fn refresh(&self) {
        // The response may not have a key's withdrawal that happens after the request.
        let requested = self.inner.clock.now();
        let response = self.fetch().await;
        let now = self.inner.clock.now();
        let mut known = self.inner.known.write();
        known.attempted = Some(now);
        known.failed = response.is_err();
        match response {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::error!(
                        url = self.address(),
                        "the issuer publishes no usable signing key (RS256, ES256, EdDSA): no token is accepted"
                    );
                }
                let withdrawn = known.replace(keys);
                known.fetched = Some(requested);
                tracing::debug!(keys = known.keys.len(), withdrawn, "the issuer's keys were fetched");
                // After the keys are marked as withdrawn: a reader that sees this sees the marks.
                self.inner.fetched.store(requested, Ordering::Release);
            }
            // The old keys stay: an issuer that is down has withdrawn nothing.
            Err(error) => {
                // A time in the future would keep the age unknown until the clock reaches it.
                known.fetched = known.fetched.map(|at| if at > now { now.saturating_sub(MAX_AGE + 1) } else { at });
                tracing::error!(
                    url = self.address(),
                    kept = known.keys.len(),
                    error,
                    "the issuer's keys cannot be fetched"
                );
            }
        }
    }

    /// Host and path, for the log. A query may contain a secret.
    fn address(&self) -> String {
        format!("{}{}", self.inner.url.authority(), self.inner.url.path())
    }

    async fn fetch(&self) -> Result<Keys, String> {
        let failed = |e: reqwest::Error| Error::internal("fetch").with_source(e.without_url()).detail();
        let response = self.inner.http.get(self.inner.url.clone()).send().await.map_err(failed)?;
        if response.status() != 200 {
            return Err(format!("answered {}", response.status()));
        }
        let body = Limited::new(reqwest::Body::from(response), MAX_BYTES).collect().await;
        parse(&body.map_err(|e| format!("the response was not read, of {MAX_BYTES} bytes at most: {e}"))?.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    /// Publishes what `answer` holds, one connection a request.
    async fn publish(answer: Arc<RwLock<String>>) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let body = answer.read().clone();
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        url
    }

    #[test]
    fn the_address_for_the_log_has_no_query() {
        for (url, told) in [
            ("https://issuer.example/keys?api_key=secret#part", "issuer.example/keys"),
            ("http://127.0.0.1:8081/jwks?key=secret", "127.0.0.1:8081/jwks"),
        ] {
            let endpoint = Endpoint::parse("CUBBY_JWKS_URL", url, "…").unwrap();
            let jwks = Jwks::new(&endpoint, Duration::ZERO, &Clock::new(|| 0)).unwrap();
            assert_eq!(jwks.address(), told);
        }
    }

    #[tokio::test]
    async fn a_new_key_is_found_and_cached_keys_stay_while_the_endpoint_is_down() {
        let n = URL_SAFE_NO_PAD.encode([0xff; 256]);
        let set = |kid: &str| json!({"keys": [{"kty": "RSA", "kid": kid, "n": n, "e": "AQAB"}]}).to_string();
        let answer = Arc::new(RwLock::new(set("old")));
        let url = publish(answer.clone()).await;
        let endpoint = Endpoint::parse("CUBBY_JWKS_URL", &url, "…").unwrap();
        let now = Arc::new(AtomicI64::new(0));
        let tells = now.clone();
        let clock = Clock::new(move || tells.load(Ordering::SeqCst));
        let jwks = Jwks::new(&endpoint, Duration::from_secs(3600), &clock).unwrap();
        assert!(matches!(jwks.key("old".to_owned(), Algorithm::RS256).await, Found::Key(_)));
        *answer.write() = set("new");
        now.fetch_add(MIN_INTERVAL - 1, Ordering::SeqCst);
        assert!(matches!(jwks.key("new".to_owned(), Algorithm::RS256).await, Found::Unknown), "asked a moment ago");
        now.fetch_add(1, Ordering::SeqCst);
        assert!(matches!(jwks.key("new".to_owned(), Algorithm::RS256).await, Found::Key(_)));
        assert!(
            matches!(jwks.key("old".to_owned(), Algorithm::RS256).await, Found::Unknown),
            "a withdrawn key is gone"
        );
        *answer.write() = "down".to_owned();
        now.fetch_add(MIN_INTERVAL, Ordering::SeqCst);
        assert!(matches!(jwks.key("made up".to_owned(), Algorithm::RS256).await, Found::Unknown));
        assert!(
            matches!(jwks.key("new".to_owned(), Algorithm::RS256).await, Found::Key(_)),
            "kept while the endpoint is down"
        );
    }
}
