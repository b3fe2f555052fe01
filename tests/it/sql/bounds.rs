//! How much one request may take, whatever it asks for.

use serde_json::{Value, json};

use super::Sql;

const MB: usize = 1_000_000;

fn text(length: usize) -> Value {
    json!({"type": "text", "value": "x".repeat(length)})
}

#[tokio::test]
async fn a_row_of_many_large_values_is_too_large() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let columns = |count: usize| format!("SELECT {}?1", "?1, ".repeat(count - 1));
    let blob = json!({"type": "blob", "base64": "A".repeat(6 * MB)});
    let error = ada.stmt(json!({"sql": columns(2000), "args": [blob]})).await.unwrap_err();
    assert_eq!(error["code"], "RESPONSE_TOO_LARGE");
    // Of each text SQLite makes a copy, for which there is no memory at some time.
    let error = ada.stmt(json!({"sql": columns(2000), "args": [text(4 * MB)]})).await.unwrap_err();
    assert_eq!(error["code"], "SQLITE_NOMEM", "{error}");
    let names = format!("SELECT {}1", "(SELECT 1) AS x, ".repeat(20));
    ada.run(&names).await.unwrap();
    let named = format!("WITH t(\"{}\") AS (SELECT 1) SELECT {}", "n".repeat(400_000), vec!["t.*"; 30].join(", "));
    assert_eq!(ada.run(&format!("{named} FROM t")).await.unwrap_err()["code"], "RESPONSE_TOO_LARGE");
    assert_eq!(ada.number("SELECT 1").await, 1);
    sql.stop().await;
}

#[tokio::test]
async fn stored_sql_is_not_copied_for_each_use_and_its_uses_are_bounded() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let long = format!("SELECT 1 -- {}", "x".repeat(1_000_000));
    ada.results(json!([{"type": "store_sql", "sql_id": 1, "sql": long}])).await;
    let steps = vec![json!({"stmt": {"sql_id": 1}}); 20_000];
    let results = ada.results(json!([{"type": "batch", "batch": {"steps": steps}}])).await;
    let result = &results[0]["response"]["result"];
    assert_eq!(result["step_results"][0]["rows"][0][0]["value"], "1");
    assert_eq!(result["step_errors"][19_999]["code"], "SQL_STORE_FULL");
    // A short one may be used as often as there may be statements.
    ada.results(json!([{"type": "store_sql", "sql_id": 2, "sql": "SELECT 2"}])).await;
    let steps = vec![json!({"stmt": {"sql_id": 2, "want_rows": false}}); 20_000];
    let results = ada.results(json!([{"type": "batch", "batch": {"steps": steps}}])).await;
    assert_eq!(results[0]["response"]["result"]["step_errors"][19_999], Value::Null);
    sql.stop().await;
}

#[tokio::test]
async fn errors_and_descriptions_are_counted() {
    let sql = Sql::start(&["--sql-answer", "1MB", "--sql-time", "60s"]).await;
    let mut ada = sql.ada();
    let error = ada.run(&format!("SELECT * FROM {}", "x".repeat(900_000))).await.unwrap_err();
    assert!(error["message"].as_str().unwrap().len() < 2000);
    let store = json!([{"type": "store_sql", "sql_id": 1, "sql": format!("SELECT * FROM {}", "x".repeat(700))},
                       {"type": "store_sql", "sql_id": 2, "sql": format!("SELECT {}?", "?, ".repeat(1000))}]);
    ada.results(store).await;
    let steps = vec![json!({"stmt": {"sql_id": 1}}); 20_000];
    let batch = json!([{"type": "batch", "batch": {"steps": steps}}]);
    let reply = ada.send(batch.clone()).await.expect(200);
    assert!(reply.body.len() < 6 * MB, "{}", reply.body.len());
    let last = &reply.json()["results"][0]["response"]["result"]["step_errors"][19_999];
    assert_eq!(last["code"], "SQLITE_ERROR", "{last}");
    let execute = json!({"type": "execute", "stmt": {"sql_id": 1}});
    let reply = ada.send(json!(vec![execute; 20_000])).await.expect(200);
    assert!(reply.body.len() < 6 * MB, "{}", reply.body.len());
    let describe = json!({"type": "describe", "sql_id": 2});
    let reply = ada.send(json!(vec![describe; 1000])).await.expect(200);
    assert!(reply.body.len() < 4 * MB, "{}", reply.body.len());
    let results = reply.json()["results"].clone();
    assert_eq!(results[0]["response"]["result"]["params"].as_array().unwrap().len(), 1001);
    assert_eq!(results[999]["error"]["code"], "RESPONSE_TOO_LARGE");
    sql.stop().await;
}

#[tokio::test]
async fn statements_are_counted_over_all_batches_of_a_request() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let steps = vec![json!({"stmt": {"sql": "SELECT 1", "want_rows": false}}); 10_000];
    let batch = json!({"type": "batch", "batch": {"steps": steps}});
    ada.send(json!([batch, batch])).await.expect(200);
    let reply = ada.send(json!([batch, batch, {"type": "close"}])).await.expect(422);
    assert!(reply.json()["message"].as_str().unwrap().contains("20000"), "{}", reply.json());
    sql.stop().await;
}

#[tokio::test]
async fn functions_of_large_texts_are_done_in_no_time_or_refused() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let (a, b) = ("replace(hex(zeroblob(1000000)), '0', 'a')", "replace(hex(zeroblob(500000)), '0', 'b') || 'a'");
    assert_eq!(ada.number(&format!("SELECT length(trim({a}, {b}))")).await, 0);
    assert_eq!(ada.number(&format!("SELECT instr({a}, {b})")).await, 0);
    assert_eq!(ada.number(&format!("SELECT length(replace({a}, {b}, 'x'))")).await, 2_000_000);
    let error = ada.run(&format!("SELECT unhex({a}, {b})")).await.unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("too long together"), "{error}");
    let pattern = format!("SELECT {a} LIKE '%{}b'", "a".repeat(1000));
    assert!(ada.run(&pattern).await.unwrap_err()["message"].as_str().unwrap().contains("too complex"));
    assert_eq!(ada.number("SELECT 'abc' LIKE 'A%' AND 'abc' GLOB '[a]*'").await, 1);
    sql.stop().await;
}

#[tokio::test]
async fn a_large_answer_in_a_transaction_runs_nothing_twice() {
    let sql = Sql::start(&["--sql-answer", "2MB"]).await;
    let mut ada = sql.ada();
    ada.run("BEGIN").await.unwrap();
    let insert = |name: &str| format!("INSERT INTO items (name) VALUES ('{name}')");
    let large = "SELECT hex(zeroblob(400000))";
    let returning = "INSERT INTO items (name) VALUES ('r') RETURNING name, hex(zeroblob(400000))";
    let all = [&insert("a"), large, &insert("b"), returning, "SELECT count(*) FROM items"];
    let requests: Vec<Value> = all.iter().map(|sql| json!({"type": "execute", "stmt": {"sql": sql}})).collect();
    let results = ada.results(json!(requests)).await;
    assert_eq!(results[1]["response"]["result"]["rows"][0][0]["value"].as_str().unwrap().len(), 800_000);
    assert_eq!(results[4]["response"]["result"]["rows"][0][0]["value"], "3");
    // Beyond the limit it is an error, and what came before stays.
    let results = ada.results(json!(vec![requests[1].clone(); 3])).await;
    let kinds: Vec<&str> = results.iter().map(|result| result["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ok", "ok", "error"]);
    assert_eq!(results[2]["error"]["code"], "RESPONSE_TOO_LARGE");
    ada.run("COMMIT").await.unwrap();
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 3);
    // The names of columns are answered also where rows are not wanted.
    ada.run("BEGIN").await.unwrap();
    let named = format!("INSERT INTO items (name) VALUES ('named') RETURNING name AS \"{}\"", "n".repeat(100_000));
    ada.stmt(json!({"sql": named, "want_rows": false})).await.unwrap();
    ada.run("COMMIT").await.unwrap();
    assert_eq!(ada.number("SELECT count(*) FROM items WHERE name = 'named'").await, 1);
    ada.run("DELETE FROM items WHERE name = 'named'").await.unwrap();
    // So many small results fit as well that what writes is never cut off.
    let many = vec![json!({"stmt": {"sql": "INSERT INTO items (name) VALUES (hex(randomblob(16)))"}}); 2000];
    ada.run("BEGIN").await.unwrap();
    ada.results(json!([{"type": "batch", "batch": {"steps": many}}])).await;
    ada.run("COMMIT").await.unwrap();
    assert_eq!(ada.number("SELECT count(*) FROM items").await, 2003);
    sql.stop().await;
}

#[tokio::test]
async fn functions_are_counted_since_no_clock_is_looked_at_between_them() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    let like = |count: usize| format!("SELECT {}", vec!["'a' LIKE 'b'"; count].join(", "));
    ada.run(&like(20)).await.unwrap();
    for statement in [like(21), format!("SELECT 1 IN ({})", vec!["hex(1)"; 4001].join(","))] {
        let error = ada.run(&statement).await.unwrap_err();
        assert!(error["message"].as_str().unwrap().contains("make several of it"), "{error}");
    }
    assert_eq!(ada.number("SELECT 1").await, 1);
    sql.stop().await;
}
