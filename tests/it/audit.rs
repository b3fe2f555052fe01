//! The audit trail: a change and its line are one commit.

use std::{collections::BTreeMap, path::PathBuf};

use cubby::TenantId;
use rusqlite::types::Value as Cell;
use serde_json::{Value, json};

use crate::harness::{
    Client, Reply, Server,
    clerk::Clerk,
    sender::{SECRET, deliver, event, gone, user},
    tree,
};

const ADMIN: &str = "an operator's key of some length";

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

/// An operator's route that changes something, and the target of its line.
struct Change {
    action: &'static str,
    target: String,
    method: &'static str,
    path: String,
    body: Value,
}

impl Change {
    async fn send(&self, operator: &Client) -> Reply {
        operator.send(operator.request(self.method, &self.path).json(&self.body)).await
    }
}

/// Every changing route of the operators, with users, a key and a delivery that it would change.
async fn changes(server: &Server, operator: &Client) -> Vec<Change> {
    let post = |path: String, body: Value| operator.post(path.leak(), body);
    for name in ["suspended", "resumed", "deleted", "restored", "purged", "revived", "adopted", "adopter", "created"] {
        let named = format!("user_{name}");
        deliver(&server.client, &format!("msg_{name}"), &event("user.created", user(&named, name, 10), 1)).await;
        server.client.note(&named, "kept").await;
    }
    post("/api/admin/tenants/user_resumed/suspend".into(), json!({"reason": "unpaid"})).await.expect(200);
    for name in ["restored", "adopted"] {
        deliver(&server.client, &format!("gone_{name}"), &event("user.deleted", gone(&format!("user_{name}")), 2))
            .await;
    }
    post("/api/admin/tenants/user_revived/purge".into(), json!({"yes": true})).await.expect(200);
    let key = post("/api/admin/keys".into(), json!({"name": "old"})).await.expect(201).json();
    let key = key["key"]["id"].as_str().unwrap().to_owned();

    let change = |action, target: &str, method, path: String, body| Change {
        action,
        target: target.to_owned(),
        method,
        path: format!("/api/admin/{path}"),
        body,
    };
    let tenant = |action: &'static str, name: &str, body| {
        let verb = action.strip_prefix("tenants ").unwrap();
        change(action, &format!("user_{name}"), "POST", format!("tenants/user_{name}/{verb}"), body)
    };
    vec![
        change("tenants create", "user_new", "POST", "tenants".into(), json!({"id": "user_new"})),
        tenant("tenants suspend", "suspended", json!({"reason": "unpaid"})),
        tenant("tenants resume", "resumed", json!({})),
        change("tenants delete", "user_deleted", "DELETE", "tenants/user_deleted".into(), json!({})),
        tenant("tenants restore", "restored", json!({})),
        tenant("tenants purge", "purged", json!({"yes": true})),
        tenant("tenants revive", "revived", json!({})),
        tenant("tenants adopt", "adopter", json!({"from": "user_adopted", "replace": true})),
        change("keys create", "", "POST", "keys".into(), json!({"name": "new"})),
        change("keys revoke", &key, "POST", format!("keys/{key}/revoke"), json!({})),
        change("deliveries replay", "msg_created", "POST", "deliveries/msg_created/replay".into(), json!({})),
        change("sync", "", "POST", "sync-users".into(), json!({})),
        // The last one: it writes a line when it ends, too.
        change("migrate", "", "POST", "migrations".into(), json!({})),
    ]
}

/// All rows that the operators' routes change.
async fn rows(server: &Server) -> BTreeMap<&'static str, Vec<Vec<Cell>>> {
    let tables = ["tenants", "api_keys", "deliveries", "sync_runs", "migration_runs", "audit"];
    let all = server.app.store().catalog().query(move |conn| {
        let rows = tables.map(|table| {
            let mut select = conn.prepare(&format!("SELECT * FROM {table} ORDER BY 1"))?;
            let width = select.column_count();
            let rows =
                select.query_map([], |row| (0..width).map(|at| row.get(at)).collect())?.collect::<Result<_, _>>();
            Ok((table, rows?))
        });
        rows.into_iter().collect()
    });
    all.await.unwrap()
}

/// All users' files with their content. An empty write-ahead log holds nothing.
fn files(server: &Server) -> Vec<(PathBuf, Vec<u8>)> {
    let found = ["tenants", "trash", "tmp"].into_iter().flat_map(|folder| tree(&server.data().join(folder)));
    let found = found.filter(|(path, _, length)| path.is_file() && *length > 0);
    found.map(|(path, ..)| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_audit_row_fails_is_not_made() {
    let (clerk, folder) = (Clerk::start().await, tempfile::TempDir::new().unwrap());
    clerk.add(user("user_listed", "listed", 10));
    let mut flags = clerk.flags();
    flags.extend(["--admin-api-key", ADMIN, "--clerk-webhook-secret", SECRET].map(str::to_owned));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::on(folder.path(), &flags).await;
    let changes = changes(&server, &server.client.bearing(ADMIN)).await;
    server.stop().await;
    // A user of whom nothing but the delivery is left: its replay creates them.
    let catalog = crate::harness::shell(&folder.path().join("catalog.db"));
    catalog.execute_batch("DELETE FROM tenants WHERE id = 'user_created'").unwrap();
    let refuse = "CREATE TRIGGER no_audit BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'refused'); END";
    catalog.execute_batch(refuse).unwrap();
    drop(catalog);

    let server = Server::on(folder.path(), &flags).await;
    std::fs::remove_file(server.app.store().layout().tenant(&id("user_created"))).unwrap();
    let operator = server.client.bearing(ADMIN);
    let before = (rows(&server).await, files(&server));
    for change in &changes {
        let reply = change.send(&operator).await;
        assert!(reply.status >= 500, "{}: {}", change.action, String::from_utf8_lossy(&reply.body));
        let after = (rows(&server).await, files(&server));
        assert_eq!(before.0, after.0, "{}", change.action);
        let changed = |(path, content): &&(PathBuf, Vec<u8>)| !before.1.iter().any(|(p, c)| p == path && c == content);
        let changed: Vec<_> = after.1.iter().filter(changed).map(|(path, content)| (path, content.len())).collect();
        assert_eq!((changed, after.1.len()), (Vec::new(), before.1.len()), "{}", change.action);
    }
    let dropped = server.app.store().catalog().write(|tx| tx.execute_batch("DROP TRIGGER no_audit"));
    dropped.await.unwrap();

    for change in &changes {
        let reply = change.send(&operator).await;
        assert!(reply.status < 300, "{}: {}", change.action, String::from_utf8_lossy(&reply.body));
        let trail = operator.get("/api/admin/audit?limit=1").await.expect(200).json();
        let line = &trail["audit"][0];
        assert_eq!((&line["action"], &line["actor"]), (&json!(change.action), &json!("operator")), "{line}");
        assert_eq!(line["origin"], "127.0.0.1", "{line}");
        assert!(change.target.is_empty() || line["target"] == change.target, "{line}");
    }
    server.stop().await;
}

/// The numbers of an answer that could be times, in milliseconds or in seconds.
fn numbers(value: &Value) -> Vec<String> {
    match value {
        Value::Number(number) if number.as_f64().unwrap() > 1e9 => vec![number.to_string()],
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, value)| numbers(value).into_iter().map(move |number| format!("{name}: {number}")))
            .collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn times_on_the_operators_routes_are_rfc_3339() {
    let clerk = Clerk::start().await;
    clerk.add(user("user_1", "one", 1_700_000_000_000));
    let mut flags = clerk.flags();
    flags.extend(["--admin-api-key", ADMIN, "--clerk-webhook-secret", SECRET].map(str::to_owned));
    let server = Server::with_flags(&flags).await;
    let operator = server.client.bearing(ADMIN);
    let created = event("user.created", user("user_1", "one", 1_700_000_000_000), 1_700_000_000_000);
    deliver(&server.client, "msg_1", &created).await;
    operator.post("/api/admin/keys", json!({"name": "a", "expires_in": 60})).await.expect(201);
    operator.delete("/api/admin/tenants/user_1").await.expect(200);
    operator.post("/api/admin/sync-users", json!({})).await.expect(200);
    operator.post("/api/admin/migrations", json!({})).await.expect(202);
    operator.post("/api/admin/bulk", json!({"action": "resume", "ids": ["user_1"]})).await.expect(202);
    let get = async |path: &str| operator.get(&format!("/api/{path}")).await.expect(200).json();
    for path in [
        "tenants",
        "tenants/user_1",
        "keys",
        "deliveries",
        "audit",
        "sync-users",
        "migrations",
        "open-tenants",
        "sync-users/runs",
        "bulk",
    ] {
        let answer = get(&format!("admin/{path}")).await;
        assert_eq!(numbers(&answer), [""; 0], "{path}");
    }
    assert_eq!(numbers(&get("health/user-sync").await), [""; 0]);
    let row = get("admin/tenants/user_1").await;
    assert_eq!(row["provider_updated_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!(row["deleted"], Value::Null);
    server.stop().await;
}

#[tokio::test]
async fn a_refused_attempt_is_recorded_with_its_answer() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    operator.post("/api/admin/tenants/nobody/suspend", json!({"reason": "x"})).await.expect(404);
    operator.post("/api/admin/tenants/nobody/suspend", json!({"why": "x"})).await.expect(422);
    operator.post("/api/admin/deliveries/none/replay", json!({})).await.expect(404);
    operator.post("/api/admin/sync-users?dry_run=true", json!({})).await.expect(503);
    operator.post("/api/admin/sync-users", json!({})).await.expect(503);
    let trail = operator.get("/api/admin/audit").await.expect(200).json();
    let lines = trail["audit"].as_array().unwrap().iter().rev();
    let lines: Vec<_> =
        lines.map(|line| (line["action"].clone(), line["target"].clone(), line["result"].clone())).collect();
    assert_eq!(
        lines,
        [
            (json!("tenants suspend"), json!("nobody"), json!("404 unknown_user")),
            (json!("tenants suspend"), json!("nobody"), json!("422 invalid_field")),
            (json!("deliveries replay"), json!("none"), json!("404 not_found")),
            (json!("sync"), Value::Null, json!("503 provider_not_configured")),
        ]
    );
    server.stop().await;
}
