//! The issuer's public keys, from where it publishes them.
//!
//! An attacker chooses the `kid` of a token, so an unknown one must not become a request to the
//! issuer each time: one fetch at a time, and none sooner than `EVERY` after the last.
//!
//! An issuer withdraws a key by publishing it no longer, and tells nobody. So what was fetched ages
//! (`docs/decisions/0009`):
//!
//! ```text
//!   0 ──────────── 1 min ─────────────── 5 min ──────────────────────── 1 h (a setting) ────▶
//!     believed      believed, and         a request waits for the        nobody is let in
//!                   fetched beside        fetch; if that fails, they     until the issuer
//!                   the request           are believed all the same      answers
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::DecodingKey;
use parking_lot::RwLock;
use reqwest::{Client, Url};
use serde_json::Value;

use super::rsa::PublicKey;
use crate::{
    clock::{Clock, Millis, millis},
    config::endpoint::Endpoint,
    error::{Error, Result},
};

/// The least time between two fetches.
const EVERY: Millis = 30_000;

/// The same while there is no key to be believed: nobody can be let in until there is.
const EVERY_WITHOUT_KEYS: Millis = 5_000;

/// Keys older than this are fetched again beside the requests that use them.
const FRESH: Millis = 60_000;

/// Keys older than this are not used before the issuer was asked: for so long a withdrawn key is believed.
const BELIEVED: Millis = 300_000;

/// So long after a fetch that failed the issuer counts as down: it is asked again, and nobody waits for it.
const DOWN: Millis = 60_000;

/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The largest answer, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// The keys of one issuer. Cloning shares them.
#[derive(Clone)]
pub struct Jwks {
    inner: Arc<Inner>,
}

struct Inner {
    url: Url,
    http: Client,
    /// How old keys may be while the issuer is down.
    grace: Millis,
    clock: Clock,
    known: RwLock<Known>,
    /// When they were fetched, for the hot path: as in `known`, and never later.
    fetched: AtomicI64,
    /// Held while fetching: everyone who needs it waits for the one answer.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Known {
    keys: Keys,
    tried: Option<Millis>,
    /// Whether the last try failed.
    failed: bool,
    fetched: Option<Millis>,
}

type Keys = HashMap<String, Published>;

/// A key as it is published.
struct Published {
    n: String,
    e: String,
    key: Arc<PublicKey>,
}

/// What is known of a key.
pub enum Found {
    /// Here it is.
    Key(Arc<PublicKey>),
    /// The issuer has no such key.
    Unknown,
    /// The issuer could not be asked, and there is no key that may be believed without.
    Unavailable,
}

/// What the age of the keys comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Fresh,
    /// To be fetched again, by nobody who waits.
    Aging,
    /// Not to be used before the issuer was asked.
    Old,
    /// Not to be used.
    Gone,
}

impl Known {
    fn standing(&self, now: Millis, grace: Millis) -> Standing {
        let age = match self.fetched {
            None => Millis::MAX,
            // The clock was set back, and there is no telling.
            Some(at) if at > now => BELIEVED + 1,
            Some(at) => now - at,
        };
        let is_down = self.failed && since(self.tried, now) <= DOWN;
        if self.keys.is_empty() || age > grace {
            Standing::Gone
        } else if age <= FRESH {
            Standing::Fresh
        } else if age <= BELIEVED || is_down {
            Standing::Aging
        } else {
            Standing::Old
        }
    }

    /// Takes what is published now for all there is; says how many keys were withdrawn. One that stays
    /// remains the same, so that what is remembered of it does.
    fn replace(&mut self, new: Keys) -> usize {
        let mut old = std::mem::replace(&mut self.keys, new);
        for (kid, published) in &mut self.keys {
            match old.remove(kid) {
                Some(before) if before.n == published.n && before.e == published.e => published.key = before.key,
                Some(before) => drop(old.insert(kid.clone(), before)),
                None => {}
            }
        }
        old.values().for_each(|gone| gone.key.withdraw());
        old.len()
    }
}

/// How long ago something was; for ever if it never was, or is still to come by a clock that was set back.
fn since(at: Option<Millis>, now: Millis) -> Millis {
    at.filter(|at| *at <= now).map_or(Millis::MAX, |at| now - at)
}

impl Jwks {
    /// Keys published at an address, believed for `grace` while the issuer is down, and for five minutes
    /// without asking.
    pub fn new(endpoint: &Endpoint, grace: Duration, clock: &Clock) -> Result<Self> {
        let http = endpoint.client().timeout(TIMEOUT).build();
        let http = http.map_err(|e| Error::config("no TLS client can be made").with_source(e))?;
        Ok(Self {
            inner: Arc::new(Inner {
                url: endpoint.url().clone(),
                http,
                grace: millis(grace).max(BELIEVED),
                clock: clock.clone(),
                known: RwLock::default(),
                fetched: AtomicI64::new(Millis::MIN),
                turn: Arc::default(),
            }),
        })
    }

    /// Whether the keys were fetched a moment ago. What does not hold of an older token is then marked at
    /// its key. No lock, no allocation: this is asked with each request.
    pub fn are_fresh(&self, now: Millis) -> bool {
        let fetched = self.inner.fetched.load(Ordering::Acquire);
        now >= fetched && now.saturating_sub(fetched) <= FRESH
    }

    /// Fetches the keys if their age wants it; says whether there are any that may be believed.
    pub async fn are_believed(&self) -> bool {
        match self.standing() {
            Standing::Fresh => true,
            Standing::Aging => {
                self.fetch_beside();
                true
            }
            Standing::Old | Standing::Gone => {
                self.fetch_if(|this| matches!(this.standing(), Standing::Old | Standing::Gone)).await;
                self.standing() != Standing::Gone
            }
        }
    }

    /// The key of this name, fetched if it is not known and the last fetch is long enough ago.
    pub async fn key(&self, kid: &str) -> Found {
        if !self.are_believed().await {
            return Found::Unavailable;
        }
        if let Some(key) = self.known(kid) {
            return Found::Key(key);
        }
        let wanted = kid.to_owned();
        self.fetch_if(move |this| this.known(&wanted).is_none()).await;
        match self.known(kid) {
            Some(key) => Found::Key(key),
            None if self.standing() == Standing::Gone => Found::Unavailable,
            None => Found::Unknown,
        }
    }

    /// Fetches the keys before anyone needs them, and says in the log if that does not work.
    pub async fn warm_up(&self) {
        self.fetch_if(|_| true).await;
    }

    fn known(&self, kid: &str) -> Option<Arc<PublicKey>> {
        self.inner.known.read().keys.get(kid).map(|published| published.key.clone())
    }

    fn standing(&self) -> Standing {
        self.inner.known.read().standing(self.inner.clock.now(), self.inner.grace)
    }

    fn may_fetch(&self) -> bool {
        let (known, now) = (self.inner.known.read(), self.inner.clock.now());
        let gone = known.standing(now, self.inner.grace) == Standing::Gone;
        since(known.tried, now) >= if gone { EVERY_WITHOUT_KEYS } else { EVERY }
    }

    /// Fetches the keys if they are `wanted` still when it is this caller's turn: whoever had it before may
    /// have brought them. Not cancelled with the request that happened to be first.
    async fn fetch_if(&self, wanted: impl Fn(&Self) -> bool + Send + 'static) {
        if !self.may_fetch() {
            return;
        }
        let this = self.clone();
        let fetch = tokio::spawn(async move {
            let _turn = this.inner.turn.lock().await;
            if wanted(&this) && this.may_fetch() {
                this.refresh().await;
            }
        });
        if let Err(error) = fetch.await {
            tracing::error!(error = %error, "fetching the issuer's keys did not finish");
        }
    }

    /// Fetches the keys while nobody waits, unless somebody is at it.
    fn fetch_beside(&self) {
        if !self.may_fetch() {
            return;
        }
        let Ok(turn) = self.inner.turn.clone().try_lock_owned() else { return };
        let this = self.clone();
        tokio::spawn(async move {
            if this.may_fetch() {
                this.refresh().await;
            }
            drop(turn);
        });
    }

    /// In one's turn.
    async fn refresh(&self) {
        // What is withdrawn while the answer is on its way is not in it.
        let asked = self.inner.clock.now();
        let answer = self.fetch().await;
        let now = self.inner.clock.now();
        let mut known = self.inner.known.write();
        known.tried = Some(now);
        known.failed = answer.is_err();
        match answer {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::error!(url = self.place(), "the issuer publishes no RSA signing key: nobody is let in");
                }
                let withdrawn = known.replace(keys);
                known.fetched = Some(asked);
                tracing::debug!(keys = known.keys.len(), withdrawn, "the issuer's keys were fetched");
                // After the marks: whoever sees it sees them.
                self.inner.fetched.store(asked, Ordering::Release);
            }
            // The old ones stay: an issuer that is down has not withdrawn anything.
            Err(error) => {
                // By a clock that was set back their age begins anew, or it would stand still until then.
                known.fetched = known.fetched.map(|at| if at > now { now.saturating_sub(BELIEVED + 1) } else { at });
                tracing::error!(
                    url = self.place(),
                    kept = known.keys.len(),
                    error,
                    "the issuer's keys cannot be fetched"
                );
            }
        }
    }

    /// Where the keys are, for the log: host and path. A query may have a secret in it.
    fn place(&self) -> String {
        let url = &self.inner.url;
        let host = url.host_str().unwrap_or_default();
        url.port().map_or_else(|| format!("{host}{}", url.path()), |port| format!("{host}:{port}{}", url.path()))
    }

    async fn fetch(&self) -> Result<Keys, String> {
        let failed = |e: reqwest::Error| Error::internal("fetch").with_source(e.without_url()).detail();
        let mut response = self.inner.http.get(self.inner.url.clone()).send().await.map_err(failed)?;
        if response.status() != 200 {
            return Err(format!("answered {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(format!("the answer is larger than {MAX_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        parse(&body)
    }
}

/// The RSA signing keys of a key set (RFC 7517); others are none of ours.
fn parse(body: &[u8]) -> Result<Keys, String> {
    let set: Value = serde_json::from_slice(body).map_err(|e| format!("the answer is not JSON: {e}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("the answer has no keys")?;
    let usable = keys.iter().filter_map(|key| {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let ours = text("kty") == Some("RSA")
            && text("alg").is_none_or(|alg| alg == "RS256")
            && text("use").is_none_or(|purpose| purpose == "sig");
        let (n, e) = (text("n")?.to_owned(), text("e")?.to_owned());
        let key = Arc::new(PublicKey::new(&DecodingKey::from_rsa_components(&n, &e).ok()?)?);
        ours.then(|| Some((text("kid")?.to_owned(), Published { n, e, key })))?
    });
    Ok(usable.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn symmetric_and_foreign_keys_are_left_out() {
        let set = r#"{"keys":[
            {"kty":"oct","kid":"a","k":"c2VjcmV0"},
            {"kty":"RSA","kid":"b","alg":"RS512","n":"AQAB","e":"AQAB"},
            {"kty":"RSA","kid":"c","use":"enc","n":"AQAB","e":"AQAB"},
            {"kty":"RSA","n":"AQAB","e":"AQAB"},
            {"kty":"RSA","kid":"d","use":"sig","alg":"RS256","n":"AQAB","e":"AQAB"}]}"#;
        let keys = parse(set.as_bytes()).unwrap();
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["d"]);
        assert!(parse(b"[]").is_err() && parse(b"<html>").is_err());
    }

    fn keys(names: &[(&str, &str)]) -> Keys {
        let key = |(kid, e): &(&str, &str)| json!({"kty": "RSA", "kid": kid, "n": "AQAB", "e": e});
        parse(json!({"keys": names.iter().map(key).collect::<Vec<_>>()}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_key_that_stays_is_the_same_and_one_that_goes_or_changes_is_marked() {
        let mut known = Known::default();
        assert_eq!(known.replace(keys(&[("stays", "AQAB"), ("goes", "AQAB"), ("changes", "AQAB")])), 0);
        let [stays, goes, changes] = ["stays", "goes", "changes"].map(|kid| known.keys[kid].key.clone());
        assert_eq!(known.replace(keys(&[("stays", "AQAB"), ("changes", "Aw"), ("new", "AQAB")])), 2);
        assert!(Arc::ptr_eq(&stays, &known.keys["stays"].key) && !stays.is_withdrawn());
        assert!(goes.is_withdrawn() && changes.is_withdrawn());
        assert!(!known.keys["changes"].key.is_withdrawn() && !known.keys["new"].key.is_withdrawn());
        // One that comes back was not good meanwhile.
        known.replace(keys(&[("goes", "AQAB")]));
        assert!(goes.is_withdrawn() && !known.keys["goes"].key.is_withdrawn());
    }

    #[test]
    fn keys_age() {
        const GRACE: Millis = 3_600_000;
        let standing = |age: Millis, failed_ago: Option<Millis>| {
            let now = 10 * GRACE;
            let (tried, fetched) = (Some(now - failed_ago.unwrap_or(age)), Some(now - age));
            Known { keys: keys(&[("a", "AQAB")]), tried, failed: failed_ago.is_some(), fetched }.standing(now, GRACE)
        };
        assert_eq!([standing(0, None), standing(FRESH, None)], [Standing::Fresh; 2]);
        assert_eq!([standing(FRESH + 1, None), standing(BELIEVED, None)], [Standing::Aging; 2]);
        assert_eq!([standing(BELIEVED + 1, None), standing(GRACE, None)], [Standing::Old; 2]);
        assert_eq!([standing(BELIEVED + 1, Some(DOWN)), standing(GRACE, Some(0))], [Standing::Aging; 2]);
        assert_eq!(standing(BELIEVED + 1, Some(DOWN + 1)), Standing::Old, "it may be up again");
        assert_eq!([standing(GRACE + 1, None), standing(GRACE + 1, Some(0))], [Standing::Gone; 2]);
        assert_eq!(standing(-1, None), Standing::Old, "the clock was set back");
        assert_eq!(Known::default().standing(0, GRACE), Standing::Gone);
    }

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
    fn the_log_is_told_where_the_keys_are_without_a_query() {
        for (url, told) in [
            ("https://issuer.example/keys?api_key=secret#part", "issuer.example/keys"),
            ("http://127.0.0.1:8081/jwks?key=secret", "127.0.0.1:8081/jwks"),
        ] {
            let endpoint = Endpoint::parse("CUBBY_JWKS_URL", url, "…").unwrap();
            let jwks = Jwks::new(&endpoint, Duration::ZERO, &Clock::new(|| 0)).unwrap();
            assert_eq!(jwks.place(), told);
        }
    }

    #[tokio::test]
    async fn a_new_key_is_found_and_old_ones_outlive_the_endpoint() {
        let set = |kid: &str| format!(r#"{{"keys":[{{"kty":"RSA","kid":"{kid}","n":"AQAB","e":"AQAB"}}]}}"#);
        let answer = Arc::new(RwLock::new(set("old")));
        let url = publish(answer.clone()).await;
        let endpoint = Endpoint::parse("CUBBY_JWKS_URL", &url, "…").unwrap();
        let now = Arc::new(AtomicI64::new(0));
        let tells = now.clone();
        let clock = Clock::new(move || tells.load(Ordering::SeqCst));
        let jwks = Jwks::new(&endpoint, Duration::from_secs(3600), &clock).unwrap();
        assert!(matches!(jwks.key("old").await, Found::Key(_)));
        *answer.write() = set("new");
        now.fetch_add(EVERY - 1, Ordering::SeqCst);
        assert!(matches!(jwks.key("new").await, Found::Unknown), "asked a moment ago");
        now.fetch_add(1, Ordering::SeqCst);
        assert!(matches!(jwks.key("new").await, Found::Key(_)));
        assert!(matches!(jwks.key("old").await, Found::Unknown), "a withdrawn key is gone");
        *answer.write() = "down".to_owned();
        now.fetch_add(EVERY, Ordering::SeqCst);
        assert!(matches!(jwks.key("made up").await, Found::Unknown));
        assert!(matches!(jwks.key("new").await, Found::Key(_)), "kept while the endpoint is down");
    }
}
