//! The issuer's key set: which of its keys are usable, which were withdrawn, and how old they may be. Pure: the
//! time is an argument. [`jwks`](super::jwks) fetches it.

use std::{collections::HashMap, sync::Arc};

use jsonwebtoken::{
    Algorithm,
    jwk::{AlgorithmParameters, Jwk},
};
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
pub type Keys = HashMap<(String, Algorithm), Published>;

/// A key, and how it is published.
pub struct Published {
    parameters: AlgorithmParameters,
    /// The parsed key.
    pub key: Arc<PublicKey>,
}

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
        for (name, published) in &mut self.keys {
            match old.remove(name) {
                Some(before) if before.parameters == published.parameters => published.key = before.key,
                Some(before) => drop(old.insert(name.clone(), before)),
                None => {}
            }
        }
        old.values().for_each(|gone| gone.key.withdraw());
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
        let published = Published { parameters: jwk.algorithm, key: Arc::new(key) };
        Some(((jwk.common.key_id?, published.key.algorithm()), published))
    });
    Ok(usable.collect())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    /// A modulus of as many bits.
    fn modulus(bits: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xff; bits / 8])
    }

    #[test]
    fn keys_of_other_kinds_uses_and_algorithms_are_ignored() {
        let (n, x) = (modulus(2048), URL_SAFE_NO_PAD.encode(Ed25519KeyPair::generate().unwrap().public_key()));
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (ex, ey) = pair.public_key().as_ref()[1..].split_at(32);
        let (ex, ey) = (URL_SAFE_NO_PAD.encode(ex), URL_SAFE_NO_PAD.encode(ey));
        let usable = json!([
            {"kty": "RSA", "kid": "rsa", "n": n, "e": "AQAB"},
            {"kty": "RSA", "kid": "rsa full", "use": "sig", "alg": "RS256", "n": n, "e": "AQAB"},
            {"kty": "EC", "kid": "ec", "crv": "P-256", "x": ex, "y": ey},
            {"kty": "EC", "kid": "ec full", "use": "sig", "alg": "ES256", "crv": "P-256", "x": ex, "y": ey},
            {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": x},
            {"kty": "OKP", "kid": "ed full", "use": "sig", "alg": "EdDSA", "crv": "Ed25519", "x": x},
        ]);
        let parsed = parse(json!({"keys": usable}).to_string().as_bytes()).unwrap();
        let mut kids: Vec<_> = parsed.keys().map(|(kid, algorithm)| (kid.as_str(), *algorithm)).collect();
        kids.sort_unstable_by_key(|(kid, _)| *kid);
        assert_eq!(
            kids,
            [
                ("ec", Algorithm::ES256),
                ("ec full", Algorithm::ES256),
                ("ed", Algorithm::EdDSA),
                ("ed full", Algorithm::EdDSA),
                ("rsa", Algorithm::RS256),
                ("rsa full", Algorithm::RS256),
            ]
        );
        let (x384, y384) = (URL_SAFE_NO_PAD.encode([1; 48]), URL_SAFE_NO_PAD.encode([2; 48]));
        for ignored in [
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"kty": "oct", "alg": "HS256", "k": "c2VjcmV0"}),
            json!({"kty": "RSA", "alg": "RS512", "n": n, "e": "AQAB"}),
            json!({"kty": "RSA", "alg": "HS256", "n": n, "e": "AQAB"}),
            json!({"kty": "RSA", "alg": "RSA-OAEP-256", "n": n, "e": "AQAB"}),
            json!({"kty": "RSA", "use": "enc", "n": n, "e": "AQAB"}),
            json!({"kty": "RSA", "n": modulus(2040), "e": "AQAB"}),
            json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([&[0; 8][..], &[0xff; 255]].concat()), "e": "AQAB"}),
            json!({"kty": "EC", "crv": "P-384", "x": x384, "y": y384}),
            json!({"kty": "EC", "crv": "P-384", "x": ex, "y": ey}),
            json!({"kty": "EC", "crv": "P-256", "x": x384, "y": y384}),
            json!({"kty": "EC", "crv": "P-256", "x": ey, "y": ex}),
            json!({"kty": "EC", "crv": "Ed25519", "x": ex, "y": ey}),
            json!({"kty": "EC", "alg": "ES384", "crv": "P-256", "x": ex, "y": ey}),
            json!({"kty": "EC", "use": "enc", "crv": "P-256", "x": ex, "y": ey}),
            json!({"kty": "OKP", "crv": "X25519", "x": x}),
            json!({"kty": "OKP", "crv": "P-256", "x": x}),
            json!({"kty": "OKP", "alg": "ES256", "crv": "Ed25519", "x": x}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}),
            json!({"crv": "Ed25519", "x": x}),
            json!(null),
        ] {
            let mut key = ignored;
            key["kid"] = json!("a");
            let keys = parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap();
            assert!(keys.is_empty(), "{key}");
        }
        let nameless = json!({"keys": [{"kty": "RSA", "n": n, "e": "AQAB"}]});
        assert!(parse(nameless.to_string().as_bytes()).unwrap().is_empty());
        assert!(parse(b"[]").is_err() && parse(b"<html>").is_err());
    }

    fn keys(names: &[(&str, &str)]) -> Keys {
        let key = |(kid, e): &(&str, &str)| json!({"kty": "RSA", "kid": kid, "n": modulus(2048), "e": e});
        parse(json!({"keys": names.iter().map(key).collect::<Vec<_>>()}).to_string().as_bytes()).unwrap()
    }

    fn name(kid: &str) -> (String, Algorithm) {
        (kid.to_owned(), Algorithm::RS256)
    }

    #[test]
    fn a_key_that_stays_is_the_same_and_one_that_is_removed_or_changed_is_withdrawn() {
        let mut known = Known::default();
        assert_eq!(known.replace(keys(&[("stays", "AQAB"), ("goes", "AQAB"), ("changes", "AQAB")])), 0);
        let [stays, goes, changes] = ["stays", "goes", "changes"].map(|kid| known.keys[&name(kid)].key.clone());
        assert_eq!(known.replace(keys(&[("stays", "AQAB"), ("changes", "Aw"), ("new", "AQAB")])), 2);
        assert!(Arc::ptr_eq(&stays, &known.keys[&name("stays")].key) && !stays.is_withdrawn());
        assert!(goes.is_withdrawn() && changes.is_withdrawn());
        assert!(!known.keys[&name("changes")].key.is_withdrawn() && !known.keys[&name("new")].key.is_withdrawn());
        // A key that is published again is another one.
        known.replace(keys(&[("goes", "AQAB")]));
        assert!(goes.is_withdrawn() && !known.keys[&name("goes")].key.is_withdrawn());
    }

    #[test]
    fn keys_age() {
        const GRACE: Millis = 3_600_000;
        let freshness = |age: Millis, failed_ago: Option<Millis>| {
            let now = 10 * GRACE;
            let (attempted, fetched) = (Some(now - failed_ago.unwrap_or(age)), Some(now - age));
            Known { keys: keys(&[("a", "AQAB")]), attempted, failed: failed_ago.is_some(), fetched }
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
