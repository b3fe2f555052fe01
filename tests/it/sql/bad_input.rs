//! Bad input: each a clear error, and nobody else notices.

use serde_json::{Value, json};

use super::{Sql, Stream};
use crate::harness::{eventually, tree};

fn execute(sql: &str) -> Value {
    json!([{"type": "execute", "stmt": {"sql": sql}}])
}

#[tokio::test]
async fn a_body_that_is_not_the_protocols_is_refused_in_its_form() {
    let sql = Sql::start(&[]).await;
    let client = &sql.server.client;
    let send = async |path: &str, body: &[u8]| client.send(client.request("POST", path).body(body.to_vec())).await;
    for body in [
        &b""[..],
        b"{",
        b"nonsense",
        b"[]",
        b"{\"requests\":7}",
        b"{\"requests\":[{\"type\":\"drop\"}]}",
        b"{\"requests\":[{\"type\":\"execute\"}]}",
        b"{\"requests\":[]} x",
        b"{\"requests\":[{\"type\":\"execute\",\"stmt\":{\"sql\":\"\xff\"}}]}",
        br#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT ?","args":[{"type":"float","value":NaN}]}}]}"#,
        br#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT ?","args":[{"type":"integer","value":"9223372036854775808"}]}}]}"#,
    ] {
        let reply = send("/ada/sql/v2/pipeline", body).await;
        assert!(matches!(reply.status, 400 | 422), "{}: {}", String::from_utf8_lossy(body), reply.status);
        assert_eq!(reply.header("content-type"), "application/json");
        let error = reply.json();
        assert!(error["message"].is_string() && error["code"].is_string(), "{error}");
    }
    let deep = format!(
        r#"{{"batch":{{"steps":[{{"stmt":{{"sql":"x"}},"condition":{}"#,
        r#"{"type":"not","cond":"#.repeat(100_000)
    );
    assert!(matches!(send("/ada/v3/cursor", deep.as_bytes()).await.status, 400 | 422));
    // No content type, and a wrong one.
    send("/ada/v2/pipeline", br#"{"requests":[]}"#).await.expect(200);
    let request =
        client.request("POST", "/ada/v2/pipeline").header("content-type", "text/plain").body("{\"requests\":[]}");
    client.send(request).await.expect(200);
    assert_eq!(client.get("/ada/v2/pipeline").await.expect(405).header("allow"), "POST");
    sql.stop().await;
}

#[tokio::test]
async fn an_unknown_tenant_is_404_and_makes_no_file() {
    let sql = Sql::start(&[]).await;
    let client = &sql.server.client;
    let before = tree(&sql.server.app.store().layout().tenants());
    for path in ["/nobody/sql/v2/pipeline", "/nobody/v3/pipeline", "/a%2Fb/sql/v2/pipeline", "/%00/v2/pipeline"] {
        let reply = client.post(path, json!({"requests": execute("SELECT 1")})).await.expect(404);
        assert_eq!((reply.code().as_str(), reply.header("content-type")), ("unknown_user", "application/json"));
    }
    assert_eq!(tree(&sql.server.app.store().layout().tenants()), before);
    sql.stop().await;
}

#[tokio::test]
async fn values_at_the_ends_of_their_types_come_back_as_they_went() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let text = "a\u{0}b\u{10ffff}\"\\";
    for value in [
        json!({"type": "integer", "value": "9223372036854775807"}),
        json!({"type": "integer", "value": "-9223372036854775808"}),
        json!({"type": "float", "value": 1.797_693_134_862_315_7e308}),
        json!({"type": "float", "value": 5e-324}),
        json!({"type": "float", "value": 1.0}),
        json!({"type": "text", "value": text}),
        json!({"type": "text", "value": ""}),
        json!({"type": "blob", "base64": ""}),
        json!({"type": "null"}),
    ] {
        let row = ada.stmt(json!({"sql": "SELECT ?, typeof(?1)", "args": [value]})).await.unwrap()["rows"][0].clone();
        assert_eq!(row[0], value);
    }
    for (select, said) in
        [("SELECT CAST(x'ff' AS TEXT)", "UTF-8"), ("SELECT 1e999", "infinite"), ("SELECT -1e999", "infinite")]
    {
        let error = ada.run(select).await.unwrap_err();
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
    }
    assert!(ada.run("SELECT 'a\u{0}b'").await.unwrap_err()["message"].as_str().unwrap().contains("NUL"));
    // Too many arguments, and too few: what is not given is null.
    let many = json!({"sql": "SELECT ?", "args": [{"type": "null"}, {"type": "null"}]});
    assert_eq!(ada.stmt(many).await.unwrap_err()["code"], "SQLITE_RANGE");
    assert_eq!(ada.row("SELECT ?").await, json!([{"type": "null"}]));
    sql.stop().await;
}

#[tokio::test]
async fn what_is_too_much_is_an_error_and_the_next_statement_runs() {
    let sql = Sql::start(&["--sql-time", "1s"]).await;
    let mut ada = sql.ada();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
    let doubling = |levels: u32| {
        let tables: Vec<String> =
            (1..=levels).map(|n| format!("t{n} AS (SELECT a.x FROM t{m} a, t{m} b)", m = n - 1)).collect();
        format!("WITH t0(x) AS (SELECT 1), {} SELECT count(*) FROM t{levels}", tables.join(", "))
    };
    let long = format!("SELECT '{}'", "x".repeat(2 << 20));
    let deep = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let terms = format!("SELECT {}1", "1+".repeat(10_000));
    for (statement, said) in [
        ("SELECT randomblob(900000000)", "longer"),
        ("SELECT zeroblob(6000000)", "longer"),
        (endless, "too long"),
        (&doubling(18), ""),
        (&doubling(30), ""),
        (&long, "longer"),
        (&deep, ""),
        (&terms, ""),
        ("ATTACH 'x' AS y", "ATTACH"),
        ("VACUUM INTO '/tmp/x'", "VACUUM"),
        ("SELECT load_extension('x')", ""),
        ("PRAGMA journal_mode=DELETE", "journal_mode"),
        ("PRAGMA database_list", "database_list"),
        ("DELETE FROM cubby_meta", "server's"),
        ("DELETE FROM refinery_schema_history", "server's"),
        ("SELECT 1; SELECT 2", "more than one"),
        ("INSERT OR ROLLBACK INTO items (id, name) VALUES (1, 'x'), (1, 'y')", "UNIQUE"),
        (&format!("INSERT INTO items (name) {endless}"), "too long"),
    ] {
        let short: String = statement.chars().take(60).collect();
        let error = match ada.run(statement).await {
            Err(error) => error,
            Ok(row) => panic!("{short}: {row}"),
        };
        assert!(error["code"].as_str().unwrap().starts_with("SQLITE_"), "{short}: {error}");
        assert!(error["message"].as_str().unwrap().contains(said), "{short}: {error}");
        assert_eq!(ada.number("SELECT 1").await, 1, "{short}");
    }
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 0);
    sql.stop().await;
}

#[tokio::test]
async fn a_statement_that_fails_for_all_is_answered_for_each() {
    let sql = Sql::start(&["--sql-time", "500ms"]).await;
    let mut ada = sql.ada();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO items (id, name) SELECT i + 1000, i FROM n";
    let insert = "INSERT INTO items (name) VALUES (hex(randomblob(8)))";
    let results = ada
        .results(json!([
            {"type": "execute", "stmt": {"sql": insert}},
            {"type": "batch", "batch": {"steps": [{"stmt": {"sql": insert}}, {"stmt": {"sql": endless}}]}},
            {"type": "get_autocommit"},
        ]))
        .await;
    assert_eq!(results[0]["error"]["code"], "SQLITE_INTERRUPT", "it was rolled back with the rest: {results:?}");
    assert_eq!(results[1]["error"]["code"], "SQLITE_INTERRUPT");
    assert_eq!(results[2]["response"]["is_autocommit"], true);
    // In a transaction of several requests it is over, and what was before it is gone.
    ada.run("BEGIN").await.unwrap();
    ada.run(insert).await.unwrap();
    assert_eq!(ada.run(endless).await.unwrap_err()["code"], "SQLITE_INTERRUPT");
    assert_eq!(ada.run("COMMIT").await.unwrap_err()["code"], "SQLITE_ERROR", "no transaction is active");
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 0);
    sql.stop().await;
}

#[tokio::test]
async fn a_batch_of_too_many_statements_says_so() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let batch = |count: usize| {
        let step = json!({"stmt": {"sql": "SELECT 1", "want_rows": false}});
        json!([{"type": "batch", "batch": {"steps": vec![step; count]}}])
    };
    let reply = ada.send(batch(100_000)).await.expect(422);
    assert!(reply.json()["message"].as_str().unwrap().contains("20000"), "{}", reply.json());
    let results = ada.results(batch(20_000)).await;
    assert_eq!(results[0]["response"]["result"]["step_results"].as_array().unwrap().len(), 20_000);
    let huge = ada.send(execute(&"x".repeat(20_000_000))).await.expect(413);
    assert_eq!((huge.code().as_str(), huge.header("content-type")), ("too_large", "application/json"));
    sql.stop().await;
}

#[tokio::test]
async fn a_tenant_over_its_quota_reads_and_deletes() {
    let sql = Sql::start(&["--quota", "300KiB"]).await;
    let mut ada = sql.ada();
    let fill = "INSERT INTO items (name, data) VALUES (hex(randomblob(8)), zeroblob(20000))";
    let mut full = None;
    for _ in 0..50 {
        if let Err(error) = ada.run(fill).await {
            full = Some(error);
            break;
        }
    }
    let full = full.expect("it is full at some time");
    assert_eq!(full["code"], "SQLITE_FULL");
    assert!(full["message"].as_str().unwrap().contains("quota"), "{full}");
    assert!(ada.number("SELECT count(*) FROM items").await > 3);
    ada.run("BEGIN").await.unwrap();
    assert_eq!(ada.run(&fill.replace("20000", "200000")).await.unwrap_err()["code"], "SQLITE_FULL");
    ada = sql.ada();
    ada.run("DELETE FROM items").await.unwrap();
    ada.run(fill).await.unwrap();
    sql.stop().await;
}

#[tokio::test]
async fn a_number_that_is_used_up_is_not_told_as_the_quota() {
    let sql = Sql::start(&["--quota", "300KiB", "--sql-ddl", "allow"]).await;
    let mut ada = sql.ada();
    ada.run("CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)").await.unwrap();
    ada.run("INSERT INTO counted VALUES (9223372036854775807)").await.unwrap();
    for begin in [None, Some("BEGIN")] {
        if let Some(begin) = begin {
            ada.run(begin).await.unwrap();
        }
        let full = ada.run("INSERT INTO counted DEFAULT VALUES").await.unwrap_err();
        assert_eq!(full["code"], "SQLITE_FULL", "{full}");
        assert!(!full["message"].as_str().unwrap().contains("quota"), "{full}");
    }
    let mut eve = Stream::of(&sql.server.client, "/eve/sql/v2/pipeline");
    let large = eve.run("INSERT INTO items (name, data) VALUES ('large', zeroblob(1000000))").await.unwrap_err();
    assert!(large["message"].as_str().unwrap().contains("quota"), "{large}");
    sql.stop().await;
}

#[tokio::test]
async fn a_suspended_or_quarantined_tenant_says_so_in_the_protocols_form() {
    let sql = Sql::start(&["--admin-api-key", "an operator's key of some length"]).await;
    let store = sql.server.app.store().clone();
    store.suspend(&"ada".parse().unwrap(), "late", &crate::harness::author()).await.unwrap();
    let reply = sql.ada().send(execute("SELECT 1")).await.expect(403);
    assert_eq!((reply.code().as_str(), reply.header("content-type")), ("suspended", "application/json"));
    assert!(reply.json()["message"].as_str().unwrap().contains("late"));
    // A file that is no database.
    let operator = sql.server.client.bearing("an operator's key of some length");
    operator.post("/api/admin/tenants", json!({"id": "ben"})).await.expect(201);
    std::fs::write(store.layout().tenant(&"ben".parse().unwrap()), "x".repeat(10_000)).unwrap();
    let mut last = None;
    eventually("the tenant is quarantined", async || {
        let mut ben = Stream::of(&sql.server.client, "/ben/sql/v2/pipeline");
        let reply = ben.send(execute("SELECT * FROM items")).await.expect(503);
        assert_eq!(reply.header("content-type"), "application/json");
        let code = reply.code();
        last = Some(reply);
        code == "quarantined"
    })
    .await;
    assert!(last.unwrap().headers.contains_key("retry-after"));
    sql.stop().await;
}
