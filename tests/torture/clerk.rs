//! Clerk's side: a small server that lists the users it is told to in its own address, and signed
//! messages.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, RawQuery, State},
    routing::get,
};
use serde_json::{Value, json};
use svix::webhooks::Webhook;

/// The secret key with which it is asked.
pub const KEY: &str = "sk_test_0123456789";

/// The secret with which messages are signed.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A user as Clerk writes one.
pub fn user(id: &str) -> Value {
    json!({
        "object": "user", "id": id, "primary_email_address_id": "idn_1",
        "email_addresses": [{"id": "idn_1", "email_address": format!("{id}@example.com")}],
        "first_name": id, "created_at": 1_700_000_000_000_i64, "updated_at": 1_700_000_000_000_i64,
    })
}

/// A message about a user, of this moment.
pub fn message(kind: &str, id: &str) -> Value {
    let data = match kind {
        "user.deleted" => json!({"object": "user", "id": id, "deleted": true}),
        _ => user(id),
    };
    json!({"object": "event", "type": kind, "timestamp": millis(), "data": data, "instance_id": "ins_1"})
}

/// Its headers.
pub fn signed(id: &str, body: &Value) -> Vec<(&'static str, String)> {
    let now = millis() / 1000;
    let signature = Webhook::new(SECRET).unwrap().sign(id, now, body.to_string().as_bytes()).unwrap();
    vec![("svix-id", id.to_owned()), ("svix-timestamp", now.to_string()), ("svix-signature", signature)]
}

fn millis() -> i64 {
    cubby::clock::Clock::system().now()
}

/// Who is listed at the address `…/now`, for those whom it is not told by the address itself.
pub type Listed = Arc<parking_lot::Mutex<Vec<String>>>;

/// Listens on loopback until the runtime is dropped.
pub fn start(runtime: &tokio::runtime::Runtime, listed: Listed) -> SocketAddr {
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes =
            Router::new().route("/{ids}/users", get(list)).route("/{ids}/users/count", get(count)).with_state(listed);
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        address
    })
}

/// The address at which just these are listed.
pub fn listing(address: SocketAddr, ids: &[&str]) -> String {
    format!("http://{address}/{}", ids.join(","))
}

fn ids(path: &str, listed: &Listed) -> Vec<String> {
    if path == "now" { listed.lock().clone() } else { path.split(',').map(str::to_owned).collect() }
}

async fn list(State(listed): State<Listed>, Path(path): Path<String>, RawQuery(query): RawQuery) -> Json<Vec<Value>> {
    let mut ids = ids(&path, &listed);
    let asked: Vec<String> = query
        .iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.strip_prefix("user_id="))
        .map(|id| percent_encoding::percent_decode_str(id).decode_utf8_lossy().into_owned())
        .collect();
    // All are on the first page, so nobody is after anybody.
    let after = query.is_some_and(|query| query.contains("starting_after="));
    ids.retain(|id| !after && (asked.is_empty() || asked.contains(id)));
    Json(ids.iter().map(|id| user(id)).collect())
}

async fn count(State(listed): State<Listed>, Path(path): Path<String>) -> Json<Value> {
    Json(json!({"object": "total_count", "total_count": ids(&path, &listed).len()}))
}
