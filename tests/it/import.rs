//! Files in the place of users' databases, by the route and the command.

use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Process, Reply, Server, cubby, run, shell, stdout};

const ADMIN: &str = "an operator's key of some length";

struct Import {
    server: Server,
    folder: TempDir,
}

impl Import {
    async fn start() -> Self {
        Self { server: Server::with(&["--admin-api-key", ADMIN]).await, folder: TempDir::new().unwrap() }
    }

    /// A user's export, changed by SQL.
    async fn export(&self, id: &str, change: &str) -> Vec<u8> {
        let operator = self.server.client.bearing(ADMIN);
        let file = self.folder.path().join("changed.db");
        std::fs::write(&file, operator.get(&format!("/api/admin/tenants/{id}/export")).await.expect(200).body).unwrap();
        changed(&file, change)
    }

    async fn put(&self, path: &str, file: Vec<u8>) -> Reply {
        let operator = self.server.client.bearing(ADMIN);
        operator.send(operator.request("PUT", &format!("/api/admin/tenants/{path}")).body(file)).await
    }

    async fn make(&self, id: &str) {
        self.server.client.bearing(ADMIN).post("/api/admin/tenants", json!({"id": id})).await.expect(201);
    }

    /// Nothing is left of an import that came to nothing, and the server still writes.
    async fn stop(self) {
        let layout = self.server.app.store().layout().clone();
        assert_eq!(std::fs::read_dir(layout.tmp()).unwrap().count(), 0, "no file is left");
        self.server.stop().await;
    }
}

/// A file's content after a change, without a write-ahead log.
fn changed(file: &Path, change: &str) -> Vec<u8> {
    let conn: Connection = shell(file);
    conn.execute_batch("PRAGMA journal_mode=DELETE").unwrap();
    conn.execute_batch(change).unwrap();
    conn.close().unwrap();
    std::fs::read(file).unwrap()
}

#[tokio::test]
async fn a_file_goes_in_the_place_of_a_database_and_the_old_one_to_the_trash() {
    let import = Import::start().await;
    let client = &import.server.client;
    client.note("ada", "from ada").await;
    client.note("ben", "of ben's own").await;
    let file = import.export("ada", "").await;
    let refused = import.put("ben/import", file.clone()).await.expect(409);
    assert!(refused.json()["detail"].as_str().unwrap().contains("--replace"));
    assert_eq!(client.texts("ben").await, ["of ben's own"]);
    let report = import.put("ben/import?replace=true", file).await.expect(200).json();
    assert_eq!((&report["rows"], &report["tenant"]["state"]), (&json!(1), &json!("active")));
    assert_eq!(client.texts("ben").await, ["from ada"]);
    let replaced = report["replaced"].as_str().unwrap();
    let old: String = shell(Path::new(replaced)).query_row("SELECT text FROM notes", [], |row| row.get(0)).unwrap();
    assert_eq!(old, "of ben's own");
    client.note("ben", "goes on").await;
    assert_eq!(client.texts("ben").await, ["from ada", "goes on"]);
    let trail = client.bearing(ADMIN).get("/api/admin/audit").await.expect(200).json();
    let lines: Vec<_> =
        trail["audit"].as_array().unwrap().iter().filter(|line| line["action"] == "tenants import").collect();
    assert_eq!(lines.len(), 2, "one was refused: {lines:?}");
    assert_eq!(lines[0]["result"], "done");

    assert_eq!(import.server.app.store().remove_replaced().unwrap(), 0, "its retention has not ended");

    // A purge erases what was replaced, too.
    let operator = client.bearing(ADMIN);
    operator.delete("/api/admin/tenants/ben").await.expect(200);
    operator.post("/api/admin/tenants/ben/purge", json!({"yes": true})).await.expect(200);
    assert!(!Path::new(replaced).exists());
    assert_eq!(import.put("ben/import", vec![1]).await.expect(409).code(), "conflict");
    assert_eq!(import.put("nobody/import", vec![1]).await.expect(404).code(), "unknown_user");
    import.stop().await;
}

#[tokio::test]
async fn what_the_schema_does_not_know_is_refused_by_name_unless_allowed() {
    let import = Import::start().await;
    import.server.client.note("ada", "x").await;
    import.make("ben").await;
    let file = import
        .export(
            "ada",
            "CREATE TABLE tags (name); INSERT INTO tags VALUES ('a');
             CREATE VIEW texts AS SELECT text FROM notes;
             CREATE TRIGGER spy AFTER INSERT ON notes BEGIN INSERT INTO tags VALUES (new.text); END;
             CREATE INDEX by_name ON tags (name)",
        )
        .await;
    let refused = import.put("ben/import", file.clone()).await.expect(422).json();
    assert_eq!((&refused["code"], &refused["field"]), (&json!("invalid_field"), &json!("file")));
    for name in ["table \"tags\"", "view \"texts\"", "trigger \"spy\"", "index \"by_name\""] {
        assert!(refused["detail"].as_str().unwrap().contains(name), "{refused}");
    }
    let refused = import.put("ben/import?allow=tags,texts,by_name", file.clone()).await.expect(422).json();
    assert!(refused["detail"].as_str().unwrap().contains("does not know trigger \"spy\";"), "{refused}");
    assert!(import.server.client.texts("ben").await.is_empty());
    let report = import.put("ben/import?allow=tags,texts,by_name,spy", file).await.expect(200).json();
    assert_eq!(report["made"].as_array().unwrap().len(), 4);
    assert_eq!(report["replaced"], Value::Null, "nobody misses an empty file");
    assert!(report["tenant"]["drifted"].is_string() || report["tenant"]["drifted"].is_number(), "{report}");
    assert_eq!(import.server.client.texts("ben").await, ["x"]);
    import.stop().await;
}

#[tokio::test]
async fn what_is_no_database_of_this_schema_changes_nothing() {
    let import = Import::start().await;
    import.server.client.note("ada", "x").await;
    import.server.client.note("ben", "kept").await;
    let good = import.export("ada", "").await;
    let mut torn = good.clone();
    torn.truncate(good.len() / 2);
    let mut damaged = good.clone();
    // The beginning of a page.
    let middle = damaged.len() / 4096 / 2 * 4096;
    damaged[middle..middle + 2000].fill(0xa5);
    let column = import.export("ada", "ALTER TABLE notes ADD COLUMN extra TEXT").await;
    let history = import.export("ada", "UPDATE refinery_schema_history SET checksum = '1'").await;
    let view = import.export("ada", "DROP TABLE notes; CREATE VIEW notes AS SELECT 1 AS id").await;
    for (what, file) in [
        ("nothing", Vec::new()),
        ("a text", b"SELECT 1".repeat(1000)),
        ("cut short", torn),
        ("damaged", damaged),
        ("a column", column),
        ("another history", history),
        ("a view for a table", view),
    ] {
        let reply = import.put("ben/import?replace=true", file).await;
        assert_eq!((reply.status, reply.code().as_str()), (422, "invalid_field"), "{what}: {}", reply.json());
        assert_eq!(import.server.client.texts("ben").await, ["kept"], "{what}");
    }
    import.stop().await;
}

#[test]
fn a_command_imports_with_a_server_and_without() {
    let folder = TempDir::new().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("ada.db"));
    let path = file.to_str().unwrap();
    for id in ["ada", "ben", "eve"] {
        stdout(&run(&data, &["tenants", "create", id]));
    }
    stdout(&run(&data, &["export", "ada", "--to", path]));
    changed(&file, "INSERT INTO notes VALUES ('note_1', 'x', 1, 1)");
    let told = stdout(&run(&data, &["import", "ben", path]));
    assert!(told.contains("ben: 1 rows imported"), "{told}");
    let server = Process::start(&data, &["--admin-api-key", ADMIN]);
    let mut command = cubby();
    command.args(["import", "eve", path, "--json", "--data"]).arg(&data).env("ADMIN_API_KEY", ADMIN);
    let told = command.env("CUBBY_URL", format!("http://{}", server.address)).output().unwrap();
    let told: Value = serde_json::from_str(&stdout(&told)).unwrap();
    assert_eq!((&told["rows"], &told["tenant"]["id"]), (&json!(1), &json!("eve")));
    server.kill();
    for id in ["ben", "eve"] {
        stdout(&run(&data, &["export", id, "--to", path, "--replace"]));
        let text: String = shell(&file).query_row("SELECT text FROM notes", [], |row| row.get(0)).unwrap();
        assert_eq!(text, "x", "{id}");
    }
    let refused = run(&data, &["import", "nobody", path]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cubby tenants create nobody"));
}
