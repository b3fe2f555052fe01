//! Ids and paths that mean harm, byte by byte: 404 as for anyone unknown, and nothing on the disk.

use crate::harness::{Server, tree, wire::exchange};

/// First segments that are no user's, as they stand in the request line.
fn targets() -> Vec<Vec<u8>> {
    let mut targets: Vec<Vec<u8>> = [
        "/.",
        "/..",
        "/../",
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e",
        "/%2e%2e/note_aaaaaaaaaaaaaaaa",
        "/%2E",
        "/%2e%2e%2f",
        "/a%2fb",
        "/a%2Fb/c",
        "/a%5cb",
        "/%00",
        "/ada%00",
        "/ada%00.db",
        "/%0d%0aset-cookie:x",
        "/ada%0a",
        "/%20",
        "/ada%20",
        "/%c3%a9",
        "/%ff%fe",
        "/%f0%9f%a6%86",
        // One word to a reader, in its two Unicode forms.
        "/caf%C3%A9",
        "/cafe%CC%81",
        "//",
        "//ada",
        "/ada//",
        "/%",
        "/%zz",
        "/%2",
        "/ada%",
        "/*",
        "/ada;x=1",
        "/ada,b",
        "/ada!",
        "/~root",
        "/$HOME",
        "/(ada)",
        "/'ada'",
        "/ada=1",
        "/file:%2f%2fx%3fmode=memory",
        "/%252e%252e",
    ]
    .map(|target| target.as_bytes().to_vec())
    .to_vec();
    targets.push("/é".as_bytes().to_vec());
    targets.push("/🦆".as_bytes().to_vec());
    for length in [129, 300, 8000] {
        targets.push(format!("/{}", "a".repeat(length)).into_bytes());
        targets.push(format!("/{}", "%61".repeat(length)).into_bytes());
    }
    targets
}

#[tokio::test]
async fn hostile_and_reserved_ids_are_unknown_and_leave_nothing_behind() {
    let server = Server::start().await;
    server.client.get("/nobody").await.expect(200);
    let before = tree(&server.data());
    let outside = tree_of_parent(&server);
    for target in targets() {
        for method in ["GET", "POST"] {
            let (address, target) = (server.address, target.clone());
            let shown = format!("{method} {}", String::from_utf8_lossy(&target));
            let reply = tokio::task::spawn_blocking(move || exchange(address, method, &target)).await.unwrap();
            // The HTTP library itself refuses a few, and a note's path has no POST; for all others
            // there is no such user.
            assert!(matches!(reply.status, 404 | 400 | 405), "{shown}: {} {}", reply.status, reply.body);
            if reply.status == 404 {
                assert!(reply.body.contains("\"unknown_user\""), "{shown}: {}", reply.body);
            }
        }
    }
    assert_eq!(tree(&server.data()), before);
    assert_eq!(tree_of_parent(&server), outside);
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    server.stop().await;
}

#[tokio::test]
async fn no_user_can_have_the_name_of_a_path_of_the_servers() {
    let server = Server::start().await;
    server.client.get("/nobody").await.expect(200);
    let before = tree(&server.data());
    for word in cubby::tenants::id::RESERVED {
        // In disguise too: it is decoded before it is compared.
        let disguised = format!("%{:02x}{}", word.as_bytes()[0], &word[1..]);
        for path in [format!("/{word}"), format!("/{disguised}")] {
            let reply = server.client.post(&path, serde_json::json!({"text": "x"})).await;
            assert!((400..500).contains(&reply.status), "{path}: {}", reply.status);
        }
    }
    assert_eq!(tree(&server.data()), before);
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    server.stop().await;
}

fn tree_of_parent(server: &Server) -> usize {
    std::fs::read_dir(server.data().parent().unwrap())
        .unwrap()
        .filter(|entry| entry.as_ref().is_ok_and(|entry| !entry.file_name().to_string_lossy().starts_with(".tmp")))
        .count()
}

#[tokio::test]
async fn request_targets_in_odd_forms_are_answered() {
    let server = Server::start().await;
    server.client.note("ada", "x").await;
    let address = server.address;
    for (method, target, statuses) in [
        ("GET", "http://localhost/ada", &[200][..]),
        ("GET", "http://elsewhere.example/ada", &[421]),
        ("OPTIONS", "*", &[400, 404, 405]),
        ("CONNECT", "ada:443", &[400, 404, 405, 421]),
        ("GET", "ada", &[400, 404, 421]),
        ("GET", "/ada?limit=1#fragment", &[200, 400]),
        ("GET", "/%61da", &[200]),
        ("BREW", "/ada", &[405]),
    ] {
        let reply = tokio::task::spawn_blocking(move || exchange(address, method, target.as_bytes())).await.unwrap();
        assert!(statuses.contains(&reply.status), "{method} {target}: {} {}", reply.status, reply.body);
    }
    server.stop().await;
}

#[tokio::test]
async fn every_byte_that_an_id_may_have_works_raw_and_encoded() {
    let server = Server::start().await;
    let client = &server.client;
    let id = "aZ09_-.@:|+";
    let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let note = client.note(&encoded, "x").await;
    let address = server.address;
    for target in [format!("/{id}/{note}"), format!("/{encoded}/{note}")] {
        let shown = target.clone();
        let reply = tokio::task::spawn_blocking(move || exchange(address, "GET", target.as_bytes())).await.unwrap();
        assert_eq!(reply.status, 200, "{shown}");
    }
    let made = client.post(&format!("/{encoded}"), serde_json::json!({"text": "y"})).await.expect(201);
    // A bar is no character of a URL (RFC 3986, 2).
    assert!(made.header("location").starts_with("/aZ09_-.@:%7C+/note_"), "{}", made.header("location"));
    assert_eq!(client.get(made.header("location")).await.expect(200).json()["note"]["text"], "y");
    let longest = "a".repeat(128);
    client.note(&longest, "x").await;
    assert_eq!(client.texts(&longest).await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn a_path_that_is_no_text_is_answered_in_the_ordinary_order_and_shape() {
    let key = "an operator's key of some length";
    let server = Server::with(&["--admin-api-key", key]).await;
    let operator = server.client.bearing(key);
    for (method, path) in [
        ("GET", "/api/admin/tenants/%FF"),
        ("DELETE", "/api/admin/tenants/%FF"),
        ("POST", "/api/admin/tenants/%FF/suspend"),
        ("POST", "/api/admin/tenants/%FF/purge"),
        ("GET", "/api/admin/deliveries/%FF"),
        ("POST", "/api/admin/deliveries/%FF/replay"),
        ("POST", "/api/admin/keys/%FF/revoke"),
        ("GET", "/api/admin/sync-users/%FF"),
    ] {
        let send = async |client: &crate::harness::Client| {
            client.send(client.request(method, path).json(&serde_json::json!({"reason": "x", "yes": true}))).await
        };
        let reply = send(&server.client).await.expect(401);
        assert_eq!(reply.code(), "unauthorized", "{method} {path}");
        let reply = send(&operator).await.expect(404);
        assert_eq!(reply.header("content-type"), "application/problem+json", "{method} {path}");
    }
    assert_eq!(server.client.get("/docs/%FF").await.expect(404).code(), "unknown_user");
    server.client.note("ada", "here").await;
    assert_eq!(server.client.get("/ada/%FF").await.expect(404).code(), "not_found");
    server.stop().await;
}
