//! Session tokens: who issued them, for whom, until when.
//!
//! A verified token is remembered by its SHA-256 until it expires, so that a caller who comes
//! again pays a hash and not an RSA verification. So are the forged ones that came last: a client
//! that has a wrong token tends to try it again. A token whose key the issuer has withdrawn is forgotten
//! as soon as that is known, and how old that knowledge may be is [`jwks`](super::jwks)' matter.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use moka::{Expiry, sync::Cache};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{
    claims::{Claims, Header, Refusal, Rules, Session},
    forged::Forged,
    jwks::{Found, Jwks},
    rsa::PublicKey,
};
use crate::{
    clock::{Clock, Millis},
    config::{Secret, door::DoorConfig},
    error::{Error, Result},
};

/// The longest token that is looked at, in bytes. Clerk's must fit a cookie of four thousand.
const MAX_TOKEN: usize = 8 << 10;

/// Verified tokens remembered: some 300 bytes each.
const REMEMBERED: u64 = 16_384;

/// A token that lives longer is verified again after this, against the keys the issuer has then.
const REMEMBER_AT_MOST: Millis = 300_000;

/// Verifies session tokens.
pub struct Verifier {
    rules: Rules,
    keys: Keys,
    seen: Cache<[u8; 32], Arc<Seen>>,
    /// Tokens whose signature is not that of the key.
    forged: Forged,
    clock: Clock,
}

/// A token that was verified.
struct Seen {
    session: Arc<Session>,
    by: Arc<PublicKey>,
}

enum Keys {
    Pem(Arc<PublicKey>),
    Published(Jwks),
}

/// What a token came to.
#[derive(Debug)]
pub enum Verdict {
    /// It is believed. `true` the first time it was seen.
    Session(Arc<Session>, bool),
    /// It is not.
    Refused(Refusal),
    /// The issuer's keys could not be had.
    Unavailable,
}

impl Verifier {
    /// By the settings, which were validated before.
    pub fn new(config: &DoorConfig, clock: &Clock) -> Result<Self> {
        let keys = match (&config.clerk_jwt_key, config.jwks()?) {
            (Some(pem), _) => Keys::Pem(Arc::new(public_key(pem)?)),
            (None, Some(endpoint)) => Keys::Published(Jwks::new(&endpoint, config.jwks_grace, clock)?),
            (None, None) => return Err(Error::config("neither CLERK_JWT_KEY nor CUBBY_JWKS_URL is set")),
        };
        let rules = Rules {
            issuer: config.issuer.clone().ok_or_else(|| Error::config("CUBBY_ISSUER is not set"))?,
            parties: config.authorized_parties.0.clone(),
            audience: config.audience.0.clone(),
        };
        let seen = Cache::builder().max_capacity(REMEMBERED).expire_after(UntilExpired(clock.clone())).build();
        Ok(Self { rules, keys, seen, forged: Forged::default(), clock: clock.clone() })
    }

    /// The published keys, if that is where they come from.
    pub fn jwks(&self) -> Option<&Jwks> {
        match &self.keys {
            Keys::Published(jwks) => Some(jwks),
            Keys::Pem(_) => None,
        }
    }

    /// How many tokens are remembered, roughly.
    pub fn remembered(&self) -> u64 {
        self.seen.entry_count()
    }

    /// Whether a token is believed now.
    pub async fn verify(&self, token: &str) -> Verdict {
        if token.len() > MAX_TOKEN {
            return Verdict::Refused(Refusal("the token is too long"));
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = self.clock.now();
        if let Some(seen) = self.seen.get(&digest)
            && now < seen.session.until
        {
            if let Keys::Published(jwks) = &self.keys
                && !jwks.are_fresh(now)
                && !jwks.are_believed().await
            {
                return Verdict::Unavailable;
            }
            if !seen.by.is_withdrawn() {
                return Verdict::Session(seen.session.clone(), false);
            }
            self.seen.invalidate(&digest);
        }
        match self.verify_new(token, &digest).await {
            Ok((session, by)) => {
                let session = Arc::new(session);
                self.seen.insert(digest, Arc::new(Seen { session: session.clone(), by }));
                Verdict::Session(session, true)
            }
            Err(Some(refusal)) => Verdict::Refused(refusal),
            Err(None) => Verdict::Unavailable,
        }
    }

    /// What costs nothing is looked at first: of a flood of forged tokens most end before the
    /// signature. `Err(None)`: the keys could not be had.
    async fn verify_new(&self, token: &str, digest: &[u8; 32]) -> Result<(Session, Arc<PublicKey>), Option<Refusal>> {
        let malformed = || Refusal("the token is not a JWT of the kind that is accepted here");
        let mut parts = token.split('.');
        let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Some(malformed()));
        };
        let header: Header = decode(head).ok_or_else(malformed)?;
        header.check()?;
        let claims: Claims = decode(body).ok_or_else(malformed)?;
        let session = self.rules.check(claims, self.clock.now())?;
        let key = match &self.keys {
            Keys::Pem(key) => key.clone(),
            Keys::Published(jwks) => {
                let kid = header.kid.ok_or(Refusal("the token names no key"))?;
                match jwks.key(&kid).await {
                    Found::Key(key) => key,
                    Found::Unknown => return Err(Some(Refusal("the token is signed with a key the issuer has not"))),
                    Found::Unavailable => return Err(None),
                }
            }
        };
        let message = &token.as_bytes()[..head.len() + 1 + body.len()];
        if !self.forged.has(digest, &key) {
            if key.has_signed(message, signature) {
                return Ok((session, key));
            }
            self.forged.note(*digest, key);
        }
        Err(Some(Refusal("the signature is not the issuer's")))
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Environment files keep a PEM on one line, with `\n` spelled out.
fn public_key(pem: &Secret) -> Result<PublicKey> {
    let pem = pem.reveal().replace("\\n", "\n");
    let why = "CLERK_JWT_KEY is not an RSA public key in PEM, of 2048 bits or more; copy it whole, from BEGIN PUBLIC KEY \
               to END PUBLIC KEY, line breaks as such or as \\n";
    let key = DecodingKey::from_rsa_pem(pem.trim().as_bytes()).map_err(|e| Error::config(why).with_source(e))?;
    PublicKey::new(&key).ok_or_else(|| Error::config(why))
}

/// Forgets a token when it expires.
struct UntilExpired(Clock);

impl Expiry<[u8; 32], Arc<Seen>> for UntilExpired {
    fn expire_after_create(&self, _: &[u8; 32], seen: &Arc<Seen>, _: Instant) -> Option<Duration> {
        let left = (seen.session.until - self.0.now()).clamp(0, REMEMBER_AT_MOST);
        Some(Duration::from_millis(left.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::{KeyPair, KeySize},
        signature::{KeyPair as _, RSA_PKCS1_SHA256},
    };
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn keys(pair: &KeyPair) -> Keys {
        let key = DecodingKey::from_rsa_der(pair.public_key().as_ref());
        Keys::Pem(Arc::new(PublicKey::new(&key).unwrap()))
    }

    fn token(pair: &KeyPair) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({"iss": "i", "sub": "ada", "iat": NOW, "nbf": NOW, "exp": NOW + 60});
        let message = format!("{}.{}", part(&json!({"alg": "RS256", "typ": "JWT"})), part(&claims));
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[tokio::test]
    async fn a_forged_token_is_remembered_for_the_key_that_did_not_sign_it() {
        let [old, new] = [(); 2].map(|()| KeyPair::generate(KeySize::Rsa2048).unwrap());
        let clock = Clock::new(|| NOW * 1000);
        let mut verifier = Verifier {
            rules: Rules { issuer: "i".to_owned(), parties: Vec::new(), audience: Vec::new() },
            keys: keys(&old),
            seen: Cache::builder().build(),
            forged: Forged::default(),
            clock,
        };
        let by_new = token(&new);
        for _ in 0..2 {
            assert!(matches!(verifier.verify(&by_new).await, Verdict::Refused(_)));
        }
        let Keys::Pem(key) = &verifier.keys else { unreachable!() };
        assert!(verifier.forged.has(&Sha256::digest(&by_new).into(), key));
        assert!(matches!(verifier.verify(&token(&old)).await, Verdict::Session(_, true)));
        // The issuer goes over to the new key.
        verifier.keys = keys(&new);
        assert!(matches!(verifier.verify(&by_new).await, Verdict::Session(_, true)));
    }
}
