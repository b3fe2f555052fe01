//! Old files become new ones, on first open or by command; what cannot be migrated is left as it
//! was, and alone.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cubby::{Store, StoreOptions, TenantId, sqlite::migrate::Schema, tenants::store::shipped_schema};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::{PATIENCE, Process, Server, cubby, run, stdout};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/tenant");

/// A data folder with users whose files have a schema and a few notes.
async fn folder_with(schema: Schema, users: &[(&str, &[&str])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut options = StoreOptions::new(folder.path());
    options.schema = Some(schema);
    let store = Store::open(options).unwrap();
    for (user, texts) in users {
        let (tenant, _) = store.lease_or_create(&user.parse().unwrap()).await.unwrap();
        for (n, text) in texts.iter().enumerate() {
            let (id, text) =
                (format!("note_{}", char::from(b'a' + n as u8).to_string().repeat(16)), (*text).to_owned());
            let insert = "INSERT INTO notes (id, text, created, updated) VALUES (?1, ?2, 0, 0)";
            tenant.write(move |tx| Ok(tx.execute(insert, [id, text])?)).await.unwrap();
        }
    }
    assert_eq!(store.close(Instant::now() + PATIENCE).await, 0);
    folder
}

fn v1() -> Schema {
    shipped_schema().unwrap().up_to(1).unwrap()
}

/// The shipped migrations in a folder of one's own, with more or other files.
fn migrations(changes: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(SHIPPED).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    for (name, sql) in changes {
        fs::write(folder.path().join(name), sql).unwrap();
    }
    folder
}

/// Fails on a file in which two notes have one text, and on no other.
const UNIQUE: (&str, &str) = ("V3__unique_texts.sql", "CREATE UNIQUE INDEX notes_by_text ON notes (text);");

fn file(data: &Path, user: &str) -> PathBuf {
    cubby::tenants::path::Layout::at(data.canonicalize().unwrap()).tenant(&user.parse::<TenantId>().unwrap())
}

fn shown(data: &Path, user: &str, flags: &[&str]) -> Value {
    let output = run(data, &[&["tenants", "show", user, "--json"], flags].concat());
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[tokio::test]
async fn an_old_file_is_upgraded_when_it_is_first_opened() {
    let folder = folder_with(v1(), &[("ada", &["from before"])]).await;
    assert_eq!(shown(folder.path(), "ada", &[])["schema_version"], 1);

    let server = Process::start(folder.path(), &[]);
    let client = &server.client;
    assert_eq!(client.texts("ada").await, ["from before"]);
    // What only the new schema can do.
    let keyed = client.request("POST", "/ada").json(&json!({"text": "new"})).header("idempotency-key", "k");
    client.send(keyed).await.expect(201);
    let line = &server.logged("migrated").await[0];
    assert_eq!((&line["tenant"], &line["from"], &line["to"]), (&json!("ada"), &json!(1), &json!(2)));
    server.signal("TERM");
    assert!(server.wait().success());

    let row = shown(folder.path(), "ada", &[]);
    assert_eq!(row["schema_version"], 2, "the catalog knows");
    assert_eq!(row["bytes"], row["file_bytes"]);
}

#[tokio::test]
async fn migrate_all_upgrades_every_old_file_and_finds_nothing_to_do_after() {
    let folder = folder_with(v1(), &[("ada", &["a"]), ("ben", &["b"]), ("cy", &[])]).await;
    let report = |flags: &[&str]| -> Value {
        serde_json::from_str(&stdout(&run(folder.path(), &[&["migrate", "--all", "--json"], flags].concat()))).unwrap()
    };
    assert_eq!(report(&["--dry-run"]), json!({"schema": 2, "behind": 3, "dry_run": true}));
    assert_eq!(shown(folder.path(), "ada", &[])["schema_version"], 1, "a dry run changes nothing");
    let done = json!({"schema": 2, "migrated": 3, "already_current": 0, "failed": [], "interrupted": false});
    assert_eq!(report(&[]), done);
    let nothing = json!({"schema": 2, "migrated": 0, "already_current": 0, "failed": [], "interrupted": false});
    assert_eq!(report(&[]), nothing);

    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.texts("ada").await, ["a"]);
    assert_eq!(server.client.texts("ben").await, ["b"]);
    server.stop().await;
}

#[tokio::test]
async fn a_migration_that_fails_for_one_of_three_leaves_it_as_it_was_and_the_others_serve() {
    let folder =
        folder_with(shipped_schema().unwrap(), &[("ada", &["x"]), ("bad", &["same", "same"]), ("cy", &["y"])]).await;
    let custom = migrations(&[UNIQUE]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let before = fs::read(file(folder.path(), "bad")).unwrap();

    let server = Process::start(folder.path(), &flags);
    let client = &server.client;
    assert_eq!(client.texts("ada").await, ["x"]);
    for _ in 0..3 {
        let reply = client.get("/bad").await.expect(503);
        assert_eq!(reply.code(), "quarantined");
        assert!(!reply.header("retry-after").is_empty());
        assert!(!String::from_utf8_lossy(&reply.body).contains("UNIQUE"), "the reason is the operator's");
    }
    client.post("/bad", json!({"text": "z"})).await.expect(503);
    assert_eq!(client.texts("cy").await, ["y"]);
    let lines = server.logged("quarantined").await;
    assert_eq!(lines.len(), 1, "it is not tried again for each request");
    assert_eq!(lines[0]["tenant"], "bad");
    assert!(lines[0]["reason"].as_str().unwrap().contains("UNIQUE constraint failed: notes.text"), "{lines:?}");
    assert!(lines[0]["reason"].as_str().unwrap().contains("V3__unique_texts"), "{lines:?}");
    assert_eq!(lines[0]["file"], file(folder.path(), "bad").to_str().unwrap());
    server.signal("TERM");
    assert!(server.wait().success());

    assert!(fs::read(file(folder.path(), "bad")).unwrap() == before, "byte for byte as it was");
    let row = shown(folder.path(), "bad", &flags);
    assert_eq!((&row["state"], &row["schema_version"]), (&json!("quarantined"), &json!(2)));
    assert!(row["reason"].as_str().unwrap().contains("UNIQUE constraint failed"), "{row}");
    let text = stdout(&run(folder.path(), &[&["tenants", "show", "bad"][..], &flags].concat()));
    assert!(text.contains("UNIQUE constraint failed"), "{text}");

    // With the migration gone, it is served as before once an operator says so.
    run(folder.path(), &["tenants", "resume", "bad"]);
    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.texts("bad").await, ["same", "same"]);
    server.stop().await;
}

#[tokio::test]
async fn migrate_all_lists_what_failed_and_why_and_goes_on_with_the_others() {
    let folder =
        folder_with(shipped_schema().unwrap(), &[("ada", &["x"]), ("bad", &["same", "same"]), ("cy", &["y"])]).await;
    let custom = migrations(&[UNIQUE]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    for migrated in [2, 0] {
        let output = run(folder.path(), &[&["migrate", "--all", "--json"][..], &flags].concat());
        assert_eq!(output.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["migrated"], migrated);
        let failed = report["failed"].as_array().unwrap();
        assert_eq!((failed.len(), &failed[0]["id"]), (1, &json!("bad")));
        assert!(failed[0]["error"].as_str().unwrap().contains("UNIQUE constraint failed: notes.text"), "{report}");
        assert_eq!(failed[0]["file"], file(folder.path(), "bad").to_str().unwrap());
    }
    let text = run(folder.path(), &[&["migrate", "--all"][..], &flags].concat());
    assert!(String::from_utf8_lossy(&text.stdout).contains("bad ("), "{text:?}");
    assert_eq!(shown(folder.path(), "ada", &flags)["schema_version"], 3);

    // The data mended, it comes back by the same command.
    fs::write(custom.path().join(UNIQUE.0), "CREATE INDEX notes_by_text ON notes (text);").unwrap();
    for _ in 0..2 {
        run(folder.path(), &[&["migrate", "--all"][..], &flags].concat());
    }
    assert_eq!(shown(folder.path(), "bad", &flags)["state"], "active");
}

#[tokio::test]
async fn an_edited_migration_is_an_error_that_names_it_and_the_user_and_the_file() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    let edited = fs::read_to_string(format!("{SHIPPED}/V1__notes.sql")).unwrap() + "\n-- a later thought\n";
    let custom = migrations(&[("V1__notes.sql", &edited)]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let before = fs::read(file(folder.path(), "ada")).unwrap();

    // The version is the same, so only the content can tell: both on the way of a request...
    let server = Process::start(folder.path(), &flags);
    assert_eq!(server.client.get("/ada").await.expect(503).code(), "quarantined");
    let line = server.logged("quarantined").await[0].clone();
    assert_eq!((&line["tenant"], &line["file"]), (&json!("ada"), &json!(file(folder.path(), "ada"))));
    assert!(line["reason"].as_str().unwrap().contains("V1__notes"), "{line}");
    // A user made by the edited one is not concerned.
    server.client.note("new", "y").await;
    server.signal("TERM");
    assert!(server.wait().success());
    run(folder.path(), &["tenants", "resume", "ada"]);

    // ...and by the command.
    let output = run(folder.path(), &[&["migrate", "--all", "--json"][..], &flags].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = report["failed"].as_array().unwrap();
    assert_eq!((output.status.code(), failed.len(), &failed[0]["id"]), (Some(1), 1, &json!("ada")), "{report}");
    assert!(failed[0]["error"].as_str().unwrap().contains("V1__notes"), "{report}");
    assert!(fs::read(file(folder.path(), "ada")).unwrap() == before);
}

#[tokio::test]
async fn a_missing_applied_migration_is_an_error_that_names_it() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    let custom = migrations(&[("V3__more.sql", "CREATE TABLE more (x) STRICT;")]);
    fs::remove_file(custom.path().join("V2__idempotency_keys.sql")).unwrap();
    fs::write(custom.path().join("V3__more.sql"), "CREATE TABLE more (x ANY) STRICT;").unwrap();
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let output = run(folder.path(), &[&["migrate", "ada"][..], &flags].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    for part in ["ada", "V2__idempotency_keys", file(folder.path(), "ada").to_str().unwrap()] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn a_file_newer_than_the_program_is_refused_untouched() {
    let custom = migrations(&[("V3__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    let folder = folder_with(Schema::from_folder(custom.path()).unwrap(), &[("ada", &["x"])]).await;
    let before = fs::read(file(folder.path(), "ada")).unwrap();
    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.get("/ada").await.expect(503).code(), "quarantined");
    let row = server.app.store().find(&"ada".parse().unwrap()).await.unwrap().unwrap();
    assert!(row.reason.as_deref().unwrap().contains("version 3"), "{row:?}");
    server.stop().await;
    assert!(fs::read(file(folder.path(), "ada")).unwrap() == before);
}

#[tokio::test]
async fn a_schema_of_ones_own_without_notes_serves_everything_but_the_notes() {
    let custom = TempDir::new().unwrap();
    fs::write(custom.path().join("V1__todo.sql"), "CREATE TABLE todo (what TEXT NOT NULL) STRICT;").unwrap();
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--migrations", custom.path().to_str().unwrap()]);
    let client = &server.client;
    client.get("/healthz").await.expect(200);
    client.get("/readyz").await.expect(200);
    client.get("/ada").await.expect(404);
    client.post("/ada", json!({"text": "x"})).await.expect(404);
    let start = server.log().into_iter().find(|line| line.to_string().contains("serving on")).unwrap();
    let schema = start["schema"].as_str().unwrap();
    assert!(schema.contains(custom.path().to_str().unwrap()) && schema.contains("not mounted"), "{schema}");
    server.signal("TERM");
    assert!(server.wait().success());

    // The library's users have their own table.
    let mut options = StoreOptions::new(folder.path());
    options.schema = Some(Schema::from_folder(custom.path()).unwrap());
    let store = Store::open(options).unwrap();
    let (tenant, created) = store.lease_or_create(&"ada".parse().unwrap()).await.unwrap();
    assert!(created);
    tenant.write(|tx| Ok(tx.execute("INSERT INTO todo VALUES ('write')", [])?)).await.unwrap();
    let count: i64 = tenant.read(|c| Ok(c.query_row("SELECT count(*) FROM todo", [], |r| r.get(0))?)).await.unwrap();
    assert_eq!(count, 1);
}

#[test]
fn a_folder_of_migrations_that_cannot_be_used_is_refused_at_start_with_the_reason() {
    let nothing = TempDir::new().unwrap();
    let twice = migrations(&[("V2__again.sql", "SELECT 1;")]);
    let broken = migrations(&[("V3__broken.sql", "CREATE TABEL x;")]);
    for (folder, reason) in [
        (nothing.path().join("none"), "is not a folder"),
        (nothing.path().to_owned(), "V1__"),
        (twice.path().to_owned(), "one version"),
        (broken.path().to_owned(), "TABEL"),
    ] {
        let data = TempDir::new().unwrap();
        let output = run(data.path(), &["serve", "--listen", "127.0.0.1:0", "--migrations", folder.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn migrating_all_can_be_interrupted_and_goes_on_where_it_stopped() {
    let slow = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 4000000)
        UPDATE notes SET text = (SELECT max(x) FROM n) WHERE text = 'slow';";
    let custom = migrations(&[("V3__slow.sql", slow)]);
    let users = ["t0", "t1", "t2", "t3", "t4"];
    let texts: [&[&str]; 5] = [&["quick"], &["slow"], &["quick"], &["quick"], &["quick"]];
    let folder = folder_with(shipped_schema().unwrap(), &users.into_iter().zip(texts).collect::<Vec<_>>()).await;
    let command = |arguments: &[&str]| {
        let mut command: Command = cubby();
        command.args(["migrate", "--all", "--json", "--jobs", "1", "--log-format", "json"]).args(arguments);
        command.arg("--migrations").arg(custom.path()).arg("--data").arg(folder.path());
        command
    };
    let mut child = command(&["--log", "debug"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("\"migrated\"")));
    assert!(first.is_some(), "the first is done, and the slow one under way");
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["interrupted"]), (Some(1), &json!(true)), "{report}");
    let done = report["migrated"].as_u64().unwrap();
    assert!((1..5).contains(&done), "{report}");

    let again = command(&[]).output().unwrap();
    let report: Value = serde_json::from_str(&stdout(&again)).unwrap();
    assert_eq!(report["migrated"], 5 - done, "{report}");
}

#[tokio::test]
async fn users_that_cannot_be_migrated_by_name_say_why() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &[]), ("gone", &[])]).await;
    stdout(&run(folder.path(), &["tenants", "delete", "gone"]));
    for (user, reason) in [("gone", "restore it first"), ("nobody", "no such user")] {
        let output = run(folder.path(), &["migrate", "ada", user]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(user) && text.contains(reason) && text.contains("1 were there already"), "{text}");
    }
}
