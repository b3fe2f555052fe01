//! The notes API: what every route answers.

use insta::assert_json_snapshot;
use serde_json::json;

use crate::harness::{Server, redacted};

#[tokio::test]
async fn notes_are_made_read_changed_listed_and_removed() {
    let server = Server::start().await;
    let client = &server.client;

    let made = client.post("/ada", json!({"text": "first"})).await.expect(201);
    let note = made.json()["note"].clone();
    let id = note["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("/ada/{id}"));
    assert_eq!(made.header("content-type"), "application/json");
    assert_eq!(note["created"], note["updated"]);

    let path = format!("/ada/{id}");
    assert_eq!(client.get(&path).await.expect(200).json()["note"], note);
    assert_eq!(client.get("/ada").await.expect(200).json(), json!({"notes": [note]}));

    let changed = client.patch(&path, json!({"text": "second"})).await.expect(200).json();
    assert_eq!(changed["note"]["text"], "second");
    assert_eq!(changed["note"]["created"], note["created"]);

    assert_eq!(client.delete(&path).await.expect(200).json(), changed);
    assert_eq!(client.get(&path).await.expect(404).code(), "not_found");
    server.stop().await;
}

#[tokio::test]
async fn bodies_have_exactly_the_documented_shape() {
    let server = Server::start().await;
    let client = &server.client;
    let made = client.post("/ada", json!({"text": "a \"quoted\" line\n"})).await.expect(201);
    let id = made.json()["note"]["id"].as_str().unwrap().to_owned();
    assert_json_snapshot!(redacted(&made.json()), @r#"
    {
      "note": {
        "created": "[created]",
        "id": "[id]",
        "text": "a \"quoted\" line\n",
        "updated": "[updated]"
      }
    }
    "#);
    // The order of the fields, too: people read it.
    let text = String::from_utf8(made.body).unwrap();
    assert!(text.starts_with(&format!(r#"{{"note":{{"id":"{id}","text":"a \"quoted\" line\n","created":""#)), "{text}");

    client.note("ada", "second").await;
    assert_json_snapshot!(redacted(&client.get("/ada?limit=1").await.expect(200).json()), @r#"
    {
      "next_cursor": "[next_cursor]",
      "notes": [
        {
          "created": "[created]",
          "id": "[id]",
          "text": "a \"quoted\" line\n",
          "updated": "[updated]"
        }
      ]
    }
    "#);
    assert_json_snapshot!(redacted(&client.get("/ada/note_aaaaaaaaaaaaaaaa").await.expect(404).json()), @r#"
    {
      "code": "not_found",
      "detail": "no such note",
      "request_id": "[request_id]",
      "status": 404,
      "title": "Not Found",
      "type": "urn:cubby:problem:not_found"
    }
    "#);
    server.stop().await;
}

#[tokio::test]
async fn ids_are_sixteen_letters_and_times_are_utc_milliseconds() {
    let server = Server::start().await;
    let note = server.client.post("/ada", json!({"text": ""})).await.expect(201).json()["note"].clone();
    let letters = note["id"].as_str().unwrap().strip_prefix("note_").unwrap().to_owned();
    assert!(letters.len() == 16 && letters.bytes().all(|b| b.is_ascii_lowercase()), "{letters}");
    let created = note["created"].as_str().unwrap();
    // 2026-01-02T03:04:05.678Z
    assert!(created.len() == 24 && created.ends_with('Z') && created.as_bytes()[19] == b'.', "{created}");
    server.stop().await;
}

#[tokio::test]
async fn text_is_kept_as_given() {
    let server = Server::start().await;
    let client = &server.client;
    for text in ["", "\0", "a\0b", "\u{feff}é🦆\u{202e}", "\r\n\t\u{1}\u{7f}", "'; DROP TABLE notes; --", "\u{10ffff}"]
    {
        let id = client.note("ada", text).await;
        let read = client.get(&format!("/ada/{id}")).await.expect(200).json();
        assert_eq!(read["note"]["text"], text);
        let changed = client.patch(&format!("/ada/{id}"), json!({"text": text})).await.expect(200).json();
        assert_eq!(changed["note"]["text"], text);
    }
    assert_eq!(client.texts("ada").await.len(), 7);
    server.stop().await;
}

#[tokio::test]
async fn head_answers_as_get_does_but_without_a_body() {
    let server = Server::start().await;
    let client = &server.client;
    let id = client.note("ada", "x").await;
    for path in
        ["/ada".to_owned(), format!("/ada/{id}"), "/ada/note_aaaaaaaaaaaaaaaa".to_owned(), "/healthz".to_owned()]
    {
        let get = client.get(&path).await;
        let head = client.send(client.request("HEAD", &path)).await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.body, b"", "{path}");
        for name in ["content-type", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_method_is_405_and_told_which_are_right() {
    let server = Server::start().await;
    let client = &server.client;
    let note = format!("/ada/{}", client.note("ada", "x").await);
    for (method, path, allow) in [
        ("PUT", "/ada", "GET,HEAD,POST"),
        ("DELETE", "/ada", "GET,HEAD,POST"),
        ("PATCH", "/ada", "GET,HEAD,POST"),
        ("OPTIONS", "/ada", "GET,HEAD,POST"),
        ("POST", &note, "DELETE,GET,HEAD,PATCH"),
        ("PUT", &note, "DELETE,GET,HEAD,PATCH"),
        ("GET", "/webhooks/clerk", "POST"),
        ("POST", "/healthz", "GET,HEAD"),
    ] {
        let reply = client.send(client.request(method, path)).await.expect(405);
        let mut allowed: Vec<_> = reply.header("allow").split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{method} {path}");
        assert_eq!(reply.code(), "method_not_allowed");
        assert_eq!(reply.header("content-type"), "application/problem+json");
    }
    server.stop().await;
}

#[tokio::test]
async fn pages_walk_every_note_once_in_both_orders() {
    let server = Server::start().await;
    let client = &server.client;
    let mut made = Vec::new();
    for n in 0..23 {
        made.push(client.note("ada", &n.to_string()).await);
    }
    for order in ["asc", "desc"] {
        let (mut seen, mut pages) = (Vec::new(), 0);
        let mut path = format!("/ada?limit=5&order={order}");
        loop {
            let page = client.get(&path).await.expect(200).json();
            seen.extend(page["notes"].as_array().unwrap().iter().map(|n| n["id"].as_str().unwrap().to_owned()));
            pages += 1;
            match page.get("next_cursor") {
                Some(cursor) => path = format!("/ada?limit=5&order={order}&cursor={}", cursor.as_str().unwrap()),
                None => break,
            }
        }
        if order == "desc" {
            seen.reverse();
        }
        assert_eq!((seen, pages), (made.clone(), 5), "{order}");
    }
    // A page that is exactly full and the last says so.
    assert_eq!(client.get("/ada?limit=23").await.expect(200).json().get("next_cursor"), None);
    server.stop().await;
}

#[tokio::test]
async fn a_walk_goes_on_when_the_note_of_its_cursor_is_removed_meanwhile() {
    let server = Server::start().await;
    let client = &server.client;
    let mut made = Vec::new();
    for n in 0..4 {
        made.push(client.note("ada", &n.to_string()).await);
    }
    let page = client.get("/ada?limit=2").await.expect(200).json();
    client.delete(&format!("/ada/{}", made[1])).await.expect(200);
    let next = client.get(&format!("/ada?limit=2&cursor={}", page["next_cursor"].as_str().unwrap())).await.json();
    let ids: Vec<_> = next["notes"].as_array().unwrap().iter().map(|n| n["id"].as_str().unwrap()).collect();
    assert_eq!(ids, made[2..]);
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_large_notes_ends_early_and_goes_on() {
    let server = Server::start().await;
    let client = &server.client;
    let large = "x".repeat(1 << 20);
    for _ in 0..7 {
        client.note("ada", &large).await;
    }
    let first = client.get("/ada").await.expect(200).json();
    let count = first["notes"].as_array().unwrap().len();
    assert!(count < 7 && first["next_cursor"].is_string(), "{count} notes");
    let texts = client.texts("ada").await;
    assert!(texts.len() == 7 && texts.iter().all(|text| *text == large));
    server.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_makes_one_note_however_often_it_is_sent() {
    let server = Server::start().await;
    let client = &server.client;
    let post = |text: &str, key: &str| {
        client.request("POST", "/ada").json(&json!({"text": text})).header("idempotency-key", key)
    };
    let first = client.send(post("once", "k-1")).await.expect(201);
    assert_eq!(first.header("idempotency-replayed"), "");
    let again = client.send(post("once", "k-1")).await.expect(201);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!((&again.body, again.header("location")), (&first.body, first.header("location")));

    let other = client.send(post("another text", "k-1")).await.expect(422);
    assert_eq!(other.json()["field"], "Idempotency-Key");

    // Sixteen at once, with a key not seen before.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (client, request) = (client.clone(), post("at once", "k-2"));
        tasks.spawn(async move { client.send(request).await.expect(201).body });
    }
    let mut bodies = tasks.join_all().await;
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "one answer for all");

    // Another user's key of the same name is another key.
    let grace = client.request("POST", "/grace").json(&json!({"text": "hers"})).header("idempotency-key", "k-1");
    client.send(grace).await.expect(201);
    assert_eq!(client.texts("ada").await, ["once", "at once"]);

    for bad in ["", &"k".repeat(256)] {
        let reply = client.send(post("x", bad)).await.expect(400);
        assert_eq!(reply.json()["field"], "Idempotency-Key", "{bad:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_a_harmless_one_of_the_callers_is_kept() {
    let server = Server::start().await;
    let client = &server.client;
    let given = client.send(client.request("GET", "/ada").header("x-request-id", "abc-DEF_9")).await;
    assert_eq!(given.header("x-request-id"), "abc-DEF_9");
    for hostile in ["a b", "a\"b", "{}", &"x".repeat(65)] {
        let reply = client.send(client.request("GET", "/ada").header("x-request-id", hostile)).await.expect(200);
        assert_ne!(reply.header("x-request-id"), hostile);
        assert_eq!(reply.header("x-request-id").len(), 16);
    }
    let (a, b) = (client.get("/ada").await, client.get("/nobody/none").await.expect(404));
    assert_ne!(a.header("x-request-id"), b.header("x-request-id"));
    assert_eq!(b.json()["request_id"], b.header("x-request-id"), "the body names it too");
    server.stop().await;
}

#[tokio::test]
async fn new_notes_sort_after_those_of_a_clock_that_was_ahead() {
    let server = Server::start().await;
    // As a server wrote it whose clock was thirty years ahead; and one whose random letters are used up.
    for (user, newest) in [("ada", "note_nzzzzzzzzaaaaaaa"), ("ben", "note_nzzzzzzzzzzzzzzz")] {
        let (tenant, _) = server.app.store().lease_or_create(&user.parse().unwrap()).await.unwrap();
        let insert = "INSERT INTO notes VALUES (?1, 'ahead', 0, 0)";
        tenant.write(move |tx| Ok(tx.execute(insert, [newest])?)).await.unwrap();
        let mut cursor = newest.to_owned();
        for number in 0..3 {
            let id = server.client.note(user, &number.to_string()).await;
            assert!(id > cursor, "{id} after {cursor}");
            let page = server.client.get(&format!("/{user}?cursor={cursor}")).await.expect(200).json();
            assert_eq!(page["notes"].as_array().unwrap().len(), 1, "{page}");
            cursor = id;
        }
    }
    // Whom that does not concern has ids of now.
    let id = server.client.note("eve", "x").await;
    assert!(id.as_str() < "note_nzzzzzzzz", "{id}");
    server.stop().await;
}

#[tokio::test]
async fn notes_with_ids_of_another_making_keep_nobody_from_adding_more() {
    let server = Server::start().await;
    let (tenant, _) = server.app.store().lease_or_create(&"ada".parse().unwrap()).await.unwrap();
    for foreign in ["zebra", "note_zzz", "note_zzzzzzzzzzzzzzzz", "note_zzzzzzzzzzzzzzzz-copy", "1"] {
        let insert = "INSERT INTO notes VALUES (?1, 'x', 0, 0)";
        tenant.write(move |tx| Ok(tx.execute(insert, [foreign])?)).await.unwrap();
        for _ in 0..2 {
            let id = server.client.note("ada", "y").await;
            assert!(id.as_str() < "note_nzzzzzzzz", "{id} is of now");
        }
    }
    drop(tenant);
    server.stop().await;
}
