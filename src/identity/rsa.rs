//! An issuer's public key, read once: a forged token costs its verification and not, each time
//! again, the decoding of the key.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};

/// A key for RS256 (RFC 7518, section 3.3): RSA of 2048 bits or more.
pub struct PublicKey {
    parsed: ParsedPublicKey,
    withdrawn: AtomicBool,
}

impl PublicKey {
    /// None for a key that is too small or not RSA's.
    pub fn new(key: &DecodingKey) -> Option<Self> {
        let parsed = match key.kind() {
            DecodingKeyKind::SecretOrDer(der) => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            }
        };
        parsed.ok().map(|parsed| Self { parsed, withdrawn: AtomicBool::new(false) })
    }

    /// Marks it as one that the issuer has no longer, for all who remember what it signed.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Whether the issuer has it no longer.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Whether a signature, in base64url, is this key's of a message.
    pub fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| self.parsed.verify_sig(message, &signature).is_ok())
    }
}
