//! Deliveries from the provider, signed as Svix signs them.

use std::time::{SystemTime, UNIX_EPOCH};

use cubby::config::Secret;
use cubby::webhooks::verify::{Refusal, Verifier};
use insta::assert_json_snapshot;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use svix::webhooks::Webhook;

use crate::harness::{Client, Reply, Server, author, tree};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

const SPEC_EXAMPLE: &str = include_str!("data/clerk/user.created.spec-example.json");
const FULL: &str = include_str!("data/clerk/user.created.synthetic-full.json");
const DELETED: &str = include_str!("data/clerk/user.deleted.spec-example.json");
const JOHN: &str = "user_2g7np7Hrk0SN6kj5EDMLDaKNL0S";

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// A delivery to be signed and sent, with everything about it open to change.
struct Delivery<'a> {
    id: &'a str,
    secret: &'a str,
    at: i64,
    family: &'a str,
    path: &'a str,
}

impl<'a> Delivery<'a> {
    fn of(id: &'a str) -> Self {
        Self { id, secret: SECRET, at: now(), family: "svix", path: "/webhooks/clerk" }
    }

    fn request(&self, client: &Client, body: &str) -> reqwest::RequestBuilder {
        let signature = Webhook::new(self.secret).unwrap().sign(self.id, self.at, body.as_bytes()).unwrap();
        client
            .request("POST", self.path)
            .header("content-type", "application/json")
            .header(format!("{}-id", self.family), self.id)
            .header(format!("{}-timestamp", self.family), self.at.to_string())
            .header(format!("{}-signature", self.family), signature)
            .body(body.to_owned())
    }

    async fn send(&self, client: &Client, body: &str) -> Reply {
        client.send(self.request(client, body)).await
    }
}

fn created(user: &str) -> String {
    json!({"type": "user.created", "timestamp": 1_716_883_200, "data": {"id": user, "email_addresses": []}}).to_string()
}

async fn server() -> Server {
    Server::with(&["--provisioning", "webhook", "--clerk-webhook-secret", SECRET]).await
}

#[tokio::test]
async fn user_created_makes_the_user_with_all_that_clerk_says() {
    let server = server().await;
    let mut event: Value = serde_json::from_str(FULL).unwrap();
    event["data"]["public_metadata"] = json!({"role": "admin", "plan": "pro"});
    // The primary address is not always the first.
    event["data"]["email_addresses"].as_array_mut().unwrap().reverse();
    let reply = Delivery::of("msg_1").send(&server.client, &event.to_string()).await.expect(200);
    assert_json_snapshot!(reply.json(), @r#"
    {
      "status": "created",
      "user_id": "user_2g7np7Hrk0SN6kj5EDMLDaKNL0S"
    }
    "#);
    server.client.note(JOHN, "x").await;

    let row = server.app.store().find(&JOHN.parse().unwrap()).await.unwrap().unwrap();
    let row = serde_json::to_value(row).unwrap();
    let names = "email first_name image_url last_name provider_event_at provider_metadata provider_updated_at role \
                 state username workspace";
    let row: Value = names.split(' ').map(|name| (name.to_owned(), row[name].clone())).collect();
    assert_json_snapshot!(row, @r#"
    {
      "email": "john.doe@example.com",
      "first_name": "John",
      "image_url": "https://img.clerk.com/xxxxxx",
      "last_name": "Doe",
      "provider_event_at": "2024-05-28T08:00:00.123Z",
      "provider_metadata": "{\"plan\":\"pro\",\"role\":\"admin\"}",
      "provider_updated_at": "2024-05-28T08:00:00.000Z",
      "role": "admin",
      "state": "active",
      "username": "johndoe",
      "workspace": "My Workspace"
    }
    "#);
    server.stop().await;
}

#[tokio::test]
async fn clerks_own_example_without_an_address_makes_a_user() {
    let server = server().await;
    Delivery::of("msg_1").send(&server.client, SPEC_EXAMPLE).await.expect(200);
    let row = server.app.store().find(&JOHN.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((row.profile.email, row.profile.role.as_deref()), (None, Some("client")));
    assert_eq!(row.profile.provider_event_at, Some(1_716_883_200_000), "seconds became milliseconds");
    server.stop().await;
}

#[tokio::test]
async fn both_header_families_and_both_paths_are_understood() {
    let server = server().await;
    for (n, (family, path)) in [
        ("svix", "/webhooks/clerk"),
        ("webhook", "/webhooks/clerk"),
        ("svix", "/api/webhooks/clerk"),
        ("webhook", "/api/webhooks/clerk"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("msg_{n}");
        let delivery = Delivery { family, path, ..Delivery::of(&id) };
        let reply = delivery.send(&server.client, &created(&format!("user_{n}"))).await.expect(200);
        assert_eq!(reply.json()["status"], "created", "{family} {path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn during_a_rotation_the_old_and_the_new_secret_are_both_good() {
    let server = Server::with(&["--clerk-webhook-secret", &format!("{SECRET} {OTHER}")]).await;
    for (n, secret) in [SECRET, OTHER].into_iter().enumerate() {
        let id = format!("msg_{n}");
        Delivery { secret, ..Delivery::of(&id) }.send(&server.client, &created(&format!("user_{n}"))).await.expect(200);
    }
    // Svix signs with both while it rotates: any good signature among several will do.
    let body = created("user_2");
    let at = now();
    let sign = |secret: &str| Webhook::new(secret).unwrap().sign("msg_2", at, body.as_bytes()).unwrap();
    let request = Delivery::of("msg_2").request(&server.client, &body);
    let signatures = format!("v1a,bm90aGluZw== v1,bm90aGluZw== {}", sign(OTHER));
    let mut request = request.build().unwrap();
    request.headers_mut().insert("svix-timestamp", at.to_string().parse().unwrap());
    request.headers_mut().insert("svix-signature", signatures.parse().unwrap());
    let reply = reqwest::Client::new().execute(request).await.unwrap();
    assert_eq!(reply.status(), 200);

    let third = "whsec_plJ3nmyCDGBKInavdOK15jsl";
    let reply = Delivery { secret: third, ..Delivery::of("msg_3") }.send(&server.client, &created("user_3")).await;
    assert_eq!(reply.expect(401).code(), "bad_signature");
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_signed_as_it_should_be_is_refused_and_changes_nothing() {
    let server = server().await;
    let client = &server.client;
    let body = created("user_1");
    client.get("/user_1").await.expect(404);
    let before = tree(&server.data());
    let signed = || Delivery::of("msg_1").request(client, &body);

    for missing in ["svix-id", "svix-timestamp", "svix-signature"] {
        let mut request = signed().build().unwrap();
        request.headers_mut().remove(missing);
        let reply = reqwest::Client::new().execute(request).await.unwrap();
        assert_eq!(reply.status(), 400, "without {missing}");
        assert_eq!(reply.json::<Value>().await.unwrap()["code"], "signature_headers");
    }
    client.send(client.request("POST", "/webhooks/clerk").body(body.clone())).await.expect(400);

    for (name, value, status) in [
        ("svix-timestamp", "yesterday", 400),
        ("svix-timestamp", "", 400),
        ("svix-timestamp", "-5", 400),
        ("svix-id", "", 400),
        ("svix-id", "msg_2", 401),
        ("svix-signature", "", 401),
        ("svix-signature", "v1,", 401),
        ("svix-signature", "nonsense", 401),
        ("svix-signature", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", 401),
    ] {
        let mut request = signed().build().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        let reply = reqwest::Client::new().execute(request).await.unwrap();
        assert_eq!(reply.status(), status, "{name}: {value}");
    }

    for late in [-301, -86_400, 310, 86_400] {
        let stale = Delivery { at: now() + late, ..Delivery::of("msg_1") };
        assert_eq!(stale.send(client, &body).await.expect(401).code(), "stale_timestamp", "{late}");
    }
    let tampered = signed().body(created("user_2"));
    assert_eq!(client.send(tampered).await.expect(401).code(), "bad_signature");
    let wrong = Delivery { secret: OTHER, ..Delivery::of("msg_1") };
    assert_eq!(wrong.send(client, &body).await.expect(401).code(), "bad_signature");
    // Even JSON that means the same: the signature is over the bytes.
    let respaced = signed().body(body.replace("\":", "\": "));
    client.send(respaced).await.expect(401);

    assert_eq!(tree(&server.data()), before);
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    // None of these used the message's id up.
    assert_eq!(client.send(signed()).await.expect(200).json()["status"], "created");
    server.stop().await;
}

#[tokio::test]
async fn without_a_secret_nothing_is_believed() {
    let server = Server::start().await;
    let reply = Delivery::of("msg_1").send(&server.client, &created("user_1")).await.expect(503);
    assert_eq!(reply.code(), "webhooks_not_configured");
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_delivery_is_told_apart_from_a_second_one_about_the_same_user() {
    let server = server().await;
    let first = Delivery::of("msg_1").send(&server.client, &created("user_1")).await.expect(200).json();
    assert_eq!(first["status"], "created");
    let again = Delivery::of("msg_1").send(&server.client, &created("user_1")).await.expect(200).json();
    assert_eq!(again["status"], "duplicate");
    assert_eq!(again["first"], first);
    let second = Delivery::of("msg_2").send(&server.client, &created("user_1")).await.expect(200).json();
    assert_json_snapshot!(second, @r#"
    {
      "status": "exists",
      "user_id": "user_1"
    }
    "#);
    server.stop().await;
}

#[tokio::test]
async fn sixty_four_identical_deliveries_at_once_make_one_user() {
    for same_message in [true, false] {
        let server = server().await;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..64 {
            let client = server.client.clone();
            tasks.spawn(async move {
                let id = if same_message { "msg_1".to_owned() } else { format!("msg_{n}") };
                let reply = Delivery::of(&id).send(&client, SPEC_EXAMPLE).await.expect(200).json();
                reply["status"].as_str().unwrap().to_owned()
            });
        }
        let statuses = tasks.join_all().await;
        let count = |status| statuses.iter().filter(|s| *s == status).count();
        assert_eq!(count("created"), 1, "{statuses:?}");
        assert_eq!(count("exists") + count("duplicate"), 63, "{statuses:?}");
        assert_eq!(server.app.store().counts().await.unwrap().active, 1);
        let files = tree(&server.data().join("tenants"));
        assert_eq!(files.iter().filter(|(path, ..)| path.extension().is_some_and(|end| end == "db")).count(), 1);
        server.stop().await;
    }
}

#[tokio::test]
async fn what_can_never_succeed_tells_the_sender_not_to_retry() {
    let server = server().await;
    let bodies = [
        "".to_owned(),
        "not json".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        json!({"type": "user.created"}).to_string(),
        json!({"type": "user.created", "data": {}}).to_string(),
        json!({"type": "user.created", "data": {"id": null}}).to_string(),
        json!({"type": "user.created", "data": {"id": 7}}).to_string(),
        created("../../etc/passwd"),
        created("admin"),
        created("a b"),
        created(""),
        created(&"a".repeat(129)),
    ];
    for (n, body) in bodies.iter().enumerate() {
        let id = format!("msg_{n}");
        for _ in 0..2 {
            let reply = Delivery::of(&id).send(&server.client, body).await.expect(422);
            assert_eq!(reply.header("webhook-delivery"), "abort-message", "{body}");
            assert_eq!(reply.code(), "delivery_rejected", "{body}");
        }
    }
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    server.stop().await;
}

#[tokio::test]
async fn odd_values_in_fields_that_do_not_matter_do_not_stop_a_user() {
    let server = server().await;
    let odd = json!({
        "type": "user.created",
        "timestamp": "soon",
        "unknown": {"a": [1]},
        "data": {
            "id": "user_odd", "first_name": 7, "last_name": {"a": 1}, "username": "", "image_url": false,
            "email_addresses": "none", "primary_email_address_id": 3, "public_metadata": [], "updated_at": null,
        },
    });
    let reply = Delivery::of("msg_1").send(&server.client, &odd.to_string()).await.expect(200);
    assert_eq!(reply.json()["status"], "created");
    let row = server.app.store().find(&"user_odd".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((row.profile.first_name, row.profile.role.as_deref()), (None, Some("client")));
    server.stop().await;
}

#[tokio::test]
async fn other_events_are_recorded_and_ignored() {
    let server = server().await;
    for (n, body) in [
        include_str!("data/clerk/session.created.spec-example.json"),
        include_str!("data/clerk/organization.created.spec-example.json"),
        include_str!("data/clerk/email.created.spec-example.json"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("msg_{n}");
        assert_eq!(Delivery::of(&id).send(&server.client, body).await.expect(200).json()["status"], "ignored");
        assert_eq!(Delivery::of(&id).send(&server.client, body).await.expect(200).json()["status"], "duplicate");
    }
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_late_creation_does_not_bring_a_deleted_user_back() {
    let server = server().await;
    Delivery::of("msg_1").send(&server.client, SPEC_EXAMPLE).await.expect(200);
    server.app.store().delete(&JOHN.parse().unwrap(), &author()).await.unwrap();
    let late = Delivery::of("msg_2").send(&server.client, SPEC_EXAMPLE).await.expect(200);
    assert_eq!(late.json()["status"], "ignored");
    server.client.get(&format!("/{JOHN}")).await.expect(404);
    assert!(DELETED.contains(JOHN), "the example is about the same user");
    server.stop().await;
}

#[tokio::test]
async fn a_storage_failure_is_500_so_that_the_sender_retries_and_the_retry_succeeds() {
    let server = server().await;
    // A file where new files are built: none can be made.
    let tmp = server.app.store().layout().tmp();
    std::fs::remove_dir(&tmp).unwrap();
    std::fs::write(&tmp, b"").unwrap();
    for _ in 0..2 {
        let failed = Delivery::of("msg_1").send(&server.client, SPEC_EXAMPLE).await.expect(500);
        assert_eq!(failed.code(), "delivery_failed");
    }
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    std::fs::remove_file(&tmp).unwrap();
    std::fs::create_dir(&tmp).unwrap();
    let again = Delivery::of("msg_1").send(&server.client, SPEC_EXAMPLE).await.expect(200);
    assert_eq!(again.json()["status"], "created");
    server.stop().await;
}

#[tokio::test]
async fn a_delivery_that_is_too_large_is_413() {
    let server = server().await;
    let body = json!({"type": "user.created", "data": {"id": "a", "x": "x".repeat(300 << 10)}}).to_string();
    Delivery::of("msg_1").send(&server.client, &body).await.expect(413);
    server.stop().await;
}

#[test]
fn the_signatures_that_svix_publishes_are_good() {
    let data: Value = serde_json::from_str(include_str!("data/svix-vectors.json")).unwrap();
    let vectors = data["vectors"].as_array().unwrap();
    assert!(vectors.len() >= 3);
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().unwrap();
        let secret: Secret = text("secret").parse().unwrap();
        let verifier = Verifier::new(&secret).unwrap();
        for family in ["svix", "webhook"] {
            let mut headers = HeaderMap::new();
            let mut set = |name: &str, value: &str| {
                headers.insert(
                    format!("{family}-{name}").parse::<reqwest::header::HeaderName>().unwrap(),
                    value.parse().unwrap(),
                );
            };
            set("id", text("id"));
            set("timestamp", &vector["timestamp"].to_string());
            set("signature", text("signature"));
            let body = text("payload").as_bytes();
            assert_eq!(verifier.verify(&headers, body, true).as_deref(), Ok(text("id")), "{vector}");
            assert_eq!(verifier.verify(&headers, body, false), Err(Refusal::Stale), "they are old: {vector}");
            assert_eq!(verifier.verify(&headers, b"{}", true), Err(Refusal::Signature));
        }
    }
}
