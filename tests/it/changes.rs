//! The change feed: who listens hears of every commit, in order, or is told to read anew.

pub mod store;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use cubby::{Tenant, clock::Clock};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    harness::{
        Client, Server, author,
        events::{Event, Events},
        tokens::{self, SigningKey},
    },
    sql::Stream,
};

const ADMIN: &str = "an operator's key of some length";

/// A client that listens.
struct Feed(Events);

impl Feed {
    async fn listen(client: &Client, user: &str, after: Option<&str>) -> Self {
        let mut request = client.request("GET", &format!("/{user}/changes"));
        if let Some(id) = after {
            request = request.header("last-event-id", id);
        }
        Self(Events::of(request.send().await.unwrap()))
    }

    /// Listens, and is told to read everything.
    async fn start(client: &Client, user: &str) -> Self {
        let mut feed = Self::listen(client, user, None).await;
        assert_eq!(feed.reset().await, "start");
        feed
    }

    async fn next(&mut self) -> Event {
        self.0.next().await
    }

    /// The tables of a commit, sorted, with its number.
    async fn change(&mut self) -> (u64, Vec<String>) {
        let event = self.next().await;
        assert_eq!(event.name, "change", "{event:?}");
        let mut tables: Vec<String> = serde_json::from_value(event.data["tables"].clone()).unwrap();
        tables.sort();
        let seq = event.data["seq"].as_u64().unwrap();
        assert!(event.id.ends_with(&format!("-{seq}")), "{event:?}");
        (seq, tables)
    }

    /// Why everything is to be read anew.
    async fn reset(&mut self) -> String {
        let event = self.next().await;
        assert_eq!(event.name, "reset", "{event:?}");
        event.data["why"].as_str().unwrap().to_owned()
    }

    /// Why it ended; nothing comes after that.
    async fn end(&mut self) -> String {
        let event = self.next().await;
        assert_eq!(event.name, "end", "{event:?}");
        assert!(self.0.event().await.is_none());
        event.data["why"].as_str().unwrap().to_owned()
    }
}

fn notes(seq: u64) -> (u64, Vec<String>) {
    (seq, vec!["notes".to_owned()])
}

async fn add(tenant: &Tenant, id: &str) {
    let id = id.to_owned();
    let insert = move |tx: &rusqlite::Transaction| Ok(tx.execute("INSERT INTO notes VALUES (?1, 'x', 1, 1)", [id])?);
    tenant.write(insert).await.unwrap();
}

#[tokio::test]
async fn each_way_of_writing_is_an_event() {
    let server = Server::start().await;
    let client = &server.client;
    let id = client.note("ada", "before").await;
    let mut feed = Feed::start(client, "ada").await;
    client.note("ada", "one").await;
    assert_eq!(feed.change().await, notes(1));
    client.patch(&format!("/ada/{id}"), json!({"text": "changed"})).await.expect(200);
    assert_eq!(feed.change().await, notes(2));
    client.delete(&format!("/ada/{id}")).await.expect(200);
    assert_eq!(feed.change().await, notes(3));
    let keyed = client.request("POST", "/ada").header("idempotency-key", "k").json(&json!({"text": "keyed"}));
    client.send(keyed).await.expect(201);
    assert_eq!(feed.change().await, (4, vec!["idempotency_keys".to_owned(), "notes".to_owned()]));

    let mut sql = Stream::of(client, "/ada/sql/v2/pipeline");
    sql.run("UPDATE notes SET text = 'by sql'").await.unwrap();
    assert_eq!(feed.change().await, notes(5));
    sql.run("BEGIN").await.unwrap();
    sql.run("DELETE FROM idempotency_keys").await.unwrap();
    sql.run("DELETE FROM notes").await.unwrap();
    sql.run("COMMIT").await.unwrap();
    assert_eq!(feed.change().await, (6, vec!["idempotency_keys".to_owned(), "notes".to_owned()]));

    let tenant = server.app.store().lease(&"ada".parse().unwrap()).await.unwrap();
    add(&tenant, "by a program").await;
    assert_eq!(feed.change().await, notes(7));
    client.note("eve", "another user's").await;
    client.note("ada", "last").await;
    assert_eq!(feed.change().await, notes(8), "nothing of another user");
    drop((feed, tenant));
    server.stop().await;
}

#[tokio::test]
async fn every_table_that_a_commit_writes_to_is_named() {
    let migrations = TempDir::new().unwrap();
    let schema = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE cards (code TEXT PRIMARY KEY, person INTEGER REFERENCES people ON DELETE CASCADE) WITHOUT ROWID;
        CREATE TABLE log (what TEXT);
        CREATE TABLE plain (x);
        CREATE VIRTUAL TABLE words USING fts5(text);
        CREATE TRIGGER renamed AFTER UPDATE ON people BEGIN INSERT INTO log VALUES (new.name); END;";
    std::fs::write(migrations.path().join("V1__people.sql"), schema).unwrap();
    let server = Server::with(&["--migrations", migrations.path().to_str().unwrap(), "--sql-ddl", "allow"]).await;
    drop(server.app.store().lease_or_create(&"ada".parse().unwrap()).await.unwrap());
    let mut feed = Feed::start(&server.client, "ada").await;
    let mut sql = Stream::of(&server.client, "/ada/sql/v2/pipeline");
    for (statement, tables) in [
        ("INSERT INTO people VALUES (1, 'a'), (2, 'b')", "people"),
        ("INSERT INTO cards VALUES ('x', 1)", "cards"),
        ("UPDATE people SET name = 'c'", "log people"),
        ("DELETE FROM people WHERE id = 1", "cards people"),
        ("INSERT INTO cards VALUES ('y', 2)", "cards"),
        ("DELETE FROM cards", "cards"),
        ("INSERT INTO plain VALUES (1), (2)", "plain"),
        ("DELETE FROM plain", "plain"),
        ("CREATE TABLE more (x)", "sqlite_schema"),
    ] {
        sql.run(statement).await.unwrap();
        assert_eq!(feed.change().await.1.join(" "), tables, "{statement}");
    }
    sql.run("INSERT INTO words VALUES ('full text')").await.unwrap();
    assert!(feed.change().await.1.contains(&"words".to_owned()));
    drop(feed);
    server.stop().await;
}

#[tokio::test]
async fn what_is_rolled_back_is_no_event() {
    let server = Server::start().await;
    let id = server.client.note("ada", "before").await;
    let mut feed = Feed::start(&server.client, "ada").await;
    let mut sql = Stream::of(&server.client, "/ada/sql/v2/pipeline");
    let insert = |name: &str| format!("INSERT INTO notes VALUES ('{name}', 'x', 1, 1)");
    sql.run("BEGIN").await.unwrap();
    sql.run(&insert("a")).await.unwrap();
    sql.run("ROLLBACK").await.unwrap();
    let whole = format!("BEGIN; {}; ROLLBACK", insert("b"));
    assert_eq!(sql.results(json!([{"type": "sequence", "sql": whole}])).await[0]["type"], "ok");
    sql.run(&insert(&id)).await.unwrap_err();
    sql.run("UPDATE notes SET text = 'x' WHERE false").await.unwrap();
    server.client.patch("/ada/note_aaaaaaaaaaaaaaaa", json!({"text": "x"})).await.expect(404);
    server.client.note("ada", "after").await;
    assert_eq!(feed.change().await, notes(1));
    drop(feed);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_any_rate_no_commit_is_missed_and_numbers_have_no_gaps() {
    let server = Server::start().await;
    server.client.note("ada", "before").await;
    let mut feed = Feed::start(&server.client, "ada").await;
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..64 {
        let client = server.client.clone();
        writes.spawn(async move { client.note("ada", &n.to_string()).await });
    }
    let (mut seen, mut last) = (1, 0);
    while seen < 65 {
        let (seq, tables) = feed.change().await;
        assert_eq!((seq, tables), notes(last + 1));
        last = seq;
        // What the event tells of is there for whoever reads after it.
        seen = server.client.texts("ada").await.len();
    }
    writes.join_all().await;
    drop(feed);
    server.stop().await;
}

#[tokio::test]
async fn a_client_goes_on_where_it_was_cut_off_also_after_the_database_was_closed_and_opened() {
    let server = Server::with(&["--max-open", "1"]).await;
    let client = &server.client;
    client.note("ada", "before").await;
    let mut feed = Feed::start(client, "ada").await;
    client.note("ada", "one").await;
    let one = feed.next().await;
    client.note("eve", "takes the only place").await;
    client.note("ada", "two").await;
    assert_eq!(feed.change().await, notes(2), "nobody keeps the database open who listens");
    drop(feed);
    client.note("eve", "again").await;
    client.note("ada", "three").await;

    let mut feed = Feed::listen(client, "ada", Some(&one.id)).await;
    assert_eq!((feed.change().await, feed.change().await), (notes(2), notes(3)));
    client.note("ada", "four").await;
    assert_eq!(feed.change().await, notes(4));
    drop(feed);
    server.stop().await;
}

#[tokio::test]
async fn who_has_missed_what_is_not_known_any_more_is_told_so() {
    let folder = TempDir::new().unwrap();
    let mut server = Server::on(folder.path(), &["--changes-events", "2"]).await;
    server.client.note("ada", "before").await;
    let mut feed = Feed::start(&server.client, "ada").await;
    server.client.note("ada", "1").await;
    let first = feed.next().await.id;
    for text in ["2", "3", "4"] {
        server.client.note("ada", text).await;
    }
    let mut late = Feed::listen(&server.client, "ada", Some(&first)).await;
    assert_eq!(late.reset().await, "missed");
    for wrong in ["", "x", "0-0", &first.replace('-', "-9")] {
        let mut feed = Feed::listen(&server.client, "ada", Some(wrong)).await;
        assert_eq!(feed.reset().await, if wrong.is_empty() { "start" } else { "missed" }, "{wrong}");
    }
    server.client.note("ada", "5").await;
    assert_eq!(late.change().await, notes(5));
    drop((late, feed));
    server.stop().await;

    server = Server::on(folder.path(), &[]).await;
    let mut feed = Feed::listen(&server.client, "ada", Some(&first)).await;
    assert_eq!(feed.reset().await, "missed", "nobody knows what was written before the restart");
    drop(feed);
    server.stop().await;
}

#[tokio::test]
async fn as_many_listen_as_may() {
    let server = Server::with(&["--changes-listeners", "3", "--changes-tenant-listeners", "2"]).await;
    for user in ["ada", "eve"] {
        server.client.note(user, "x").await;
    }
    let feeds = [Feed::start(&server.client, "ada").await, Feed::start(&server.client, "ada").await];
    let refused = server.client.get("/ada/changes").await.expect(503);
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("busy", "1"));
    let third = Feed::start(&server.client, "eve").await;
    assert_eq!(server.client.get("/eve/changes").await.expect(503).code(), "busy");
    drop((feeds, third));
    server.stop().await;

    let server = Server::with(&["--changes-listeners", "0"]).await;
    server.client.note("ada", "x").await;
    assert_eq!(server.client.get("/ada/changes").await.expect(404).code(), "changes_off");
    server.stop().await;
}

#[tokio::test]
async fn listeners_are_no_requests_in_flight() {
    let server = Server::with(&["--max-in-flight", "2", "--tenant-in-flight", "1"]).await;
    server.client.note("ada", "x").await;
    let mut feeds = Vec::new();
    for _ in 0..5 {
        feeds.push(Feed::start(&server.client, "ada").await);
    }
    server.client.note("ada", "y").await;
    for feed in &mut feeds {
        assert_eq!(feed.change().await, notes(1));
    }
    drop(feeds);
    server.stop().await;
}

#[tokio::test]
async fn a_feed_ends_when_its_user_is_suspended_deleted_or_migrated() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    server.client.note("ada", "x").await;
    let mut feed = Feed::start(&server.client, "ada").await;
    operator.post("/api/admin/tenants/ada/suspend", json!({"reason": "a test"})).await.expect(200);
    assert_eq!(feed.end().await, "database");
    assert_eq!(server.client.get("/ada/changes").await.expect(403).code(), "suspended");
    operator.post("/api/admin/tenants/ada/resume", json!({})).await.expect(200);

    let mut feed = Feed::start(&server.client, "ada").await;
    server.app.store().migrate(&"ada".parse().unwrap(), &author()).await.unwrap();
    assert_eq!(feed.end().await, "database");

    let mut feed = Feed::start(&server.client, "ada").await;
    server.client.note("ada", "y").await;
    let id = feed.next().await.id;
    operator.delete("/api/admin/tenants/ada").await.expect(200);
    assert_eq!(feed.end().await, "database");
    server.client.get("/ada/changes").await.expect(404);
    operator.post("/api/admin/tenants/ada/restore", json!({})).await.expect(200);
    let mut feed = Feed::listen(&server.client, "ada", Some(&id)).await;
    assert_eq!(feed.reset().await, "missed");
    drop(feed);
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_feeds_and_does_not_wait_for_them() {
    let mut server = Server::with(&["--drain-timeout", "1h"]).await;
    server.client.note("ada", "x").await;
    let mut feed = Feed::start(&server.client, "ada").await;
    server.ask_to_stop();
    assert_eq!(feed.end().await, "shutdown");
    server.stop().await;
}

#[tokio::test]
async fn a_feed_ends_with_the_token_or_the_key_that_opened_it() {
    let key = SigningKey::new("a");
    let now = Arc::new(AtomicI64::new(tokens::now() * 1000));
    let time = now.clone();
    let clock = Clock::new(move || time.load(Ordering::Relaxed));
    let mut flags = tokens::flags(&key);
    flags[1] = "jwt+keys".to_owned();
    flags.extend(["--admin-api-key", ADMIN, "--changes-heartbeat", "50ms"].map(str::to_owned));
    let server = Server::at(&clock, &flags).await;
    let operator = server.client.bearing(ADMIN);
    let ada = server.client.bearing(key.token("ada"));
    ada.note("ada", "x").await;
    let made = json!({"name": "reader", "user_id": "ada", "read_only": true});
    let made = operator.post("/api/admin/keys", made).await.expect(201).json();
    let program = server.client.bearing(made["secret"].as_str().unwrap());

    server.client.get("/ada/changes").await.expect(401);
    server.client.bearing(key.token("eve")).get("/ada/changes").await.expect(404);
    let mut by_token = Feed::start(&ada, "ada").await;
    let mut by_key = Feed::start(&program, "ada").await;
    ada.note("ada", "y").await;
    assert_eq!((by_token.change().await, by_key.change().await), (notes(1), notes(1)));

    let revoke = format!("/api/admin/keys/{}/revoke", made["key"]["id"].as_str().unwrap());
    operator.post(&revoke, json!({})).await.expect(200);
    assert_eq!(by_key.end().await, "authorization");
    now.fetch_add(2 * 3600 * 1000, Ordering::Relaxed);
    assert_eq!(by_token.end().await, "authorization");
    server.stop().await;
}

#[tokio::test]
async fn listening_makes_nobody() {
    let server = Server::start().await;
    server.client.get("/nobody/changes").await.expect(404);
    assert!(server.app.store().find(&"nobody".parse().unwrap()).await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn another_origins_page_may_listen_where_the_settings_say_so() {
    let server = Server::with(&["--cors-origins", "https://app.example"]).await;
    server.client.note("ada", "x").await;
    let from = |origin: &str| server.client.request("GET", "/ada/changes").header("origin", origin).send();
    let allowed = from("https://app.example").await.unwrap();
    assert_eq!(allowed.status(), 200);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://app.example");
    assert_eq!(from("https://evil.example").await.unwrap().status(), 403);
    let preflight = server.client.request("OPTIONS", "/ada/changes").header("origin", "https://app.example");
    let preflight = server.client.send(preflight.header("access-control-request-method", "GET")).await;
    assert!(preflight.header("access-control-allow-headers").contains("last-event-id"));
    drop(allowed);
    server.stop().await;
}
