//! The first request that beats the webhook.

use serde_json::json;

use crate::harness::{
    self, Server,
    clerk::{Clerk, Fault},
    sender::{SECRET, deliver, event, gone, user},
};

async fn server(clerk: &Clerk, more: &[&str]) -> Server {
    let flags = clerk.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--provisioning", "on-demand", "--clerk-webhook-secret", SECRET]);
    flags.extend(more);
    Server::with(&flags).await
}

#[tokio::test]
async fn a_user_whom_the_provider_knows_is_created_by_their_first_request() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "ada", 10));
    let server = server(&clerk, &[]).await;
    assert_eq!(server.client.get("/user_1").await.expect(200).json(), json!({"notes": []}));
    server.client.note("user_1", "hello").await;
    let row = server.app.store().find(&"user_1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.profile.email.as_deref(), Some("ada@example.com"));
    assert_eq!(clerk.asked("/users/user_1"), 1);
    let late = deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    assert!(["exists", "updated"].contains(&late["status"].as_str().unwrap()), "the webhook finds it there: {late}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_first_requests_ask_the_provider_once() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "ada", 10));
    let server = server(&clerk, &[]).await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let client = server.client.clone();
        crowd.spawn(async move { client.post("/user_1", json!({"text": "me"})).await.status });
    }
    assert!(crowd.join_all().await.iter().all(|status| *status == 201));
    assert_eq!(clerk.asked("/users/user_1"), 1);
    assert_eq!(server.client.texts("user_1").await.len(), 32);
    server.stop().await;
}

#[tokio::test]
async fn a_negative_answer_is_cached_and_a_webhook_overrides_it() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    for _ in 0..3 {
        assert_eq!(server.client.get("/user_1").await.expect(404).code(), "unknown_user");
    }
    assert_eq!(clerk.asked("/users/user_1"), 1);
    assert!(server.app.store().list(None, None, 10).await.unwrap().is_empty());
    deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    server.client.get("/user_1").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn an_id_that_the_provider_never_issues_is_not_looked_up() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    for path in ["/wp-login.php", "/a", "/.env", "/user", "/x%2fy"] {
        server.client.get(path).await.expect(404);
    }
    assert_eq!(clerk.asked("/"), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_request_does_not_restore_a_deleted_user() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "ada", 10));
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.deleted", gone("user_1"), 1)).await;
    server.client.get("/user_1").await.expect(404);
    assert_eq!(clerk.asked("/"), 0, "a tombstone is an answer");
    server.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_down_affects_only_unknown_users() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "ada", 10));
    clerk.add(user("user_2", "bob", 10));
    let server = server(&clerk, &["--provider-retries", "0"]).await;
    server.client.note("user_1", "before").await;
    for fault in [Fault::Broken, Fault::CutOff, Fault::Nonsense, Fault::TooMany(60), Fault::LostOnTheWay] {
        clerk.world.lock().always = Some(fault);
        let problem = server.client.get("/user_2").await.expect(503);
        assert_eq!(problem.code(), "provider_unavailable", "{fault:?}");
        assert!(!problem.header("retry-after").is_empty());
        assert_eq!(server.client.texts("user_1").await, ["before"]);
    }
    clerk.world.lock().always = None;
    harness::eventually("the unknown are served again", async || server.client.get("/user_2").await.status == 200)
        .await;
    server.stop().await;
}

#[tokio::test]
async fn a_scan_over_invented_ids_is_rate_limited() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &["--on-demand-limit", "3"]).await;
    let mut statuses = Vec::new();
    for n in 0..8 {
        statuses.push(server.client.get(&format!("/user_{n}")).await.status);
    }
    assert_eq!(&statuses[..3], [404; 3]);
    assert!(statuses[3..].contains(&503), "{statuses:?}");
    assert!(clerk.asked("/users/") <= 5, "{}", clerk.asked("/users/"));
    server.stop().await;
}

#[tokio::test]
async fn only_requests_to_the_provider_count_against_their_limit() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "ada", 10));
    let server = server(&clerk, &["--on-demand-limit", "1"]).await;
    deliver(&server.client, "m1", &event("user.deleted", gone("user_2"), 1)).await;
    for path in ["/wp-login.php", "/a", "/user_2", "/.env", "/user_2"] {
        server.client.get(path).await.expect(404);
    }
    server.client.get("/user_1").await.expect(200);
    assert_eq!(clerk.asked("/"), 1);
    server.stop().await;
}

#[tokio::test]
async fn known_users_do_not_wait_for_look_ups() {
    let clerk = Clerk::start().await;
    let server = server(&clerk, &[]).await;
    deliver(&server.client, "m1", &event("user.deleted", gone("user_gone"), 1)).await;
    clerk.world.lock().always = Some(Fault::Silence);
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..64 {
        let client = server.client.clone();
        crowd.spawn(async move { client.get(&format!("/user_{n}")).await.status });
    }
    harness::eventually("all places are taken", async || clerk.asked("/users/") >= 64).await;
    server.client.get("/user_gone").await.expect(404);
    server.client.get("/wp-login.php").await.expect(404);
    crowd.abort_all();
    server.stop().await;
}

#[tokio::test]
async fn without_a_secret_key_the_server_does_not_start() {
    let folder = tempfile::TempDir::new().unwrap();
    let output = harness::run(folder.path(), &["serve", "--provisioning", "on-demand"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("CLERK_SECRET_KEY"));
}
