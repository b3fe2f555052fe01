//! An issuer's public key. It is parsed once, so that verifying a token does not decode it again.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};

/// The shortest RSA modulus, in bits (RFC 7518, section 3.3).
const MIN_RSA_BITS: usize = 2048;

/// A key that verifies signatures of one algorithm.
pub struct PublicKey {
    algorithm: Algorithm,
    parsed: ParsedPublicKey,
    withdrawn: AtomicBool,
}

impl PublicKey {
    /// The key of a JWK (RFC 7517). Its kind decides the algorithm: RSA of 2048 bits or more is RS256,
    /// P-256 is ES256, Ed25519 is EdDSA. None for any other kind, for a key that declares another `alg`,
    /// and for one whose `use` is not signing.
    pub fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            _ => return None,
        };
        let common = &jwk.common;
        if common.key_algorithm.is_some_and(|declared| declared != algorithm.into())
            || common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature)
        {
            return None;
        }
        let parsed = match (DecodingKey::from_jwk(jwk).ok()?.kind(), algorithm) {
            (DecodingKeyKind::RsaModulusExponent { n, e }, _) => {
                if bits(n) < MIN_RSA_BITS {
                    return None;
                }
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()
            }
            (DecodingKeyKind::SecretOrDer(point), Algorithm::ES256) => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()
            }
            (DecodingKeyKind::SecretOrDer(point), Algorithm::EdDSA) => ParsedPublicKey::new(&ED25519, point).ok(),
            (DecodingKeyKind::SecretOrDer(_), _) => None,
        };
        Some(Self { algorithm, parsed: parsed?, withdrawn: AtomicBool::new(false) })
    }

    /// The key of a PEM file, by the same rules.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let kinds = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem];
        let key = kinds.iter().find_map(|parse| parse(pem).ok())?;
        Self::from_jwk(&Jwk::from_decoding_key(&key, None).ok()?)
    }

    /// Whether both are the same key.
    pub fn is(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.parsed.as_ref() == other.parsed.as_ref()
    }

    /// The only algorithm that this key verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Marks the key as one that the issuer no longer publishes. Cached tokens that it signed become invalid.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Whether the issuer no longer publishes the key.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Whether `signature`, in base64url, is this key's signature of `message`.
    pub fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| self.parsed.verify_sig(message, &signature).is_ok())
    }
}

/// The length of a big-endian number without its leading zeros.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros).map_or(0, |first| (number.len() - zeros) * 8 - first.leading_zeros() as usize)
}
