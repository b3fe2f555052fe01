//! Signs a delivery as its sender does, for a test of the endpoint with its own secrets.

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use svix::webhooks::Webhook;

use crate::{
    config::{Secret, webhooks::WebhookConfig},
    error::{Error, Result},
};

/// The headers of a delivery that is sent at this time, in seconds since 1970. Of several secrets the first one signs; none
/// if there is none.
///
/// # Errors
/// If the secret is none.
pub fn headers(secrets: &WebhookConfig, id: &str, at: i64, body: &[u8]) -> Result<Option<Vec<(&'static str, String)>>> {
    let first = |secrets: &Option<Secret>| {
        let secrets = secrets.as_ref()?.reveal();
        secrets.split_whitespace().next().map(str::to_owned)
    };
    let Some(secret) = first(&secrets.clerk_webhook_secret) else { return Ok(None) };
    let wrong =
        |e| Error::config("CLERK_WEBHOOK_SECRET cannot sign: copy it whole from Clerk's dashboard").with_source(e);
    let signature = Webhook::new(&secret).and_then(|secret| secret.sign(id, at, body)).map_err(wrong)?;
    let mut headers =
        vec![("svix-id", id.to_owned()), ("svix-timestamp", at.to_string()), ("svix-signature", signature)];
    if let Some(secret) = first(&secrets.hookdeck_signing_secret) {
        headers.push(("x-hookdeck-signature", BASE64.encode(hmac_sha256::HMAC::mac(body, secret.as_bytes()))));
    }
    Ok(Some(headers))
}
