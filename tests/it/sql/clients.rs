//! What clients rely on and the specification says in passing.

use serde_json::{Value, json};

use super::Sql;

const CONFLICT: &str = "INSERT OR ROLLBACK INTO items (id, name) VALUES (1, 'again')";

fn execute(sql: &str) -> Value {
    json!({"type": "execute", "stmt": {"sql": sql}})
}

fn kinds(results: &[Value]) -> Vec<&str> {
    results.iter().map(|result| result["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_controls_a_transaction_can_be_described() {
    let sql = Sql::start(&[]).await;
    let texts = ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "RELEASE a"];
    let asked: Vec<Value> = texts.iter().map(|text| json!({"type": "describe", "sql": text})).collect();
    for (text, result) in texts.iter().zip(sql.ada().results(json!(asked)).await) {
        assert_eq!(result["response"]["result"]["is_readonly"], true, "{text}: {result}");
        assert_eq!(result["response"]["result"]["cols"], json!([]), "{text}");
    }
    let several = json!([{"type": "describe", "sql": "COMMIT; DROP TABLE items"}]);
    assert_eq!(kinds(&sql.ada().results(several).await), ["error"]);
    sql.stop().await;
}

#[tokio::test]
async fn or_rollback_outside_of_a_transaction_takes_back_its_own_work_alone() {
    let sql = Sql::start(&[]).await;
    let results = sql
        .ada()
        .results(json!([
            execute("INSERT INTO items (id, name) VALUES (1, 'one')"),
            execute(CONFLICT),
            execute("INSERT INTO items (id, name) VALUES (2, 'two')"),
            execute(CONFLICT),
            execute("SELECT count(*) FROM items"),
        ]))
        .await;
    assert_eq!(kinds(&results), ["ok", "error", "ok", "error", "ok"]);
    assert_eq!(results[1]["error"]["code"], "SQLITE_CONSTRAINT");
    assert_eq!(results[4]["response"]["result"]["rows"][0][0]["value"], "2");
    let steps = json!([
        {"stmt": {"sql": CONFLICT}},
        {"stmt": {"sql": "SELECT 1"}, "condition": {"type": "not", "cond": {"type": "is_autocommit"}}},
    ]);
    let batch = json!([{"type": "batch", "batch": {"steps": steps}}]);
    let result = sql.ada().results(batch).await[0]["response"]["result"].clone();
    assert_eq!(result["step_errors"][0]["code"], "SQLITE_CONSTRAINT", "{result}");
    assert_eq!(result["step_results"], json!([null, null]));
    assert_eq!(result["step_errors"][1], Value::Null, "it was skipped");
    sql.stop().await;
}

#[tokio::test]
async fn or_rollback_ends_the_transaction_and_what_comes_after_it_runs_outside() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    ada.run("INSERT INTO items (id, name) VALUES (1, 'one')").await.unwrap();
    ada.run("BEGIN").await.unwrap();
    let results = ada
        .results(json!([
            execute("INSERT INTO items (id, name) VALUES (3, 'three')"),
            execute(CONFLICT),
            execute("SELECT count(*) FROM items"),
            {"type": "get_autocommit"},
        ]))
        .await;
    assert_eq!(kinds(&results), ["ok", "error", "ok", "ok"]);
    assert_eq!(results[2]["response"]["result"]["rows"][0][0]["value"], "1");
    assert_eq!(results[3]["response"]["is_autocommit"], true);
    sql.stop().await;
}

#[tokio::test]
async fn tools_may_make_tables_that_are_there_already() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    for table in ["items", "refinery_schema_history", "main.ITEMS", "\"items\""] {
        ada.run(&format!("CREATE TABLE IF NOT EXISTS {table} (other TEXT)"))
            .await
            .unwrap_or_else(|e| panic!("{table}: {e}"));
    }
    let refused = [
        ("CREATE TABLE IF NOT EXISTS mine (x)", "SQLITE_AUTH"),
        ("CREATE TABLE items (x)", "SQLITE_ERROR"),
        ("CREATE TABLE IF NOT EXISTS mine AS SELECT 1", "SQLITE_AUTH"),
    ];
    for (statement, code) in refused {
        let error = ada.run(statement).await.unwrap_err();
        assert_eq!(error["code"], code, "{statement}: {error}");
    }
    assert_eq!(ada.run("SELECT name FROM items").await.unwrap()["rows"], json!([]), "it is as it was");
    sql.stop().await;
}
