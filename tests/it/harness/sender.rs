//! Clerk's side of a webhook: messages, signed as Svix signs them, through Hookdeck or not.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde_json::{Value, json};
use svix::webhooks::Webhook;

use super::{Client, Reply};

/// The endpoint's secret in tests.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Hookdeck's.
pub const HOOKDECK: &str = "hookdeck-signing-secret";

/// A signed message, to be changed and sent.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: String,
    pub timestamp: i64,
    pub body: Vec<u8>,
    pub headers: Vec<(String, String)>,
}

impl Message {
    pub fn new(id: &str, body: &Value) -> Self {
        Self::raw(id, body.to_string().into_bytes())
    }

    pub fn raw(id: &str, body: Vec<u8>) -> Self {
        Self::signed_at(id, body, now())
    }

    pub fn signed_at(id: &str, body: Vec<u8>, timestamp: i64) -> Self {
        let signature = Webhook::new(SECRET).unwrap().sign(id, timestamp, &body).unwrap();
        let headers = vec![
            ("svix-id".to_owned(), id.to_owned()),
            ("svix-timestamp".to_owned(), timestamp.to_string()),
            ("svix-signature".to_owned(), signature),
        ];
        Self { id: id.to_owned(), timestamp, body, headers }
    }

    /// With what Hookdeck adds.
    pub fn through_hookdeck(mut self, header: &str, secret: &str) -> Self {
        let mac = hmac_sha256::HMAC::mac(&self.body, secret.as_bytes());
        self.headers.push((header.to_owned(), BASE64.encode(mac)));
        self
    }

    pub async fn send(&self, client: &Client) -> Reply {
        let mut request = client.request("POST", "/webhooks/clerk").header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        client.send(request.body(self.body.clone())).await
    }
}

/// Sends an event and expects it to be taken.
pub async fn deliver(client: &Client, id: &str, body: &Value) -> Value {
    Message::new(id, body).send(client).await.expect(200).json()
}

/// Seconds since the epoch.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// A user as Clerk writes one.
pub fn user(id: &str, name: &str, updated_at: i64) -> Value {
    json!({
        "object": "user",
        "id": id,
        "primary_email_address_id": "idn_1",
        "email_addresses": [
            {"id": "idn_0", "object": "email_address", "email_address": "other@example.com"},
            {"id": "idn_1", "object": "email_address", "email_address": format!("{name}@example.com")},
        ],
        "first_name": name,
        "last_name": null,
        "username": null,
        "image_url": format!("https://img.example.com/{id}"),
        "public_metadata": {},
        "private_metadata": {},
        "created_at": 1_700_000_000_000_i64,
        "updated_at": updated_at,
    })
}

/// An event about a user.
pub fn event(kind: &str, data: Value, timestamp: i64) -> Value {
    json!({"object": "event", "type": kind, "timestamp": timestamp, "data": data, "instance_id": "ins_1"})
}

/// What `user.deleted` says.
pub fn gone(id: &str) -> Value {
    json!({"object": "user", "id": id, "deleted": true})
}
