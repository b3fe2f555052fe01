//! API keys: their form, and the valid ones.
//!
//! `cubby_live_`, 32 random characters, and a checksum of 6: a secret scanner recognizes a leaked key without a request,
//! and an invalid key costs no look-up. Only the SHA-256 of a key is stored; 190 random bits need no slow hash.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{catalog::model::KeyRow, clock::Millis};

/// The prefix of every key.
pub const PREFIX: &str = "cubby_live_";

/// Random characters after the prefix.
const RANDOM: usize = 32;

/// Characters of the checksum.
const CHECKSUM: usize = 6;

/// The SHA-256 of a key.
pub type KeyHash = [u8; 32];

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new random key.
pub fn generate() -> String {
    let mut key = format!("{PREFIX}{}", nanoid::nanoid!(RANDOM, &ALPHABET.map(char::from)));
    key.push_str(&checksum(&key));
    key
}

/// A new random key id, by which a key is listed and revoked. Not secret.
pub fn generate_id() -> String {
    format!("key_{}", nanoid::nanoid!(12, &ALPHABET.map(char::from)[36..]))
}

/// The digest of a key; none if its form or its checksum is wrong.
pub fn digest(key: &str) -> Option<KeyHash> {
    let rest = key.strip_prefix(PREFIX)?;
    if rest.len() != RANDOM + CHECKSUM || !rest.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let (body, given) = key.split_at(PREFIX.len() + RANDOM);
    (checksum(body) == given).then(|| Sha256::digest(key.as_bytes()).into())
}

/// The first 32 bits of the SHA-256 of `body`, big-endian, in base 62 with leading zeroes.
fn checksum(body: &str) -> String {
    let hash = Sha256::digest(body.as_bytes());
    let mut number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) as usize;
    let mut text = [b'0'; CHECKSUM];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[number % ALPHABET.len()];
        number /= ALPHABET.len();
    }
    text.map(char::from).iter().collect()
}

/// A valid key.
#[derive(Debug)]
pub struct Key {
    /// Its row in the catalog, as it was when it was read.
    pub row: KeyRow,
    hash: KeyHash,
    used: AtomicI64,
    /// The value of `used` in the catalog.
    saved: AtomicI64,
}

impl Key {
    /// A key of the catalog.
    pub fn new(row: KeyRow, hash: KeyHash) -> Self {
        let used = row.last_used.unwrap_or(0);
        Self { row, hash, used: AtomicI64::new(used), saved: AtomicI64::new(used) }
    }
}

/// The resolution of `used` in memory.
const USE: Millis = 1_000;

/// The resolution of `last_used` in the catalog.
const SAVE_EVERY: Millis = 60_000;

/// The valid keys, in memory: no request reads the catalog for its key. [`revoke`](Self::revoke) takes effect on the
/// next request.
#[derive(Default)]
pub struct KeyRing {
    /// By the first eight bytes of the digest; the rest is compared in constant time.
    keys: RwLock<HashMap<u64, Vec<Arc<Key>>>>,
    changing: tokio::sync::Mutex<()>,
}

fn bucket(hash: &KeyHash) -> u64 {
    u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
}

impl KeyRing {
    /// The lock for a change of the catalog and of the key ring together. Without it a key that is revoked after its row
    /// is written, and before it is added here, would stay valid.
    pub async fn lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// Adds a key.
    pub fn add(&self, key: Key) {
        self.keys.write().entry(bucket(&key.hash)).or_default().push(Arc::new(key));
    }

    /// Removes a key, by its id.
    pub fn revoke(&self, id: &str) {
        self.keys.write().retain(|_, keys| {
            keys.retain(|key| key.row.id != id);
            !keys.is_empty()
        });
    }

    /// The entry of a key, if it is valid at `now`.
    pub fn find(&self, key: &str, now: Millis) -> Option<Arc<Key>> {
        let hash = digest(key)?;
        let key = {
            let keys = self.keys.read();
            keys.get(&bucket(&hash))?.iter().find(|key| bool::from(key.hash.ct_eq(&hash)))?.clone()
        };
        if key.row.expires.is_some_and(|at| at <= now) {
            return None;
        }
        // Not with each request: the cores would contend for the cache line.
        if now - key.used.load(Ordering::Relaxed) >= USE {
            key.used.store(now, Ordering::Relaxed);
        }
        Some(key)
    }

    /// Whether a key that was found before is still valid at `now`.
    pub fn holds(&self, key: &Key, now: Millis) -> bool {
        let keys = self.keys.read();
        let known =
            keys.get(&bucket(&key.hash)).is_some_and(|keys| keys.iter().any(|known| known.row.id == key.row.id));
        known && key.row.expires.is_none_or(|at| at > now)
    }

    /// Keys whose last use is a minute newer than in the catalog, or newer at all with `all`, and when they were used.
    pub fn uses(&self, all: bool) -> Vec<(String, Millis)> {
        let behind = if all { 1 } else { SAVE_EVERY };
        let mut uses = Vec::new();
        for key in self.keys.read().values().flatten() {
            let used = key.used.load(Ordering::Relaxed);
            if used - key.saved.load(Ordering::Relaxed) >= behind {
                key.saved.store(used, Ordering::Relaxed);
                uses.push((key.row.id.clone(), used));
            }
        }
        uses
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_recognised_by_their_form() {
        let key = generate();
        assert_eq!(key.len(), PREFIX.len() + RANDOM + CHECKSUM);
        assert!(digest(&key).is_some());
        assert_ne!(key, generate());
        // Fixed: scanners outside this program compute it too.
        assert_eq!(checksum("cubby_live_00000000000000000000000000000000"), "0NbBPh");
        let mut typo = key.clone().into_bytes();
        typo[20] = if typo[20] == b'a' { b'b' } else { b'a' };
        for bad in [String::from_utf8(typo).unwrap(), key[1..].into(), format!("{key}x"), String::new(), PREFIX.into()]
        {
            assert_eq!(digest(&bad), None, "{bad}");
        }
        assert_eq!(digest(&format!("{PREFIX}{}", "é".repeat(19))), None);
    }

    #[test]
    fn uses_are_returned_once_and_in_batches() {
        let (key, ring) = (generate(), KeyRing::default());
        let row = json!({"id": "key_a", "name": "", "hint": "", "read_only": false, "created": "1970-01-01T00:00:00Z",
                         "expires": null, "revoked": null, "last_used": null});
        ring.add(Key::new(serde_json::from_value(row).unwrap(), digest(&key).unwrap()));
        ring.find(&key, SAVE_EVERY);
        assert_eq!(ring.uses(false), [("key_a".to_owned(), SAVE_EVERY)]);
        ring.find(&key, SAVE_EVERY + 5_000);
        assert_eq!(ring.uses(false), []);
        assert_eq!(ring.uses(true), [("key_a".to_owned(), SAVE_EVERY + 5_000)]);
        assert_eq!(ring.uses(true), []);
    }
}
