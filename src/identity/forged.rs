//! Recently seen tokens whose signature is wrong, so that a client that repeats one costs no verification.
//!
//! A direct-mapped table of fixed size: an insert copies 32 bytes, also in a flood of different tokens. A cache
//! with an eviction policy costs a fourth of the RSA verification that this saves.

use std::sync::Arc;

use parking_lot::Mutex;

use super::public_key::PublicKey;

/// Entries. Few, since an attacker can make any number of tokens.
const SLOTS: usize = 1024;

/// A token's SHA-256.
pub type Digest = [u8; 32];

/// The forged-token cache.
pub struct Forged(Box<[Mutex<Option<(Digest, Arc<PublicKey>)>>]>);

impl Default for Forged {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| Mutex::default()).collect())
    }
}

impl Forged {
    /// Whether a token is known not to be signed by this key. A key that was replaced is a different `Arc`.
    pub fn contains(&self, token: &Digest, key: &Arc<PublicKey>) -> bool {
        self.slot(token).lock().as_ref().is_some_and(|(kept, by)| kept == token && Arc::ptr_eq(by, key))
    }

    /// Records a token that this key has not signed, and evicts the entry of the same slot.
    pub fn insert(&self, token: Digest, key: Arc<PublicKey>) {
        *self.slot(&token).lock() = Some((token, key));
    }

    fn slot(&self, token: &Digest) -> &Mutex<Option<(Digest, Arc<PublicKey>)>> {
        let [first, second, ..] = *token;
        &self.0[usize::from(u16::from_le_bytes([first, second])) % SLOTS]
    }
}
