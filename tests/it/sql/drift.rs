//! Changes of the schema by SQL.

use serde_json::json;

use super::Sql;

const CREATE: &str = "CREATE TABLE more (x)";

#[tokio::test]
async fn the_schema_is_changed_only_where_that_is_allowed() {
    let sql = Sql::start(&[]).await;
    let mut ada = sql.ada();
    for refused in [CREATE, "DROP TABLE items", "ALTER TABLE items ADD COLUMN y", "CREATE INDEX i ON items (price)"] {
        let error = ada.run(refused).await.unwrap_err();
        assert_eq!(error["code"], "SQLITE_AUTH", "{refused}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("CUBBY_MIGRATIONS") && message.contains("CUBBY_SQL_DDL=allow"), "{message}");
    }
    sql.stop().await;
}

#[tokio::test]
async fn a_tenant_whose_schema_sql_has_changed_is_marked_as_drifted() {
    let sql = Sql::start(&["--sql-ddl", "allow", "--admin-api-key", "an operator's key of some length"]).await;
    let operator = sql.server.client.bearing("an operator's key of some length");
    let drifted = async || {
        let shown = operator.get("/api/admin/tenants/ada").await.expect(200).json();
        assert_eq!(shown["id"], "ada", "{shown}");
        shown.get("drifted").is_some()
    };
    let mut ada = sql.ada();
    ada.run("INSERT INTO items (name) VALUES ('a')").await.unwrap();
    ada.run("CREATE TABLE items (x)").await.unwrap_err();
    ada.run("CREATE TABLE IF NOT EXISTS items (x)").await.unwrap();
    ada.run("BEGIN").await.unwrap();
    ada.run(CREATE).await.unwrap();
    ada.run("ROLLBACK").await.unwrap();
    let undone = json!([{"type": "sequence", "sql": "BEGIN; CREATE TABLE gone (x); ROLLBACK"}]);
    assert_eq!(ada.results(undone).await[0]["type"], "ok");
    assert!(!drifted().await, "nothing was changed");
    ada.run("BEGIN").await.unwrap();
    ada.run(CREATE).await.unwrap();
    ada.run("COMMIT").await.unwrap();
    assert!(drifted().await);
    sql.stop().await;
}
