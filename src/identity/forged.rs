//! The forged tokens that came last.
//!
//! A table of fixed size in which a token has one place, by its hash: noting one costs a copy of 32 bytes,
//! in a flood in which each is another as well. A cache that weighs what to keep costs a fourth of the RSA
//! verification that it is to spare.

use std::sync::Arc;

use parking_lot::Mutex;

use super::rsa::PublicKey;

/// How many are kept: few, since whoever wants to makes as many as they like.
const PLACES: usize = 1024;

/// A token's SHA-256.
pub type Digest = [u8; 32];

/// See the module's documentation.
pub struct Forged(Box<[Mutex<Option<(Digest, Arc<PublicKey>)>>]>);

impl Default for Forged {
    fn default() -> Self {
        Self((0..PLACES).map(|_| Mutex::default()).collect())
    }
}

impl Forged {
    /// Whether a token is known not to be signed by this very key: one that was fetched again is another.
    pub fn has(&self, token: &Digest, key: &Arc<PublicKey>) -> bool {
        self.place(token).lock().as_ref().is_some_and(|(kept, by)| kept == token && Arc::ptr_eq(by, key))
    }

    /// Notes a token that this key has not signed, in the place of the one that was there.
    pub fn note(&self, token: Digest, key: Arc<PublicKey>) {
        *self.place(&token).lock() = Some((token, key));
    }

    fn place(&self, token: &Digest) -> &Mutex<Option<(Digest, Arc<PublicKey>)>> {
        let [first, second, ..] = *token;
        &self.0[usize::from(u16::from_le_bytes([first, second])) % PLACES]
    }
}
