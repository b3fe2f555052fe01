//! Bad input, and what it gets: never a 500, and nothing is made by it.

use serde_json::json;

use crate::harness::{Server, tree};

#[tokio::test]
async fn a_body_that_cannot_be_read_is_400() {
    let server = Server::start().await;
    let client = &server.client;
    let id = client.note("ada", "x").await;
    let bodies: [&[u8]; 9] = [
        b"",
        b"{",
        b"{\"text\":\"a\"",
        b"{\"text\":\"a\"}}",
        b"{\"text\":\"a\"} x",
        b"{\"text\":\"\xff\"}",
        b"{\"text\":\"\\ud800\"}",
        b"{'text':'a'}",
        b"\xef\xbb\xbf{\"text\":\"a\"}",
    ];
    for body in bodies {
        for (method, path) in [("POST", "/ada".to_owned()), ("PATCH", format!("/ada/{id}"))] {
            let request = client.request(method, &path).header("content-type", "application/json").body(body.to_vec());
            let reply = client.send(request).await.expect(400);
            assert_eq!(reply.code(), "malformed_request", "{}", String::from_utf8_lossy(body));
            assert_eq!(reply.header("content-type"), "application/problem+json");
        }
    }
    assert_eq!(client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn json_that_is_not_a_note_is_422_and_names_the_field() {
    let server = Server::start().await;
    let client = &server.client;
    let id = client.note("ada", "x").await;
    for (body, field) in [
        (json!({}), "text"),
        (json!({"text": null}), "text"),
        (json!({"text": 7}), "text"),
        (json!({"text": ["a"]}), "text"),
        (json!({"text": {"a": 1}}), "text"),
        (json!({"text": "a", "color": "red"}), "color"),
        (json!({"Text": "a"}), "Text"),
        (json!([]), "body"),
        (json!("text"), "body"),
        (json!(null), "body"),
    ] {
        for (method, path) in [("POST", "/ada".to_owned()), ("PATCH", format!("/ada/{id}"))] {
            let reply = client.send(client.request(method, &path).json(&body)).await.expect(422);
            assert_eq!((reply.code().as_str(), &reply.json()["field"]), ("invalid_field", &json!(field)), "{body}");
        }
    }
    // Twice the same key is no note either: which one was meant?
    let twice = client.request("POST", "/ada").header("content-type", "application/json");
    let reply = client.send(twice.body(r#"{"text":"a","text":"b"}"#)).await.expect(422);
    assert_eq!(reply.json()["field"], "text");
    assert_eq!(client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_call_itself_json_is_415() {
    let server = Server::start().await;
    let client = &server.client;
    for media in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")] {
        let request = client.request("POST", "/ada").body(r#"{"text":"a"}"#);
        let request = match media {
            Some(media) => request.header("content-type", media),
            None => request,
        };
        assert_eq!(client.send(request).await.expect(415).code(), "unsupported_media_type", "{media:?}");
    }
    for media in ["application/json", "Application/JSON; charset=utf-8"] {
        let request = client.request("POST", "/ada").header("content-type", media).body(r#"{"text":"a"}"#);
        client.send(request).await.expect(201);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_note_may_be_as_long_as_the_setting_says_and_no_longer() {
    let server = Server::with(&["--max-note-bytes", "1000"]).await;
    let client = &server.client;
    client.post("/ada", json!({"text": "x".repeat(1000)})).await.expect(201);
    // Bytes of UTF-8, not characters; and an escape is not longer than what it stands for.
    client.post("/ada", json!({"text": "é".repeat(500)})).await.expect(201);
    client.post("/ada", json!({"text": "\u{1}".repeat(1000)})).await.expect(201);
    for text in ["x".repeat(1001), "é".repeat(501), "x".repeat(100_000)] {
        let reply = client.post("/ada", json!({"text": text})).await.expect(413);
        assert_eq!(reply.code(), "too_large");
    }
    assert_eq!(client.texts("ada").await.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn the_largest_note_that_may_be_set_can_be_stored_and_read() {
    let server = Server::with(&["--max-note-bytes", "20MiB"]).await;
    let client = &server.client;
    let text = "x".repeat(20 << 20);
    let id = client.note("ada", &text).await;
    assert_eq!(client.get(&format!("/ada/{id}")).await.expect(200).json()["note"]["text"], text);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_still_gets_its_413() {
    let server = Server::start().await;
    let client = &server.client;
    // More than fits into the buffers of the sockets: the refusal comes while the client still
    // sends, and closing the connection under it would cost it the answer.
    for _ in 0..20 {
        let request = client.request("POST", "/ada").header("content-type", "application/json");
        let reply = client.send(request.body(vec![b' '; 24 << 20])).await.expect(413);
        assert_eq!(reply.code(), "too_large");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let server = Server::start().await;
    let client = &server.client;
    let id = client.note("ada", "x").await;
    for (path, code) in [
        ("/ada/note_aaaaaaaaaaaaaaaa".to_owned(), "not_found"),
        ("/ada/x".to_owned(), "not_found"),
        (format!("/ada/{}", id.to_uppercase()), "not_found"),
        (format!("/ada/{id}%00"), "not_found"),
        ("/".to_owned(), "unknown_user"),
        ("/ada/".to_owned(), "unknown_user"),
        (format!("/ada/{id}/"), "unknown_user"),
        (format!("/ada/{id}/more"), "unknown_user"),
        (format!("/grace/{id}"), "unknown_user"),
    ] {
        assert_eq!(client.get(&path).await.expect(404).code(), code, "{path}");
    }
    for method in ["PATCH", "DELETE"] {
        for path in ["/ada/note_aaaaaaaaaaaaaaaa", "/grace/note_aaaaaaaaaaaaaaaa"] {
            client.send(client.request(method, path).json(&json!({"text": "y"}))).await.expect(404);
        }
    }
    assert_eq!(client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn a_bad_page_is_400_and_names_the_parameter() {
    let server = Server::start().await;
    let client = &server.client;
    client.note("ada", "x").await;
    for user in ["ada", "nobody"] {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("limit=-1", "limit"),
            ("limit=ten", "limit"),
            ("limit=", "limit"),
            ("limit=99999999999999999999", "limit"),
            ("cursor=", "cursor"),
            ("cursor=note_", "cursor"),
            ("cursor=%27%20OR%201%3D1", "cursor"),
            ("order=sideways", "order"),
        ] {
            let reply = client.get(&format!("/{user}?{query}")).await.expect(400);
            assert_eq!(reply.json()["field"], field, "{user} {query}");
        }
    }
    client.get("/ada?limit=500&order=desc&utm_source=elsewhere").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_refused_body_makes_no_user() {
    let server = Server::start().await;
    let client = &server.client;
    client.get("/nobody").await.expect(200);
    let before = tree(&server.data());
    client.post("/nobody", json!({"text": 1})).await.expect(422);
    client.post("/nobody", json!({"text": "x".repeat((1 << 20) + 1)})).await.expect(413);
    client.send(client.request("POST", "/nobody").body("x")).await.expect(415);
    let truncated = client.request("POST", "/nobody").header("content-type", "application/json").body("{");
    client.send(truncated).await.expect(400);
    assert_eq!(tree(&server.data()), before);
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_user_whose_quota_is_used_up_hears_507_with_the_figure_and_can_make_room() {
    let server = Server::with(&["--quota", "200KB"]).await;
    let client = &server.client;
    let text = "x".repeat(10_000);
    let mut notes = Vec::new();
    let refused = loop {
        let reply = client.post("/ada", json!({"text": text})).await;
        if reply.status != 201 {
            break reply.expect(507);
        }
        notes.push(reply.json()["note"]["id"].as_str().unwrap().to_owned());
        assert!(notes.len() < 20, "it is bounded");
    };
    assert_eq!(refused.code(), "quota_exceeded");
    assert!(refused.json()["detail"].as_str().unwrap().contains("200000 bytes"), "{}", refused.json());
    assert!(notes.len() > 10, "and not by much less than the figure: {}", notes.len());

    // A single note that is larger than what is left is told the same.
    let large = client.post("/ada", json!({"text": "x".repeat(500_000)})).await.expect(507);
    assert_eq!(large.code(), "quota_exceeded");

    // It is one user's, everything can still be read, and what is deleted makes room.
    client.note("grace", &text).await;
    assert_eq!(client.texts("ada").await.len(), notes.len());
    client.delete(&format!("/ada/{}", notes[0])).await.expect(200);
    client.delete(&format!("/ada/{}", notes[1])).await.expect(200);
    client.post("/ada", json!({"text": text})).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn what_was_sent_is_echoed_in_part_only() {
    let key = "an operator's key of some length";
    let server = Server::with(&["--admin-api-key", key]).await;
    let long = "x".repeat(1 << 20);
    let short = |reply: crate::harness::Reply| {
        assert!(reply.body.len() < 4096, "{} bytes: {:.300}", reply.body.len(), String::from_utf8_lossy(&reply.body));
        reply.json()["detail"].as_str().unwrap().to_owned()
    };
    for text in ["é".repeat(1 << 19), long] {
        let reply = server.client.post("/ada", json!({ text.as_str(): 1 })).await.expect(422);
        assert_eq!(reply.code(), "invalid_field");
        let field = reply.json()["field"].as_str().unwrap().to_owned();
        assert!(field.len() < 300 && text.starts_with(field.trim_end_matches('…')), "{field}");
        assert!(short(reply).starts_with("unknown field"));
    }
    let operator = server.client.bearing(key);
    let name = "n".repeat(20_000);
    for path in [
        format!("/api/admin/deliveries/{name}"),
        format!("/api/admin/tenants?state={name}"),
        format!("/ada?order={name}"),
    ] {
        short(operator.get(&path).await);
    }
    short(operator.post(&format!("/api/admin/sync-users?{name}=1"), json!({})).await.expect(422));
    server.stop().await;
}

#[tokio::test]
async fn query_values_may_be_percent_encoded_on_every_route() {
    let key = "an operator's key of some length";
    let server = Server::with(&["--admin-api-key", key]).await;
    for text in ["a", "b"] {
        server.client.note("ada", text).await;
    }
    let page = server.client.get("/ada?limit=%31&order=d%65sc").await.expect(200).json();
    assert_eq!((page["notes"].as_array().unwrap().len(), &page["notes"][0]["text"]), (1, &json!("b")));
    let cursor = page["next_cursor"].as_str().unwrap().replace("note", "%6eote");
    let page = server.client.get(&format!("/ada?order=desc&c%75rsor={cursor}")).await.expect(200).json();
    assert_eq!(page["notes"][0]["text"], "a");
    let operator = server.client.bearing(key);
    for (list, path) in [
        ("tenants", "/api/admin/tenants?limit=%31&state=%61ctive"),
        ("audit", "/api/admin/audit?limit=%31&before=%39"),
        ("deliveries", "/api/admin/deliveries?limit=%31&outcome=f%61iled"),
    ] {
        assert!(operator.get(path).await.expect(200).json()[list].is_array(), "{path}");
    }
    // Clerk is not set up here: what is asked for was understood.
    let sync = operator.post("/api/admin/sync-users?dry_run=%74rue&wait=f%61lse", json!({})).await.expect(503);
    assert_eq!(sync.code(), "provider_not_configured");
    for (code, path) in [("malformed_request", "/ada?limit=%FF"), ("malformed_request", "/ada?order=%")] {
        assert_eq!(operator.get(path).await.expect(400).code(), code, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_is_calling_is_asked_before_anything_else_of_a_request_is_looked_at() {
    use crate::harness::tokens::{SigningKey, flags};
    let key = SigningKey::new("a");
    let server = Server::with_flags(&flags(&key)).await;
    let ada = server.client.bearing(key.token("ada"));
    let send = async |client: &crate::harness::Client, path: &str| {
        let request = client.request("POST", path).header("idempotency-key", "x".repeat(256));
        client.send(request.json(&json!({"text": "x"}))).await
    };
    assert_eq!(send(&server.client, "/ada").await.expect(401).code(), "unauthorized");
    assert_eq!(send(&ada, "/eve").await.expect(404).code(), "unknown_user");
    let refused = send(&ada, "/ada").await;
    assert!(refused.status == 400 || refused.status == 404, "{}", refused.status);
    assert_eq!(server.app.store().counts().await.unwrap().active, 0, "a request that is refused creates nobody");
    server.stop().await;
    let server = Server::start().await;
    let refused = send(&server.client, "/ada").await.expect(400);
    assert_eq!((refused.code().as_str(), &refused.json()["field"]), ("malformed_request", &json!("Idempotency-Key")));
    assert_eq!(server.app.store().counts().await.unwrap().active, 0);
    server.stop().await;
}
