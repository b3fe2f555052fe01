//! The data folder's log: what only the log has comes back, and damage of it is named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cubby::{
    Store, StoreOptions,
    rusqlite::Connection,
    tenants::disk::path::{Layout, wal_of},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{self, Process};

const ADMIN: &str = "an operator's key";
/// No database is closed meanwhile, so nothing is flushed but the log.
const FLAGS: [&str; 4] = ["--admin-api-key", ADMIN, "--idle", "1h"];

fn layout(folder: &Path) -> Layout {
    Layout::at(folder.canonicalize().unwrap())
}

/// A folder whose server was killed after it acknowledged three notes each of two users.
async fn killed_with_notes() -> TempDir {
    let folder = TempDir::new().unwrap();
    let process = Process::start(folder.path(), &FLAGS);
    for text in ["one", "two", "three"] {
        process.client.note("ada", text).await;
        process.client.note("bob", text).await;
    }
    process.kill();
    folder
}

/// What a power cut takes: everything that was written and not flushed, which is all but the log.
fn lose_what_was_not_flushed(folder: &Path) {
    let layout = layout(folder);
    harness::lose_wal(&layout.catalog());
    for user in ["ada", "bob"] {
        let file = layout.tenant(&user.parse().unwrap());
        fs::write(wal_of(&file), []).unwrap();
        fs::remove_file(file).unwrap();
    }
}

fn records(folder: &Path) -> Vec<Value> {
    let shown = harness::stdout(&harness::run(folder, &["log", "show", "--json"]));
    shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A connection of another program, which knows nothing of the log.
#[expect(clippy::disallowed_methods, reason = "as a program that is not this one")]
fn as_others_do(file: &Path) -> Connection {
    Connection::open_with_flags(file, cubby::rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_flushed_but_to_the_log_comes_back() {
    let folder = killed_with_notes().await;
    lose_what_was_not_flushed(folder.path());
    let process = Process::start(folder.path(), &FLAGS);
    for user in ["ada", "bob"] {
        assert_eq!(process.client.texts(user).await, ["one", "two", "three"]);
    }
    process.client.note("ada", "four").await;
    // Once more: the log is a new one, and the files are on the disk now.
    process.kill();
    let process = Process::start(folder.path(), &FLAGS);
    assert_eq!(process.client.texts("ada").await, ["one", "two", "three", "four"]);
    process.signal("TERM");
    assert!(process.wait().success());
    assert!(segments(folder.path()).is_empty(), "a clean stop leaves the log empty");
    let wal = wal_of(&layout(folder.path()).tenant(&"ada".parse().unwrap()));
    assert_eq!(fs::metadata(wal).map_or(0, |found| found.len()), 0, "and every file that was open complete");
}

/// A commit that the log did not have yet is in the file when another program has opened and closed it after a kill. The log
/// must not be redone under it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_program_has_checkpointed_after_a_kill_is_left_as_it_is() {
    // SQLite is used here before a store is open.
    cubby::sqlite::process::init(cubby::sqlite::process::Globals::default()).unwrap();
    let folder = TempDir::new().unwrap();
    let layout = layout(folder.path());
    let ada = layout.tenant(&"ada".parse().unwrap());
    let process = Process::start(folder.path(), &FLAGS);
    process.client.note("ada", "one").await;
    // From here on the log does not make her file.
    process.signal("TERM");
    assert!(process.wait().success());
    let process = Process::start(folder.path(), &FLAGS);
    for text in ["two", "three"] {
        process.client.note("ada", text).await;
    }
    process.kill();
    assert!(records(folder.path()).iter().any(|record| record["user"] == "ada"), "there is something to redo");

    let many = "WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n LIMIT 2000)
                INSERT INTO notes SELECT 'note_aaaaaaaaaaaaa' || char(97 + v / 676, 97 + v / 26 % 26, 97 + v % 26), 'x', 1, 1 FROM n";
    for (file, change) in [(&ada, many), (&layout.catalog(), "UPDATE tenants SET created = 7")] {
        let conn = as_others_do(file);
        conn.execute_batch(change).unwrap();
        conn.close().unwrap();
        assert!(!wal_of(file).exists(), "it has checkpointed all of it");
    }
    let process = Process::start(folder.path(), &FLAGS);
    assert!(process.client.texts("ada").await.iter().any(|text| text == "three"));
    process.signal("TERM");
    assert!(process.wait().success());
    let conn = as_others_do(&ada);
    let (whole, notes): (String, u32) = conn
        .query_row(
            "SELECT (SELECT integrity_check FROM pragma_integrity_check), (SELECT count(*) FROM notes)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!((whole.as_str(), notes), ("ok", 2003));
    let created: i64 =
        as_others_do(&layout.catalog()).query_row("SELECT created FROM tenants", [], |row| row.get(0)).unwrap();
    assert_eq!(created, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_what_was_never_flushed_is_gone() {
    // Or the test above would prove nothing.
    let folder = killed_with_notes().await;
    lose_what_was_not_flushed(folder.path());
    segments(folder.path()).iter().for_each(|segment| fs::remove_file(segment).unwrap());
    let process = Process::start(folder.path(), &FLAGS);
    assert!(process.client.texts("ada").await.is_empty());
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_quarantines_its_user_and_nobody_else_until_an_operator_has_looked() {
    let folder = killed_with_notes().await;
    lose_what_was_not_flushed(folder.path());
    let commits = |records: &[Value]| {
        let of_ada = records.iter().filter(|record| record["user"] == "ada" && record["change"] == "commit");
        of_ada.cloned().collect::<Vec<_>>()
    };
    let record = commits(&records(folder.path()))[1].clone();
    let segment = folder.path().join("log").join(record["segment"].as_str().unwrap());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[usize::try_from(record["at"].as_u64().unwrap()).unwrap() + 50] ^= 4;
    fs::write(&segment, bytes).unwrap();
    let shown = harness::run(folder.path(), &["log", "show"]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("damaged"), "{shown:?}");

    for start in 0..2 {
        let process = Process::start(folder.path(), &FLAGS);
        assert_eq!(process.client.texts("bob").await, ["one", "two", "three"]);
        let refused = process.client.get("/ada").await.expect(503);
        assert!(refused.code().contains("quarantined"), "start {start}: {}", refused.code());
        process.kill();
    }
    let shown = harness::stdout(&harness::run(folder.path(), &["tenants", "show", "ada", "--json"]));
    assert!(shown.contains("the log was damaged"), "{shown}");
    let doctor = harness::run(folder.path(), &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("log.damaged-1"), "{doctor:?}");
    // The kept log is still there to be looked at.
    let kept = folder.path().join("log.damaged-1");
    let shown = harness::run(folder.path(), &["log", "show", "--json", "--folder", kept.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("damaged"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_damaged_records_is_not_served_after_a_deletion_or_a_migration() {
    let folder = killed_with_notes().await;
    lose_what_was_not_flushed(folder.path());
    let records = records(folder.path());
    let record = records.iter().find(|record| record["user"] == "ada" && record["change"] == "commit").unwrap();
    let segment = folder.path().join("log").join(record["segment"].as_str().unwrap());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[usize::try_from(record["at"].as_u64().unwrap()).unwrap() + 50] ^= 4;
    fs::write(&segment, bytes).unwrap();
    let run = |args: &[&str]| harness::run(folder.path(), args);
    for change in [
        &["tenants", "delete", "ada", "--yes"][..],
        &["tenants", "restore", "ada"],
        &["migrate", "ada"],
        &["migrate", "--all"],
    ] {
        run(change);
        let shown = harness::stdout(&run(&["tenants", "show", "ada"]));
        assert!(shown.contains("the log was damaged"), "after {change:?}: {shown}");
    }
    let process = Process::start(folder.path(), &FLAGS);
    process.client.get("/ada").await.expect(503);
    process.kill();
    harness::stdout(&run(&["tenants", "resume", "ada"]));
    let process = Process::start(folder.path(), &FLAGS);
    process.client.get("/ada").await.expect(200);
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_missing_at_a_start_is_not_served_when_it_is_back() {
    let folder = killed_with_notes().await;
    // Their creations are in the files, and no longer in the log.
    let process = Process::start(folder.path(), &FLAGS);
    process.client.note("ada", "four").await;
    process.client.note("bob", "four").await;
    process.kill();
    let file = layout(folder.path()).tenant(&"ada".parse().unwrap());
    let aside = folder.path().join("moved aside");
    fs::rename(&file, &aside).unwrap();
    let process = Process::start(folder.path(), &FLAGS);
    assert_eq!(process.client.texts("bob").await, ["one", "two", "three", "four"]);
    fs::rename(&aside, &file).unwrap();
    let refused = process.client.get("/ada").await.expect(503);
    assert!(refused.code().contains("quarantined"), "{refused:?}");
    process.kill();
    let kept = folder.path().join("log.kept-1");
    let shown = harness::run(folder.path(), &["log", "show", "--json", "--folder", kept.to_str().unwrap()]).stdout;
    let records: Vec<Value> =
        String::from_utf8(shown).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let whole =
        |user: &str| records.iter().filter(|record| record["user"] == user && record["change"] == "commit").count();
    assert!(whole("ada") > 0 && whole("bob") == 0, "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_beside_the_catalog_of_a_program_without_one_is_refused() {
    let folder = killed_with_notes().await;
    let catalog = layout(folder.path()).catalog();
    // What such a program makes, after the catalog and its WAL were moved away.
    fs::remove_file(wal_of(&catalog)).unwrap();
    let mut bytes = fs::read(&catalog).unwrap();
    bytes[68..72].copy_from_slice(&0x4375_4263_u32.to_be_bytes());
    fs::write(&catalog, bytes).unwrap();
    let before = harness::tree(&folder.path().join("log"));
    for command in [&["tenants", "list"][..], &["doctor", "--rebuild-catalog"]] {
        let refused = harness::run(folder.path(), command);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("a version without the log"), "{refused:?}");
    }
    assert_eq!(harness::tree(&folder.path().join("log")), before);
    fs::rename(folder.path().join("log"), folder.path().join("moved")).unwrap();
    harness::stdout(&harness::run(folder.path(), &["tenants", "list"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_cannot_be_written_stops_its_user_alone() {
    let folder = killed_with_notes().await;
    lose_what_was_not_flushed(folder.path());
    let wal = wal_of(&layout(folder.path()).tenant(&"ada".parse().unwrap()));
    fs::remove_file(&wal).unwrap();
    let outside = TempDir::new().unwrap();
    let target = outside.path().join("another file");
    fs::write(&target, "as it was").unwrap();
    std::os::unix::fs::symlink(&target, &wal).unwrap();
    let process = Process::start(folder.path(), &FLAGS);
    assert_eq!(process.client.texts("bob").await, ["one", "two", "three"]);
    process.client.get("/ada").await.expect(503);
    assert_eq!(fs::read_to_string(&target).unwrap(), "as it was");
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_was_deleted_and_made_anew_has_what_was_written_last() {
    let folder = TempDir::new().unwrap();
    let process = Process::start(folder.path(), &FLAGS);
    let admin = process.client.bearing(ADMIN);
    process.client.note("ada", "before").await;
    admin.delete("/api/admin/tenants/ada").await.expect(200);
    admin.post("/api/admin/tenants/ada/restore", serde_json::json!({})).await.expect(200);
    process.client.note("ada", "after").await;
    process.kill();
    // Only what came after the restoration was not flushed.
    harness::lose_wal(&layout(folder.path()).tenant(&"ada".parse().unwrap()));
    let process = Process::start(folder.path(), &FLAGS);
    assert_eq!(process.client.texts("ada").await, ["before", "after"]);
    process.kill();
}

fn texts(conn: &Connection) -> cubby::Result<Vec<String>> {
    let mut statement = conn.prepare("SELECT text FROM notes ORDER BY id")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

async fn insert(store: &Store, user: &str, text: &'static str) {
    let (tenant, _) = store.lease_or_create(&user.parse().unwrap()).await.unwrap();
    let insert = move |tx: &cubby::rusqlite::Transaction| {
        Ok(tx.execute("INSERT INTO notes VALUES (?1, ?1, 1, 1)", [text]).map(drop)?)
    };
    tenant.write(insert).await.unwrap();
}

/// A new user's database is closed to make room, opened again, and read at length, for which it is reopened: none of that
/// may empty its WAL while the log would make its file anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_that_was_evicted_and_read_at_length_is_redone_as_a_whole() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(StoreOptions { max_open: Some(1), ..StoreOptions::new(folder.path()) }).unwrap();
    insert(&store, "ada", "one").await;
    insert(&store, "bob", "evicts ada").await;
    let ada = store.lease(&"ada".parse().unwrap()).await.unwrap();
    assert_eq!(ada.read_long(harness::PATIENCE, texts).await.unwrap(), ["one"]);
    drop(ada);
    insert(&store, "ada", "two").await;
    // As a kill leaves it.
    let killed = TempDir::new().unwrap();
    copy(folder.path(), killed.path());
    let store = Store::open(StoreOptions::new(killed.path())).unwrap();
    let ada = store.lease(&"ada".parse().unwrap()).await.unwrap();
    assert_eq!(ada.read(texts).await.unwrap(), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_wal_that_cannot_be_opened_does_not_stop_the_log() {
    let folder = TempDir::new().unwrap();
    let flags = ["--admin-api-key", ADMIN, "--idle", "50ms", "--log-segment", "64KiB"];
    let process = Process::start(folder.path(), &flags);
    let admin = process.client.bearing(ADMIN);
    process.client.note("ada", "one").await;
    process.client.note("bob", "one").await;
    let wal = wal_of(&layout(folder.path()).tenant(&"ada".parse().unwrap()));
    harness::eventually("ada's database is closed", async || fs::metadata(&wal).unwrap().len() == 0).await;
    fs::remove_file(&wal).unwrap();
    std::os::unix::fs::symlink(&wal, &wal).unwrap();
    process.client.get("/ada").await.expect(503);
    admin.delete("/api/admin/tenants/ada").await.expect(200);
    // Enough to use every segment again.
    for _ in 0..40 {
        process.client.note("bob", &"long ".repeat(2_000)).await;
    }
    admin.delete("/api/admin/tenants/bob").await.expect(200);
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_format_is_refused_and_left_alone() {
    let folder = killed_with_notes().await;
    for segment in segments(folder.path()) {
        fs::rename(&segment, segment.with_extension("log2")).unwrap();
    }
    let before = harness::tree(&folder.path().join("log"));
    let refused = harness::run(folder.path(), &["tenants", "list"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is no segment of a log"), "{refused:?}");
    assert_eq!(harness::tree(&folder.path().join("log")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_before_the_log_leaves_the_catalogs_wal_alone() {
    let folder = killed_with_notes().await;
    let catalog = layout(folder.path()).catalog();
    let before = fs::metadata(wal_of(&catalog)).unwrap().len();
    assert!(before > 0);
    // How such a program opens it: with the mark that catalogs had then.
    let options = cubby::sqlite::open::Options { application_ids: &[0x4375_4263], ..Default::default() };
    let refused = cubby::sqlite::open::open(&catalog, &options, &cubby::sqlite::deadline::Deadline::none());
    assert_eq!(refused.unwrap_err().kind(), cubby::ErrorKind::Damaged);
    assert_eq!(fs::metadata(wal_of(&catalog)).unwrap().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_commits_by_itself_is_an_error_and_what_follows_is_durable() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(StoreOptions::new(folder.path())).unwrap();
    insert(&store, "ada", "one").await;
    let ada = store.lease(&"ada".parse().unwrap()).await.unwrap();
    let commits = |tx: &cubby::rusqlite::Transaction| {
        Ok(tx.execute_batch("INSERT INTO notes VALUES ('two', 'two', 1, 1); COMMIT; BEGIN")?)
    };
    assert_eq!(ada.write(commits).await.unwrap_err().kind(), cubby::ErrorKind::Internal);
    drop(ada);
    insert(&store, "ada", "three").await;
    let killed = TempDir::new().unwrap();
    copy(folder.path(), killed.path());
    harness::lose_wal(&layout(killed.path()).tenant(&"ada".parse().unwrap()));
    let store = Store::open(StoreOptions::new(killed.path())).unwrap();
    let ada = store.lease(&"ada".parse().unwrap()).await.unwrap();
    assert_eq!(ada.read(texts).await.unwrap(), ["one", "three", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_a_database_with_records_in_the_log_is_kept() {
    let (first, second) =
        ("CREATE TABLE notes (id, text, created_at, updated_at)", "ALTER TABLE notes ADD COLUMN more");
    let schema = |migrations: &[(&str, &str)]| cubby::sqlite::migrate::Schema::from_sql(migrations).unwrap();
    let folder = TempDir::new().unwrap();
    let options = |folder: &Path, migrations: &[(&str, &str)]| StoreOptions {
        schema: Some(schema(migrations)),
        ..StoreOptions::new(folder)
    };
    let store = Store::open(options(folder.path(), &[("V1__a", first)])).unwrap();
    insert(&store, "ada", "one").await;
    let killed = TempDir::new().unwrap();
    copy(folder.path(), killed.path());
    let both = [("V1__a", first), ("V2__b", second)];
    let store = Store::open(options(killed.path(), &both)).unwrap();
    // Redone at the start, migrated at the lease, written to after that, and killed again.
    let ada = store.lease(&"ada".parse().unwrap()).await.unwrap();
    let write = |tx: &cubby::rusqlite::Transaction| {
        Ok(tx.execute("INSERT INTO notes VALUES ('two', 'two', 1, 1, 'more')", []).map(drop)?)
    };
    ada.write(write).await.unwrap();
    let again = TempDir::new().unwrap();
    copy(killed.path(), again.path());
    harness::lose_wal(&layout(again.path()).tenant(&"ada".parse().unwrap()));
    let store = Store::open(options(again.path(), &both)).unwrap();
    let ada = store.lease(&"ada".parse().unwrap()).await.unwrap();
    assert_eq!(ada.read(texts).await.unwrap(), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_dropped_during_writes_keeps_what_it_acknowledged() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(StoreOptions::new(folder.path())).unwrap();
    insert(&store, "ada", "first").await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            let mut acknowledged = vec![];
            let Ok(tenant) = store.lease(&"ada".parse().unwrap()).await else { return acknowledged };
            drop(store);
            for n in 0..50 {
                let text = format!("{writer}-{n}");
                let row = text.clone();
                let write = move |tx: &cubby::rusqlite::Transaction| {
                    Ok(tx.execute("INSERT INTO notes VALUES (?1, ?1, 1, 1)", [&row]).map(drop)?)
                };
                match tenant.write(write).await {
                    Ok(()) => acknowledged.push(text),
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }
    drop(store);
    let acknowledged: Vec<String> = writers.join_all().await.concat();
    assert_eq!(acknowledged.len(), 400);
    // The last task's clone, and with it the store, may be gone only a moment after its answer.
    harness::eventually("the folder is free", async || Store::open(StoreOptions::new(folder.path())).is_ok()).await;
    let store = Store::open(StoreOptions::new(folder.path())).unwrap();
    let ada = store.lease(&"ada".parse().unwrap()).await.unwrap();
    let there = ada.read(texts).await.unwrap();
    assert!(acknowledged.iter().all(|text| there.contains(text)));
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}
