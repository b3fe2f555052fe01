//! What one caller can hold of the server while others are served: turns, bytes, connections.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    harness::{
        Client, PATIENCE, Process, Reply, Server, eventually,
        sender::{Message, SECRET, event, now, user},
        wire::Wire,
    },
    limits::operators_of,
};

const ADMIN: &str = "an operator's key of some length";

/// A connection that has sent this much.
fn sent(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// A request whose body the server has begun to wait for: it is in flight for certain.
fn uploading(address: SocketAddr, path: &str, headers: &str, length: usize) -> TcpStream {
    let header = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
         {headers}content-length: {length}\r\n\r\n"
    );
    let mut stream = sent(address, header.as_bytes());
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(String::from_utf8_lossy(&interim), "HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

/// The same, with little room for what comes back.
fn sent_by_a_slow_reader(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt::set_socket_recv_buffer_size};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &address).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Waits for the answer's first bytes: whoever makes it is done then. Asks again if it is refused, since the turn of the
/// request before it may last a moment longer than its answer takes to arrive.
async fn begun(address: SocketAddr, path: &str) -> TcpStream {
    let started = std::time::Instant::now();
    loop {
        let mut stream = sent_by_a_slow_reader(address, &get(path));
        let (stream, head) = in_background(move || {
            let mut head = [0; 64];
            stream.read_exact(&mut head).unwrap();
            (stream, head)
        })
        .await;
        if head.starts_with(b"HTTP/1.1 200") {
            return stream;
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 503") && started.elapsed() < PATIENCE, "{head}");
    }
}

/// Everything that still comes; an end by force counts as one.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    in_background(move || {
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 1 << 20];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
        }
        bytes
    })
    .await
}

const MIB: usize = 1 << 20;
const PAGE: &str = "/ada?limit=5";

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").into_bytes()
}

/// A user whose page has five mebibytes: more than a socket takes that nobody reads from.
async fn large(client: &Client, user: &str) {
    for _ in 0..5 {
        client.note(user, &"x".repeat(MIB - 100)).await;
    }
}

/// The beginning of a delivery that may be a good one as far as its header tells.
fn beginning_of_a_delivery(number: usize) -> Vec<u8> {
    format!(
        "POST /webhooks/clerk HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\nsvix-id: msg_{number}\r\nsvix-timestamp: \
         {}\r\nsvix-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\r\n\r\n{{",
        now()
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_of_deliveries_keep_out_neither_users_nor_operators_nor_deliveries() {
    let flags = ["--max-in-flight", "4", "--admin-api-key", ADMIN, "--clerk-webhook-secret", SECRET];
    let server = Server::with(&[&flags[..], &["--body-timeout", "1h", "--request-timeout", "1h"]].concat()).await;
    let held: Vec<_> = (0..300).map(|n| sent(server.address, &beginning_of_a_delivery(n))).collect();
    for n in 0..20 {
        server.client.get("/ada").await.expect(200);
        server.client.bearing(ADMIN).get("/api/admin/tenants").await.expect(200);
        let id = format!("user_{n}");
        let message = Message::new(&format!("good_{n}"), &event("user.created", user(&id, "a", 1), 1));
        message.send(&server.client).await.expect(200);
    }
    // There is no room for all of them: those that came first were told to come again.
    let first = rest(held.into_iter().next().unwrap()).await;
    let first = String::from_utf8_lossy(&first).to_lowercase();
    assert!(first.starts_with("http/1.1 503") && first.contains("retry-after: 1"), "{first}");
    server.stop().await;
}

#[tokio::test]
async fn what_a_deliverys_header_tells_is_told_before_its_body_has_come() {
    let flags = ["--clerk-webhook-secret", SECRET, "--body-timeout", "2s"];
    let hookdeck = [&flags[..], &["--hookdeck-signing-secret", "hookdeck"]].concat();
    let good = [
        ("svix-id", "msg_1".to_owned()),
        ("svix-timestamp", now().to_string()),
        ("svix-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()),
        ("x-hookdeck-signature", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()),
    ];
    for (flags, name, value, told) in [
        (&flags[..], "svix-id", "", (400, "signature_headers")),
        (&flags, "svix-signature", "", (401, "bad_signature")),
        (&flags, "svix-signature", "v1,short", (401, "bad_signature")),
        (&flags, "svix-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1O!=", (401, "bad_signature")),
        (&flags, "svix-timestamp", "soon", (400, "signature_headers")),
        (&flags, "svix-timestamp", "1700000000", (401, "stale_timestamp")),
        (&flags, "svix-timestamp", "-", (400, "signature_headers")),
        (&hookdeck, "x-hookdeck-signature", "-", (400, "signature_headers")),
        (&hookdeck, "x-hookdeck-signature", "short", (401, "bad_signature")),
        // Held back by Hookdeck: its age says nothing, and the body is waited for.
        (&hookdeck, "svix-timestamp", "1700000000", (408, "body_timeout")),
    ] {
        let server = Server::with(flags).await;
        for family in ["svix", "webhook"] {
            let mut header = "POST /webhooks/clerk HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n".to_owned();
            for (key, usual) in &good {
                let value = if *key == name { value } else { usual.as_str() };
                if value != "-" {
                    header.push_str(&format!("{}: {value}\r\n", key.replace("svix", family)));
                }
            }
            let stream = sent(server.address, format!("{header}connection: close\r\n\r\n").as_bytes());
            let answer = String::from_utf8(rest(stream).await).unwrap();
            let (status, code) = told;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{family} {name}: {value}: {answer}");
            assert!(answer.contains(code), "{family} {name}: {value}: {answer}");
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_have_turns_of_their_own_which_only_the_key_gives() {
    let server = Server::with(&["--max-in-flight", "1", "--admin-api-key", ADMIN, "--body-timeout", "1h"]).await;
    let slow = uploading(server.address, "/ada", "", 12);
    server.client.bearing(ADMIN).get("/api/admin/tenants").await.expect(200);
    server.client.get("/api/admin/tenants").await.expect(503);
    server.client.bearing("not the key").get("/api/admin/tenants").await.expect(503);
    server.client.bearing(ADMIN).get("/eve").await.expect(503);
    drop(slow);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_shed_do_not_fill_the_log() {
    let folder = TempDir::new().unwrap();
    let flags = ["--max-in-flight", "1", "--body-timeout", "1h", "--request-timeout", "1h"];
    let server = Process::start(folder.path(), &flags);
    let _slow = uploading(server.address, "/ada", "", 12);
    for _ in 0..1000 {
        server.client.get("/eve").await.expect(503);
    }
    server.client.get("/readyz").await.expect(200);
    let told = server.logged("failed").await.len();
    assert!(told < 500, "{told} lines for a thousand requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_lasts_until_the_answer_is_written() {
    let server = Server::with(&["--max-in-flight", "1", "--request-timeout", "1h"]).await;
    large(&server.client, "ada").await;
    let slow = begun(server.address, PAGE).await;
    for _ in 0..3 {
        assert_eq!(server.client.get("/eve").await.expect(503).code(), "overloaded");
    }
    assert!(rest(slow).await.len() > 4 * MIB);
    eventually("it is written", async || server.client.get("/eve").await.status == 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_is_given_up() {
    let server = Server::with(&["--max-in-flight", "1", "--answer-timeout", "200ms"]).await;
    large(&server.client, "ada").await;
    let slow = begun(server.address, PAGE).await;
    eventually("it is given up", async || server.client.get("/eve").await.status == 200).await;
    assert!(rest(slow).await.len() < 5 * MIB, "and what was left is gone");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_one_user_that_are_not_taken_are_bounded_and_others_are_served() {
    let server = Server::with(&["--tenant-bytes-in-flight", "12MiB", "--answer-timeout", "1h"]).await;
    for user in ["ada", "eve"] {
        large(&server.client, user).await;
    }
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(begun(server.address, PAGE).await);
    }
    let refused = server.client.get(PAGE).await.expect(429);
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("too_much_at_once", "1"));
    server.client.get("/ada?limit=0").await.expect(400);
    server.client.post("/ada", json!({"text": "small"})).await.expect(201);
    server.client.get("/eve?limit=5").await.expect(200);
    for slow in held {
        assert!(rest(slow).await.len() > 4 * MIB);
    }
    eventually("there is room again", async || server.client.get(PAGE).await.status == 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_is_asked_nothing_more() {
    let server = Server::with(&["--answer-timeout", "1h"]).await;
    let mut stream = sent_by_a_slow_reader(server.address, b"");
    let all_was_taken = in_background(move || {
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let requests = b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1 << 15);
        // More than the kernel keeps on its way.
        (0..64).all(|_| stream.write_all(&requests).is_ok())
    });
    assert!(!all_was_taken.await, "answers that nobody reads fill the memory");
    server.client.get("/ada").await.expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_requests_without_proof_hold_no_turn_while_they_wait_to_be_taken() {
    let server = Server::with(&["--max-in-flight", "4", "--answer-timeout", "1h"]).await;
    let fill = |number: usize| {
        let mut stream = sent_by_a_slow_reader(server.address, b"");
        in_background(move || {
            stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            let method = ["GET", "HEAD"][number % 2];
            let requests = format!("{method} /no/such/place HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(1 << 14);
            // More than the kernel keeps on its way.
            let all_was_taken = (0..64).all(|_| stream.write_all(requests.as_bytes()).is_ok());
            assert!(!all_was_taken, "answers wait to be taken");
            stream
        })
    };
    let held = futures_util::future::join_all((0..8).map(fill)).await;
    for n in 0..100 {
        let status = server.client.get(&format!("/user_{n}")).await.status;
        assert_eq!(status, 200, "the {n}th request");
    }
    drop(held);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_note_is_removed_only_if_there_is_room_to_answer_with_it() {
    let folder = TempDir::new().unwrap();
    let server = Server::on(folder.path(), &[]).await;
    large(&server.client, "ada").await;
    let small = server.client.note("ada", "small").await;
    let whole = server.client.get(PAGE).await.expect(200).body.len();
    let page = server.client.get("/ada?limit=1").await.expect(200).json();
    server.stop().await;
    // Room for one page, and for half a note.
    let bytes = format!("{}KiB", (whole.next_multiple_of(64 << 10) >> 10) + 512);
    let flags = ["--tenant-bytes-in-flight", &bytes, "--answer-timeout", "1h", "--request-timeout", "1h"];
    let server = Server::on(folder.path(), &flags).await;
    let note = format!("/ada/{}", page["notes"][0]["id"].as_str().unwrap());
    let slow = begun(server.address, PAGE).await;
    let refused = server.client.delete(&note).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "too_much_at_once"));
    server.client.delete(&format!("/ada/{small}")).await.expect(200);
    assert!(rest(slow).await.len() > 4 * MIB);
    eventually("there is room again", async || server.client.get(&note).await.status != 429).await;
    let removed = server.client.delete(&note).await;
    assert_eq!(removed.status, 200, "it was still there");
    assert!(removed.json()["note"] == page["notes"][0], "the answer is the note");
    server.client.get(&note).await.expect(404);
    server.stop().await;
}

/// An upload of a mebibyte of which the end is missing.
fn unfinished_upload(server: &Server, user: &str) -> TcpStream {
    let header = format!(
        "POST /{user} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {MIB}\r\n\r\n{{\"text\":\""
    );
    let mut stream = sent(server.address, header.as_bytes());
    // One that is refused meanwhile is closed.
    let _ = stream.write_all(&vec![b'x'; MIB - 1000]);
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_uploads_are_bounded_by_user_and_in_all() {
    for (flag, status, code) in
        [("--tenant-bytes-in-flight", 429, "too_much_at_once"), ("--bytes-in-flight", 503, "overloaded")]
    {
        let server = Server::with(&[flag, "3MiB", "--body-timeout", "1h", "--request-timeout", "1h"]).await;
        let mut held = Vec::new();
        let mut refused: Option<Reply> = None;
        eventually("there is room for no more", async || {
            // Whichever comes first takes the room, so an upload that met a probe is refused itself: one more
            // is begun each time. A probe is no note, so that it uses up no quota.
            held.push(unfinished_upload(&server, "ada"));
            let probe = server.client.request("POST", "/ada").json(&json!({"wrong": "x".repeat(900 << 10)}));
            refused = server.client.try_send(probe).await.ok().filter(|reply| reply.status != 422);
            refused.is_some()
        })
        .await;
        let refused = refused.unwrap();
        let whole = || json!({"text": "x".repeat(900 << 10)});
        assert_eq!((refused.status, refused.code().as_str()), (status, code));
        server.client.note("ada", "small").await;
        let other = server.client.try_send(server.client.request("POST", "/eve").json(&whole())).await;
        let expected = if status == 429 { 201 } else { 503 };
        assert!(other.is_ok_and(|reply| reply.status == expected) || expected == 503);
        drop(held);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_does_not_take_all_turns() {
    let server = Server::with(&["--tenant-in-flight", "2", "--body-timeout", "1h", "--request-timeout", "1h"]).await;
    let held: Vec<_> = (0..2).map(|_| uploading(server.address, "/ada", "", 12)).collect();
    assert_eq!(server.client.get("/ada").await.expect(429).code(), "too_much_at_once");
    server.client.get("/eve").await.expect(200);
    drop(held);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_does_not_take_all_turns() {
    let server = Server::with(&["--address-in-flight", "2", "--trusted-proxies", "127.0.0.1", "--body-timeout", "1h"]);
    let server = server.await;
    let from = "x-forwarded-for: 203.0.113.1\r\n";
    let upload = |n: usize| uploading(server.address, &format!("/user_{n}"), from, 12);
    let held: Vec<_> = (0..2).map(upload).collect();
    let ask = async |from: &str| {
        server.client.send(server.client.request("GET", "/ada").header("x-forwarded-for", from)).await.status
    };
    assert_eq!(ask("203.0.113.1").await, 429);
    assert_eq!(ask("203.0.113.2").await, 200);
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_give_way_to_those_who_come() {
    let server = Server::with(&["--max-connections", "4", "--header-timeout", "1h"]).await;
    let held: Vec<_> = ["", "GET /ada HT", "", ""].iter().map(|text| sent(server.address, text.as_bytes())).collect();
    for _ in 0..3 {
        Client::new(server.address).get("/ada").await.expect(200);
    }
    assert!(rest(held.into_iter().next().unwrap()).await.is_empty(), "the oldest is closed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_an_answer_under_way_does_not_give_way() {
    let server = Server::with(&["--max-connections", "2", "--request-timeout", "1h", "--answer-timeout", "1h"]).await;
    large(&server.client, "ada").await;
    let slow = begun(server.address, PAGE).await;
    for _ in 0..8 {
        Client::new(server.address).get("/ada?limit=1").await.expect(200);
    }
    assert!(rest(slow).await.len() > 4 * MIB);
    server.stop().await;
}

/// A server with a listener for operators, and where that is.
fn with_operators(folder: &TempDir, more: &[&str]) -> (Process, SocketAddr) {
    let flags = ["--admin-api-key", ADMIN, "--admin-listen", "127.0.0.1:0"];
    let server = Process::start(folder.path(), &[&flags[..], more].concat());
    let operators = operators_of(&server);
    (server, operators)
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_without_the_key_do_not_keep_operators_out() {
    let folder = TempDir::new().unwrap();
    let (_server, address) = with_operators(&folder, &["--header-timeout", "1h"]);
    let texts = ["", "GET /api/admin/te", "GET /api/admin/tenants HTTP/1.1\r\nhost: localhost\r\n\r\n"];
    let ask = async || {
        let client = Client::new(address).bearing(ADMIN);
        let asked = client.request("GET", "/api/admin/tenants").timeout(Duration::from_secs(20));
        client.send(asked).await.expect(200);
    };
    let mut held: Vec<_> = (0..400).map(|n| sent(address, texts[n % 3].as_bytes())).collect();
    ask().await;
    // Nor does one who comes again and again.
    let busy = tokio::task::spawn_blocking(move || {
        held.extend((0..400).map(|n| sent(address, texts[n % 3].as_bytes())));
        held
    });
    for _ in 0..10 {
        ask().await;
    }
    drop(busy.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_shown_the_key_outlives_those_that_have_not() {
    let folder = TempDir::new().unwrap();
    let (_server, address) = with_operators(&folder, &["--header-timeout", "1h", "--admin-connections", "4"]);
    let request = format!("GET /api/admin/keys HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN}\r\n");
    let mut operator = sent(address, format!("{request}\r\n").as_bytes());
    let mut chunk = [0; 4096];
    let first = operator.read(&mut chunk).unwrap();
    assert!(chunk[..first].starts_with(b"HTTP/1.1 200"));
    let held: Vec<_> = (0..40).map(|_| sent(address, b"")).collect();
    // It is accepted after them.
    Client::new(address).bearing(ADMIN).get("/api/admin/keys").await.expect(200);
    operator.write_all(format!("{request}connection: close\r\n\r\n").as_bytes()).unwrap();
    let answer = String::from_utf8(rest(operator).await).unwrap();
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_listener_closes_after_an_answer_to_one_without_the_key() {
    let folder = TempDir::new().unwrap();
    let (_server, address) = with_operators(&folder, &["--header-timeout", "1h"]);
    for path in ["/api/admin/tenants", "/healthz", "/nothing"] {
        let reply = in_background(move || {
            let mut wire = Wire::connect(address);
            wire.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
            wire.rest()
        });
        assert!(reply.await.head.to_lowercase().contains("connection: close"), "{path}");
    }
}

#[tokio::test]
async fn wrong_keys_from_one_address_are_told_to_wait_and_the_right_one_is_not() {
    let server = Server::with(&["--admin-api-key", ADMIN, "--key-failures", "1/h:2"]).await;
    let wrong = server.client.bearing("a wrong key of some length");
    for path in ["/api/admin/tenants", "/api/admin/keys"] {
        wrong.get(path).await.expect(401);
    }
    let refused = wrong.get("/api/admin/tenants").await.expect(429);
    assert_eq!(refused.code(), "rate_limited");
    server.client.get("/api/admin/tenants").await.expect(401);
    server.client.bearing(ADMIN).get("/api/admin/tenants").await.expect(200);
    wrong.get("/ada").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn deliveries_and_lines_of_the_audit_trail_are_kept_up_to_a_number() {
    let folder = TempDir::new().unwrap();
    let flags = ["--admin-api-key", ADMIN, "--clerk-webhook-secret", SECRET];
    let server = Server::on(folder.path(), &flags).await;
    for n in 0..8 {
        let message = Message::new(&format!("msg_{n}"), &event("user.created", user(&format!("u{n}"), "a", 1), 1));
        message.send(&server.client).await.expect(200);
        server.client.bearing(ADMIN).post("/api/admin/tenants", json!({"id": format!("t{n}")})).await.expect(201);
    }
    server.stop().await;
    let bounded = [&flags[..], &["--delivery-limit", "3", "--audit-limit", "3"]].concat();
    let server = Server::on(folder.path(), &bounded).await;
    let operator = server.client.bearing(ADMIN);
    let kept = async |list: &str| {
        let page = operator.get(&format!("/api/admin/{list}")).await.expect(200).json();
        page[list].as_array().unwrap().clone()
    };
    eventually("the oldest are forgotten", async || {
        kept("deliveries").await.len() <= 3 && kept("audit").await.len() <= 3
    })
    .await;
    assert_eq!(kept("deliveries").await[0]["svix_id"], "msg_7");
    let targets: Vec<_> = kept("audit").await.iter().map(|line| line["target"].clone()).collect();
    assert_eq!(targets, ["t7", "t6", "t5"]);
    server.stop().await;
}

#[tokio::test]
async fn of_keys_that_ended_the_last_are_remembered() {
    use cubby::catalog::queries::keys as queries;
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    let mut ids = Vec::new();
    for n in 0..5 {
        let made = operator.post("/api/admin/keys", json!({"name": n.to_string()})).await.expect(201).json();
        ids.push(made["key"]["id"].as_str().unwrap().to_owned());
    }
    let now = server.app.clock().now();
    let ended = ids[..4].to_vec();
    let left = server.app.store().catalog().write(move |tx| {
        for (id, ago) in ended.iter().zip([10, 40, 20, 30]) {
            queries::revoke(tx, id, now - ago)?;
        }
        queries::delete_ended(tx, now, 2)?;
        queries::list(tx)
    });
    let left: Vec<_> = left.await.unwrap().into_iter().map(|key| key.name).collect();
    assert_eq!(left, ["0", "2", "4"], "those that ended last, and the one that is good");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_a_large_body_was_refused_is_said_to_be_closed() {
    let server = Server::with(&["--auth", "keys"]).await;
    for (bytes, closed) in [(1_000_000, true), (100, false)] {
        let request = server.client.request("POST", "/ada").json(&json!({"text": "x".repeat(bytes)}));
        let Ok(reply) = server.client.try_send(request).await else {
            assert!(closed, "a small body is read");
            continue;
        };
        assert_eq!((reply.status, reply.header("connection") == "close"), (401, closed), "{bytes} bytes");
    }
    server.stop().await;
}
