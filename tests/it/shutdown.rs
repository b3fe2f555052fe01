//! The way out: nothing new, everything begun is finished, and then it is quiet.

use std::{net::TcpStream, time::Duration};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Process, Server, eventually, run, stdout, tree, wire::Wire};

/// A POST of which the server has the header and the first half of the body.
fn half_a_post(address: std::net::SocketAddr, body: &str) -> Wire {
    let mut wire = Wire::connect(address);
    let head = format!(
        "POST /ada HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    wire.send(head.as_bytes()).send(&body.as_bytes()[..body.len() / 2]);
    wire
}

const BODY: &str = r#"{"text":"in flight"}"#;

async fn refuses(address: std::net::SocketAddr) {
    eventually("new connections are refused", async || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err()
    })
    .await;
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_kept_and_nothing_new_is_accepted() {
    for signal in ["TERM", "INT"] {
        let folder = TempDir::new().unwrap();
        let server = Process::start(folder.path(), &[]);
        server.client.note("ada", "before").await;
        let mut wire = half_a_post(server.address, BODY);
        // The server must have taken the connection before the signal comes.
        server.client.get("/healthz").await.expect(200);
        let taken = || {
            std::fs::read_dir(format!("/proc/{}/fd", server.id()))
                .unwrap()
                .filter(|entry| {
                    let link = entry.as_ref().ok().and_then(|entry| std::fs::read_link(entry.path()).ok());
                    link.is_some_and(|link| link.to_string_lossy().starts_with("socket:"))
                })
                .count()
        };
        eventually("listener, client and half a request", async || taken() >= 3).await;
        server.signal(signal);
        refuses(server.address).await;
        wire.send(&BODY.as_bytes()[BODY.len() / 2..]);
        let reply = wire.rest();
        assert_eq!(reply.status, 201, "{}", reply.body);
        assert!(server.wait().success());

        let logs = tree(folder.path());
        let full: Vec<_> =
            logs.iter().filter(|(path, _, n)| *n > 0 && path.to_string_lossy().ends_with("-wal")).collect();
        assert!(full.is_empty(), "{full:?}");
        let server = Process::start(folder.path(), &[]);
        assert_eq!(server.client.texts("ada").await, ["before", "in flight"]);
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--drain-timeout", "1h", "--request-timeout", "1h"]);
    server.client.note("ada", "kept").await;
    let _wire = half_a_post(server.address, BODY);
    server.client.get("/healthz").await.expect(200);
    server.signal("TERM");
    refuses(server.address).await;
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(130));
    // As after a crash: what was acknowledged is there.
    let server = Process::start(folder.path(), &[]);
    assert_eq!(server.client.texts("ada").await, ["kept"]);
}

#[tokio::test]
async fn a_client_that_does_not_finish_is_cut_off_at_the_deadline() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--drain-timeout", "100ms"]);
    let _wire = half_a_post(server.address, BODY);
    server.client.note("ada", "kept").await;
    server.signal("TERM");
    assert!(server.wait().success());
    let folder = folder.path();
    assert!(stdout(&run(folder, &["tenants", "list"])).contains("1 active"));
}

#[tokio::test]
async fn idle_connections_do_not_hold_it_up() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--drain-timeout", "1h", "--header-timeout", "1h"]);
    // One that never said anything and one that is kept alive after an answer.
    let _silent = Wire::connect(server.address);
    server.client.note("ada", "x").await;
    server.signal("TERM");
    assert!(server.wait().success());
}

#[tokio::test]
async fn readiness_turns_red_before_the_door_closes() {
    let mut server = Server::start().await;
    server.client.get("/readyz").await.expect(200);
    server.app.door().start_draining();
    let red = server.client.get("/readyz").await.expect(503);
    assert_eq!(red.code(), "not_ready");
    server.client.get("/healthz").await.expect(200);
    server.client.post("/ada", json!({"text": "still served"})).await.expect(201);
    server.ask_to_stop();
    server.stop().await;
}
