//! `/healthz`, `/readyz`, and what the logs say and do not say.

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Process, Server, eventually, sender, shell};

#[tokio::test]
async fn a_server_is_not_ready_when_its_catalog_cannot_be_written() {
    let server = Server::start().await;
    // A reader's lock from elsewhere stands for a catalog that cannot be written.
    server.app.store().catalog().close().unwrap();
    std::fs::rename(server.data().join("catalog.db"), server.data().join("elsewhere.db")).unwrap();
    let red = server.client.get("/readyz").await.expect(503);
    assert_eq!(red.code(), "not_ready");
    assert!(!red.header("retry-after").is_empty());
    assert!(red.json()["detail"].as_str().unwrap().contains("catalog"), "{:?}", red.json());
    server.client.get("/healthz").await.expect(200);
    std::fs::rename(server.data().join("elsewhere.db"), server.data().join("catalog.db")).unwrap();
    server.client.get("/readyz").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn whoever_asks_whether_the_server_is_ready_does_not_have_it_write_each_time() {
    const ASKED: usize = 200;
    const FRAME: u64 = 4096 + 24;
    let server = Server::start().await;
    let pages = || std::fs::metadata(server.data().join("catalog.db-wal")).unwrap().len() / FRAME;
    server.client.get("/readyz").await.expect(200);
    let (before, started) = (pages(), std::time::Instant::now());
    for _ in 0..ASKED {
        server.client.get("/readyz").await.expect(200);
    }
    let (written, took) = (pages() - before, started.elapsed());
    assert!(u128::from(written) <= took.as_millis() / 500 + 1, "{written} pages were written in {took:?}");
    server.stop().await;
}

#[tokio::test]
async fn whoever_asks_whether_the_server_is_ready_does_not_have_it_try_again_each_time_that_failed() {
    const ASKED: usize = 200;
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &[]);
    let catalog = shell(&folder.path().join("catalog.db"));
    let refusing = "CREATE TRIGGER refusing BEFORE UPDATE ON tenant_counts BEGIN SELECT RAISE(ABORT, 'no'); END";
    catalog.execute_batch(refusing).unwrap();
    eventually("what was proven is old", async || server.client.get("/readyz").await.status == 503).await;
    let started = std::time::Instant::now();
    for _ in 0..ASKED {
        assert_eq!(server.client.get("/readyz").await.expect(503).code(), "not_ready");
    }
    let took = started.elapsed();
    let tries = server.logged("the catalog cannot be written").await.len();
    assert!(tries as u128 <= took.as_millis() / 500 + 2, "{tries} tries in {took:?}");
    catalog.execute_batch("DROP TRIGGER refusing").unwrap();
    eventually("it is found writable again", async || server.client.get("/readyz").await.status == 200).await;
}

#[tokio::test]
async fn logs_tell_of_creation_and_eviction_with_the_requests_id() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--log", "debug", "--max-open", "1"]);
    for user in ["ada", "ben"] {
        let request = server.client.request("POST", &format!("/{user}")).json(&json!({"text": "x"}));
        server.client.send(request.header("x-request-id", format!("of-{user}"))).await.expect(201);
    }
    let created = server.logged("created").await;
    assert_eq!(created.len(), 2);
    for (line, user) in created.iter().zip(["ada", "ben"]) {
        assert_eq!(line["tenant"], user);
        assert_eq!(line["request_id"], format!("of-{user}"), "{line}");
    }
    let evicted = &server.logged("evicted").await[0];
    assert_eq!((&evicted["tenant"], &evicted["request_id"]), (&json!("ada"), &json!("of-ben")), "{evicted}");
    for line in server.logged("answered").await {
        assert!(line["request_id"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn a_line_about_a_request_has_its_id_even_when_only_errors_are_logged() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--log", "info"]);
    server.client.note("ada", "x").await;
    server.signal("TERM");
    assert!(server.wait().success());
    // Something that is no database any more.
    let layout = cubby::tenants::disk::path::Layout::at(folder.path().canonicalize().unwrap());
    std::fs::write(layout.tenant(&"ada".parse().unwrap()), "not a database, and longer than a header".repeat(20))
        .unwrap();
    let mut command = crate::harness::cubby();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--log", "error,cubby::cli=info"]);
    command.arg("--data").arg(folder.path());
    let server = Process::spawn(command);
    let request = server.client.request("GET", "/ada").header("x-request-id", "the-one");
    server.client.send(request).await.expect(503);
    let line = &server.logged("quarantined").await[0];
    assert_eq!(line["request_id"], "the-one", "{line}");
}

#[tokio::test]
async fn a_users_arrival_by_webhook_is_logged() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--clerk-webhook-secret", sender::SECRET]);
    let event = json!({"type": "user.created", "data": {"id": "user_1"}});
    sender::deliver(&server.client, "msg_1", &event).await;
    assert_eq!(server.logged("created").await[0]["tenant"], "user_1");
}

#[tokio::test]
async fn no_log_has_a_notes_text_or_a_secret_at_any_level() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--log", "trace", "--clerk-webhook-secret", sender::SECRET]);
    let client = &server.client;
    let text = "the-text-of-a-note";
    let id = client.note("ada", text).await;
    client.get("/ada").await.expect(200);
    client.patch(&format!("/ada/{id}"), json!({"text": text})).await.expect(200);
    client.post("/ada", json!({"text": text, "more": text})).await.expect(422);
    client.post("/ada", json!({"text": [text]})).await.expect(422);
    let broken = client.request("POST", "/ada").header("content-type", "application/json");
    client.send(broken.body(format!("{{\"text\":\"{text}\","))).await.expect(400);
    let event = json!({"type": "user.created", "data": {"id": "user_1", "first_name": text}});
    sender::deliver(client, "msg_1", &event).await;
    sender::deliver(client, "msg_1", &event).await;
    let mut forged = sender::Message::new("msg_2", &event);
    forged.body.push(b' ');
    forged.send(client).await.expect(401);
    client.delete(&format!("/ada/{id}")).await.expect(200);
    server.logged("answered").await;
    let log = format!("{:?}", server.log());
    let secret = sender::SECRET.trim_start_matches("whsec_");
    for hidden in [text, secret] {
        assert!(!log.contains(hidden), "{hidden} is in the log");
    }
    assert!(log.len() > 1000, "there is a log to look at");
}
