//! Under which names a server may be asked: a page in a browser on this machine can give a name of its
//! own the address 127.0.0.1, and then counts as a page of the server's (DNS rebinding).

use std::net::SocketAddr;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Process, Server, cubby,
    tokens::{SigningKey, flags},
    tree,
    wire::{RawReply, Wire},
};

const ADMIN: &str = "an operator's key of some length";

/// What is answered to a request with exactly this target and these lines of a header.
async fn ask(address: SocketAddr, method: &str, target: &str, lines: &str) -> RawReply {
    let body = if method == "POST" { r#"{"text":"x"}"# } else { "" };
    let request = format!(
        "{method} {target} HTTP/1.1\r\n{lines}connection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::task::spawn_blocking(move || {
        let mut wire = Wire::connect(address);
        wire.send(request.as_bytes());
        wire.rest()
    })
    .await
    .unwrap()
}

async fn get_as(address: SocketAddr, host: &str, target: &str) -> RawReply {
    ask(address, "GET", target, &format!("host: {host}\r\n")).await
}

fn refused(reply: &RawReply, what: &str) {
    assert_eq!(reply.status, 421, "{what}: {}", reply.body);
    assert!(reply.head.contains("content-type: application/problem+json"), "{what}: {}", reply.head);
    let problem: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(problem["code"], "host_not_allowed", "{what}");
    assert!(problem["detail"].as_str().unwrap().contains("CUBBY_ALLOWED_HOSTS"), "{what}: {problem}");
    assert!(problem["request_id"].is_string(), "{what}: {problem}");
}

const FOREIGN: [&str; 14] = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.localhost",
    "localhost.",
    "192.168.1.7",
    "[2001:db8::1]:8080",
    "evil@localhost",
    "localhost:80@evil.example",
    "localhost:x",
    "[::1",
    "127.0.0.1, evil.example",
    "",
];

#[tokio::test(flavor = "multi_thread")]
async fn without_authentication_a_page_under_another_name_reads_nothing_and_writes_nothing() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    server.client.note("ada", "secret").await;
    let before = tree(&server.data().join("tenants"));
    for host in FOREIGN {
        refused(&get_as(server.address, host, "/ada").await, host);
    }
    for (method, target) in [
        ("POST", "/ada"),
        ("POST", "/eve"),
        ("POST", "/webhooks/clerk"),
        ("DELETE", "/ada/note_aaaaaaaaaaaaaaaa"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/api/health/user-sync"),
        ("GET", "/api/admin/tenants"),
        ("GET", "/no/such/route"),
        ("OPTIONS", "/ada"),
    ] {
        refused(&ask(server.address, method, target, "host: evil.example\r\n").await, target);
    }
    assert_eq!(tree(&server.data().join("tenants")), before);
    for host in
        ["127.0.0.1", "127.0.0.1:1", "127.3.2.1", "localhost", "LOCALHOST:9", "[::1]", "[::1]:80", "[::ffff:127.0.0.1]"]
    {
        let reply = get_as(server.address, host, "/ada").await;
        assert!(reply.status == 200 && reply.body.contains("secret"), "{host}: {}", reply.body);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_no_host_or_two_is_refused_where_the_name_counts() {
    let server = Server::start().await;
    for lines in ["", "host: localhost\r\nhost: localhost\r\n", "host: localhost\r\nhost: evil.example\r\n"] {
        let reply = ask(server.address, "GET", "/ada", lines).await;
        let problem: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((reply.status, &problem["code"]), (400, &Value::from("malformed_request")), "{lines:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_names_a_host_itself_must_name_an_allowed_one_too() {
    let server = Server::start().await;
    for (target, host) in [
        ("http://evil.example/ada", "localhost"),
        ("http://localhost/ada", "evil.example"),
        ("http://evil.example:80/ada", "127.0.0.1"),
        ("http://localhost@evil.example/ada", "localhost"),
        ("http://evil@localhost/ada", "localhost"),
    ] {
        refused(&get_as(server.address, host, target).await, target);
    }
    assert_eq!(get_as(server.address, "localhost", "http://127.0.0.1/ada").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_setting_allows_are_answered_to_besides() {
    let server = Server::with(&["--allowed-hosts", "data.example.com, cubby"]).await;
    for host in ["data.example.com", "DATA.example.com:8443", "cubby", "localhost", "127.0.0.1:8080"] {
        assert_eq!(get_as(server.address, host, "/ada").await.status, 200, "{host}");
    }
    for host in ["evil.example", "x.data.example.com", "example.com", "data.example.com.evil.example"] {
        refused(&get_as(server.address, host, "/ada").await, host);
    }
    server.stop().await;

    // Set, it counts for those who show who they are, too.
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all.extend(["--allowed-hosts", "data.example.com"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    refused(&get_as(server.address, "evil.example", "/ada").await, "with authentication");
    assert_eq!(get_as(server.address, "data.example.com", "/ada").await.status, 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_callers_are_authenticated_any_name_will_do_unless_names_are_set() {
    let key = SigningKey::new("a");
    let server = Server::with_flags(&flags(&key)).await;
    assert_eq!(get_as(server.address, "data.example.com", "/ada").await.status, 401);
    assert_eq!(get_as(server.address, "data.example.com", "/healthz").await.status, 200);
    server.stop().await;
}

/// Where a server says that it listens to operators.
fn operators_of(server: &Process) -> SocketAddr {
    let said = server.log().into_iter().find_map(|line| {
        let message = line["message"].as_str()?.to_owned();
        Some(message.strip_prefix("listening to operators on http://")?.parse().unwrap())
    });
    said.expect("a line that says where")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_listener_has_a_rule_of_its_own() {
    let folder = TempDir::new().unwrap();
    let public = ["--listen", "0.0.0.0:0", "--insecure", "--log-format", "json"];
    let start = |more: &[&str]| {
        let mut command = cubby();
        command.arg("serve").args(public).args(more).arg("--data").arg(folder.path());
        Process::spawn(command)
    };
    let here = |address: SocketAddr| SocketAddr::from(([127, 0, 0, 1], address.port()));

    // What is in front of it calls it as it likes; operators are on this machine.
    let server = start(&["--admin-listen", "127.0.0.1:0"]);
    assert_eq!(get_as(here(server.address), "data.example.com", "/ada").await.status, 200);
    let operators = operators_of(&server);
    for target in ["/metrics", "/healthz", "/api/admin/tenants"] {
        refused(&get_as(operators, "evil.example", target).await, target);
    }
    assert_eq!(get_as(operators, "localhost", "/metrics").await.status, 200);
    drop(server);

    // Listening everywhere, any of its addresses is its own: no page can make a name of one.
    let server = start(&["--allowed-hosts", "data.example.com"]);
    for host in ["data.example.com", "10.1.2.3:8080", "[2001:db8::1]"] {
        assert_eq!(get_as(here(server.address), host, "/ada").await.status, 200, "{host}");
    }
    refused(&get_as(here(server.address), "evil.example", "/ada").await, "a name that is not set");
}

#[test]
fn what_is_no_name_of_a_host_is_refused_at_the_start() {
    let folder = TempDir::new().unwrap();
    for name in ["https://data.example.com", "data.example.com:8080", "*", "*.example.com", "a/b", "a@b", "[::1"] {
        let output = cubby().args(["serve", "--allowed-hosts", name, "--data"]).arg(folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        assert!(text.contains("CUBBY_ALLOWED_HOSTS"), "{name}: {text}");
    }
}
