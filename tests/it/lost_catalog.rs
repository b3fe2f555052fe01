//! A catalog that is lost, or is not the one that was opened.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use cubby::{
    ErrorKind, StoreOptions,
    catalog::model::{Row, State},
    reconcile::rebuild::{self, Progress},
    rusqlite::types::Value,
    sqlite::{
        deadline::Deadline,
        migrate::Step,
        open::{self, Options},
    },
};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    self, Process, Server, author,
    sender::{Message, SECRET, deliver, event, gone, user},
};

const FILES: [&str; 3] = ["catalog.db", "catalog.db-wal", "catalog.db-shm"];

async fn server() -> Server {
    let server = Server::with(&["--clerk-webhook-secret", SECRET]).await;
    deliver(&server.client, "m1", &event("user.created", user("user_1", "ada", 10), 1)).await;
    server.client.note("user_1", "mine").await;
    server.client.get("/readyz").await.expect(200);
    server
}

/// Nothing that the catalog would have to keep is acknowledged; whoever is open is served.
async fn refuses(server: &Server, what: &str) {
    let red = server.client.get("/readyz").await;
    assert_eq!(red.status, 503, "{what}");
    assert_eq!(red.code(), "not_ready", "{what}");
    let detail = red.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("cubby doctor --rebuild-catalog"), "{what}: {detail}");
    let deletion = Message::new("m2", &event("user.deleted", gone("user_1"), 2)).send(&server.client).await;
    assert_eq!((deletion.status, deletion.code().as_str()), (500, "delivery_failed"), "{what}");
    assert!(server.app.store().layout().tenant(&"user_1".parse().unwrap()).exists(), "{what}");
    let row = server.app.store().find(&"user_1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.state, State::Active, "{what}: what is refused is not done either");
    server.client.note("user_1", "still served").await;
}

#[tokio::test]
async fn a_catalog_without_its_name_turns_readyz_red_and_acknowledges_nothing() {
    for file in FILES {
        let server = server().await;
        let (path, away) = (server.data().join(file), server.data().join("away"));
        fs::rename(&path, &away).unwrap();
        refuses(&server, &format!("{file} is gone")).await;
        // Put back, it is the one that was opened.
        fs::rename(&away, &path).unwrap();
        server.client.get("/readyz").await.expect(200);
        deliver(&server.client, "m2", &event("user.deleted", gone("user_1"), 2)).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_catalog_that_was_replaced_turns_readyz_red_and_acknowledges_nothing() {
    for file in FILES {
        let server = server().await;
        let (path, copy) = (server.data().join(file), server.data().join("copy"));
        fs::copy(&path, &copy).unwrap();
        fs::rename(&copy, &path).unwrap();
        refuses(&server, &format!("{file} is another")).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_replaced_catalog_is_not_mistaken_for_the_one_that_was_closed() {
    let server = server().await;
    let (path, copy) = (server.data().join("catalog.db"), server.data().join("copy"));
    // What is opened next is what has the name then.
    server.app.store().catalog().close().unwrap();
    fs::copy(&path, &copy).unwrap();
    fs::rename(&copy, &path).unwrap();
    let deletion = Message::new("m2", &event("user.deleted", gone("user_1"), 2)).send(&server.client).await;
    assert_eq!(deletion.expect(500).code(), "delivery_failed");
    server.client.get("/readyz").await.expect(503);
    server.stop().await;
}

/// What a start must leave as it is.
fn files(folder: &Path) -> Vec<(PathBuf, u64, u64)> {
    let mut files = harness::tree(folder);
    // The log is redone before anything else.
    files.retain(|(path, ..)| {
        path.is_file() && !path.ends_with("cubby.lock") && !path.to_string_lossy().contains("/log")
    });
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_without_a_catalog_where_users_have_files() {
    let folder = tempfile::TempDir::new().unwrap();
    let process = Process::start(folder.path(), &["--clerk-webhook-secret", SECRET]);
    process.client.note("user_1", "mine").await;
    let live = folder.path().join("tenants");
    for (what, trashed) in [("live", false), ("in the trash", true)] {
        let other = tempfile::TempDir::new().unwrap();
        Server::on(other.path(), &[]).await.stop().await;
        for file in FILES {
            let _ = fs::remove_file(other.path().join(file));
        }
        let (file, ..) = harness::tree(&live).into_iter().find(|(path, ..)| path.extension().is_some()).unwrap();
        let shard = file.parent().unwrap().file_name().unwrap();
        let place = if trashed { other.path().join("trash") } else { other.path().join("tenants").join(shard) };
        fs::copy(&file, place.join(file.file_name().unwrap())).unwrap();
        let before = files(other.path());
        for command in [&["tenants", "list"][..], &["doctor", "--fix"], &["serve", "--listen", "127.0.0.1:0"]] {
            let refused = harness::run(other.path(), command);
            let text = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(2), "{what}, {command:?}: {text}");
            assert!(text.contains("`cubby doctor --rebuild-catalog`"), "{what}, {command:?}: {text}");
            assert_eq!(files(other.path()), before, "{what}, {command:?}");
        }
    }
    // A log without its database is what is left of a lost one, too.
    process.kill();
    for name in ["tenants", "trash"] {
        fs::remove_dir_all(folder.path().join(name)).unwrap();
    }
    fs::remove_file(folder.path().join("catalog.db")).unwrap();
    assert!(fs::metadata(folder.path().join("catalog.db-wal")).unwrap().len() > 0);
    let refused = harness::run(folder.path(), &["tenants", "create", "user_2"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--rebuild-catalog"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_and_suspensions_stand_when_the_catalog_is_lost_while_serving() {
    let folder = tempfile::TempDir::new().unwrap();
    let flags = ["--clerk-webhook-secret", SECRET];
    let process = Process::start(folder.path(), &flags);
    let client = process.client.clone();
    for id in ["user_1", "user_2"] {
        deliver(&client, id, &event("user.created", user(id, id, 10), 1)).await;
        client.note(id, "mine").await;
    }
    deliver(&client, "m1", &event("user.deleted", gone("user_1"), 2)).await;
    fs::remove_file(folder.path().join("catalog.db")).unwrap();
    Message::new("m2", &event("user.deleted", gone("user_2"), 2)).send(&client).await.expect(500);
    process.signal("TERM");
    process.wait();
    assert!(!harness::run(folder.path(), &["tenants", "list"]).status.success());
    let rebuilt = harness::run(folder.path(), &["doctor", "--rebuild-catalog"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");

    let process = Process::start(folder.path(), &flags);
    let client = process.client.clone();
    let late = deliver(&client, "m3", &event("user.created", user("user_1", "ada", 10), 1)).await;
    assert_eq!(late["status"], "ignored");
    deliver(&client, "m2", &event("user.deleted", gone("user_2"), 2)).await;
    process.signal("TERM");
    assert!(process.wait().success());
    for id in ["user_1", "user_2"] {
        harness::stdout(&harness::run(folder.path(), &["tenants", "restore", id]));
    }
    let server = Server::on(folder.path(), &[]).await;
    for id in ["user_1", "user_2"] {
        assert_eq!(server.client.texts(id).await, ["mine"], "no other file was moved over theirs");
    }
    server.stop().await;
}

const ADMIN: &str = "an-admin-key-of-32-characters-ok";
const REASON: &str = "terms were broken";
const PAGE: usize = 4096;

/// A damaged catalog of which nothing is lost that anybody misses, with users in every state. Who was
/// deleted or suspended last is in its log alone.
async fn damaged() -> TempDir {
    let folder = TempDir::new().unwrap();
    let flags = ["--clerk-webhook-secret", SECRET, "--admin-api-key", ADMIN];
    let server = Server::on(folder.path(), &flags).await;
    for name in ["user_1", "user_2", "user_gone", "user_out", "user_purged"] {
        deliver(&server.client, name, &event("user.created", user(name, name, 10), 1)).await;
        server.client.note(name, &format!("note of {name}")).await;
    }
    server.stop().await;
    harness::stdout(&harness::run(folder.path(), &["tenants", "purge", "user_purged", "--yes"]));
    harness::stdout(&harness::run(folder.path(), &["keys", "create", "--name", "a key"]));
    let process = Process::start(folder.path(), &flags);
    for name in ["user_gone", "user_never"] {
        deliver(&process.client, &format!("{name}-gone"), &event("user.deleted", gone(name), 2)).await;
    }
    let suspension = json!({"reason": REASON});
    process.client.bearing(ADMIN).post("/api/admin/tenants/user_out/suspend", suspension).await.expect(200);
    process.kill();

    let catalog = folder.path().join("catalog.db");
    assert!(fs::metadata(folder.path().join("catalog.db-wal")).unwrap().len() > 0);
    let root: i64 = opened(&copy(folder.path()).path().join("catalog.db"))
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'sync_runs'", [], |row| row.get(0))
        .unwrap();
    let root = usize::try_from(root).unwrap();
    let mut bytes = fs::read(&catalog).unwrap();
    bytes[(root - 1) * PAGE..root * PAGE].fill(0);
    fs::write(&catalog, bytes).unwrap();
    folder
}

fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status().unwrap();
    assert!(copied.success());
    to
}

fn opened(catalog: &Path) -> cubby::rusqlite::Connection {
    open::open(catalog, &Options::default(), &Deadline::none()).unwrap()
}

/// Rows, each with its table.
type Rows = Vec<(&'static str, Vec<Value>)>;

/// All rows but those that differ from rebuild to rebuild: the line that it leaves in the audit trail.
fn rows(folder: &Path) -> Rows {
    let folder = copy(folder);
    let catalog = opened(&folder.path().join("catalog.db"));
    let mut all = Rows::new();
    for table in ["tenants", "api_keys", "deliveries", "audit WHERE action <> 'doctor'"] {
        let mut select = catalog.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).unwrap();
        let width = select.column_count();
        let rows = select.query_map([], |row| (0..width).map(|at| row.get(at)).collect()).unwrap();
        all.extend(rows.map(|row| (table, row.unwrap())));
    }
    all
}

/// What is in the data folder itself; of what was set aside, the content, whatever time is in its name.
fn root_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
            match name.split_once(".lost") {
                Some((_, suffix)) => (format!("aside{suffix}"), fs::read(path).unwrap()),
                None => (name, Vec::new()),
            }
        })
        .collect();
    names.sort();
    names
}

async fn row(server: &Server, id: &str) -> Option<Row> {
    server.app.store().find(&id.parse().unwrap()).await.unwrap()
}

/// A user's file in its live place, and in the trash.
fn paths(folder: &Path, id: &str) -> [PathBuf; 2] {
    let live = PathBuf::from(harness::stdout(&harness::run(folder, &["tenants", "path", id])).trim());
    let name = live.file_name().unwrap().to_owned();
    let shard = &name.to_str().unwrap()[..2];
    [folder.join("tenants").join(shard).join(&name), folder.join("trash").join(&name)]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_rebuild_completes_one_that_is_killed_at_any_moment() {
    let found = damaged().await;
    killed_at_any_moment(found.path(), rows);
    // Of a log alone nothing can be read, and it is kept all the same.
    fs::remove_file(found.path().join("catalog.db")).unwrap();
    killed_at_any_moment(found.path(), |folder| {
        let mut rows = rows(folder);
        // The rest of a row has the time of the rebuild.
        rows.iter_mut().for_each(|(_, values)| values.truncate(2));
        rows
    });
}

fn killed_at_any_moment(found: &Path, rows: impl Fn(&Path) -> Rows) {
    let unkilled = copy(found);
    harness::stdout(&harness::run(unkilled.path(), &["doctor", "--rebuild-catalog"]));
    let (rows_wanted, files_wanted) = (rows(unkilled.path()), root_of(unkilled.path()));
    for name in ["catalog.db", "catalog.db-wal"] {
        let Ok(content) = fs::read(found.join(name)) else { continue };
        let aside = (name.replace("catalog.db", "aside"), content);
        assert!(files_wanted.contains(&aside), "{name} is kept as it was found");
    }

    let folder = copy(found);
    let mut killed: Vec<(Progress, TempDir)> = Vec::new();
    let options = StoreOptions::new(folder.path());
    rebuild::rebuild(&options, &author(), |progress| killed.push((progress, copy(folder.path())))).unwrap();
    assert!(killed.iter().filter(|(progress, _)| *progress == Progress::Changed).count() > 2);
    let last = killed.len() - 1;
    for (n, (progress, killed)) in killed.iter().enumerate() {
        let what = format!("{n}, {progress:?}");
        let folder = killed.path();
        // What a start does meanwhile changes nothing about it.
        if !folder.join("catalog.db").is_file() {
            let refused = harness::run(folder, &["tenants", "list"]);
            let text = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(2), "{what}: {text}");
            assert!(text.contains("`cubby doctor --rebuild-catalog`"), "{what}: {text}");
        }
        let again = harness::run(folder, &["doctor", "--rebuild-catalog"]);
        let text = String::from_utf8_lossy(&again.stderr).into_owned();
        if n == last {
            assert!(text.contains("in order"), "{what}: {text}");
            harness::stdout(&harness::run(folder, &["doctor", "--fix"]));
        } else {
            assert_eq!(again.status.code(), Some(0), "{what}: {text}");
        }
        assert_eq!(rows(folder), rows_wanted, "{what}");
        assert!(root_of(folder) == files_wanted, "{what}: {:?}", harness::tree(folder));
        harness::stdout(&harness::run(folder, &["doctor"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_stands_by_its_row_or_by_the_place_of_the_file() {
    let folder = damaged().await;
    let folder = folder.path();
    let elsewhere = TempDir::new().unwrap();
    let server = Server::on(elsewhere.path(), &[]).await;
    server.client.note("user_purged", "left over").await;
    server.stop().await;
    let whole = copy(folder);
    let at = |id: &str| paths(whole.path(), id).map(|path| folder.join(path.strip_prefix(whole.path()).unwrap()));
    // Deletions whose files were not moved, or not all erased.
    let [live, trashed] = at("user_gone");
    fs::rename(trashed, live).unwrap();
    let left_over = &paths(elsewhere.path(), "user_purged")[0];
    for place in at("user_purged") {
        fs::copy(left_over, place).unwrap();
    }
    // Deletions of which the row is not known.
    for id in ["user_1", "user_out"] {
        let [live, trashed] = at(id);
        fs::rename(live, trashed).unwrap();
    }
    harness::stdout(&harness::run(folder, &["doctor", "--rebuild-catalog"]));
    harness::stdout(&harness::run(folder, &["doctor"]));

    let server = Server::on(folder, &[]).await;
    for id in ["user_1", "user_gone", "user_out", "user_purged", "user_never"] {
        let row = row(&server, id).await.unwrap();
        assert_eq!((row.state, row.purged.is_some()), (State::Deleted, id == "user_purged"), "{id}");
        server.client.post(&format!("/{id}"), json!({"text": "x"})).await.expect(404);
        let [live, trashed] = at(id);
        let has_file = ["user_1", "user_gone", "user_out"].contains(&id);
        assert_eq!((live.exists(), trashed.exists()), (false, has_file), "{id}");
    }
    assert_eq!(server.client.texts("user_2").await, ["note of user_2"]);
    for id in ["user_1", "user_gone", "user_out"] {
        server.app.store().restore(&id.parse().unwrap(), &author()).await.unwrap();
    }
    for id in ["user_1", "user_gone"] {
        assert_eq!(server.client.texts(id).await, [format!("note of {id}")]);
    }
    let out = row(&server, "user_out").await.unwrap();
    assert_eq!((out.state, out.reason.as_deref()), (State::Suspended, Some(REASON)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_no_regular_file_does_not_count_as_lost() {
    let found = damaged().await;
    let away = TempDir::new().unwrap();
    for what in ["moved behind a link", "a link to nothing", "a folder", "its log is a folder", "its log is a link"] {
        let folder = copy(found.path());
        let folder = folder.path();
        let (catalog, log) = (folder.join("catalog.db"), folder.join("catalog.db-wal"));
        let moved = away.path().join(what);
        fs::rename(if what.contains("log") { &log } else { &catalog }, &moved).unwrap();
        match what {
            "moved behind a link" => symlink(&moved, &catalog).unwrap(),
            "a link to nothing" => symlink(away.path().join("nothing"), &catalog).unwrap(),
            "a folder" => fs::create_dir(&catalog).unwrap(),
            "its log is a folder" => fs::create_dir(&log).unwrap(),
            _ => symlink(&moved, &log).unwrap(),
        }
        let before = files(folder);
        let refused = harness::run(folder, &["doctor", "--rebuild-catalog"]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{what}: {text}");
        assert!(text.contains("catalog.db") && text.contains("no plain file"), "{what}: {text}");
        assert_eq!(files(folder), before, "{what}");
        let name = if what.contains("log") { &log } else { &catalog };
        assert!(!name.symlink_metadata().unwrap().is_file(), "{what}: it is where it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_file_of_a_user_stops_a_rebuild_which_changes_nothing() {
    let folder = damaged().await;
    let folder = folder.path();
    let [live, _] = paths(copy(folder).path(), "user_2");
    let shard = live.parent().unwrap().file_name().unwrap();
    let live = folder.join("tenants").join(shard).join(live.file_name().unwrap());
    for file in FILES {
        fs::remove_file(folder.join(file)).unwrap();
    }
    // SQLite can open no log there: that says nothing about the file.
    let log = PathBuf::from(format!("{}-wal", live.display()));
    let _ = fs::remove_file(&log);
    fs::create_dir(&log).unwrap();
    // An empty log goes when its database is looked at.
    let filled = || files(folder).into_iter().filter(|(.., bytes)| *bytes > 0).collect::<Vec<_>>();
    let before = filled();
    let refused = harness::run(folder, &["doctor", "--rebuild-catalog"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{text}");
    assert!(text.contains(live.to_str().unwrap()), "{text}");
    assert_eq!(filled(), before, "no catalog is made that does not know the user");
    fs::remove_dir(&log).unwrap();
    harness::stdout(&harness::run(folder, &["doctor", "--rebuild-catalog"]));
    let server = Server::on(folder, &[]).await;
    assert_eq!(row(&server, "user_2").await.unwrap().state, State::Active);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_replaces_nothing_that_has_the_catalogs_name() {
    let away = TempDir::new().unwrap();
    for target in [away.path().join("not-mounted"), PathBuf::from("catalog.db")] {
        let folder = TempDir::new().unwrap();
        let catalog = folder.path().join("catalog.db");
        symlink(&target, &catalog).unwrap();
        let refused = harness::run(folder.path(), &["tenants", "create", "user_1"]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{target:?}: {text}");
        assert!(text.contains("catalog.db"), "{target:?}: {text}");
        assert_eq!(fs::read_link(&catalog).unwrap(), target);
        assert!(!folder.path().join("catalog.db.new").exists(), "{target:?}");
    }
}

#[tokio::test]
async fn what_a_start_notes_is_not_written_to_a_catalog_without_its_name() {
    let server = server().await;
    let (path, away) = (server.data().join("catalog.db"), server.data().join("away"));
    let catalog = server.app.store().catalog().clone();
    let step = Step { version: 1000, name: "of_another_program".to_owned(), checksum: 1, file: None };
    fs::rename(&path, &away).unwrap();
    assert_eq!(catalog.note_applied(&[step]).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(catalog.set_current_schema(1).unwrap_err().kind(), ErrorKind::Unavailable);
    fs::rename(&away, &path).unwrap();
    server.client.get("/readyz").await.expect(200);
    let noted = catalog.read(cubby::catalog::queries::migrations::applied).unwrap();
    assert!(noted.iter().all(|step| step.version != 1000));
    server.stop().await;
}
