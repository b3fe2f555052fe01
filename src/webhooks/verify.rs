//! Signatures of webhooks, by the scheme of Svix and of Standard Webhooks.

use ::http::{HeaderMap, HeaderValue};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use subtle::ConstantTimeEq;
use svix::webhooks::{Webhook, WebhookError};

use crate::{
    config::{Secret, webhooks::WebhookConfig},
    error::{Error, Result},
};

/// Verifies deliveries with one or more secrets: during a rotation the old and the new one are
/// both good.
#[derive(Debug)]
pub struct Verifier {
    secrets: Vec<Webhook>,
}

const MISSING: &str = "svix-id, svix-timestamp and svix-signature are needed";
const UNREADABLE: &str = "svix-timestamp is a number of seconds; the others are plain text";

/// How far a timestamp may be from now, in seconds: Svix's own tolerance.
const TOLERANCE: u64 = 300;

/// Why a delivery is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A header is missing or malformed.
    Headers(&'static str),
    /// The timestamp is too old, or in the future.
    Stale,
    /// No secret made this signature.
    Signature,
}

/// What verifies deliveries by the settings: signatures of the provider, and of Hookdeck.
pub fn verifiers(config: &WebhookConfig) -> Result<(Option<Verifier>, Option<Hookdeck>)> {
    let verifier = config.clerk_webhook_secret.as_ref().map(Verifier::new).transpose()?;
    Ok((verifier, config.hookdeck_signing_secret.as_ref().map(Hookdeck::new).transpose()?))
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

    /// Checks the headers before the body is read: that all are there and well-formed. `now`, in seconds
    /// since 1970, is left out for deliveries that come through a queue, which may be late.
    pub fn look(headers: &HeaderMap, now: Option<i64>) -> Result<(), Refusal> {
        delivery_id(headers)?;
        let text = |names: [&str; 2]| {
            let value = names.iter().find_map(|name| headers.get(*name)).ok_or(Refusal::Headers(MISSING))?;
            value.to_str().map_err(|_| Refusal::Headers(UNREADABLE))
        };
        let signature = text(["svix-signature", "webhook-signature"])?;
        let timestamp = text(["svix-timestamp", "webhook-timestamp"])?;
        let timestamp: i64 = timestamp.parse().map_err(|_| Refusal::Headers(UNREADABLE))?;
        if let Some(now) = now {
            if timestamp < 0 {
                return Err(Refusal::Headers(UNREADABLE));
            }
            if timestamp.abs_diff(now) > TOLERANCE {
                return Err(Refusal::Stale);
            }
        }
        let versions = signature.split(' ').filter_map(|each| each.split_once(','));
        match versions.into_iter().any(|(version, mac)| version == "v1" && is_mac(mac.as_bytes())) {
            true => Ok(()),
            false => Err(Refusal::Signature),
        }
    }

    /// Verifies the raw bytes of a delivery and returns its id. The timestamp may differ from now by five minutes,
    /// Svix's own tolerance; it is not looked at in deliveries that come through a queue.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], queued: bool) -> Result<String, Refusal> {
        let id = delivery_id(headers)?;
        let mut refusal = Refusal::Signature;
        for secret in &self.secrets {
            let verified = match queued {
                false => secret.verify(body, headers),
                true => secret.verify_ignoring_timestamp(body, headers),
            };
            match verified {
                Ok(()) => return Ok(id),
                Err(WebhookError::TimestampTooOldError | WebhookError::FutureTimestampError) => {
                    refusal = Refusal::Stale;
                }
                Err(WebhookError::MissingHeader(_)) => return Err(Refusal::Headers(MISSING)),
                Err(WebhookError::InvalidHeader(_) | WebhookError::InvalidTimestamp) => {
                    return Err(Refusal::Headers(UNREADABLE));
                }
                Err(_) => {}
            }
        }
        Err(refusal)
    }
}

/// Verifies that a delivery came through Hookdeck, which forwards the sender's headers and body
/// unchanged and adds the base64 HMAC-SHA256 of the raw body.
#[derive(Debug)]
pub struct Hookdeck {
    secrets: Vec<Secret>,
}

/// The signature by the present secret; and, while a secret is being replaced, by the other one.
const SIGNATURES: [&str; 2] = ["x-hookdeck-signature", "x-hookdeck-signature-2"];

impl Hookdeck {
    /// From signing secrets separated by spaces.
    pub fn new(secrets: &Secret) -> Result<Self> {
        let secrets: Vec<Secret> = secrets.reveal().split_whitespace().flat_map(str::parse).collect();
        match secrets.is_empty() {
            true => Err(Error::config("HOOKDECK_SIGNING_SECRET is empty; copy it from Hookdeck's project settings")),
            false => Ok(Self { secrets }),
        }
    }

    fn given(headers: &HeaderMap) -> Result<Vec<&[u8]>, Refusal> {
        let given: Vec<&[u8]> =
            SIGNATURES.iter().filter_map(|name| headers.get(*name)).map(HeaderValue::as_bytes).collect();
        match given.is_empty() {
            false => Ok(given),
            true => Err(Refusal::Headers(
                "x-hookdeck-signature is needed: HOOKDECK_SIGNING_SECRET is set, so deliveries come through Hookdeck",
            )),
        }
    }

    /// Checks the headers before the body is read, as [`Verifier::look`].
    pub fn look(headers: &HeaderMap) -> Result<(), Refusal> {
        match Self::given(headers)?.into_iter().any(is_mac) {
            true => Ok(()),
            false => Err(Refusal::Signature),
        }
    }

    /// Verifies the raw bytes of a delivery.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
        let given = Self::given(headers)?;
        let made_by = |secret: &Secret| {
            let mac = BASE64.encode(hmac_sha256::HMAC::mac(body, secret.reveal().as_bytes()));
            given.iter().any(|signature| bool::from(signature.ct_eq(mac.as_bytes())))
        };
        match self.secrets.iter().any(made_by) {
            true => Ok(()),
            false => Err(Refusal::Signature),
        }
    }
}

/// Whether this could be the base64 of an HMAC-SHA256.
fn is_mac(text: &[u8]) -> bool {
    BASE64.decode(text).is_ok_and(|mac| mac.len() == 32)
}

/// The sender's id of the message, which its retries share.
fn delivery_id(headers: &HeaderMap) -> Result<String, Refusal> {
    let value = headers.get("svix-id").or_else(|| headers.get("webhook-id"));
    let value = value.ok_or(Refusal::Headers(MISSING))?;
    let text = value.to_str().ok().filter(|text| (1..=256).contains(&text.len()));
    text.map(str::to_owned).ok_or(Refusal::Headers("svix-id has 1 to 256 visible ASCII characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2: an independent implementation's word for HMAC-SHA256.
    #[test]
    fn hookdecks_signature_is_the_hmac_of_the_body_by_either_secret() {
        let body = b"what do ya want for nothing?";
        let mac = hex::decode("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843").unwrap();
        let signature = BASE64.encode(mac);
        let with =
            |name: &'static str, value: &str| HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        let hookdeck = Hookdeck::new(&"other Jefe".parse().unwrap()).unwrap();
        for name in SIGNATURES {
            assert_eq!(hookdeck.verify(&with(name, &signature), body), Ok(()));
            assert_eq!(hookdeck.verify(&with(name, &signature), b"what do ya want"), Err(Refusal::Signature));
            assert_eq!(hookdeck.verify(&with(name, ""), body), Err(Refusal::Signature));
        }
        assert!(matches!(hookdeck.verify(&HeaderMap::new(), body), Err(Refusal::Headers(_))));
        let stranger = Hookdeck::new(&"another".parse().unwrap()).unwrap();
        assert_eq!(stranger.verify(&with(SIGNATURES[0], &signature), body), Err(Refusal::Signature));
        assert!(Hookdeck::new(&" ".parse().unwrap()).is_err());
    }
}
