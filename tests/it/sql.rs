//! SQL over HTTP: what every route answers.

pub mod access;
pub mod bad_input;
pub mod batches;
pub mod bounds;
pub mod clients;
pub mod drift;
pub mod shared;
pub mod streams;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Reply, Server};

/// A folder with migrations of its own.
pub fn migrations() -> TempDir {
    let folder = TempDir::new().unwrap();
    let sql = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price REAL, data BLOB);
               CREATE TABLE parts (id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items DEFERRABLE INITIALLY \
               DEFERRED, strict_item INTEGER REFERENCES items);";
    std::fs::write(folder.path().join("V1__items.sql"), sql).unwrap();
    folder
}

/// A server with the tables of [`migrations`], and the users ada and eve.
pub struct Sql {
    pub server: Server,
    _migrations: TempDir,
}

impl Sql {
    pub async fn start(flags: &[&str]) -> Self {
        let migrations = migrations();
        let folder = migrations.path().to_str().unwrap().to_owned();
        let server = Server::with(&[&["--migrations", &folder], flags].concat()).await;
        for user in ["ada", "eve"] {
            drop(server.app.store().lease_or_create(&user.parse().unwrap()).await.unwrap());
        }
        Self { server, _migrations: migrations }
    }

    pub fn ada(&self) -> Stream {
        Stream::of(&self.server.client, "/ada/sql/v2/pipeline")
    }

    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// A stream, as a client has it.
#[derive(Clone)]
pub struct Stream {
    client: Client,
    path: String,
    pub baton: Value,
}

impl Stream {
    pub fn of(client: &Client, path: &str) -> Self {
        Self { client: client.clone(), path: path.to_owned(), baton: Value::Null }
    }

    /// Sends requests and goes on with the new baton.
    pub async fn send(&mut self, requests: Value) -> Reply {
        let reply = self.client.post(&self.path, json!({"baton": self.baton, "requests": requests})).await;
        if reply.status == 200 {
            self.baton = reply.json()["baton"].clone();
        }
        reply
    }

    pub async fn results(&mut self, requests: Value) -> Vec<Value> {
        let reply = self.send(requests).await.expect(200).json();
        reply["results"].as_array().unwrap_or_else(|| panic!("{reply}")).clone()
    }

    /// Runs one statement; its result, or its error.
    pub async fn run(&mut self, sql: &str) -> Result<Value, Value> {
        self.stmt(json!({"sql": sql})).await
    }

    pub async fn stmt(&mut self, stmt: Value) -> Result<Value, Value> {
        let result = self.results(json!([{"type": "execute", "stmt": stmt}])).await.remove(0);
        match result["type"].as_str().unwrap() {
            "ok" => Ok(result["response"]["result"].clone()),
            _ => Err(result["error"].clone()),
        }
    }

    /// The values of the first row.
    pub async fn row(&mut self, sql: &str) -> Value {
        self.run(sql).await.unwrap()["rows"][0].clone()
    }

    /// The integer in the first column of the first row.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let row = self.row(sql).await;
        row[0]["value"].as_str().unwrap_or_else(|| panic!("{row}")).parse().unwrap()
    }
}

#[tokio::test]
async fn a_statement_is_answered_with_columns_rows_and_counts() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let insert = json!({
        "sql": "INSERT INTO items (name, price, data) VALUES (?, :price, @data);",
        "args": [{"type": "text", "value": "tea\u{0}é"}],
        "named_args": [{"name": "price", "value": {"type": "float", "value": 2}},
                       {"name": "@data", "value": {"type": "blob", "base64": "AP8="}}],
    });
    let result = ada.stmt(insert).await.unwrap();
    assert_eq!(result["affected_row_count"], 1);
    assert_eq!(result["last_insert_rowid"], "1");
    assert_eq!((&result["cols"], &result["rows"]), (&json!([]), &json!([])));

    let result = ada.run("SELECT id, name AS label, price, data, NULL, price + 1 FROM items -- all").await.unwrap();
    assert_eq!(
        result["cols"],
        json!([
            {"name": "id", "decltype": "INTEGER"}, {"name": "label", "decltype": "TEXT"},
            {"name": "price", "decltype": "REAL"}, {"name": "data", "decltype": "BLOB"},
            {"name": "NULL", "decltype": null}, {"name": "price + 1", "decltype": null},
        ])
    );
    assert_eq!(
        result["rows"],
        json!([[
            {"type": "integer", "value": "1"}, {"type": "text", "value": "tea\u{0}é"}, {"type": "float", "value": 2.0},
            {"type": "blob", "base64": "AP8"}, {"type": "null"}, {"type": "float", "value": 3.0},
        ]])
    );
    let quiet = ada.stmt(json!({"sql": "SELECT * FROM items", "want_rows": false})).await.unwrap();
    assert_eq!(quiet["rows"], json!([]));
    assert_eq!(quiet["cols"].as_array().unwrap().len(), 4, "columns are told all the same: {quiet}");
    sql.stop().await;
}

#[tokio::test]
async fn every_request_is_answered_also_after_an_error() {
    let sql = Sql::start(&[]).await;
    let results = sql
        .ada()
        .results(json!([
            {"type": "execute", "stmt": {"sql": "INSERT INTO items (name) VALUES ('a')"}},
            {"type": "execute", "stmt": {"sql": "INSERT INTO items (name) VALUES ('a')"}},
            {"type": "execute", "stmt": {"sql": "SELEC 1"}},
            {"type": "store_sql", "sql_id": 1, "sql": "SELECT count(*) FROM items"},
            {"type": "execute", "stmt": {"sql_id": 1}},
            {"type": "execute", "stmt": {"sql_id": 2}},
            {"type": "close_sql", "sql_id": 1},
            {"type": "close_sql", "sql_id": 7},
            {"type": "describe", "sql": "SELECT id, ?2 FROM items WHERE name = :name"},
            {"type": "describe", "sql": "INSERT INTO items (name) VALUES (?)"},
            {"type": "sequence", "sql": "INSERT INTO items (name) VALUES ('b'); INSERT INTO items (name) VALUES (';');"},
            {"type": "sequence", "sql": "INSERT INTO items (name) VALUES ('c'); SELECT x; INSERT INTO items VALUES (9)"},
            {"type": "get_autocommit"},
            {"type": "execute", "stmt": {"sql": "SELECT count(*) FROM items"}},
            {"type": "close"},
            {"type": "execute", "stmt": {"sql": "SELECT 1"}},
        ]))
        .await;
    let kinds: Vec<&str> = results.iter().map(|r| r["response"]["type"].as_str().unwrap_or("error")).collect();
    assert_eq!(
        kinds,
        [
            "execute",
            "error",
            "error",
            "store_sql",
            "execute",
            "error",
            "close_sql",
            "close_sql",
            "describe",
            "describe",
            "sequence",
            "error",
            "get_autocommit",
            "execute",
            "close",
            "error"
        ]
    );
    assert_eq!(results[1]["error"]["code"], "SQLITE_CONSTRAINT");
    assert_eq!(results[2]["error"]["code"], "SQLITE_ERROR");
    assert_eq!(results[4]["response"]["result"]["rows"][0][0]["value"], "1");
    assert_eq!(
        results[8]["response"]["result"],
        json!({"params": [{"name": null}, {"name": "?2"}, {"name": ":name"}],
               "cols": [{"name": "id", "decltype": "INTEGER"}, {"name": "?2", "decltype": null}],
               "is_explain": false, "is_readonly": true})
    );
    assert_eq!(results[9]["response"]["result"]["is_readonly"], false);
    assert_eq!(results[12]["response"]["is_autocommit"], true);
    assert_eq!(results[13]["response"]["result"]["rows"][0][0]["value"], "4", "a, b, ; and c");
    sql.stop().await;
}

#[tokio::test]
async fn the_versions_are_there_for_anybody_and_under_both_addresses() {
    let sql = Sql::start(&["--auth", "keys", "--sql", "backend"]).await;
    let client = &sql.server.client;
    for base in ["/ada/sql", "/ada", "/nobody/sql"] {
        for version in ["v2", "v3"] {
            client.get(&format!("{base}/{version}")).await.expect(200);
        }
        let reply = client.get(&format!("{base}/v3-protobuf")).await.expect(404);
        assert_eq!(reply.header("content-type"), "application/json");
    }
    sql.stop().await;
    let sql = Sql::start(&[]).await;
    for path in ["/ada/sql/v2/pipeline", "/ada/sql/v3/pipeline", "/ada/v2/pipeline", "/ada/v3/pipeline"] {
        assert_eq!(Stream::of(&sql.server.client, path).number("SELECT 7").await, 7, "{path}");
    }
    sql.stop().await;
}

#[tokio::test]
async fn version_one_answers_a_statement_or_a_batch_by_itself() {
    let sql = Sql::start(&[]).await;
    let client = &sql.server.client;
    let reply = client.post("/ada/sql/v1/execute", json!({"stmt": {"sql": "SELECT 1", "want_rows": true}})).await;
    assert_eq!(reply.expect(200).json()["result"]["rows"], json!([[{"type": "integer", "value": "1"}]]));
    let reply = client.post("/ada/sql/v1/execute", json!({"stmt": {"sql": "SELEC"}})).await.expect(400);
    assert_eq!(reply.json()["code"], "SQLITE_ERROR");
    let steps = json!({"batch": {"steps": [{"stmt": {"sql": "SELECT 1"}}, {"stmt": {"sql": "SELEC"}}]}});
    let result = client.post("/ada/v1/batch", steps).await.expect(200).json()["result"].clone();
    assert_eq!(result["step_results"][0]["rows"][0][0]["value"], "1");
    assert_eq!((&result["step_results"][1], &result["step_errors"][0]), (&Value::Null, &Value::Null));
    assert_eq!(result["step_errors"][1]["code"], "SQLITE_ERROR");
    sql.stop().await;
}

/// The entries of a cursor, after its first line.
pub async fn entries(client: &Client, path: &str, body: Value) -> (Value, Vec<Value>) {
    let reply = client.post(path, body).await.expect(200);
    let text = String::from_utf8(reply.body).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    (lines.next().unwrap(), lines.collect())
}

#[tokio::test]
async fn a_cursor_answers_one_value_a_line() {
    let sql = Sql::start(&[]).await;
    let steps = json!([
        {"stmt": {"sql": "INSERT INTO items (name) VALUES ('a'), ('b') RETURNING name"}},
        {"stmt": {"sql": "SELEC"}, "condition": {"type": "ok", "step": 0}},
        {"stmt": {"sql": "SELECT 1"}, "condition": {"type": "ok", "step": 1}},
        {"stmt": {"sql": "SELECT 2"}, "condition": {"type": "is_autocommit"}},
    ]);
    let (head, entries) = entries(&sql.server.client, "/ada/v3/cursor", json!({"batch": {"steps": steps}})).await;
    assert!(head["baton"].is_string() && head["base_url"].is_null(), "{head}");
    let kinds: Vec<&str> = entries.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["step_begin", "row", "row", "step_end", "step_error", "step_begin", "row", "step_end"]);
    assert_eq!(entries[1], json!({"type": "row", "row": [{"type": "text", "value": "a"}]}));
    assert_eq!(entries[3], json!({"type": "step_end", "affected_row_count": 2, "last_insert_rowid": "2"}));
    assert_eq!((&entries[4]["step"], &entries[5]["step"]), (&json!(1), &json!(3)));
    sql.stop().await;
}

#[tokio::test]
async fn a_large_answer_comes_in_pieces_up_to_its_limit() {
    let sql = Sql::start(&["--sql-answer", "4MB"]).await;
    let rows = |count: u32| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i, \
             'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' FROM n"
        )
    };
    let cursor = |count| json!({"batch": {"steps": [{"stmt": {"sql": rows(count)}}]}});
    let client = &sql.server.client;
    let (_, good) = entries(client, "/ada/v3/cursor", cursor(20_000)).await;
    assert_eq!(good.len(), 20_002);
    let (_, cut) = entries(client, "/ada/v3/cursor", cursor(100_000)).await;
    let last = cut.last().unwrap();
    assert_eq!((&last["type"], &last["error"]["code"]), (&json!("step_error"), &json!("RESPONSE_TOO_LARGE")));
    // The same in a pipeline, where it comes whole or not at all.
    let mut ada = sql.ada();
    assert_eq!(ada.run(&rows(20_000)).await.unwrap()["rows"].as_array().unwrap().len(), 20_000);
    assert_eq!(ada.run(&rows(100_000)).await.unwrap_err()["code"], "RESPONSE_TOO_LARGE");
    assert_eq!(ada.number("SELECT 1").await, 1);
    sql.stop().await;
}

#[tokio::test]
async fn a_dump_is_the_database_at_one_moment() {
    let sql = Sql::start(&[]).await;
    let insert = "INSERT INTO items (name, data) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i \
                  < 2000) SELECT i, zeroblob(1000) FROM n";
    assert_eq!(sql.ada().run(insert).await.unwrap()["affected_row_count"], 2000);
    for path in ["/ada/sql/dump", "/ada/dump"] {
        let reply = sql.server.client.get(path).await.expect(200);
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("dump.db");
        std::fs::write(&file, &reply.body).unwrap();
        let conn = crate::harness::shell(&file);
        let count: i64 = conn.query_row("SELECT count(*) FROM items", [], |row| row.get(0)).unwrap();
        let whole: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!((count, whole.as_str()), (2000, "ok"));
    }
    assert_eq!(std::fs::read_dir(sql.server.app.store().layout().tmp()).unwrap().count(), 0, "no copy is left");
    assert_eq!(sql.server.client.get("/nobody/sql/dump").await.expect(404).code(), "unknown_user");
    sql.stop().await;
}
