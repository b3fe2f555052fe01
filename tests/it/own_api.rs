//! The example of an API of one's own, through HTTP.

use cubby::config::{Provisioning, ServeConfig, door::AuthMode};
use serde_json::json;
use tokio::{net::TcpListener, sync::oneshot};

use crate::harness::{
    Client,
    tokens::{ISSUER, SigningKey},
};

#[path = "../../examples/own_api.rs"]
#[expect(dead_code, reason = "its main")]
mod example;

#[tokio::test]
async fn an_api_of_ones_own_has_tokens_limits_errors_and_durable_data() {
    let key = SigningKey::new("a");
    let folder = tempfile::TempDir::new().unwrap();
    let mut config = ServeConfig::defaults().unwrap();
    config.door.auth = AuthMode::Jwt;
    config.door.issuer = Some(ISSUER.to_owned());
    config.door.clerk_jwt_key = Some(key.pem().parse().unwrap());
    config.provisioning = Provisioning::OnProof;
    config.limits.tenant_rate = Some("1/h:20".parse().unwrap());
    config.validate().unwrap();
    let start = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let (data, config) = (folder.path().to_owned(), config.clone());
        let serving = async move { example::serve(&data, &config, listener, async { drop(stopped.await) }).await };
        (client, stop, tokio::spawn(serving))
    };

    let (client, stop, served) = start().await;
    let (ada, eve) = (client.bearing(key.token("ada")), client.bearing(key.token("eve")));
    let todo = ada.post("/users/ada/todos", json!({"what": "buy milk"})).await.expect(201).json();
    assert_eq!(todo, json!({"id": 1, "what": "buy milk"}));
    ada.post("/users/ada/todos", json!({"what": "sleep"})).await.expect(201);
    assert_eq!(ada.delete("/users/ada/todos/2").await.status, 204);
    assert_eq!(ada.get("/users/ada/todos").await.expect(200).json(), json!([todo]));
    assert_eq!(eve.get("/users/eve/todos").await.expect(200).json(), json!([]));

    // Errors have one shape and tell nothing of others.
    assert_eq!(client.get("/users/ada/todos").await.expect(401).code(), "unauthorized");
    let refused = eve.get("/users/ada/todos").await.expect(404);
    assert_eq!((refused.code().as_str(), refused.header("content-type")), ("unknown_user", "application/problem+json"));
    assert_eq!(refused.json()["request_id"], refused.header("x-request-id"));
    assert_eq!(ada.get("/nowhere").await.expect(404).code(), "unknown_user");
    assert_eq!(ada.delete("/users/ada/todos/x").await.status, 404);
    assert_eq!(ada.post("/users/ada/todos", json!({"why": 1})).await.expect(422).code(), "invalid_field");
    assert_eq!(ada.post("/users/ada/todos", json!({"what": "x".repeat(5000)})).await.expect(413).code(), "too_large");
    let mut last = eve.get("/users/eve/todos").await;
    for _ in 0..20 {
        last = eve.get("/users/eve/todos").await;
    }
    assert_eq!((last.status, last.code().as_str()), (429, "rate_limited"));
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();

    let (client, stop, served) = start().await;
    assert_eq!(client.bearing(key.token("ada")).get("/users/ada/todos").await.expect(200).json(), json!([todo]));
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
}
