//! The issuer's key set: which of its keys are usable, which were withdrawn, and how old they may be. Pure: the
//! time is an argument. [`jwks`](super::jwks) fetches it.

use std::{collections::HashMap, sync::Arc};

use jsonwebtoken::{Algorithm, jwk::Jwk};
use serde::Deserialize;
use serde_json::Value;

use super::public_key::PublicKey;
use crate::clock::Millis;

/// Keys older than this are fetched again in the background.
pub const FRESH: Millis = 60_000;

/// Requests wait for a fetch when the keys are older than this: the longest that a withdrawn key is accepted.
pub const MAX_AGE: Millis = 300_000;

/// How long after a failed fetch the issuer counts as down: fetches go on in the background.
const DOWN: Millis = 60_000;

/// By `kid` and by the algorithm of the key itself: keys of different kinds may share a `kid` (RFC 7517, 4.5),
/// and a token whose header names another algorithm than its key's finds none.
pub type Keys = HashMap<(String, Algorithm), Arc<PublicKey>>;

/// The cached key set.
#[derive(Default)]
pub struct Known {
    /// The keys themselves.
    pub keys: Keys,
    /// When a fetch last ended.
    pub attempted: Option<Millis>,
    /// Whether it failed.
    pub failed: bool,
    /// When the keys were fetched.
    pub fetched: Option<Millis>,
}

/// What may be done with the cached keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Used.
    Fresh,
    /// Used, and fetched again in the background.
    Stale,
    /// Used only after a fetch was tried.
    Expired,
    /// Not used.
    Unusable,
}

impl Known {
    /// What may be done with the keys at `now`, usable for `grace` while the issuer is down.
    pub fn freshness(&self, now: Millis, grace: Millis) -> Freshness {
        let age = match self.fetched {
            None => Millis::MAX,
            // The clock was set back: the age is unknown.
            Some(at) if at > now => MAX_AGE + 1,
            Some(at) => now - at,
        };
        let is_down = self.failed && since(self.attempted, now) <= DOWN;
        if self.keys.is_empty() || age > grace {
            Freshness::Unusable
        } else if age <= FRESH {
            Freshness::Fresh
        } else if age <= MAX_AGE || is_down {
            Freshness::Stale
        } else {
            Freshness::Expired
        }
    }

    /// Replaces the cache with what is published now. Returns how many keys were withdrawn. A key that stays keeps
    /// its `Arc`, so that tokens cached for it stay valid.
    pub fn replace(&mut self, new: Keys) -> usize {
        let mut old = std::mem::replace(&mut self.keys, new);
        for (name, key) in &mut self.keys {
            if old.get(name).is_some_and(|before| before.is(key))
                && let Some(before) = old.remove(name)
            {
                *key = before;
            }
        }
        old.values().for_each(|gone| gone.withdraw());
        old.len()
    }
}

/// The time since `at`; the maximum if it never was, or lies in the future because the clock was set back.
pub fn since(at: Option<Millis>, now: Millis) -> Millis {
    at.filter(|at| *at <= now).map_or(Millis::MAX, |at| now - at)
}

/// The usable keys of a key set. Others are ignored; see [`PublicKey::from_jwk`].
pub fn parse(body: &[u8]) -> Result<Keys, String> {
    let set: Value = serde_json::from_slice(body).map_err(|e| format!("the response is not JSON: {e}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("the response has no keys")?;
    let usable = keys.iter().filter_map(|key| {
        let jwk = Jwk::deserialize(key).ok()?;
        let key = PublicKey::from_jwk(&jwk)?;
        Some(((jwk.common.key_id?, key.algorithm()), Arc::new(key)))
    });
    Ok(usable.collect())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    /// The kinds that differ by `alg`, `use` or curve alone are tried over HTTP, in `tests/it/tokens.rs`.
    #[test]
    fn keys_of_other_kinds_uses_and_algorithms_are_ignored() {
        let modulus = |bits: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bits / 8]);
        let (n, x) = (modulus(2048), URL_SAFE_NO_PAD.encode(Ed25519KeyPair::generate().unwrap().public_key()));
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (ex, ey) = pair.public_key().as_ref()[1..].split_at(32);
        let (ex, ey) = (URL_SAFE_NO_PAD.encode(ex), URL_SAFE_NO_PAD.encode(ey));
        let (x384, y384) = (URL_SAFE_NO_PAD.encode([1; 48]), URL_SAFE_NO_PAD.encode([2; 48]));
        for (usable, mut key) in [
            (true, json!({"kty": "RSA", "n": n, "e": "AQAB"})),
            (true, json!({"kty": "EC", "crv": "P-256", "x": ex, "y": ey})),
            (true, json!({"kty": "OKP", "crv": "Ed25519", "x": x})),
            (false, json!({"kty": "oct", "k": "c2VjcmV0"})),
            (false, json!({"kty": "oct", "alg": "HS256", "k": "c2VjcmV0"})),
            (false, json!({"kty": "RSA", "alg": "RSA-OAEP-256", "n": n, "e": "AQAB"})),
            (false, json!({"kty": "RSA", "n": modulus(2040), "e": "AQAB"})),
            (
                false,
                json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([&[0; 8][..], &[0xff; 255]].concat()), "e": "AQAB"}),
            ),
            (false, json!({"kty": "EC", "crv": "P-384", "x": x384, "y": y384})),
            (false, json!({"kty": "EC", "crv": "P-256", "x": x384, "y": y384})),
            (false, json!({"kty": "EC", "crv": "P-256", "x": ey, "y": ex})),
            (false, json!({"kty": "EC", "crv": "Ed25519", "x": ex, "y": ey})),
            (false, json!({"kty": "OKP", "crv": "P-256", "x": x})),
            (false, json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"})),
            (false, json!({"crv": "Ed25519", "x": x})),
            (false, json!(null)),
        ] {
            let parsed = |key: &Value| parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap().len();
            assert_eq!(parsed(&key), 0, "without a kid: {key}");
            key["kid"] = json!("a");
            assert_eq!(parsed(&key), usize::from(usable), "{key}");
        }
        assert!(parse(b"[]").is_err() && parse(b"<html>").is_err());
    }

    #[test]
    fn keys_age() {
        const GRACE: Millis = 3_600_000;
        let n = URL_SAFE_NO_PAD.encode([0xff; 256]);
        let keys = json!({"keys": [{"kty": "RSA", "kid": "a", "n": n, "e": "AQAB"}]}).to_string();
        let freshness = |age: Millis, failed_ago: Option<Millis>| {
            let now = 10 * GRACE;
            let (attempted, fetched) = (Some(now - failed_ago.unwrap_or(age)), Some(now - age));
            Known { keys: parse(keys.as_bytes()).unwrap(), attempted, failed: failed_ago.is_some(), fetched }
                .freshness(now, GRACE)
        };
        assert_eq!([freshness(0, None), freshness(FRESH, None)], [Freshness::Fresh; 2]);
        assert_eq!([freshness(FRESH + 1, None), freshness(MAX_AGE, None)], [Freshness::Stale; 2]);
        assert_eq!([freshness(MAX_AGE + 1, None), freshness(GRACE, None)], [Freshness::Expired; 2]);
        assert_eq!([freshness(MAX_AGE + 1, Some(DOWN)), freshness(GRACE, Some(0))], [Freshness::Stale; 2]);
        assert_eq!(freshness(MAX_AGE + 1, Some(DOWN + 1)), Freshness::Expired, "it may be up again");
        assert_eq!([freshness(GRACE + 1, None), freshness(GRACE + 1, Some(0))], [Freshness::Unusable; 2]);
        assert_eq!(freshness(-1, None), Freshness::Expired, "the clock was set back");
        assert_eq!(Known::default().freshness(0, GRACE), Freshness::Unusable);
    }
}
