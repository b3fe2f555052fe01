//! Authentication of callers, and the identity provider's API. Knows neither HTTP serving nor storage.

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
