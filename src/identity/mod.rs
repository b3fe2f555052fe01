//! Authentication of callers, and the identity provider's API. Knows neither HTTP serving nor storage.
//!
//! | file | what |
//! |---|---|
//! | [`jwt`] | verifies session tokens, and caches verified ones |
//! | [`claims`] | the rules for a token's header and claims |
//! | [`jwks`] | fetches the issuer's public keys |
//! | [`key_set`] | which of them are usable, and how old they may be |
//! | [`public_key`] | one of them |
//! | [`forged`] | caches forged tokens |
//! | [`keys`] | API keys: their form, and the valid ones |
//! | [`provider`] | the requests that an identity provider must answer |
//! | [`clerk`] | Clerk as a provider |
//! | [`circuit`] | a circuit breaker for requests to a provider |
//! | [`user`] | a user object of the provider |

pub mod circuit;
pub mod claims;
pub mod clerk;
pub mod forged;
pub mod jwks;
pub mod jwt;
pub mod key_set;
pub mod keys;
pub mod provider;
pub mod public_key;
pub mod user;

use crate::{
    clock::Clock,
    config::door::{AuthMode, DoorConfig},
    error::Result,
};

/// Verifies what callers send to authenticate.
pub struct Identity {
    mode: AuthMode,
    sessions: Option<jwt::Verifier>,
    keys: keys::KeyRing,
}

impl Identity {
    /// With these settings, which must be valid.
    pub fn new(config: &DoorConfig, clock: &Clock) -> Result<Self> {
        let sessions = config.auth.takes_tokens().then(|| jwt::Verifier::new(config, clock)).transpose()?;
        Ok(Self { mode: config.auth, sessions, keys: keys::KeyRing::default() })
    }

    /// Whether callers need not authenticate.
    pub fn is_open(&self) -> bool {
        self.mode.is_open()
    }

    /// Whether API keys are accepted.
    pub fn takes_keys(&self) -> bool {
        self.mode.takes_keys()
    }

    /// The valid API keys.
    pub fn keys(&self) -> &keys::KeyRing {
        &self.keys
    }

    /// Verifies session tokens, if they are accepted.
    pub fn sessions(&self) -> Option<&jwt::Verifier> {
        self.sessions.as_ref()
    }
}
