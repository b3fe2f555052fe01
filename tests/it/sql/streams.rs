//! Streams: transactions over several requests, and their batons.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Sql, Stream};
use crate::harness::{Reply, eventually};

const ONE: &str = "INSERT INTO items (name) VALUES ('one')";

async fn code_of(reply: Reply, status: u16) -> String {
    let reply = reply.expect(status);
    assert_eq!(reply.header("content-type"), "application/json");
    let body = reply.json();
    assert!(body["message"].is_string() && body["error"] == body["message"], "{body}");
    assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    reply.code()
}

#[tokio::test]
async fn a_transaction_goes_on_over_requests_and_others_see_it_when_it_is_committed() {
    let sql = Sql::start(&[]).await;
    let (mut ada, mut other) = (sql.ada(), sql.ada());
    ada.run("BEGIN IMMEDIATE").await.unwrap();
    let first = ada.baton.clone();
    ada.run(ONE).await.unwrap();
    assert_ne!(ada.baton, first);
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 1);
    assert_eq!(other.number("SELECT count(*) FROM items").await, 0, "reads go on, and see what is committed");
    let auto = ada.results(json!([{"type": "get_autocommit"}])).await;
    assert_eq!(auto[0]["response"]["is_autocommit"], false);
    ada.run("CREATE TEMP TABLE t (x)").await.unwrap();
    ada.run("COMMIT").await.unwrap();
    assert_eq!(other.number("SELECT count(*) FROM items").await, 1);
    assert_eq!(ada.run("SELECT * FROM t").await.unwrap_err()["code"], "SQLITE_ERROR", "gone with its transaction");

    ada.run("SAVEPOINT s").await.unwrap();
    ada.run("DELETE FROM items").await.unwrap();
    ada.run("ROLLBACK TO s").await.unwrap();
    ada.run("RELEASE s").await.unwrap();
    ada.run("BEGIN").await.unwrap();
    ada.run("DELETE FROM items").await.unwrap();
    ada.run("ROLLBACK").await.unwrap();
    assert_eq!(ada.run("COMMIT").await.unwrap_err()["code"], "SQLITE_ERROR");
    ada.run("BEGIN").await.unwrap();
    ada.run("DELETE FROM items").await.unwrap();
    let closed = ada.results(json!([{"type": "close"}])).await;
    assert_eq!((&closed[0]["type"], &ada.baton), (&json!("ok"), &Value::Null));
    assert_eq!(other.number("SELECT count(*) FROM items").await, 1, "a stream that is closed commits nothing");
    sql.stop().await;
}

#[tokio::test]
async fn one_request_may_begin_end_and_begin_again() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let execute = |sql: &str| json!({"type": "execute", "stmt": {"sql": sql}});
    let all = ["BEGIN", ONE, "COMMIT", "INSERT INTO items (name) VALUES ('two')", "BEGIN", "DELETE FROM items"];
    let results = ada.results(all.iter().map(|sql| execute(sql)).collect()).await;
    assert!(results.iter().all(|result| result["type"] == "ok"), "{results:?}");
    assert_eq!(sql.ada().number("SELECT count(*) FROM items").await, 2);
    // And in a batch whose commit does not run.
    let steps = json!([{"stmt": {"sql": "SELECT 1"}}, {"stmt": {"sql": "COMMIT"}}, {"stmt": {"sql": "BEGIN"}},
                       {"stmt": {"sql": ONE}}, {"stmt": {"sql": "COMMIT"}, "condition": {"type": "error", "step": 0}}]);
    let results = ada.results(json!([{"type": "batch", "batch": {"steps": steps}}])).await;
    let result = &results[0]["response"]["result"];
    assert_eq!(result["step_errors"], json!([null, null, null, null, null]));
    assert_eq!(sql.ada().number("SELECT count(*) FROM items").await, 0);
    ada.run("COMMIT").await.unwrap();
    assert_eq!(sql.ada().number("SELECT count(*) FROM items").await, 1);
    sql.stop().await;
}

#[tokio::test]
async fn a_forged_replayed_or_foreign_baton_is_refused() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    for begin in ["SELECT 1", "BEGIN"] {
        ada.run(begin).await.unwrap();
        let baton = ada.baton.clone();
        let mut eve = Stream { baton: baton.clone(), ..Stream::of(&sql.server.client, "/eve/sql/v2/pipeline") };
        assert_eq!(code_of(eve.send(json!([])).await, 400).await, "BATON_INVALID");
        let mut forged = baton.as_str().unwrap().to_owned().into_bytes();
        forged[3] = if forged[3] == b'A' { b'B' } else { b'A' };
        for text in [String::from_utf8(forged).unwrap(), String::new(), "x".repeat(5000), "\u{0}".into()] {
            let mut forger = Stream { baton: json!(text), ..sql.ada() };
            assert_eq!(code_of(forger.send(json!([])).await, 400).await, "BATON_INVALID");
        }
        ada.run("SELECT 1").await.unwrap();
        let mut again = Stream { baton, ..sql.ada() };
        assert_eq!(code_of(again.send(json!([])).await, 400).await, "BATON_REUSED");
    }
    ada.run("ROLLBACK").await.expect("its own goes on");
    sql.stop().await;
}

#[tokio::test]
async fn a_transaction_that_nobody_continues_is_rolled_back_and_says_so() {
    let sql = Sql::start(&["--sql-idle", "100ms"]).await;
    let mut ada = sql.ada();
    ada.run("BEGIN IMMEDIATE").await.unwrap();
    ada.run(ONE).await.unwrap();
    // Waits for the writer, which is free when the transaction is gone.
    sql.ada().run("INSERT INTO items (name) VALUES ('two')").await.unwrap();
    let reply = ada.send(json!([{"type": "execute", "stmt": {"sql": "COMMIT"}}])).await.expect(400);
    assert_eq!(reply.code(), "STREAM_EXPIRED");
    assert!(reply.json()["message"].as_str().unwrap().contains("rolled back"), "{}", reply.json());
    assert_eq!(sql.ada().row("SELECT group_concat(name) FROM items").await[0]["value"], "two");
    sql.stop().await;
}

#[tokio::test]
async fn a_transaction_has_a_longest_time() {
    let sql = Sql::start(&["--sql-transaction", "300ms"]).await;
    let mut ada = sql.ada();
    ada.run("BEGIN IMMEDIATE").await.unwrap();
    let mut last = None;
    eventually("the transaction ends", async || {
        let reply = ada.send(json!([{"type": "execute", "stmt": {"sql": "SELECT 1"}}])).await;
        let ended = reply.status != 200;
        last = Some(reply);
        ended
    })
    .await;
    assert_eq!(code_of(last.unwrap(), 400).await, "STREAM_EXPIRED");
    sql.stop().await;
}

#[tokio::test]
async fn writes_wait_their_turn_behind_a_transaction_to_a_deadline() {
    let sql = Sql::start(&["--sql-idle", "60s", "--sql-transaction", "60s"]).await;
    let mut ada = sql.ada();
    ada.run("BEGIN IMMEDIATE").await.unwrap();
    let mut other = sql.ada();
    let (refused, begun) =
        tokio::join!(async { other.send(json!([{"type": "execute", "stmt": {"sql": ONE}}])).await }, async {
            sql.ada().send(json!([{"type": "execute", "stmt": {"sql": "BEGIN"}}])).await
        },);
    for reply in [refused, begun] {
        assert_eq!(reply.header("retry-after"), "1");
        assert_eq!(code_of(reply, 503).await, "busy");
    }
    assert_eq!(sql.ada().number("SELECT count(*) FROM items").await, 0);
    // Another user's writes do not wait.
    Stream::of(&sql.server.client, "/eve/sql/v2/pipeline").run(ONE).await.unwrap();
    ada.run(ONE).await.unwrap();
    ada.run("COMMIT").await.unwrap();
    assert_eq!(sql.ada().number("SELECT count(*) FROM items").await, 1);
    sql.stop().await;
}

#[tokio::test]
async fn ten_thousand_streams_that_are_left_open_cost_nothing_and_kept_ones_are_bounded() {
    let sql = Sql::start(&["--sql-tenant-streams", "5", "--sql-streams", "8"]).await;
    let mut first = sql.ada();
    first.run("SELECT 1").await.unwrap();
    for _ in 0..10_000 {
        let reply = sql.ada().send(json!([{"type": "get_autocommit"}])).await.expect(200);
        assert!(reply.json()["baton"].is_string());
    }
    first.run("SELECT 1").await.expect("the first one is still good");

    let store = json!([{"type": "store_sql", "sql_id": 1, "sql": "SELECT 5"}]);
    let mut kept = Vec::new();
    for _ in 0..5 {
        let mut stream = sql.ada();
        stream.send(store.clone()).await.expect(200);
        kept.push(stream);
    }
    let refused = sql.ada().send(store.clone()).await;
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(code_of(refused, 503).await, "busy");
    assert_eq!(
        code_of(sql.ada().send(json!([{"type": "execute", "stmt": {"sql": "BEGIN"}}])).await, 503).await,
        "busy"
    );
    sql.ada().run(ONE).await.expect("what keeps nothing goes on");
    let eve = || Stream::of(&sql.server.client, "/eve/sql/v2/pipeline");
    let mut hers = Vec::new();
    for _ in 0..3 {
        let mut stream = eve();
        stream.send(store.clone()).await.expect(200);
        hers.push(stream);
    }
    assert_eq!(code_of(eve().send(store.clone()).await, 503).await, "busy", "the bound of all");
    // What is given up is free for others.
    kept[0].results(json!([{"type": "close"}])).await;
    kept[1].results(json!([{"type": "close_sql", "sql_id": 1}])).await;
    assert_eq!(kept[2].stmt(json!({"sql_id": 1})).await.unwrap()["rows"][0][0]["value"], "5");
    eve().send(store.clone()).await.expect(200);
    sql.ada().send(store).await.expect(200);
    sql.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_tenant_and_with_the_server() {
    let sql = Sql::start(&["--admin-api-key", "an operator's key of some length", "--sql-idle", "60s"]).await;
    let operator = sql.server.client.bearing("an operator's key of some length");
    let mut ada = sql.ada();
    ada.run("BEGIN IMMEDIATE").await.unwrap();
    ada.run(ONE).await.unwrap();
    operator.post("/api/admin/tenants/ada/suspend", json!({"reason": "late"})).await.expect(200);
    let reply = ada.send(json!([{"type": "execute", "stmt": {"sql": "COMMIT"}}])).await;
    assert_eq!(code_of(reply, 403).await, "suspended");
    operator.post("/api/admin/tenants/ada/resume", json!({})).await.expect(200);
    assert_eq!(sql.ada().number("SELECT count(*) FROM items").await, 0);
    let mut left = sql.ada();
    left.run("BEGIN IMMEDIATE").await.unwrap();
    // Ends although the transaction is open.
    tokio::time::timeout(Duration::from_secs(15), sql.stop()).await.expect("the server stops at once");
}
