//! The OpenAPI document against the server, and every route against every caller by the document.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{
    Client, Reply, Server,
    tokens::{SigningKey, flags},
};

const ADMIN: &str = "an operator's key of some length";
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

async fn document(client: &Client) -> Value {
    client.get("/openapi.json").await.expect(200).json()
}

/// Every operation: method, path, and the operation itself.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| METHODS.contains(&name.as_str()))
        {
            found.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    assert!(found.len() > 20, "{found:#?}");
    found
}

/// A path with its parameters filled in.
fn fill(path: &str, user: &str, note: &str) -> String {
    let path = path.replace("{user_id}", user).replace("{note_id}", note);
    path.replace("{key_id}", "key_x").replace("{delivery_id}", "msg_x")
}

fn told(reply: &Reply) -> (u16, Value) {
    let mut body = reply.json();
    body.as_object_mut().unwrap().remove("request_id").expect("a request id");
    (reply.status, body)
}

#[tokio::test]
async fn each_path_has_the_methods_of_the_document_and_no_others() {
    let server = Server::with(&["--admin-api-key", ADMIN, "--changes-listeners", "0"]).await;
    let document = document(&server.client).await;
    assert_eq!(document["openapi"], "3.1.0");
    let operator = server.client.bearing(ADMIN);
    for (path, item) in document["paths"].as_object().unwrap() {
        let documented: BTreeSet<String> = item.as_object().unwrap().keys().map(|name| name.to_uppercase()).collect();
        let address = fill(path, "ada", "note_aaaaaaaaaaaaaaaa");
        for method in METHODS.map(str::to_uppercase) {
            let reply = operator.send(operator.request(&method, &address).json(&json!({}))).await;
            let there = reply.status != 405;
            assert_eq!(there, documented.contains(&method), "{method} {path}: {}", reply.status);
            if !there {
                let allowed: BTreeSet<String> =
                    reply.header("allow").split(',').map(|name| name.trim().to_owned()).collect();
                let mut wanted = documented.clone();
                if documented.contains("GET") {
                    wanted.insert("HEAD".to_owned());
                }
                assert_eq!(allowed, wanted, "{path}");
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn every_route_of_the_source_is_in_the_document() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let document = document(&server.client).await;
    let documented: BTreeSet<String> =
        operations(&document).into_iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    // The document itself and the page to read it with.
    let beside = ["GET /docs", "GET /docs/", "GET /docs/{*file}", "GET /openapi.json"].map(str::to_owned);
    let mut in_source = crate::documents::routes(&crate::source::all());
    // Pages for people.
    in_source.retain(|route| !route.split(' ').any(|path| path == "/admin" || path.starts_with("/admin/")));
    let mut beside = beside.to_vec();
    // A protocol of its own, described in docs/SQL.md; these are below a user.
    beside.extend(
        ["GET /dump", "GET /v2", "GET /v3", "GET /v3-protobuf", "POST /v1/batch", "POST /v1/execute"]
            .map(str::to_owned),
    );
    beside.extend(["POST /v2/pipeline", "POST /v3/cursor", "POST /v3/pipeline"].map(str::to_owned));
    beside.sort();
    assert_eq!(in_source.difference(&documented).cloned().collect::<Vec<_>>(), beside);
    assert_eq!(documented.difference(&in_source).count(), 0);
    let names: Vec<String> =
        operations(&document).into_iter().map(|(.., operation)| operation["operationId"].to_string()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "an operation's id is its own: {names:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_the_document_refers_to_is_in_it() {
    let server = Server::start().await;
    let document = document(&server.client).await;
    let text = document.to_string();
    let refs: BTreeSet<&str> = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(refs.contains("/components/schemas/Problem") && refs.contains("/components/schemas/Note"), "{refs:?}");
    for reference in refs {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_note_has_the_shape_the_document_gives_it() {
    let server = Server::start().await;
    let document = document(&server.client).await;
    let note = server.client.post("/ada", json!({"text": "x"})).await.expect(201).json()["note"].clone();
    let shape = &document["components"]["schemas"]["Note"];
    let fields: BTreeSet<&String> = note.as_object().unwrap().keys().collect();
    assert_eq!(fields, shape["properties"].as_object().unwrap().keys().collect());
    assert_eq!(shape["required"].as_array().unwrap().len(), fields.len());

    let problem = server.client.get("/ada/x").await.expect(404).json();
    let shape = &document["components"]["schemas"]["Problem"];
    for field in problem.as_object().unwrap().keys() {
        assert!(shape["properties"].get(field).is_some(), "{field}");
    }
    for field in shape["required"].as_array().unwrap() {
        assert!(problem.get(field.as_str().unwrap()).is_some(), "{field}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_route_against_every_caller() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all[1] = "jwt+keys".to_owned();
    all.extend(["--admin-api-key", ADMIN].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let operator = server.client.bearing(ADMIN);
    let users = ["ada", "eve", "user_2abC", "USER_2abC"];
    // And those whose database nobody reaches: never there, deleted, suspended, and no id at all.
    let others = ["nobody", "deleted", "suspended", "a%2Fb"];
    for (id, path) in [("deleted", ""), ("suspended", "/suspend")] {
        operator.post("/api/admin/tenants", json!({"id": id})).await.expect(201);
        let method = if path.is_empty() { "DELETE" } else { "POST" };
        let request = operator.request(method, &format!("/api/admin/tenants/{id}{path}"));
        operator.send(request.json(&json!({"reason": "x"}))).await.expect(200);
    }
    let mut notes = Vec::new();
    let mut callers = Vec::new();
    for user in users {
        let client = server.client.bearing(key.token(user));
        notes.push(client.note(user, user).await);
        let made = operator.post("/api/admin/keys", json!({"name": user, "user_id": user})).await.expect(201).json();
        callers.push((user, client));
        callers.push((user, server.client.bearing(made["secret"].as_str().unwrap())));
    }
    let unknown = told(&callers[0].1.get("/nobody").await);
    let mut checked = 0;
    let mut operations = operations(&document(&server.client).await);
    // Not in a document, and answered all the same.
    let heads = operations.iter().filter(|(method, ..)| method == "GET");
    let heads: Vec<_> =
        heads.map(|(_, path, operation)| ("HEAD".to_owned(), path.clone(), operation.clone())).collect();
    operations.extend(heads);
    for (method, path, operation) in operations {
        let head = method == "HEAD";
        let send = async |client: &Client, path: &str| {
            client.send(client.request(&method, path).json(&json!({"text": "changed"}))).await
        };
        let of_a_user = path.starts_with("/{user_id}");
        let secured = operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty());
        assert_eq!(secured, of_a_user || operation["tags"] == json!(["operators"]), "{method} {path}");
        let foreign = others.iter().map(|owner| (owner, "note_aaaaaaaaaaaaaaaa"));
        let owned = users.iter().zip(notes.iter().map(String::as_str));
        for (owner, note) in owned.chain(foreign) {
            let address = fill(&path, owner, note);
            if secured {
                send(&server.client, &address).await.expect(401);
            }
            for (caller, client) in &callers {
                if of_a_user && caller != owner {
                    let reply = send(client, &address).await;
                    match head {
                        true => assert_eq!((reply.status, reply.body.len()), (404, 0), "{caller}: {method} {address}"),
                        false => assert_eq!(told(&reply), unknown, "{caller}: {method} {address}"),
                    }
                    checked += 1;
                } else if secured && !of_a_user {
                    send(client, &address).await.expect(401);
                    checked += 1;
                }
            }
        }
        if of_a_user {
            let reply = send(&operator, &fill(&path, "ada", &notes[0])).await;
            assert_eq!(reply.status, 401, "the operator's key opens no user's data: {method} {path}");
        }
    }
    assert!(checked > 1000, "{checked}");
    for (user, client) in &callers {
        assert_eq!(client.texts(user).await, [*user], "nothing was changed by anybody else");
    }
    server.stop().await;
}

#[tokio::test]
async fn no_answer_is_kept_by_a_cache_or_guessed_to_be_of_another_type() {
    let server = Server::with(&["--admin-api-key", ADMIN, "--changes-listeners", "0"]).await;
    let note = server.client.note("ada", "x").await;
    let operator = server.client.bearing(ADMIN);
    let mut checked = 0;
    for (method, path, _) in operations(&document(&server.client).await) {
        for client in [&server.client, &operator] {
            let reply = client.send(client.request(&method, &fill(&path, "ada", &note)).json(&json!({}))).await;
            assert_eq!(reply.header("x-content-type-options"), "nosniff", "{method} {path}");
            assert_eq!(reply.header("cache-control"), "no-store", "{method} {path}");
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
    server.stop().await;
}

#[tokio::test]
async fn the_page_with_the_document_asks_nobody_else_for_anything() {
    let server = Server::start().await;
    let page = server.client.get("/docs").await.expect(200);
    assert!(page.header("content-security-policy").contains("default-src 'none'"), "{:?}", page.headers);
    assert_eq!(page.header("x-frame-options"), "DENY");
    let html = String::from_utf8(page.body).unwrap();
    assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
    let assets = html.split(['"', '\'']).filter_map(|text| text.strip_prefix("./"));
    let mut count = 0;
    for asset in assets {
        server.client.get(&format!("/docs/{asset}")).await.expect(200);
        count += 1;
    }
    assert!(count >= 4, "{html}");
    let start = server.client.get("/docs/swagger-initializer.js").await.expect(200);
    assert!(String::from_utf8_lossy(&start.body).contains("/openapi.json"));
    server.client.get("/docs/../../etc/passwd").await.expect(404);
    assert_eq!(server.client.get("/docs/nothing").await.expect(404).code(), "unknown_user");
    server.stop().await;
}
