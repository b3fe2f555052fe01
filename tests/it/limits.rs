//! How much one may ask: rates, creations, requests at once, connections, slow bodies; and which
//! pages may call.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{Client, PATIENCE, Process, Server, eventually};

const ADMIN: &str = "an operator's key of some length";

#[tokio::test]
async fn a_user_who_asks_too_much_is_told_when_to_come_again_and_others_are_served() {
    let server = Server::with(&["--tenant-rate", "1/h:3"]).await;
    for _ in 0..3 {
        server.client.get("/ada").await.expect(200);
    }
    let refused = server.client.get("/ada").await.expect(429);
    assert_eq!(refused.code(), "rate_limited");
    assert_eq!(refused.header("ratelimit-policy"), "\"user\";q=3;w=10800");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=3600).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").starts_with("\"user\";r=0;t="));
    server.client.post("/ada", json!({"text": "x"})).await.expect(429);
    server.client.get("/eve").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn an_address_is_that_of_the_connection_unless_a_trusted_proxy_says_otherwise() {
    let ask = async |client: &Client, forwarded: &str| {
        client.send(client.request("GET", "/ada").header("x-forwarded-for", forwarded)).await.status
    };
    let server = Server::with(&["--address-rate", "1/h:2"]).await;
    assert_eq!(ask(&server.client, "203.0.113.1").await, 200);
    assert_eq!(ask(&server.client, "203.0.113.2").await, 200);
    assert_eq!(ask(&server.client, "203.0.113.3").await, 429, "a caller does not choose its address");
    server.client.get("/healthz").await.expect(200);
    server.stop().await;

    let server = Server::with(&["--address-rate", "1/h:2", "--trusted-proxies", "127.0.0.1, 10.0.0.0/8"]).await;
    for forwarded in ["203.0.113.1", "198.51.100.9, 203.0.113.1, 10.1.2.3"] {
        assert_eq!(ask(&server.client, forwarded).await, 200, "{forwarded}");
    }
    assert_eq!(ask(&server.client, "spoofed, 203.0.113.1").await, 429, "what stands left of it is the caller's word");
    assert_eq!(ask(&server.client, "203.0.113.1, 203.0.113.2").await, 200);
    server.stop().await;
}

#[tokio::test]
async fn creations_are_bounded_and_those_who_exist_are_served() {
    let server = Server::with(&["--creation-rate", "1/h:2"]).await;
    server.client.note("a", "x").await;
    server.client.note("b", "x").await;
    let refused = server.client.post("/c", json!({"text": "x"})).await.expect(429);
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("too_many_creations", "60"));
    assert!(server.app.store().find(&"c".parse().unwrap()).await.unwrap().is_none());
    server.client.note("a", "y").await;
    server.stop().await;
}

#[tokio::test]
async fn on_loopback_nothing_is_limited_that_was_not_asked_for() {
    let server = Server::start().await;
    let mut burst = JoinSet::new();
    for _ in 0..8 {
        let client = server.client.clone();
        burst.spawn(async move {
            for _ in 0..250 {
                client.get("/ada").await.expect(200);
            }
        });
    }
    while let Some(done) = burst.join_next().await {
        done.unwrap();
    }
    server.stop().await;
}

/// A connection that has sent this much and waits.
fn half(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

const SLOW_POST: &str =
    "POST /ada HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{";

#[tokio::test]
async fn beyond_the_bound_requests_are_shed_and_health_is_still_told() {
    let server = Server::with(&["--max-in-flight", "1"]).await;
    let mut slow = half(&server, SLOW_POST);
    eventually("the slow request is being answered", async || server.client.get("/eve").await.status == 503).await;
    let shed = server.client.get("/eve").await.expect(503);
    assert_eq!((shed.code().as_str(), shed.header("retry-after")), ("overloaded", "1"));
    server.client.get("/healthz").await.expect(200);
    slow.write_all(b"\"text\":\"x\"}").unwrap();
    eventually("there is room again", async || server.client.get("/eve").await.status == 200).await;
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Server::with(&["--body-timeout", "50ms"]).await;
    let mut slow = half(&server, SLOW_POST);
    let answer = tokio::task::spawn_blocking(move || {
        let mut answer = String::new();
        // To the end: the connection is closed, too.
        slow.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = answer.await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let server = Server::with(&["--header-timeout", "50ms"]).await;
    for text in ["", "GET /ada HTTP/1.1\r\nhost: localhost\r\nx-slow: "] {
        let mut slow = half(&server, text);
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            slow.read_to_string(&mut answer).map(|_| answer)
        });
        let answer = answer.await.unwrap().unwrap();
        assert!(!answer.contains(" 200 "), "{text:?}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_header_may_be_as_long_as_the_setting_says_and_have_a_hundred_fields() {
    let server = Server::with(&["--max-header-bytes", "8KiB"]).await;
    let with = |length: usize| server.client.request("GET", "/ada").header("x-long", "x".repeat(length));
    server.client.send(with(4 << 10)).await.expect(200);
    assert_eq!(server.client.send(with(20 << 10)).await.status, 431);
    let many = (0..101).fold(server.client.request("GET", "/ada"), |request, n| request.header(format!("x-{n}"), "x"));
    assert_eq!(server.client.send(many).await.status, 431);
    server.stop().await;
    let server = Server::start().await;
    let long = server.client.request("GET", "/ada").header("x-long", "x".repeat(20 << 10));
    server.client.send(long).await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_user_at_the_quota_is_told_the_figure_and_may_read_and_delete() {
    let server = Server::with(&["--quota", "256KiB"]).await;
    let text = "x".repeat(20_000);
    let mut notes = Vec::new();
    let refused = loop {
        let reply = server.client.post("/ada", json!({"text": text})).await;
        match reply.status {
            201 => notes.push(reply.json()["note"]["id"].as_str().unwrap().to_owned()),
            _ => break reply.expect(507),
        }
        assert!(notes.len() < 20, "the quota is not kept");
    };
    assert_eq!(refused.code(), "quota_exceeded");
    assert!(refused.json()["detail"].as_str().unwrap().contains("262144 bytes"), "{}", refused.json());
    assert!(!notes.is_empty());
    assert_eq!(server.client.texts("ada").await.len(), notes.len());
    server.client.note("eve", "x").await;
    server.client.delete(&format!("/ada/{}", notes[0])).await.expect(200);
    server.client.post("/ada", json!({"text": text})).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn a_page_has_as_many_notes_as_the_setting_says() {
    let server = Server::with(&["--max-page", "2"]).await;
    for n in 0..3 {
        server.client.note("ada", &n.to_string()).await;
    }
    let page = server.client.get("/ada").await.expect(200).json();
    assert_eq!(page["notes"].as_array().unwrap().len(), 2);
    assert!(page["next_cursor"].is_string());
    server.client.get("/ada?limit=2").await.expect(200);
    let refused = server.client.get("/ada?limit=3").await.expect(400).json();
    assert!(refused["detail"].as_str().unwrap().contains("from 1 to 2"), "{refused}");
    let document = server.client.get("/openapi.json").await.expect(200).json();
    let parameters = document["paths"]["/{user_id}"]["get"]["parameters"].as_array().unwrap();
    let limit = parameters.iter().find(|parameter| parameter["name"] == "limit").unwrap();
    assert_eq!(limit["schema"]["maximum"], 2);
    server.stop().await;
}

#[tokio::test]
async fn one_address_does_not_take_all_connections() {
    let server = Server::with(&["--address-connections", "3"]).await;
    let held: Vec<TcpStream> = (0..3).map(|_| half(&server, "GET /healthz HT")).collect();
    let mut more = half(&server, "");
    let read = tokio::task::spawn_blocking(move || more.read(&mut [0; 1]).unwrap_or(0));
    assert_eq!(read.await.unwrap(), 0, "one too many is closed at once");
    drop(held);
    let client = Client::new(server.address);
    eventually("there is room again", async || {
        let asked = client.try_send(client.request("GET", "/healthz").timeout(Duration::from_secs(5))).await;
        asked.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn only_pages_of_named_origins_may_call() {
    let server = Server::with(&["--cors-origins", "https://app.example"]).await;
    let preflight = async |origin: &str| {
        let request = server.client.request("OPTIONS", "/ada").header("origin", origin);
        server.client.send(request.header("access-control-request-method", "POST")).await
    };
    let allowed = preflight("https://app.example").await.expect(204);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert!(allowed.header("access-control-allow-headers").contains("authorization"));
    for origin in ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null"] {
        let refused = preflight(origin).await.expect(405);
        assert_eq!(refused.header("access-control-allow-origin"), "", "{origin}");
        assert_eq!(refused.header("vary"), "origin");
    }
    let wrong =
        server.client.send(server.client.request("GET", "/ada/x").header("origin", "https://app.example")).await;
    assert_eq!((wrong.status, wrong.header("access-control-allow-origin")), (404, "https://app.example"));
    server.stop().await;

    let server = Server::start().await;
    let plain = server.client.send(server.client.request("GET", "/ada").header("origin", "https://app.example")).await;
    assert_eq!((plain.header("access-control-allow-origin"), plain.header("vary")), ("", ""));
    server.stop().await;
}

#[tokio::test]
async fn a_preflight_has_an_id_and_counts_as_any_request() {
    let server = Server::with(&["--cors-origins", "https://app.example", "--address-rate", "1/h:4"]).await;
    let preflight = async |origin: &str| {
        let request = server.client.request("OPTIONS", "/ada").header("origin", origin).header("x-request-id", "mine");
        server.client.send(request.header("access-control-request-method", "POST")).await
    };
    let allowed = preflight("https://app.example").await.expect(204);
    assert_eq!((allowed.header("x-request-id"), allowed.header("x-content-type-options")), ("mine", "nosniff"));
    let foreign = preflight("https://evil.example").await.expect(405);
    assert_eq!((foreign.header("x-request-id"), &foreign.json()["request_id"]), ("mine", &json!("mine")));
    for _ in 0..2 {
        preflight("https://app.example").await.expect(204);
    }
    assert_eq!(preflight("https://app.example").await.expect(429).code(), "rate_limited");
    let page = server.client.send(server.client.request("GET", "/ada").header("origin", "https://app.example")).await;
    assert_eq!(page.expect(429).header("access-control-allow-origin"), "https://app.example");
    server.stop().await;
}

/// Where a server says that it listens to operators.
pub fn operators_of(server: &Process) -> std::net::SocketAddr {
    let said = server.log().into_iter().find_map(|line| {
        let message = line["message"].as_str()?.to_owned();
        Some(message.strip_prefix("listening to operators on http://")?.parse().unwrap())
    });
    said.expect("a line that says where")
}

#[tokio::test(flavor = "multi_thread")]
async fn measurements_want_the_operators_key_where_others_reach_them() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--admin-api-key", ADMIN, "--admin-listen", "0.0.0.0:0"]);
    let port = operators_of(&server).port();
    let operators = Client::new(([127, 0, 0, 1], port).into());
    operators.get("/metrics").await.expect(401);
    operators.bearing(ADMIN).get("/metrics").await.expect(200);
    let document = operators.get("/openapi.json").await.expect(200).json();
    assert_eq!(document["paths"]["/metrics"]["get"]["security"][0]["operator"], json!([]));
    drop(server);
    let server = Server::start().await;
    server.client.get("/metrics").await.expect(200);
    let document = server.client.get("/openapi.json").await.expect(200).json();
    assert!(document["paths"]["/metrics"]["get"]["security"].as_array().is_none_or(Vec::is_empty));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_listener_of_their_own_operators_are_heard_there_and_nowhere_else() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--admin-api-key", ADMIN, "--admin-listen", "127.0.0.1:0"]);
    let operators = Client::new(operators_of(&server)).bearing(ADMIN);
    operators.get("/api/admin/tenants").await.expect(200);
    operators.get("/ada").await.expect(404);
    for path in ["/api/admin/tenants", "/api/admin/keys", "/metrics"] {
        server.client.bearing(ADMIN).get(path).await.expect(404);
    }
    server.client.note("ada", "x").await;
    server.signal("TERM");
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_others_reach_as_operators_limits_no_users_behind_a_proxy_on_this_machine() {
    let folder = TempDir::new().unwrap();
    let flags = ["--admin-api-key", ADMIN, "--admin-listen", "0.0.0.0:0", "--header-timeout", "1h"];
    let server = Process::start(folder.path(), &flags);
    let mut held: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // One that is closed at once may say so already.
            let _ = stream.write_all(b"GET /ada HTTP/1.1\r\nhost: localhost\r\n\r\n");
            stream
        })
        .collect();
    let answered = tokio::task::spawn_blocking(move || {
        held.iter_mut().filter(|stream| (&mut &**stream).read_exact(&mut [0; 12]).is_ok()).count()
    });
    assert_eq!(answered.await.unwrap(), 300, "connections from one address that are answered");
    let wrong =
        Client::new(([127, 0, 0, 1], operators_of(&server).port()).into()).bearing("a wrong key of some length");
    let mut told_to_wait = false;
    for _ in 0..40 {
        told_to_wait |= wrong.get("/api/admin/tenants").await.status == 429;
    }
    assert!(told_to_wait, "guesses of the key are bounded there");
}
