//! Who a caller is, by what they show; and who exists, as the provider tells it. Serves no HTTP and
//! knows no storage.
//!
//! | file | decides |
//! |---|---|
//! | [`jwt`] | whether a session token is believed, and for how long that is remembered |
//! | [`forged`] | which tokens were found forged a moment ago |
//! | [`jwks`] | which public keys the issuer has now |
//! | [`keys`] | which API keys are good, and their form |
//! | [`claims`] | which tokens are session tokens of ours, by what is in them |
//! | [`provider`] | what is asked of the identity provider |
//! | [`clerk`] | how Clerk is asked |
//! | [`circuit`] | when to stop asking |
//! | [`user`] | what is read of a user as the provider writes it |

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

/// What callers may show here, and how it is verified.
pub struct Identity {
    mode: AuthMode,
    sessions: Option<jwt::Verifier>,
    keys: keys::KeyRing,
}

impl Identity {
    /// By the settings, which were validated before.
    pub fn new(config: &DoorConfig, clock: &Clock) -> Result<Self> {
        let sessions = config.auth.takes_tokens().then(|| jwt::Verifier::new(config, clock)).transpose()?;
        Ok(Self { mode: config.auth, sessions, keys: keys::KeyRing::default() })
    }

    /// Whether callers are let in without any proof.
    pub fn is_open(&self) -> bool {
        self.mode.is_open()
    }

    /// Whether API keys are accepted.
    pub fn takes_keys(&self) -> bool {
        self.mode.takes_keys()
    }

    /// The API keys that are good now.
    pub fn keys(&self) -> &keys::KeyRing {
        &self.keys
    }

    /// Verifies session tokens, where they are accepted.
    pub fn sessions(&self) -> Option<&jwt::Verifier> {
        self.sessions.as_ref()
    }
}
