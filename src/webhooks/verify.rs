//! Signatures of webhooks, by the scheme of Svix and of Standard Webhooks.

use ::http::HeaderMap;
use svix::webhooks::{Webhook, WebhookError};

use crate::{
    config::Secret,
    error::{Error, Result},
};

/// Verifies deliveries with one or more secrets: during a rotation the old and the new one are
/// both good.
#[derive(Debug)]
pub struct Verifier {
    secrets: Vec<Webhook>,
}

/// Why a delivery is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A header that must be there is not, or is not what it should be.
    Headers(&'static str),
    /// It is signed too long ago, or in the future.
    Stale,
    /// No secret made this signature.
    Signature,
}

impl Verifier {
    /// From secrets separated by spaces, each `whsec_…`.
    pub fn new(secrets: &Secret) -> Result<Self> {
        let secrets: Vec<Webhook> = secrets
            .reveal()
            .split_whitespace()
            .map(|secret| {
                Webhook::new(secret).map_err(|e| {
                    Error::config(
                        "CLERK_WEBHOOK_SECRET: a secret is whsec_ and base64; copy it whole from Clerk's dashboard",
                    )
                    .with_source(e)
                })
            })
            .collect::<Result<_>>()?;
        match secrets.is_empty() {
            true => Err(Error::config("CLERK_WEBHOOK_SECRET is empty")),
            false => Ok(Self { secrets }),
        }
    }

    /// Verifies the raw bytes of a delivery and returns its id. The timestamp may differ from now
    /// by five minutes, Svix's own tolerance.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
        self.verify_with(headers, |secret| secret.verify(body, headers))
    }

    /// The same without a look at the clock: for deliveries that something in front has held back.
    pub fn verify_ignoring_timestamp(&self, headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
        self.verify_with(headers, |secret| secret.verify_ignoring_timestamp(body, headers))
    }

    fn verify_with(
        &self,
        headers: &HeaderMap,
        check: impl Fn(&Webhook) -> Result<(), WebhookError>,
    ) -> Result<String, Refusal> {
        let id = delivery_id(headers)?;
        let mut refusal = Refusal::Signature;
        for secret in &self.secrets {
            match check(secret) {
                Ok(()) => return Ok(id),
                Err(WebhookError::TimestampTooOldError | WebhookError::FutureTimestampError) => {
                    refusal = Refusal::Stale;
                }
                Err(WebhookError::MissingHeader(_)) => {
                    return Err(Refusal::Headers("svix-id, svix-timestamp and svix-signature are needed"));
                }
                Err(WebhookError::InvalidHeader(_) | WebhookError::InvalidTimestamp) => {
                    return Err(Refusal::Headers("svix-timestamp is a number of seconds; the others are plain text"));
                }
                Err(_) => {}
            }
        }
        Err(refusal)
    }
}

/// The sender's id of the message, which its retries share.
fn delivery_id(headers: &HeaderMap) -> Result<String, Refusal> {
    let value = headers.get("svix-id").or_else(|| headers.get("webhook-id"));
    let value = value.ok_or(Refusal::Headers("svix-id, svix-timestamp and svix-signature are needed"))?;
    let text = value.to_str().ok().filter(|text| (1..=256).contains(&text.len()));
    text.map(str::to_owned).ok_or(Refusal::Headers("svix-id has 1 to 256 visible ASCII characters"))
}
