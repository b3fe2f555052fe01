//! How a user's database comes to be, and what does not bring it about.

use serde_json::json;

use cubby::catalog::queries;

use crate::harness::{
    Server, author,
    tokens::{SigningKey, flags},
    tree,
};

#[tokio::test]
async fn sixty_four_first_writes_at_once_make_one_user_and_sixty_four_notes() {
    let server = Server::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let client = server.client.clone();
        tasks.spawn(async move { client.note("ada", &n.to_string()).await });
    }
    let mut ids = tasks.join_all().await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 64);

    let mut texts: Vec<u32> = server.client.texts("ada").await.iter().map(|text| text.parse().unwrap()).collect();
    texts.sort_unstable();
    assert_eq!(texts, (0..64).collect::<Vec<_>>());
    assert_eq!(server.app.store().counts().await.unwrap().active, 1);
    let files = tree(&server.data().join("tenants"));
    assert_eq!(files.iter().filter(|(path, ..)| path.extension().is_some_and(|end| end == "db")).count(), 1);
    server.stop().await;
}

#[tokio::test]
async fn reads_create_nothing() {
    for mode in ["open", "webhook"] {
        let server = Server::with(&["--provisioning", mode]).await;
        let client = &server.client;
        let known = if mode == "open" { 200 } else { 404 };
        // The first one may open the catalog's readers.
        client.get("/nobody").await.expect(known);
        let before = tree(&server.data());
        let open = server.app.store().open_count();
        for n in 0..20 {
            let reply = client.get(&format!("/nobody_{n}")).await.expect(known);
            if mode == "open" {
                assert_eq!(reply.json(), json!({"notes": []}));
            } else {
                assert_eq!(reply.code(), "unknown_user");
            }
            client.send(client.request("HEAD", &format!("/nobody_{n}"))).await.expect(known);
            let note = format!("/nobody_{n}/note_aaaaaaaaaaaaaaaa");
            client.get(&note).await.expect(404);
            client.patch(&note, json!({"text": "x"})).await.expect(404);
            client.delete(&note).await.expect(404);
        }
        assert_eq!(tree(&server.data()), before, "{mode}");
        assert_eq!(server.app.store().open_count(), open);
        assert_eq!(server.app.store().counts().await.unwrap().active, 0);
        server.stop().await;
    }
}

#[tokio::test]
async fn without_open_provisioning_a_write_creates_nobody() {
    let server = Server::with(&["--provisioning", "webhook"]).await;
    let client = &server.client;
    client.get("/ada").await.expect(404);
    let before = tree(&server.data());
    assert_eq!(client.post("/ada", json!({"text": "x"})).await.expect(404).code(), "unknown_user");
    assert_eq!(tree(&server.data()), before);

    server.app.store().lease_or_create(&"ada".parse().unwrap()).await.unwrap();
    client.note("ada", "x").await;
    assert_eq!(client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn a_file_left_by_an_interrupted_creation_is_adopted_with_what_is_in_it() {
    let (first, second) = (Server::start().await, Server::start().await);
    first.client.note("ada", "from before").await;
    let file = first.app.store().layout().tenant(&"ada".parse().unwrap());
    let target = second.app.store().layout().tenant(&"ada".parse().unwrap());
    first.app.store().close(tokio::time::Instant::now() + crate::harness::PATIENCE).await;
    std::fs::copy(&file, &target).unwrap();

    // The catalog does not know it: for readers it is not there.
    assert_eq!(second.client.get("/ada").await.expect(200).json(), json!({"notes": []}));
    second.client.note("ada", "from now").await;
    assert_eq!(second.client.texts("ada").await, ["from before", "from now"]);
    assert_eq!(second.app.store().counts().await.unwrap().active, 1);
    second.stop().await;
}

#[tokio::test]
async fn what_was_left_in_tmp_is_gone_after_a_start() {
    let folder = tempfile::TempDir::new().unwrap();
    Server::on(folder.path(), &[]).await.stop().await;
    std::fs::write(folder.path().join("tmp/7.db"), b"half a file").unwrap();
    std::fs::create_dir(folder.path().join("tmp/half")).unwrap();
    std::fs::write(folder.path().join("tmp/half/restore.db"), b"half a file").unwrap();
    Server::on(folder.path(), &[]).await.stop().await;
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn suspended_users_are_refused_with_the_reason_until_resumed() {
    let server = Server::start().await;
    let (client, store) = (&server.client, server.app.store());
    let id = "ada".parse().unwrap();
    let note = client.note("ada", "x").await;
    store.suspend(&id, "payment overdue", &author()).await.unwrap();
    for (method, path) in [("GET", "/ada".to_owned()), ("POST", "/ada".to_owned()), ("DELETE", format!("/ada/{note}"))]
    {
        let reply = client.send(client.request(method, &path).json(&json!({"text": "y"}))).await.expect(403);
        assert_eq!(reply.code(), "suspended");
        assert!(reply.json()["detail"].as_str().unwrap().contains("payment overdue"));
    }
    store.resume(&id, &author()).await.unwrap();
    assert_eq!(client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn deleted_users_are_unknown_and_come_back_whole_when_restored() {
    let server = Server::start().await;
    let (client, store) = (&server.client, server.app.store());
    let id = "ada".parse().unwrap();
    let note = client.note("ada", "x").await;
    let row = store.delete(&id, &author()).await.unwrap();
    assert_eq!(row.purge_after.unwrap() - row.deleted.unwrap(), 30 * 86_400_000);
    assert!(!store.layout().tenant(&id).exists() && store.layout().trashed(&id).exists());

    assert_eq!(client.get("/ada").await.expect(200).json(), json!({"notes": []}), "as one that never was");
    client.get(&format!("/ada/{note}")).await.expect(404);
    client.post("/ada", json!({"text": "again"})).await.expect(404);
    store.delete(&id, &author()).await.expect("twice is no error");

    store.restore(&id, &author()).await.unwrap();
    assert_eq!(client.texts("ada").await, ["x"]);
    assert_eq!(store.restore(&id, &author()).await.unwrap_err().kind(), cubby::ErrorKind::Conflict);
    server.stop().await;
}

/// As many creations as the burst, and none more within the test.
const ONE: [&str; 2] = ["--creation-rate", "1/h:1"];

#[tokio::test]
async fn whoever_is_known_in_whatever_state_uses_up_no_creation() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all.extend(["--provisioning", "on-proof"].iter().chain(&ONE).map(|flag| (*flag).to_owned()));
    let server = Server::with_flags(&all).await;
    let store = server.app.store();
    let ids = ["deleted", "purged", "suspended", "quarantined", "closed"];
    for id in ids {
        drop(store.lease_or_create(&id.parse().unwrap()).await.unwrap());
    }
    store.delete(&"deleted".parse().unwrap(), &author()).await.unwrap();
    store.delete(&"purged".parse().unwrap(), &author()).await.unwrap();
    store.purge(&"purged".parse().unwrap(), &author()).await.unwrap();
    store.suspend(&"suspended".parse().unwrap(), "x", &author()).await.unwrap();
    let id = "quarantined".parse().unwrap();
    store.suspend(&id, "x", &author()).await.unwrap();
    store.resume(&id, &author()).await.unwrap();
    let digest = store.schema().digest();
    let quarantine = queries::Quarantine {
        reason: "x".to_owned(),
        retry_at: Some(store.clock().now() + 60_000),
        consecutive: 1,
        digest,
    };
    store.catalog().write(move |tx| queries::quarantine(tx, &id, &quarantine)).await.unwrap();
    let closed = "closed".parse().unwrap();
    for _ in 0..3 {
        // Takes it out of use, so that it has to be opened again.
        store.suspend(&closed, "x", &author()).await.unwrap();
        store.resume(&closed, &author()).await.unwrap();
        for (id, status) in ids.iter().zip([404, 404, 403, 503, 200]) {
            let reply = server.client.bearing(key.token(id)).get(&format!("/{id}")).await;
            assert_eq!(reply.status, status, "{id}");
        }
    }
    server.client.bearing(key.token("new")).get("/new").await.expect(200);
    let next = server.client.bearing(key.token("next")).get("/next").await.expect(429);
    assert_eq!(next.code(), "too_many_creations");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_first_requests_for_one_user_is_one_creation() {
    let server = Server::with(&["--creation-rate", "1/h:2"]).await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let client = server.client.clone();
        crowd.spawn(async move { client.post("/ada", json!({"text": "x"})).await.status });
    }
    assert_eq!(crowd.join_all().await, [201; 32]);
    server.client.note("eve", "x").await;
    assert_eq!(server.client.post("/bob", json!({"text": "x"})).await.expect(429).code(), "too_many_creations");
    server.stop().await;
}

#[tokio::test]
async fn a_creation_that_storage_refuses_is_not_counted() {
    let server = Server::with(&ONE).await;
    let file = server.app.store().layout().tenant(&"ada".parse().unwrap());
    let shard = file.parent().unwrap();
    std::fs::remove_dir(shard).unwrap();
    std::fs::write(shard, b"in the way").unwrap();
    for _ in 0..3 {
        server.client.post("/ada", json!({"text": "x"})).await.expect(503);
    }
    server.client.note("eve", "x").await;
    assert_eq!(server.client.post("/bob", json!({"text": "x"})).await.expect(429).code(), "too_many_creations");
    server.stop().await;
}
