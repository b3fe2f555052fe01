//! The issuer's public keys, from where it publishes them.
//!
//! An attacker chooses the `kid` of a token, so an unknown one must not become a request to the
//! issuer each time: one fetch at a time, and none sooner than `EVERY` after the last.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::DecodingKey;
use parking_lot::RwLock;
use reqwest::{Client, Url};
use serde_json::Value;

use super::rsa::PublicKey;
use crate::{
    config::endpoint::Endpoint,
    error::{Error, Result},
};

/// The least time between two fetches.
const EVERY: Duration = Duration::from_secs(30);

/// The same while there is not a single key: nobody can be let in until there is.
const EVERY_WITHOUT_KEYS: Duration = Duration::from_secs(5);

/// Keys older than this are fetched again in the background, so that a key which the issuer
/// withdrew is not believed for ever.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

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
    every: Duration,
    known: RwLock<Known>,
    /// Held while fetching: everyone who needs an unknown key waits for the one answer.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, Arc<PublicKey>>,
    tried: Option<Instant>,
    fetched: Option<Instant>,
}

/// What is known of a key.
pub enum Found {
    /// Here it is.
    Key(Arc<PublicKey>),
    /// The issuer has no such key.
    Unknown,
    /// No key was ever had: the issuer could not be asked.
    Unavailable,
}

impl Jwks {
    /// Keys published at an address.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        Self::with_interval(endpoint, EVERY)
    }

    fn with_interval(endpoint: &Endpoint, every: Duration) -> Result<Self> {
        let http = endpoint.client().timeout(TIMEOUT).build();
        let http = http.map_err(|e| Error::config("no TLS client can be made").with_source(e))?;
        let url = endpoint.url().clone();
        let (known, turn) = (RwLock::default(), tokio::sync::Mutex::default());
        Ok(Self { inner: Arc::new(Inner { url, http, every, known, turn }) })
    }

    /// The key of this name, fetched if it is not known and the last fetch is long enough ago.
    pub async fn key(&self, kid: &str) -> Found {
        let (known, stale) = self.known(kid);
        if let Some(key) = known {
            if stale && self.may_fetch() {
                let this = self.clone();
                tokio::spawn(async move { this.refresh(|| this.may_fetch()).await });
            }
            return Found::Key(key);
        }
        if self.may_fetch() {
            let this = self.clone();
            let wanted = kid.to_owned();
            // Not cancelled with the request that happened to be first.
            let fetch = tokio::spawn(async move {
                this.refresh(|| this.known(&wanted).0.is_none() && this.may_fetch()).await;
            });
            if let Err(error) = fetch.await {
                tracing::error!(error = %error, "fetching the issuer's keys did not finish");
            }
        }
        match self.known(kid).0 {
            Some(key) => Found::Key(key),
            None if self.inner.known.read().keys.is_empty() => Found::Unavailable,
            None => Found::Unknown,
        }
    }

    /// Fetches the keys before anyone needs them, and says in the log if that does not work.
    pub async fn warm_up(&self) {
        self.refresh(|| true).await;
    }

    fn known(&self, kid: &str) -> (Option<Arc<PublicKey>>, bool) {
        let known = self.inner.known.read();
        let stale = known.fetched.is_none_or(|at| at.elapsed() > REFRESH_AFTER);
        (known.keys.get(kid).cloned(), stale)
    }

    fn may_fetch(&self) -> bool {
        let known = self.inner.known.read();
        let every = if known.keys.is_empty() { self.inner.every.min(EVERY_WITHOUT_KEYS) } else { self.inner.every };
        known.tried.is_none_or(|at| at.elapsed() >= every)
    }

    async fn refresh(&self, wanted: impl Fn() -> bool) {
        let _turn = self.inner.turn.lock().await;
        // Whoever had the turn before may have brought it.
        if !wanted() {
            return;
        }
        let fetched = self.fetch().await;
        let mut known = self.inner.known.write();
        known.tried = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "the issuer's keys were fetched");
                known.keys = keys;
                known.fetched = known.tried;
            }
            // The old ones stay: an issuer that is down has not withdrawn anything.
            Err(error) => {
                tracing::error!(url = %self.inner.url, kept = known.keys.len(), error, "the issuer's keys cannot be fetched");
            }
        }
    }

    async fn fetch(&self) -> Result<HashMap<String, Arc<PublicKey>>, String> {
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
        let keys = parse(&body)?;
        if keys.is_empty() { Err("no RSA signing key is among the keys".into()) } else { Ok(keys) }
    }
}

/// The RSA signing keys of a key set (RFC 7517); others are none of ours.
fn parse(body: &[u8]) -> Result<HashMap<String, Arc<PublicKey>>, String> {
    let set: Value = serde_json::from_slice(body).map_err(|e| format!("the answer is not JSON: {e}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("the answer has no keys")?;
    let usable = keys.iter().filter_map(|key| {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let ours = text("kty") == Some("RSA")
            && text("alg").is_none_or(|alg| alg == "RS256")
            && text("use").is_none_or(|purpose| purpose == "sig");
        let decoded = PublicKey::new(&DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?)?;
        ours.then(|| Some((text("kid")?.to_owned(), Arc::new(decoded))))?
    });
    Ok(usable.collect())
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn a_new_key_is_found_and_old_ones_outlive_the_endpoint() {
        let set = |kid: &str| format!(r#"{{"keys":[{{"kty":"RSA","kid":"{kid}","n":"AQAB","e":"AQAB"}}]}}"#);
        let answer = Arc::new(RwLock::new(set("old")));
        let url = publish(answer.clone()).await;
        let endpoint = Endpoint::parse("CUBBY_JWKS_URL", &url, "…").unwrap();
        let jwks = Jwks::with_interval(&endpoint, Duration::ZERO).unwrap();
        let patient = Jwks::new(&endpoint).unwrap();
        for jwks in [&jwks, &patient] {
            assert!(matches!(jwks.key("old").await, Found::Key(_)));
        }
        *answer.write() = set("new");
        assert!(matches!(jwks.key("new").await, Found::Key(_)));
        assert!(matches!(jwks.key("old").await, Found::Unknown), "a withdrawn key is gone");
        assert!(matches!(patient.key("new").await, Found::Unknown), "asked a moment ago");
        *answer.write() = "down".to_owned();
        assert!(matches!(jwks.key("made up").await, Found::Unknown));
        assert!(matches!(jwks.key("new").await, Found::Key(_)), "kept while the endpoint is down");
    }
}
