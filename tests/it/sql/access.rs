//! Who may send SQL.

use std::process::Command;

use serde_json::{Value, json};

use super::{Sql, Stream};
use crate::harness::{
    Client, Server,
    tokens::{self, SigningKey},
};

const ADMIN: &str = "an operator's key of some length";
const ONE: &str = "INSERT INTO items (name) VALUES ('one')";

async fn key(server: &Server, draft: Value) -> Client {
    let made = server.client.bearing(ADMIN).post("/api/admin/keys", draft).await.expect(201).json();
    server.client.bearing(made["secret"].as_str().unwrap())
}

fn select() -> Value {
    json!({"requests": [{"type": "execute", "stmt": {"sql": "SELECT 1"}}]})
}

const PIPELINE: &str = "/ada/sql/v2/pipeline";

#[tokio::test]
async fn it_is_off_where_others_come_in_and_says_how_to_turn_it_on() {
    for flags in [&["--auth", "keys"][..], &["--trusted-proxies", "10.0.0.1"], &["--sql", "off"]] {
        let server = Server::with(flags).await;
        for path in [PIPELINE, "/ada/v2/pipeline", "/ada/sql/v3/cursor", "/ada/sql"] {
            let reply = server.client.post(path, select()).await.expect(404);
            assert!(reply.json()["message"].as_str().unwrap().contains("CUBBY_SQL=backend"), "{path} {flags:?}");
        }
        server.stop().await;
    }
    let jwks = "https://issuer.test/.well-known/jwks.json";
    let jwt = ["--sql", "backend", "--auth", "jwt", "--issuer", "https://issuer.test", "--jwks-url", jwks];
    for flags in [&jwt[..], &["--sql", "users", "--auth", "keys"]] {
        let output = crate::harness::cubby().arg("serve").args(flags).output().unwrap();
        assert!(
            !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("CUBBY_SQL="),
            "{flags:?}"
        );
    }
}

#[tokio::test]
async fn a_key_needs_its_scope_and_reaches_its_own_tenant() {
    let sql = Sql::start(&["--auth", "keys", "--sql", "backend", "--admin-api-key", ADMIN]).await;
    let server = &sql.server;
    let plain = key(server, json!({"name": "plain"})).await;
    let reply = plain.post(PIPELINE, select()).await.expect(403);
    assert_eq!(reply.code(), "sql_not_allowed");
    let good = key(server, json!({"name": "sql", "sql": true})).await;
    good.post(PIPELINE, select()).await.expect(200);
    let eves = key(server, json!({"name": "eve", "sql": true, "user_id": "eve"})).await;
    assert_eq!(eves.post(PIPELINE, select()).await.expect(404).code(), "unknown_user");
    eves.get("/ada/dump").await.expect(404);
    eves.get("/eve/dump").await.expect(200);
    // Without a token, in any of the ways that clients have.
    for value in [None, Some("Bearer"), Some("Bearer "), Some("Bearer None")] {
        let request = server.client.request("POST", PIPELINE).body(select().to_string());
        let request = match value {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        let reply = server.client.send(request).await.expect(401);
        assert_eq!(
            (reply.code().as_str(), reply.header("content-type")),
            ("unauthorized", "application/json"),
            "{value:?}"
        );
    }
    // A baton is its caller's.
    let mut stream = Stream::of(&good, PIPELINE);
    stream.run("BEGIN").await.unwrap();
    let second = key(server, json!({"name": "second", "sql": true})).await;
    let reply = Stream { baton: stream.baton.clone(), ..Stream::of(&second, PIPELINE) }.send(json!([])).await;
    assert_eq!(reply.expect(400).code(), "BATON_INVALID");
    let listed = server.client.bearing(ADMIN).get("/api/admin/keys").await.expect(200).json();
    assert_eq!((&listed["keys"][0]["sql"], &listed["keys"][1]["sql"]), (&json!(false), &json!(true)));
    sql.stop().await;
}

#[tokio::test]
async fn a_key_that_only_reads_is_judged_by_the_statement() {
    let sql = Sql::start(&["--auth", "keys", "--sql", "backend", "--admin-api-key", ADMIN, "--sql-ddl", "allow"]).await;
    let writer = key(&sql.server, json!({"name": "w", "sql": true})).await;
    Stream::of(&writer, PIPELINE).run(ONE).await.unwrap();
    let reader = key(&sql.server, json!({"name": "r", "sql": true, "read_only": true})).await;
    let mut stream = Stream::of(&reader, PIPELINE);
    assert_eq!(stream.number("SELECT count(*) FROM items").await, 1);
    for refused in [
        ONE,
        "DELETE FROM items",
        "WITH x AS (SELECT 1) DELETE FROM items",
        "DROP TABLE items",
        "CREATE TEMP TABLE t (x)",
        "PRAGMA optimize",
        "INSERT INTO items (name) VALUES ('x') RETURNING id",
        "EXPLAIN QUERY PLAN SELECT 1; DELETE FROM items",
    ] {
        let error = stream.run(refused).await.unwrap_err();
        assert!(["SQLITE_READONLY", "SQLITE_ERROR"].contains(&error["code"].as_str().unwrap()), "{refused}: {error}");
    }
    // In a transaction, too, whatever it says of itself.
    stream.run("BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(stream.number("SELECT count(*) FROM items").await, 1);
    assert_eq!(stream.run(ONE).await.unwrap_err()["code"], "SQLITE_READONLY");
    // It keeps no writer waiting.
    Stream::of(&writer, PIPELINE).run("INSERT INTO items (name) VALUES ('two')").await.unwrap();
    assert_eq!(stream.number("SELECT count(*) FROM items").await, 1, "one moment");
    stream.run("COMMIT").await.unwrap();
    assert_eq!(stream.number("SELECT count(*) FROM items").await, 2);
    sql.stop().await;
}

#[tokio::test]
async fn session_tokens_send_sql_only_where_users_may_and_to_their_own() {
    let signing = SigningKey::new("a");
    for (mode, status) in [("backend", 403), ("users", 200)] {
        let mut flags = tokens::flags(&signing);
        flags[1] = "jwt+keys".to_owned();
        flags.extend(["--sql", mode].map(str::to_owned));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let sql = Sql::start(&flags).await;
        let ada = sql.server.client.bearing(signing.token("ada"));
        let reply = ada.post(PIPELINE, select()).await.expect(status);
        assert_eq!(reply.header("content-type"), "application/json");
        assert_eq!(ada.post("/eve/sql/v2/pipeline", select()).await.expect(404).code(), "unknown_user");
        sql.stop().await;
    }
}

#[tokio::test]
async fn a_page_of_another_site_cannot_send_sql_to_an_open_server() {
    let sql = Sql::start(&["--cors-origins", "https://good.example"]).await;
    let client = &sql.server.client;
    let from = |origin: &str| client.request("POST", PIPELINE).header("origin", origin).body(select().to_string());
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        let reply = client.send(from(origin)).await.expect(403);
        assert_eq!(reply.code(), "foreign_page", "{origin}");
    }
    client.send(from("https://good.example")).await.expect(200);
    sql.stop().await;
}

#[tokio::test]
async fn the_command_makes_keys_with_the_scope() {
    let folder = tempfile::TempDir::new().unwrap();
    let made = crate::harness::run(folder.path(), &["keys", "create", "--name", "app", "--sql", "--json"]);
    let made: Value = serde_json::from_str(&crate::harness::stdout(&made)).unwrap();
    assert_eq!(made["key"]["sql"], true);
    let listed = crate::harness::stdout(&crate::harness::run(folder.path(), &["keys", "list"]));
    assert!(listed.contains("write, sql"), "{listed}");
}

#[tokio::test]
async fn a_key_that_may_only_read_is_never_behind_a_writer() {
    let flags = ["--auth", "keys", "--sql", "backend", "--admin-api-key", ADMIN, "--sql-idle", "60s"];
    let sql = Sql::start(&flags).await;
    let writes = key(&sql.server, json!({"name": "writes", "sql": true})).await;
    let reads = key(&sql.server, json!({"name": "reads", "sql": true, "read_only": true})).await;
    let mut writer = Stream::of(&writes, PIPELINE);
    writer.run("BEGIN IMMEDIATE").await.unwrap();
    let mut reader = Stream::of(&reads, PIPELINE);
    assert_eq!(reader.run(ONE).await.unwrap_err()["code"], "SQLITE_READONLY");
    let execute = |sql: &str| json!({"type": "execute", "stmt": {"sql": sql}});
    let results = reader.results(json!([execute("BEGIN"), execute(ONE), execute("COMMIT")])).await;
    let kinds: Vec<&Value> = results.iter().map(|result| &result["type"]).collect();
    assert_eq!(kinds, ["ok", "error", "ok"]);
    writer.run("COMMIT").await.unwrap();
    sql.stop().await;
}

const CHILD: &str = "CUBBY_TEST_SQLITE_IN_USE";

#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
#[expect(clippy::disallowed_methods, reason = "how the test below says so; and a program that uses SQLite itself")]
async fn a_program_that_has_used_sqlite_before() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let _first = rusqlite::Connection::open_in_memory().unwrap();
    for (mode, starts) in [("off", true), ("backend", false)] {
        let folder = tempfile::TempDir::new().unwrap();
        let store = cubby::Store::open(cubby::StoreOptions::new(folder.path())).unwrap();
        let config = crate::harness::serve_config(&["--sql", mode]);
        let error = cubby::app::App::new(store, config).err().map(|error| error.to_string());
        assert_eq!(error.is_none(), starts, "{mode}: {error:?}");
        assert!(error.is_none_or(|error| error.contains("CUBBY_SQL=off")));
    }
}

#[test]
fn it_does_not_start_where_statements_have_no_budget_of_memory() {
    let name = "sql::access::a_program_that_has_used_sqlite_before";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let ended = child.args(["--exact", name, "--ignored"]).env(CHILD, "1").output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    assert!(String::from_utf8_lossy(&ended.stdout).contains("1 passed"));
}
