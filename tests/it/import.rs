//! Files in the place of users' databases, by the route and the command.

mod command;
mod leftovers;
mod schemas;

use std::{
    io::Write as _,
    net::TcpStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use cubby::clock::Clock;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Process, Reply, Server, cubby, eventually, run, shell, stdout};

const ADMIN: &str = "an operator's key of some length";

struct Import {
    server: Server,
    folder: TempDir,
}

impl Import {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(flags: &[&str]) -> Self {
        let flags = [&["--admin-api-key", ADMIN], flags].concat();
        Self { server: Server::with(&flags).await, folder: TempDir::new().unwrap() }
    }

    /// Whether no import has a file left over.
    fn is_tidy(&self) -> bool {
        std::fs::read_dir(self.server.app.store().layout().tmp()).unwrap().count() == 0
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
        assert!(self.is_tidy(), "no file is left");
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

/// An export reads with a connection apart, which leaves a shared-memory file beside the database.
#[tokio::test]
async fn a_user_gets_back_what_was_exported_of_them() {
    let import = Import::start().await;
    let client = &import.server.client;
    client.note("ada", "kept").await;
    let file = import.export("ada", "").await;
    client.note("ada", "not wanted").await;
    import.put("ada/import?replace=true", file).await.expect(200);
    assert_eq!(client.texts("ada").await, ["kept"]);
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
    let plain = import.export("ada", "").await;
    let report = import.put("ben/import?replace=true", plain).await.expect(200).json();
    assert_eq!(report["tenant"]["drifted"], Value::Null, "what was allowed is gone: {report}");
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

/// Makes every import's line in the audit trail fail, and so its commit.
async fn refuse_commits(server: &Server, on: bool) {
    let sql = match on {
        true => {
            "CREATE TRIGGER refused BEFORE INSERT ON audit WHEN new.action = 'tenants import' BEGIN SELECT
                RAISE(ABORT, 'refused'); END"
        }
        false => "DROP TRIGGER refused",
    };
    server.app.store().catalog().write(move |tx| tx.execute_batch(sql)).await.unwrap();
}

#[tokio::test]
async fn an_import_that_fails_last_changes_nothing_and_keeps_what_an_earlier_one_replaced() {
    let import = Import::start().await;
    let client = &import.server.client;
    client.note("ada", "from ada").await;
    client.note("ben", "the first").await;
    let file = import.export("ada", "").await;
    let first = import.put("ben/import?replace=true", file.clone()).await.expect(200).json();
    let replaced = Path::new(first["replaced"].as_str().unwrap()).to_owned();
    client.note("ben", "since then").await;

    refuse_commits(&import.server, true).await;
    let failed = import.put("ben/import?replace=true", file.clone()).await;
    assert!(failed.status >= 500, "{}", failed.status);
    assert_eq!(client.texts("ben").await, ["from ada", "since then"]);
    let old: String = shell(&replaced).query_row("SELECT text FROM notes", [], |row| row.get(0)).unwrap();
    assert_eq!(old, "the first", "what was replaced before is still there");
    let kept = || std::fs::read_dir(replaced.parent().unwrap()).unwrap().count();
    assert_eq!(kept(), 1, "and nothing of the one that failed");

    refuse_commits(&import.server, false).await;
    let again = import.put("ben/import?replace=true", file).await.expect(200).json();
    let newest = Path::new(again["replaced"].as_str().unwrap());
    let count: i64 = shell(newest).query_row("SELECT count(*) FROM notes", [], |row| row.get(0)).unwrap();
    assert_eq!((count, kept()), (2, 2), "what each replaced is kept");
    let undo = std::fs::read(newest).unwrap();
    import.put("ben/import?replace=true", undo).await.expect(200);
    assert_eq!(client.texts("ben").await, ["from ada", "since then"]);
    import.stop().await;
}

#[tokio::test]
async fn what_there_was_first_stays_however_often_an_import_is_tried_again() {
    let import = Import::start().await;
    import.server.client.note("ada", "from ada").await;
    import.server.client.note("ben", "the original").await;
    let file = import.export("ada", "").await;
    let mut replaced = Vec::new();
    for _ in 0..12 {
        let report = import.put("ben/import?replace=true", file.clone()).await.expect(200).json();
        replaced.push(report["replaced"].as_str().unwrap().to_owned());
    }
    let there: Vec<bool> = replaced.iter().map(|file| Path::new(file).exists()).collect();
    assert_eq!(there, [vec![true], vec![false; 4], vec![true; 7]].concat());
    let old: String = shell(Path::new(&replaced[0])).query_row("SELECT text FROM notes", [], |row| row.get(0)).unwrap();
    assert_eq!(old, "the original");
    import.stop().await;
}

#[tokio::test]
async fn what_was_replaced_is_kept_for_the_retention_by_the_servers_clock() {
    const DAY: i64 = 86_400_000;
    let now = Arc::new(AtomicI64::new(1_800_000_000_000));
    let time = now.clone();
    let clock = Clock::new(move || time.load(Ordering::SeqCst));
    let flags = ["--admin-api-key", ADMIN].map(str::to_owned);
    let import = Import { server: Server::at(&clock, &flags).await, folder: TempDir::new().unwrap() };
    import.server.client.note("ada", "x").await;
    let file = import.export("ada", "").await;
    let mut replaced = Vec::new();
    for (user, days) in [("ben", 20), ("eve", 20)] {
        import.server.client.note(user, "old").await;
        let report = import.put(&format!("{user}/import?replace=true"), file.clone()).await.expect(200).json();
        replaced.push(report["replaced"].as_str().unwrap().to_owned());
        now.fetch_add(days * DAY, Ordering::SeqCst);
    }
    // Ben's has been there for forty days, of thirty, and eve's for twenty.
    assert_eq!(import.server.app.store().remove_replaced().unwrap(), 1);
    assert_eq!([&replaced[0], &replaced[1]].map(|file| Path::new(file).exists()), [false, true]);
    import.stop().await;
}

#[tokio::test]
async fn rows_keep_the_numbers_that_sqlite_gave_them() {
    let import = Import::start().await;
    import.server.client.note("ada", "x").await;
    import.make("ben").await;
    let change =
        "CREATE TABLE tags (name); INSERT INTO tags VALUES ('a'), ('b'), ('c'); DELETE FROM tags WHERE name = 'a';
        CREATE TABLE odd (rowid TEXT, name); INSERT INTO odd VALUES ('x', 'a'), ('y', 'b');
        DELETE FROM odd WHERE name = 'a'; CREATE TABLE keyed (name PRIMARY KEY) WITHOUT ROWID;
        INSERT INTO keyed VALUES ('k')";
    let file = import.export("ada", change).await;
    import.put("ben/import?allow=tags,odd,keyed", file).await.expect(200);
    let copy = import.folder.path().join("ben.db");
    let operator = import.server.client.bearing(ADMIN);
    std::fs::write(&copy, operator.get("/api/admin/tenants/ben/export").await.expect(200).body).unwrap();
    let numbers = |sql: &str| -> Vec<i64> {
        let conn = shell(&copy);
        let mut rows = conn.prepare(sql).unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(numbers("SELECT rowid FROM tags"), [2, 3]);
    assert_eq!(numbers("SELECT _rowid_ FROM odd"), [2]);
    assert_eq!(numbers("SELECT count(*) FROM keyed"), [1]);
    import.stop().await;
}

#[tokio::test]
async fn a_users_own_quota_bounds_what_is_imported_for_them() {
    let import = Import::with(&["--quota", "128KiB"]).await;
    let operator = import.server.client.bearing(ADMIN);
    import.server.client.note("ada", "x").await;
    let grow = "INSERT INTO notes WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 30) SELECT
        'note_' || x, hex(zeroblob(5000)), x, x FROM n";
    let file = import.export("ada", grow).await;
    assert!(file.len() > 300 << 10, "more than twice the quota for all");
    for (user, bytes, status) in
        [("less", 65_536, 413), ("some", 240 << 10, 507), ("more", 4 << 20, 200), ("any", 0, 200)]
    {
        import.make(user).await;
        operator.post(&format!("/api/admin/tenants/{user}/quota"), json!({"bytes": bytes})).await.expect(200);
        let reply = import.put(&format!("{user}/import"), file.clone()).await;
        assert_eq!(reply.status, status, "{user}: {}", reply.json());
        if status != 200 {
            let (bytes, detail) = (if status == 413 { 2 * bytes } else { bytes }, reply.json()["detail"].to_string());
            assert!(detail.contains(&format!("{bytes} bytes")) && detail.contains("quota"), "{detail}");
            assert!(detail.contains(&format!("`cubby tenants quota {user} --bytes SIZE`")), "{detail}");
        }
    }
    import.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_on_its_way_leaves_nothing() {
    let import = Import::start().await;
    import.make("ben").await;
    let mut stream = TcpStream::connect(import.server.address).unwrap();
    let head = format!(
        "PUT /api/admin/tenants/ben/import HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {ADMIN}\r\ncontent-length: \
         1000000\r\n\r\n",
        import.server.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[0; 100_000]).unwrap();
    eventually("it arrives", async || !import.is_tidy()).await;
    drop(stream);
    eventually("it is removed", async || import.is_tidy()).await;
    import.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_and_an_export_have_a_deadline_of_their_own() {
    let data = TempDir::new().unwrap();
    let on = async |flags: &[&str]| Import {
        server: Server::on(data.path(), &[&["--admin-api-key", ADMIN], flags].concat()).await,
        folder: TempDir::new().unwrap(),
    };
    let import = on(&[]).await;
    import.server.client.note("ada", "x").await;
    import.server.client.note("ben", "kept").await;
    let file = import.export("ada", "").await;
    import.stop().await;

    // No import is done in this time.
    let import = on(&["--request-timeout", "1ms"]).await;
    let report = import.put("ben/import?replace=true", file.clone()).await.expect(200).json();
    assert_eq!(report["rows"], 1);
    import.server.client.bearing(ADMIN).get("/api/admin/tenants/ben/export").await.expect(200);
    import.stop().await;

    let import = on(&["--transfer-timeout", "1ms"]).await;
    let client = &import.server.client;
    client.note("ben", "since then").await;
    let refused = import.put("ben/import?replace=true", file).await.expect(503);
    assert!(refused.json()["detail"].as_str().unwrap().contains("--transfer-timeout"), "{}", refused.json());
    assert!(refused.json()["detail"].as_str().unwrap().contains("nothing was changed"), "{}", refused.json());
    eventually("its files are removed", async || import.is_tidy()).await;
    assert_eq!(client.texts("ben").await, ["x", "since then"]);
    import.stop().await;
}

#[test]
fn a_file_whose_newest_commits_may_be_elsewhere_is_refused() {
    let folder = TempDir::new().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("ada.db"));
    for id in ["ada", "ben"] {
        stdout(&run(&data, &["tenants", "create", id]));
    }
    stdout(&run(&data, &["export", "ada", "--to", file.to_str().unwrap()]));
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let refused = |file: &Path, why: &str| {
        let refused = run(&data, &["import", "ben", file.to_str().unwrap()]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(why), "{told}");
    };
    for beside in ["ada.db-journal", "ada.db-wal"] {
        let beside = folder.path().join(beside);
        std::fs::write(&beside, "not empty").unwrap();
        for file in [&file, &link] {
            refused(file, beside.to_str().unwrap());
        }
        std::fs::remove_file(&beside).unwrap();
    }
    stdout(&run(&data, &["import", "ben", file.to_str().unwrap()]));

    // Its log is where it was copied from.
    let conn = shell(&file);
    conn.execute_batch("PRAGMA journal_mode=WAL; INSERT INTO notes VALUES ('note_1', 'x', 1, 1)").unwrap();
    let copy = folder.path().join("copy.db");
    std::fs::copy(&file, &copy).unwrap();
    refused(&copy, "PRAGMA journal_mode=DELETE");
    conn.close().unwrap();
    changed(&file, "");
    stdout(&run(&data, &["import", "ben", file.to_str().unwrap(), "--replace"]));
}
