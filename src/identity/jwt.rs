//! Verifies session tokens (JWS, RFC 7515): signature, issuer, audience, expiry.
//!
//! A verified token is cached by its SHA-256 until it expires, so that the next request costs a hash and not a
//! signature verification. Forged tokens are cached as well ([`forged`](super::forged)). When the issuer
//! withdraws a key, cached tokens that it signed become invalid; [`jwks`](super::jwks) decides how soon that
//! is known.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use moka::{Expiry, sync::Cache};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{
    claims::{Claims, Header, Refusal, Rules, Session},
    forged::Forged,
    jwks::{Found, Jwks},
    public_key::PublicKey,
};
use crate::{
    clock::{Clock, Millis},
    config::door::DoorConfig,
    error::{Error, Result},
};

/// The longest token that is parsed, in bytes. Clerk's must fit a cookie of four thousand.
const MAX_TOKEN: usize = 8 << 10;

/// Capacity of the token cache: some 300 bytes a token.
const CACHED: u64 = 16_384;

/// The longest that a token is cached; then it is verified again with the keys that the issuer has.
const CACHE_FOR: Millis = 300_000;

/// Verifies session tokens.
pub struct Verifier {
    rules: Rules,
    keys: Keys,
    verified: Cache<[u8; 32], Arc<Verified>>,
    forged: Forged,
    clock: Clock,
}

struct Verified {
    session: Arc<Session>,
    key: Arc<PublicKey>,
}

enum Keys {
    Pem(Arc<PublicKey>),
    Published(Jwks),
}

/// The result of verifying a token.
#[derive(Debug)]
pub enum Verdict {
    /// It is valid.
    Session(Arc<Session>),
    /// It is invalid.
    Refused(Refusal),
    /// The issuer's keys could not be fetched.
    Unavailable,
}

impl Verifier {
    /// A verifier with these settings, which must be valid.
    pub fn new(config: &DoorConfig, clock: &Clock) -> Result<Self> {
        let keys = match (&config.clerk_jwt_key, config.jwks()?) {
            (Some(pem), _) => Keys::Pem(Arc::new(public_key(pem.reveal())?)),
            (None, Some(endpoint)) => Keys::Published(Jwks::new(&endpoint, config.jwks_grace, clock)?),
            (None, None) => return Err(Error::config("neither CLERK_JWT_KEY nor CUBBY_JWKS_URL is set")),
        };
        let rules = Rules {
            issuer: config.issuer.clone().ok_or_else(|| Error::config("CUBBY_ISSUER is not set"))?,
            parties: config.authorized_parties.0.clone(),
            audience: config.audience.0.clone(),
        };
        let verified = Cache::builder().max_capacity(CACHED).expire_after(UntilExpired(clock.clone())).build();
        Ok(Self { rules, keys, verified, forged: Forged::default(), clock: clock.clone() })
    }

    /// The published keys; none with a key in the settings.
    pub fn jwks(&self) -> Option<&Jwks> {
        match &self.keys {
            Keys::Published(jwks) => Some(jwks),
            Keys::Pem(_) => None,
        }
    }

    /// Verifies a token at this moment.
    pub async fn verify(&self, token: &str) -> Verdict {
        if token.len() > MAX_TOKEN {
            return Verdict::Refused(Refusal("the token is too long"));
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = self.clock.now();
        if let Some(verified) = self.verified.get(&digest)
            && now < verified.session.until
        {
            if let Keys::Published(jwks) = &self.keys
                && !jwks.are_fresh(now)
                && !jwks.ensure_usable().await
            {
                return Verdict::Unavailable;
            }
            if !verified.key.is_withdrawn() {
                return Verdict::Session(verified.session.clone());
            }
            self.verified.invalidate(&digest);
        }
        match self.verify_new(token, &digest).await {
            Ok((session, key)) => {
                let verified = Arc::new(Verified { session: Arc::new(session), key });
                // Requests that verify a token at the same time share a session, and so the audit row of one.
                // `or_insert` would look and insert in two steps.
                let verified = self.verified.entry(digest).or_insert_with(|| verified).into_value();
                Verdict::Session(verified.session.clone())
            }
            Err(Some(refusal)) => Verdict::Refused(refusal),
            Err(None) => Verdict::Unavailable,
        }
    }

    /// Checks the signature last, since it is the expensive part of a flood of invalid tokens. `Err(None)`: the
    /// keys could not be fetched.
    async fn verify_new(&self, token: &str, digest: &[u8; 32]) -> Result<(Session, Arc<PublicKey>), Option<Refusal>> {
        let malformed = || Refusal("the token is not a JWT of the kind that is accepted here");
        let mut parts = token.split('.');
        let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Some(malformed()));
        };
        let header: Header = decode(head).ok_or_else(malformed)?;
        let algorithm = header.check()?;
        let claims: Claims = decode(body).ok_or_else(malformed)?;
        let session = self.rules.check(claims, self.clock.now())?;
        let key = match &self.keys {
            Keys::Pem(key) if key.algorithm() == algorithm => key.clone(),
            Keys::Pem(_) => return Err(Some(Refusal("the token's algorithm is not that of the issuer's key"))),
            Keys::Published(jwks) => {
                let kid = header.kid.ok_or(Refusal("the token names no key"))?;
                match jwks.key(kid, algorithm).await {
                    Found::Key(key) => key,
                    Found::Unknown => return Err(Some(Refusal("the issuer publishes no such key for this algorithm"))),
                    Found::Unavailable => return Err(None),
                }
            }
        };
        let message = &token.as_bytes()[..head.len() + 1 + body.len()];
        if !self.forged.contains(digest, &key) {
            if key.has_signed(message, signature) {
                return Ok((session, key));
            }
            self.forged.insert(*digest, key);
        }
        Err(Some(Refusal("the signature is not the issuer's")))
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Environment files keep a PEM on one line, with `\n` spelled out.
fn public_key(pem: &str) -> Result<PublicKey> {
    PublicKey::from_pem(pem.replace("\\n", "\n").trim().as_bytes()).ok_or_else(|| {
        Error::config(
            "CLERK_JWT_KEY is not a public key in PEM: RSA of 2048 bits or more, P-256 or Ed25519. Copy it whole, from \
             BEGIN PUBLIC KEY to END PUBLIC KEY, line breaks as such or as \\n",
        )
    })
}

/// Evicts a token when it expires.
struct UntilExpired(Clock);

impl Expiry<[u8; 32], Arc<Verified>> for UntilExpired {
    fn expire_after_create(&self, _: &[u8; 32], verified: &Arc<Verified>, _: Instant) -> Option<Duration> {
        let left = (verified.session.until - self.0.now()).clamp(0, CACHE_FOR);
        Some(Duration::from_millis(left.unsigned_abs()))
    }
}
