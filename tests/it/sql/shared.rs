//! What statements of many callers share, and none may keep from the others.

use serde_json::json;

use super::{Sql, Stream};

const ONE: &str = "INSERT INTO items (name) VALUES ('one')";

#[tokio::test]
async fn a_transaction_that_reads_leaves_connections_for_others() {
    let sql = Sql::start(&["--open-timeout", "200ms"]).await;
    let mut readers = [sql.ada(), sql.ada()];
    for reader in &mut readers {
        reader.run("BEGIN TRANSACTION READONLY").await.unwrap();
    }
    let third = sql.ada().send(json!([{"type": "execute", "stmt": {"sql": "BEGIN TRANSACTION READONLY"}}])).await;
    assert_eq!(third.expect(503).code(), "busy");
    sql.server.client.get("/ada/sql/dump").await.expect(200);
    let long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT max(i) FROM n";
    assert_eq!(sql.ada().number(long).await, 1_000_000);
    readers[0].run("COMMIT").await.unwrap();
    sql.ada().run("BEGIN TRANSACTION READONLY").await.unwrap();
    sql.stop().await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_keeps_nobody_waiting() {
    let sql = Sql::start(&["--tenant-bytes-in-flight", "500MB"]).await;
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) SELECT hex(zeroblob(1000)) FROM n";
    let body = json!({"batch": {"steps": [{"stmt": {"sql": rows}}]}});
    let url = format!("http://{}/ada/sql/v3/cursor", sql.server.address);
    let mut unread = Vec::new();
    // More than there are connections for reads.
    for _ in 0..6 {
        let sent = reqwest::Client::new().post(&url).body(body.to_string()).send().await.unwrap();
        assert_eq!(sent.status(), 200);
        unread.push(sent);
    }
    sql.server.client.get("/ada/sql/dump").await.expect(200);
    let (_, entries) = super::entries(&sql.server.client, "/ada/sql/v3/cursor", body).await;
    assert_eq!(entries.len(), 4002);
    drop(unread);
    sql.stop().await;
}

#[tokio::test]
async fn another_users_request_does_not_wait_for_a_transaction_that_nobody_continues() {
    let sql = Sql::start(&["--max-open", "1", "--sql-idle", "300ms"]).await;
    let mut ada = sql.ada();
    ada.run("BEGIN IMMEDIATE").await.unwrap();
    ada.run(ONE).await.unwrap();
    // It holds the one database that may be open.
    let mut eve = Stream::of(&sql.server.client, "/eve/sql/v2/pipeline");
    assert_eq!(eve.number("SELECT count(*) FROM items").await, 0);
    assert_eq!(ada.send(json!([])).await.expect(400).code(), "STREAM_EXPIRED");
    sql.stop().await;
}

#[tokio::test]
async fn nobody_is_told_what_the_last_caller_inserted() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let both = json!([{"type": "execute", "stmt": {"sql": "INSERT INTO items (id, name) VALUES (77, 'a')"}},
                      {"type": "execute", "stmt": {"sql": "PRAGMA foreign_keys=off"}},
                      {"type": "execute", "stmt": {"sql": "SELECT last_insert_rowid()"}}]);
    let results = ada.results(both).await;
    assert_eq!(results[0]["response"]["result"]["last_insert_rowid"], "77");
    assert_eq!(results[2]["response"]["result"]["rows"][0][0]["value"], "77");
    assert_eq!(sql.ada().number("SELECT last_insert_rowid()").await, 0);
    let mut session = sql.ada();
    session.run("BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(session.number("SELECT last_insert_rowid()").await, 0);
    session.run(ONE).await.unwrap();
    assert_eq!(session.number("SELECT last_insert_rowid()").await, 78);
    session.run("COMMIT").await.unwrap();
    assert_eq!(sql.ada().number("SELECT last_insert_rowid()").await, 0);
    sql.stop().await;
}
