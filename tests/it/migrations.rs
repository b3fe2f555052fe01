//! Old files become new ones, on first open or by command; what cannot be migrated is left as it
//! was, and alone.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cubby::{Store, StoreOptions, TenantId, sqlite::migrate::Schema, tenants::options::shipped_schema};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::{
    PATIENCE, Process, SHIPPED_MIGRATIONS, Server, author, cubby, eventually, migrations, run, shell, stdout,
};

/// A data folder with users whose files have a schema and a few notes.
pub async fn folder_with(schema: Schema, users: &[(&str, &[&str])]) -> TempDir {
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

pub fn v1() -> Schema {
    shipped_schema().unwrap().up_to(1).unwrap()
}

/// Fails on a file in which two notes have one text, and on no other.
pub const UNIQUE: (&str, &str) = ("V3__unique_texts.sql", "CREATE UNIQUE INDEX notes_by_text ON notes (text);");

pub fn file(data: &Path, user: &str) -> PathBuf {
    cubby::tenants::disk::path::Layout::at(data.canonicalize().unwrap()).tenant(&user.parse::<TenantId>().unwrap())
}

pub fn shown(data: &Path, user: &str, flags: &[&str]) -> Value {
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
    let tried = json!({"schema": 2, "behind": 3, "dry_run": true, "tried": 3, "failed": []});
    assert_eq!(report(&["--dry-run"]), tried);
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

    // The data mended, it is served at the new schema by itself.
    mend(folder.path(), "bad");
    let server = Server::on(folder.path(), &flags).await;
    server.app.store().resume(&"bad".parse().unwrap(), &author()).await.unwrap();
    assert_eq!(server.client.texts("bad").await, ["same", "same, mended"]);
    server.stop().await;
}

/// Makes two notes of one text differ, in the file itself.
fn mend(data: &Path, user: &str) {
    let conn = shell(&file(data, user));
    conn.execute("UPDATE notes SET text = text || ', mended' WHERE id = (SELECT max(id) FROM notes)", []).unwrap();
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
    mend(folder.path(), "bad");
    let report = stdout(&run(folder.path(), &[&["migrate", "--all", "--json"][..], &flags].concat()));
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap()["migrated"], 1, "{report}");
    assert_eq!(shown(folder.path(), "bad", &flags)["state"], "active");
}

/// Every command that opens the folder refuses with exit code 2 and all of `parts`, and the files are as
/// they were; `serve` among them.
pub fn refused(data: &Path, users: &[&str], flags: &[&str], parts: &[&str]) {
    let before: Vec<_> = users.iter().map(|user| fs::read(file(data, user)).unwrap()).collect();
    let commands: [&[&str]; 6] = [
        &["serve", "--listen", "127.0.0.1:0"],
        &["migrate", "--all"],
        &["migrate", "--all", "--dry-run"],
        &["tenants", "list"],
        &["tenants", "create", "somebody"],
        &["doctor", "--fix"],
    ];
    for command in commands {
        let output = refuse(data, &[command, flags].concat());
        for part in parts {
            assert!(output.contains(part), "{command:?}: no {part:?} in {output}");
        }
    }
    let after: Vec<_> = users.iter().map(|user| fs::read(file(data, user)).unwrap()).collect();
    assert!(before == after, "byte for byte as they were");
}

/// What a command says that must end with exit code 2. One that serves instead is stopped.
fn refuse(data: &Path, arguments: &[&str]) -> String {
    let mut command = cubby();
    command.args(arguments).arg("--data").arg(data).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut text = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        if line.contains("serving on") {
            child.kill().unwrap();
        }
        text.push_str(&line);
        text.push('\n');
    }
    assert_eq!(child.wait().unwrap().code(), Some(2), "{arguments:?}: {text}");
    text
}

#[tokio::test]
async fn an_edited_migration_is_refused_at_start_and_named() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    let edited = fs::read_to_string(format!("{SHIPPED_MIGRATIONS}/V1__notes.sql")).unwrap() + "\n-- a later thought\n";
    let custom = migrations(&[("V1__notes.sql", &edited)]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    refused(folder.path(), &["ada"], &flags, &["V1__notes", "edited", "V3__"]);
    Server::on(folder.path(), &[]).await.stop().await;
}

#[tokio::test]
async fn a_missing_applied_migration_is_refused_at_start_and_named() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    let custom = migrations(&[("V3__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    fs::remove_file(custom.path().join("V2__idempotency_keys.sql")).unwrap();
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    refused(folder.path(), &["ada"], &flags, &["V2__idempotency_keys", "missing"]);
}

#[tokio::test]
async fn an_older_program_is_refused_at_start_and_told_the_newest_version() {
    let custom = migrations(&[("V3__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    let folder = folder_with(Schema::from_folder(custom.path()).unwrap(), &[("ada", &["x"])]).await;
    refused(folder.path(), &["ada"], &[], &["V3__more", "version 2", "--migrations"]);
    let older = migrations(&[]);
    refused(
        folder.path(),
        &["ada"],
        &["--migrations", older.path().to_str().unwrap()],
        &["V3__more", older.path().to_str().unwrap(), "version 2"],
    );
}

#[tokio::test]
async fn a_version_that_fills_a_gap_is_refused_at_start_and_named() {
    let gap = migrations(&[("V4__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    let folder = folder_with(Schema::from_folder(gap.path()).unwrap(), &[("ada", &["x"])]).await;
    fs::write(gap.path().join("V3__late.sql"), "CREATE TABLE late (x ANY) STRICT;").unwrap();
    let flags = ["--migrations", gap.path().to_str().unwrap()];
    refused(folder.path(), &["ada"], &flags, &["V3__late", "V4__more", "V5__late"]);
    // With the number it is told to have, it runs.
    fs::rename(gap.path().join("V3__late.sql"), gap.path().join("V5__late.sql")).unwrap();
    let server = Server::on(folder.path(), &flags).await;
    assert_eq!(server.client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn a_folder_with_a_schema_of_its_own_is_refused_without_it_and_the_other_way_round() {
    let custom = TempDir::new().unwrap();
    let own = "CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER \
               NOT NULL, place TEXT) STRICT, WITHOUT ROWID;";
    fs::write(custom.path().join("V1__places.sql"), own).unwrap();
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let folder = TempDir::new().unwrap();
    let server = Server::on(folder.path(), &flags).await;
    server.client.note("ada", "x").await;
    server.stop().await;
    refused(folder.path(), &["ada"], &[], &["V1__places", "--migrations", "CUBBY_MIGRATIONS", "--data"]);

    let shipped = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    refused(shipped.path(), &["ada"], &flags, &["V1__notes", "without --migrations", "--data"]);
}

#[tokio::test]
async fn what_was_applied_nowhere_may_be_changed_and_left_out() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"]), ("bad", &["same", "same"])]).await;
    let custom = migrations(&[UNIQUE]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let server = Server::on(folder.path(), &flags).await;
    assert_eq!(server.client.get("/bad").await.expect(503).code(), "quarantined");
    server.stop().await;
    // Without it at all: what keeps the user out is no reason any more, and nobody has to wait or say so.
    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.texts("bad").await, ["same", "same"]);
    server.stop().await;
    let output = run(folder.path(), &[&["migrate", "bad"][..], &flags].concat());
    assert_eq!(output.status.code(), Some(1));
    fs::write(custom.path().join(UNIQUE.0), "CREATE INDEX notes_by_text ON notes (text);").unwrap();
    let server = Server::on(folder.path(), &flags).await;
    assert_eq!(server.client.texts("bad").await, ["same", "same"]);
    server.stop().await;
}

#[tokio::test]
async fn whom_the_command_quarantined_the_server_tries_again_by_itself() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"]), ("bad", &["same", "same"])]).await;
    let custom = migrations(&[UNIQUE]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    assert_eq!(run(folder.path(), &[&["migrate", "--all"][..], &flags].concat()).status.code(), Some(1));
    let row = shown(folder.path(), "bad", &flags);
    assert!(row["retry_at"].is_string(), "{row}");
    mend(folder.path(), "bad");
    let server = Server::on(folder.path(), &flags).await;
    eventually("served again", async || server.client.get("/bad").await.status == 200).await;
    server.stop().await;
}

/// A folder as a program left it that did not yet write down which migrations it ran.
fn forget_what_ran(data: &Path) {
    let conn = shell(&data.join("catalog.db"));
    conn.execute("DELETE FROM tenant_migrations", []).unwrap();
}

#[tokio::test]
async fn what_ran_before_it_was_written_down_is_read_from_the_files() {
    let custom = migrations(&[("V3__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    let folder = folder_with(Schema::from_folder(custom.path()).unwrap(), &[("ada", &["x"])]).await;
    forget_what_ran(folder.path());
    refused(folder.path(), &["ada"], &[], &["V3__more", "version 2"]);
    assert_eq!(written_down(folder.path()), 0, "nothing was changed");
    // Nor does a lost catalog make the folder anybody's.
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(folder.path().join(name));
    }
    let text = refuse(folder.path(), &["doctor", "--rebuild-catalog"]);
    assert!(text.contains("V3__more"), "{text}");
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    // The catalog itself was made anew; with the right migrations all is in order.
    stdout(&run(folder.path(), &[&["doctor"][..], &flags].concat()));
    let server = Server::on(folder.path(), &flags).await;
    assert_eq!(server.client.texts("ada").await, ["x"]);
    server.stop().await;
}

/// The newest migration that the catalog has written down; 0 for none.
fn written_down(data: &Path) -> i32 {
    let conn = shell(&data.join("catalog.db"));
    conn.query_row("SELECT coalesce(max(version), 0) FROM tenant_migrations", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn one_newer_or_foreign_file_does_not_bar_the_folder() {
    let newer = migrations(&[("V3__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    let other = TempDir::new().unwrap();
    fs::write(other.path().join("V1__todo.sql"), "CREATE TABLE todo (what TEXT NOT NULL) STRICT;").unwrap();
    for (custom, owner, version) in [(&newer, "ada", 3), (&other, "ada", 1), (&newer, "eve", 3)] {
        let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"]), ("ben", &["y"]), ("cy", &["z"])]).await;
        let from = folder_with(Schema::from_folder(custom.path()).unwrap(), &[(owner, &[])]).await;
        fs::copy(file(from.path(), owner), file(folder.path(), "ada")).unwrap();
        forget_what_ran(folder.path());
        let conn = shell(&folder.path().join("catalog.db"));
        conn.execute("UPDATE tenants SET schema_version = ?1 WHERE id = 'ada'", [version]).unwrap();
        conn.close().unwrap();
        for _ in 0..2 {
            let server = Server::on(folder.path(), &[]).await;
            assert_eq!(server.client.get("/ada").await.expect(503).code(), "quarantined");
            assert_eq!(server.client.texts("ben").await, ["y"]);
            server.stop().await;
            assert_eq!(written_down(folder.path()), 2, "what ran on the others");
        }
    }
}

#[tokio::test]
async fn what_ran_is_read_from_the_trash_where_no_live_file_is() {
    let custom = migrations(&[("V3__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    let folder = folder_with(Schema::from_folder(custom.path()).unwrap(), &[("ada", &["x"])]).await;
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    stdout(&run(folder.path(), &[&["tenants", "delete", "ada"][..], &flags].concat()));
    forget_what_ran(folder.path());
    refused(folder.path(), &[], &[], &["V3__more", "version 2"]);
}

#[tokio::test]
async fn what_a_migration_sets_on_its_connection_is_not_served() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    let shadow = "CREATE TEMP TABLE notes (id TEXT PRIMARY KEY, text TEXT NOT NULL, created INTEGER NOT NULL, updated \
                  INTEGER NOT NULL); CREATE TABLE main.positive (n INTEGER NOT NULL CHECK (n > 0)) STRICT; PRAGMA \
                  ignore_check_constraints = ON;";
    let custom = migrations(&[("V3__shadow.sql", shadow)]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let server = Server::on(folder.path(), &flags).await;
    server.client.note("ada", "y").await;
    let tenant = server.app.store().lease(&"ada".parse().unwrap()).await.unwrap();
    tenant.write(|tx| Ok(tx.execute("INSERT INTO positive VALUES (-1)", [])?)).await.unwrap_err();
    drop(tenant);
    server.stop().await;
    let server = Server::on(folder.path(), &flags).await;
    assert_eq!(server.client.texts("ada").await, ["x", "y"], "what was acknowledged is there");
    server.stop().await;
}

#[tokio::test]
async fn migrations_are_tried_on_a_connection_of_their_own() {
    let custom = migrations(&[("V3__scratch.sql", "CREATE TEMP TABLE scratch (x);")]);
    let folder = folder_with(Schema::from_folder(custom.path()).unwrap(), &[("ada", &[])]).await;
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    // On an empty file both run on one connection, and on a file of version 3 they do not.
    fs::write(custom.path().join("V4__use.sql"), "DELETE FROM notes WHERE text IN (SELECT x FROM scratch);").unwrap();
    refused(folder.path(), &["ada"], &flags, &["V4__use", "scratch"]);
}

#[tokio::test]
async fn a_migration_that_fails_on_all_real_files_is_refused_before_it_is_final() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"]), ("ben", &["y"]), ("cy", &[])]).await;
    let fails = "CREATE TABLE lengths (n INTEGER NOT NULL CHECK (n < 0)) STRICT; INSERT INTO lengths SELECT \
                 length(text) FROM notes;";
    let custom = migrations(&[("V3__lengths.sql", fails)]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    refused(
        folder.path(),
        &["ada", "ben", "cy"],
        &flags,
        &["V3__lengths", "CHECK", "ada", "ben", "Nothing was changed"],
    );
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0, "no copy is left");
    // So it may be edited.
    fs::write(custom.path().join("V3__lengths.sql"), fails.replace("n < 0", "n > 0")).unwrap();
    let server = Server::on(folder.path(), &flags).await;
    server.client.note("new", "z").await;
    assert_eq!(server.client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn a_new_folder_takes_every_history_that_runs_on_an_empty_file() {
    let folder = TempDir::new().unwrap();
    let custom = migrations(&[("V3__kind.sql", "ALTER TABLE idempotency_keys ADD COLUMN kind TEXT NOT NULL;")]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    for texts in [&["x"][..], &["x", "x"]] {
        let server = Server::on(folder.path(), &flags).await;
        server.client.note("ada", "x").await;
        assert_eq!(server.client.texts("ada").await, texts);
        server.stop().await;
    }
}

#[tokio::test]
async fn an_older_schema_of_ones_own_is_upgraded_by_more_of_the_same() {
    let custom = TempDir::new().unwrap();
    fs::copy(format!("{SHIPPED_MIGRATIONS}/V1__notes.sql"), custom.path().join("V1__notes.sql")).unwrap();
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let folder = TempDir::new().unwrap();
    stdout(&run(folder.path(), &[&["tenants", "create", "ada"][..], &flags].concat()));
    for forgotten in [true, false] {
        if forgotten {
            forget_what_ran(folder.path());
        }
        stdout(&run(folder.path(), &["migrate", "--all"]));
        assert_eq!(shown(folder.path(), "ada", &[])["schema_version"], 2);
    }
}

#[tokio::test]
async fn a_file_newer_than_the_program_is_refused_untouched() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"]), ("ben", &["y"])]).await;
    // As if put there from the backup of a newer program.
    let conn = shell(&file(folder.path(), "ada"));
    conn.execute_batch("UPDATE cubby_meta SET schema_digest = 1; PRAGMA user_version = 3").unwrap();
    conn.close().unwrap();
    let before = fs::read(file(folder.path(), "ada")).unwrap();
    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.get("/ada").await.expect(503).code(), "quarantined");
    assert_eq!(server.client.texts("ben").await, ["y"]);
    let row = server.app.store().find(&"ada".parse().unwrap()).await.unwrap().unwrap();
    assert!(row.reason.as_deref().unwrap().contains("version 3"), "{row:?}");
    server.stop().await;
    assert!(fs::read(file(folder.path(), "ada")).unwrap() == before);
}

#[tokio::test]
async fn a_catalog_newer_than_the_program_is_refused_and_named() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    let conn = shell(&folder.path().join("catalog.db"));
    conn.pragma_update(None, "user_version", 99).unwrap();
    conn.close().unwrap();
    refused(folder.path(), &["ada"], &[], &["catalog", "version 99", "newer"]);
}

/// Migrations that run on an empty database as SQLite comes, and not in a user's file.
const UNFIT: [(&str, &str, &str); 15] = [
    ("V3__quoted.sql", r#"UPDATE notes SET text = text WHERE text = "quoted";"#, "quoted"),
    ("V3__required.sql", "ALTER TABLE notes ADD COLUMN kind TEXT NOT NULL;", "NOT NULL"),
    ("V3__ends.sql", "CREATE TABLE a (x ANY) STRICT; COMMIT; BEGIN; CREATE TABLE b (x ANY) STRICT;", "COMMIT"),
    ("V3__ends.sql", "ROLLBACK; BEGIN; CREATE TABLE b (x ANY) STRICT;", "ROLLBACK"),
    ("V3__ends.sql", "END; CREATE TABLE b (x ANY) STRICT;", "COMMIT"),
    ("V3__whose.sql", "PRAGMA application_id = 7;", "application_id"),
    ("V3__mode.sql", "PRAGMA journal_mode = DELETE;", "journal_mode"),
    ("V3__log.sql", "PRAGMA wal_autocheckpoint = 5;", "wal_autocheckpoint"),
    ("V3__heap.sql", "PRAGMA soft_heap_limit = 1000000;", "soft_heap_limit"),
    ("V3__heap.sql", "PRAGMA hard_heap_limit = 2000000000;", "hard_heap_limit"),
    ("V3__whose.sql", "UPDATE cubby_meta SET tenant = 'eve';", "cubby_meta"),
    ("V3__whose.sql", "DROP TABLE cubby_meta;", "cubby_meta"),
    ("V3__shadow.sql", "CREATE TEMP TABLE cubby_meta (schema_digest);", "cubby_meta"),
    ("V3__shadow.sql", "CREATE TEMP VIEW refinery_schema_history AS SELECT 1;", "refinery_schema_history"),
    ("V3__attach.sql", "ATTACH ':memory:' AS more;", "attach"),
];

#[tokio::test]
async fn what_would_fail_for_every_user_is_refused_at_start() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    for (name, sql, part) in UNFIT {
        let custom = migrations(&[(name, sql)]);
        let flags = ["--migrations", custom.path().to_str().unwrap()];
        refused(folder.path(), &["ada"], &flags, &[name.trim_end_matches(".sql"), part]);
    }
    Server::on(folder.path(), &[]).await.stop().await;
}

#[tokio::test]
async fn what_has_run_already_keeps_no_program_from_starting() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    let (name, sql, _) = UNFIT[1];
    let custom = migrations(&[(name, sql)]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    // It ran where there were no rows, and cannot be changed any more.
    let ran = Schema::from_folder(custom.path()).unwrap().steps().pop().unwrap();
    let conn = shell(&folder.path().join("catalog.db"));
    let insert = "INSERT INTO tenant_migrations VALUES (?1, ?2, ?3)";
    conn.execute(insert, (ran.version, ran.name, ran.checksum.to_string())).unwrap();
    conn.close().unwrap();
    for more in [None, Some("CREATE TABLE more (x ANY) STRICT;")] {
        if let Some(sql) = more {
            fs::write(custom.path().join("V4__more.sql"), sql).unwrap();
        }
        let server = Server::on(folder.path(), &flags).await;
        assert_eq!(server.client.get("/ada").await.expect(503).code(), "quarantined");
        server.stop().await;
    }
    fs::write(custom.path().join("V4__more.sql"), UNFIT[1].1.replace("kind", "kind2")).unwrap();
    refused(folder.path(), &["ada"], &flags, &["V4__more"]);
}

#[tokio::test]
async fn a_migration_that_fails_on_rows_made_up_alone_is_no_reason_not_to_start() {
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["1"])]).await;
    let custom = migrations(&[(
        "V3__numbers.sql",
        "CREATE TABLE numbers (n INTEGER NOT NULL CHECK (n < 10)) STRICT; INSERT INTO numbers SELECT CASE WHEN text \
         GLOB '[0-9]' THEN CAST(text AS INTEGER) ELSE 99 END FROM notes;",
    )]);
    let server = Process::start(folder.path(), &["--migrations", custom.path().to_str().unwrap()]);
    assert_eq!(server.client.texts("ada").await, ["1"]);
    let failures: Vec<_> = server.log().into_iter().filter(|line| line["failure"].is_string()).collect();
    assert_eq!(failures.len(), 1, "from each version that files have: {failures:?}");
    assert!(failures[0]["failure"].as_str().unwrap().contains("V3__numbers failed: CHECK"), "{failures:?}");
    assert!(failures[0]["message"].as_str().unwrap().contains("migrate --all --dry-run"), "{failures:?}");
    server.signal("TERM");
    assert!(server.wait().success());
}

#[tokio::test]
async fn a_migration_may_be_as_long_as_it_likes() {
    let rows: Vec<String> = (0..20_000).map(|n| format!("({n}, 'a seed of some length')")).collect();
    let long = format!(
        "CREATE TABLE seeds (n INTEGER PRIMARY KEY, text TEXT) STRICT; INSERT INTO seeds VALUES {}; -- {}",
        rows.join(", "),
        "x".repeat(20 << 20),
    );
    let custom = migrations(&[("V3__seeds.sql", &long)]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let folder = folder_with(shipped_schema().unwrap(), &[("ada", &["x"])]).await;
    let server = Server::on(folder.path(), &flags).await;
    server.client.note("new", "y").await;
    assert_eq!(server.client.texts("ada").await, ["x"]);
    // And the limits of everybody else are what they were.
    let tenant = server.app.store().lease(&"ada".parse().unwrap()).await.unwrap();
    let sql = format!("SELECT 1 -- {}", "x".repeat(100_000));
    tenant.read(move |conn| Ok(conn.query_row(&sql, [], |_| Ok(()))?)).await.unwrap_err();
    drop(tenant);
    server.stop().await;
    // What no file could be read with afterwards is refused all the same.
    let wide = format!("CREATE TABLE wide (x ANY /* {} */) STRICT;", "x".repeat(100_000));
    let custom = migrations(&[("V3__seeds.sql", &long), ("V4__wide.sql", &wide)]);
    refused(folder.path(), &["ada"], &["--migrations", custom.path().to_str().unwrap()], &["100000 bytes"]);
}

#[tokio::test]
async fn a_dry_run_tries_on_copies_and_says_what_would_fail() {
    let folder =
        folder_with(shipped_schema().unwrap(), &[("ada", &["x"]), ("bad", &["same", "same"]), ("cy", &["y"])]).await;
    let custom = migrations(&[UNIQUE]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let before = fs::read(file(folder.path(), "bad")).unwrap();
    for which in [&["--all"][..], &["ada", "bad", "cy"]] {
        let arguments = [&["migrate", "--dry-run", "--json"][..], which, &flags].concat();
        let output = run(folder.path(), &arguments);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &report["behind"], &report["tried"]), (Some(1), &json!(3), &json!(3)));
        let failed = report["failed"].as_array().unwrap();
        assert_eq!((failed.len(), &failed[0]["id"]), (1, &json!("bad")), "{report}");
        let error = failed[0]["error"].as_str().unwrap();
        assert!(error.contains("V3__unique_texts") && error.contains("UNIQUE constraint failed"), "{error}");
    }
    let text = run(folder.path(), &[&["migrate", "--all", "--dry-run"][..], &flags].concat());
    assert!(String::from_utf8_lossy(&text.stdout).contains("bad ("), "{text:?}");
    assert!(fs::read(file(folder.path(), "bad")).unwrap() == before, "byte for byte as it was");
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0, "no copy is left");
    let row = shown(folder.path(), "bad", &[]);
    assert_eq!((&row["state"], &row["schema_version"]), (&json!("active"), &json!(2)), "{row}");
    mend(folder.path(), "bad");
    stdout(&run(folder.path(), &[&["migrate", "--all", "--dry-run"][..], &flags].concat()));
}

#[tokio::test]
async fn a_dry_run_tries_some_of_each_schema_and_not_all() {
    let names: Vec<String> = (0..12).map(|n| format!("old_{n}")).collect();
    let users: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &["x"][..])).collect();
    let folder = folder_with(v1(), &users).await;
    stdout(&run(folder.path(), &["tenants", "create", "newer"]));
    let custom = migrations(&[("V3__more.sql", "CREATE TABLE more (x ANY) STRICT;")]);
    let flags = ["--migrations", custom.path().to_str().unwrap()];
    let output = run(folder.path(), &[&["migrate", "--all", "--dry-run", "--json"][..], &flags].concat());
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&report["behind"], &report["tried"]), (&json!(13), &json!(8 + 1)), "{report}");
}

#[tokio::test]
async fn a_user_at_the_quota_is_served_after_the_schema_grew() {
    let folder = TempDir::new().unwrap();
    let quota = ["--quota", "256KiB"];
    let server = Server::on(folder.path(), &quota).await;
    let text = "x".repeat(3000);
    let mut notes = Vec::new();
    loop {
        let reply = server.client.post("/ada", json!({"text": text})).await;
        match reply.status {
            201 => notes.push(reply.json()["note"]["id"].as_str().unwrap().to_owned()),
            _ => break drop(reply.expect(507)),
        }
        assert!(notes.len() < 200, "the quota is not kept");
    }
    server.stop().await;

    let sql = "CREATE TABLE more (x TEXT NOT NULL, y TEXT NOT NULL) STRICT; INSERT INTO more SELECT text, text FROM \
               notes; CREATE INDEX more_by_x ON more (x); CREATE INDEX notes_by_updated ON notes (updated);";
    let custom = migrations(&[("V3__more.sql", sql)]);
    let flags = [&quota[..], &["--migrations", custom.path().to_str().unwrap()]].concat();
    let server = Server::on(folder.path(), &flags).await;
    assert_eq!(server.client.texts("ada").await.len(), notes.len());
    server.client.get(&format!("/ada/{}", notes[0])).await.expect(200);
    let refused = server.client.post("/ada", json!({"text": "x".repeat(50_000)})).await.expect(507);
    assert_eq!(refused.code(), "quota_exceeded");
    server.client.delete(&format!("/ada/{}", notes[0])).await.expect(200);
    assert_eq!(server.client.texts("ada").await.len(), notes.len() - 1);
    server.stop().await;
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
