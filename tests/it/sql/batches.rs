//! Batches: conditions, and transactions inside of one request.

use serde_json::{Value, json};

use super::{Sql, Stream};

/// A batch as clients send it: each step if the one before is ok, and a rollback at its end if the commit is not.
pub fn transaction(begin: &str, statements: &[&str]) -> Value {
    let mut steps = vec![json!({"stmt": {"sql": begin}})];
    for sql in statements.iter().chain(&["COMMIT"]) {
        steps.push(json!({"stmt": {"sql": sql}, "condition": {"type": "ok", "step": steps.len() - 1}}));
    }
    let not_ok = json!({"type": "not", "cond": {"type": "ok", "step": steps.len() - 1}});
    steps.push(json!({"stmt": {"sql": "ROLLBACK"}, "condition": not_ok}));
    json!([{"type": "batch", "batch": {"steps": steps}}])
}

/// The result of a batch that was answered: for each step `ok`, a code, or `-`.
async fn outcomes(stream: &mut Stream, requests: Value) -> Vec<String> {
    let results = stream.results(requests).await;
    let result = &results[0]["response"]["result"];
    let (oks, errors) = (result["step_results"].as_array().unwrap(), result["step_errors"].as_array().unwrap());
    assert_eq!(oks.len(), errors.len());
    let outcome = |(ok, error): (&Value, &Value)| match (ok.is_null(), error.is_null()) {
        (false, true) => "ok".to_owned(),
        (true, false) => error["code"].as_str().unwrap().to_owned(),
        (true, true) => "-".to_owned(),
        (false, false) => panic!("{ok} {error}"),
    };
    oks.iter().zip(errors).map(outcome).collect()
}

const ONE: &str = "INSERT INTO items (name) VALUES ('one')";

#[tokio::test]
async fn a_batch_commits_as_a_whole_or_not_at_all() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    for (n, begin) in
        ["BEGIN", "BEGIN IMMEDIATE", "begin deferred;", "BEGIN EXCLUSIVE TRANSACTION"].into_iter().enumerate()
    {
        let insert = format!("INSERT INTO items (name) VALUES ('{n}')");
        let done = outcomes(&mut ada, transaction(begin, &[&insert, "SELECT 1"])).await;
        assert_eq!(done, ["ok", "ok", "ok", "ok", "-"], "{begin}");
    }
    let failed = outcomes(&mut ada, transaction("BEGIN", &[ONE, ONE, ONE])).await;
    assert_eq!(failed, ["ok", "ok", "SQLITE_CONSTRAINT", "-", "-", "ok"]);
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 4);
    sql.stop().await;
}

#[tokio::test]
async fn each_statement_outside_of_a_transaction_stands_by_itself() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let steps = [ONE, ONE, "COMMIT", "ROLLBACK", "RELEASE a", "INSERT INTO items (name) VALUES ('two')"];
    let steps: Vec<Value> = steps.iter().map(|sql| json!({"stmt": {"sql": sql}})).collect();
    let done = outcomes(&mut ada, json!([{"type": "batch", "batch": {"steps": steps}}])).await;
    assert_eq!(done, ["ok", "SQLITE_CONSTRAINT", "SQLITE_ERROR", "SQLITE_ERROR", "SQLITE_ERROR", "ok"]);
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 2);
    sql.stop().await;
}

#[tokio::test]
async fn a_skipped_step_is_neither_ok_nor_an_error() {
    let sql = Sql::start(&[]).await;
    let step = |sql: &str, condition: Value| json!({"stmt": {"sql": sql}, "condition": condition});
    let (ok, error) = (|n: u32| json!({"type": "ok", "step": n}), |n: u32| json!({"type": "error", "step": n}));
    let steps = json!([
        step("SELEC", json!(null)),
        step("SELECT 1", ok(0)),
        step("SELECT 2", ok(1)),
        step("SELECT 3", error(1)),
        step("SELECT 4", error(0)),
        step("SELECT 5", json!({"type": "not", "cond": ok(1)})),
        step("SELECT 6", json!({"type": "and", "conds": [ok(4), ok(5)]})),
        step("SELECT 7", json!({"type": "or", "conds": [ok(0), ok(1)]})),
        step("SELECT 8", json!({"type": "and", "conds": []})),
        step("SELECT 9", json!({"type": "or", "conds": []})),
        step("SELECT 10", ok(99)),
        step("SELECT 11", json!({"type": "is_autocommit"})),
    ]);
    let done = outcomes(&mut sql.ada(), json!([{"type": "batch", "batch": {"steps": steps}}])).await;
    assert_eq!(done, ["SQLITE_ERROR", "-", "-", "-", "ok", "ok", "ok", "-", "ok", "-", "-", "ok"]);
    sql.stop().await;
}

#[tokio::test]
async fn savepoints_nest_in_a_batch_as_sqlite_has_them() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let insert = |name: &str| format!("INSERT INTO items (name) VALUES ('{name}')");
    let steps = [
        "SAVEPOINT a".to_owned(),
        insert("kept"),
        "SAVEPOINT \"B\"".to_owned(),
        insert("lost"),
        "ROLLBACK TO b".to_owned(),
        "RELEASE SAVEPOINT b".to_owned(),
        "ROLLBACK TO b".to_owned(),
        "BEGIN".to_owned(),
        "SAVEPOINT cubby_write".to_owned(),
        "RELEASE cubby_guest".to_owned(),
        "RELEASE A".to_owned(),
        "RELEASE a".to_owned(),
    ];
    let steps: Vec<Value> = steps.iter().map(|sql| json!({"stmt": {"sql": sql}})).collect();
    let done = outcomes(&mut ada, json!([{"type": "batch", "batch": {"steps": steps}}])).await;
    let error = "SQLITE_ERROR";
    assert_eq!(done, ["ok", "ok", "ok", "ok", "ok", "ok", error, error, "SQLITE_AUTH", error, "ok", error]);
    assert_eq!(ada.row("SELECT group_concat(name) FROM items").await[0]["value"], "kept");
    sql.stop().await;
}

#[tokio::test]
async fn deferred_foreign_keys_are_checked_where_the_commit_is() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let orphan = "INSERT INTO parts (item) VALUES (7)";
    let failed = outcomes(&mut ada, transaction("BEGIN", &[orphan])).await;
    assert_eq!(failed, ["ok", "ok", "SQLITE_CONSTRAINT", "ok"]);
    let good = outcomes(&mut ada, transaction("BEGIN", &[orphan, "INSERT INTO items VALUES (7, 'x', 0, NULL)"])).await;
    assert_eq!(good, ["ok", "ok", "ok", "ok", "-"]);
    // Outside of a transaction each statement is its own.
    assert_eq!(ada.run("INSERT INTO parts (item) VALUES (8)").await.unwrap_err()["code"], "SQLITE_CONSTRAINT");
    let two = json!([{"type": "execute", "stmt": {"sql": "INSERT INTO parts (item) VALUES (9)"}},
                     {"type": "execute", "stmt": {"sql": "INSERT INTO parts (item) VALUES (7)"}}]);
    let results = ada.results(two).await;
    assert_eq!((&results[0]["type"], &results[1]["type"]), (&json!("error"), &json!("ok")));
    assert_eq!(ada.number("SELECT count(*) FROM parts").await, 2);
    sql.stop().await;
}

#[tokio::test]
async fn a_transaction_begun_to_read_refuses_to_write() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let read = outcomes(&mut ada, transaction("BEGIN TRANSACTION READONLY", &["SELECT 1"])).await;
    assert_eq!(read, ["ok", "ok", "ok", "-"]);
    let failed = outcomes(&mut ada, transaction("BEGIN TRANSACTION READONLY", &["SELECT 1", ONE])).await;
    assert_eq!(failed, ["ok", "ok", "SQLITE_READONLY", "-", "ok"]);
    // The same over several requests, and after a write in the same request.
    ada.run("BEGIN TRANSACTION READONLY").await.unwrap();
    assert_eq!(ada.run(ONE).await.unwrap_err()["code"], "SQLITE_READONLY");
    ada.run("COMMIT").await.unwrap();
    let mixed = ["INSERT INTO items (name) VALUES ('first')", "BEGIN TRANSACTION READONLY", ONE, "COMMIT"];
    let steps: Vec<Value> = mixed.iter().map(|sql| json!({"stmt": {"sql": sql}})).collect();
    let done = outcomes(&mut ada, json!([{"type": "batch", "batch": {"steps": steps}}])).await;
    assert_eq!(done, ["ok", "ok", "SQLITE_READONLY", "ok"]);
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 1);
    sql.stop().await;
}

#[tokio::test]
async fn foreign_keys_can_be_off_for_the_length_of_a_batch() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let orphan = "INSERT INTO parts (strict_item, item) VALUES (70, 70)";
    let run = |on: &str| {
        let steps = [
            &format!("PRAGMA foreign_keys={on}"),
            "BEGIN",
            orphan,
            "COMMIT",
            "ROLLBACK",
            "PRAGMA foreign_keys=on",
            "PRAGMA foreign_keys",
        ];
        let steps: Vec<Value> = steps.iter().map(|sql| json!({"stmt": {"sql": sql}})).collect();
        json!([{"type": "batch", "batch": {"steps": steps}}])
    };
    assert_eq!(outcomes(&mut ada, run("off")).await[2..4], ["ok", "ok"]);
    assert_eq!(outcomes(&mut ada, run("on")).await[2..4], ["SQLITE_CONSTRAINT", "ok"]);
    // It holds for the next requests of the stream, and for no others.
    ada.run("PRAGMA foreign_keys=off").await.unwrap();
    assert_eq!(ada.number("PRAGMA foreign_keys").await, 0);
    assert_eq!(sql.ada().number("PRAGMA foreign_keys").await, 1);
    ada.run(orphan).await.unwrap();
    assert_eq!(sql.ada().run(orphan).await.unwrap_err()["code"], "SQLITE_CONSTRAINT");
    sql.stop().await;
}

#[tokio::test]
async fn what_fails_after_it_wrote_is_taken_back() {
    let sql = Sql::start(&["--sql-answer", "100KB"]).await;
    let mut ada = sql.ada();
    let large = "INSERT INTO items (name) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                 SELECT 'x' || i || hex(zeroblob(1000)) FROM n RETURNING name";
    assert_eq!(ada.run(large).await.unwrap_err()["code"], "RESPONSE_TOO_LARGE");
    ada.run("BEGIN").await.unwrap();
    ada.run(ONE).await.unwrap();
    assert_eq!(ada.run(large).await.unwrap_err()["code"], "RESPONSE_TOO_LARGE");
    ada.run("COMMIT").await.unwrap();
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 1);
    let both = transaction("BEGIN", &["INSERT INTO items (name) VALUES ('two')", large]);
    assert_eq!(outcomes(&mut ada, both).await, ["ok", "ok", "RESPONSE_TOO_LARGE", "-", "ok"]);
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 1);
    sql.stop().await;
}

#[tokio::test]
async fn nothing_after_a_statement_that_controls_a_transaction_is_dropped() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    for (statement, said) in [
        (format!("BEGIN; {ONE}; COMMIT"), "more than one"),
        (format!("BEGIN;{ONE}"), "more than one"),
        (format!("COMMIT; {ONE}"), "more than one"),
        ("BEGIN nonsense".to_owned(), "syntax error"),
        ("COMMIT nonsense".to_owned(), "syntax error"),
        ("SAVEPOINT a b".to_owned(), "syntax error"),
    ] {
        let error = ada.run(&statement).await.unwrap_err();
        assert!(error["message"].as_str().unwrap().contains(said), "{statement}: {error}");
        let auto = ada.results(json!([{"type": "get_autocommit"}])).await;
        assert_eq!(auto[0]["response"]["is_autocommit"], true, "{statement}");
    }
    // In a transaction, too, which goes on.
    ada.run("BEGIN; -- and a comment").await.unwrap();
    ada.run(ONE).await.unwrap();
    for statement in ["COMMIT; SELECT 1", "ROLLBACK nonsense", "RELEASE a b", "ROLLBACK TO a b"] {
        ada.run(statement).await.unwrap_err();
    }
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 1);
    ada.run("COMMIT TRANSACTION").await.unwrap();
    assert_eq!(sql.ada().number("SELECT count(*) FROM items").await, 1);
    let sequence = format!("BEGIN; DELETE FROM items; {ONE}; COMMIT; SELECT 1");
    let results = ada.results(json!([{"type": "sequence", "sql": sequence}])).await;
    assert_eq!(results[0]["type"], "ok", "{results:?}");
    sql.stop().await;
}

#[tokio::test]
async fn statements_that_control_transactions_are_described_as_sqlite_has_them() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let verbs = [
        ("BEGIN", true),
        ("BEGIN DEFERRED", true),
        ("BEGIN IMMEDIATE", false),
        ("BEGIN TRANSACTION READONLY", true),
        ("COMMIT", true),
        ("ROLLBACK", true),
        ("SAVEPOINT a", true),
        ("RELEASE a", true),
        ("ROLLBACK TO a", true),
    ];
    for begun in [false, true] {
        if begun {
            ada.run("BEGIN").await.unwrap();
        }
        for (verb, readonly) in verbs {
            let results = ada.results(json!([{"type": "describe", "sql": verb}])).await;
            let wanted = json!({"params": [], "cols": [], "is_explain": false, "is_readonly": readonly});
            assert_eq!(results[0]["response"]["result"], wanted, "{verb}: {results:?}");
        }
        assert_eq!(ada.number("SELECT count(*) FROM items").await, 0);
    }
    let results = ada.results(json!([{"type": "describe", "sql": "COMMIT nonsense"}])).await;
    assert_eq!(results[0]["error"]["code"], "SQLITE_ERROR");
    sql.stop().await;
}

#[tokio::test]
async fn what_is_answered_as_an_error_has_changed_nothing() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let fails = "WITH x AS (SELECT 'w' AS name) INSERT INTO items (name) SELECT name FROM x RETURNING 1e999";
    let execute = |sql: &str| json!({"type": "execute", "stmt": {"sql": sql}});
    for requests in [
        json!([execute(fails)]),
        json!([execute(ONE), execute(fails), execute("DELETE FROM items WHERE name = 'one'")]),
        transaction("BEGIN", &[fails]),
    ] {
        ada.results(requests.clone()).await;
        assert_eq!(ada.number("SELECT count(*) FROM items").await, 0, "{requests}");
    }
    ada.run("BEGIN").await.unwrap();
    ada.run(fails).await.unwrap_err();
    ada.run("COMMIT").await.unwrap();
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 0);
    sql.stop().await;
}
