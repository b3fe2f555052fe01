//! A catalog that is lost or damaged is made anew in one go, and everybody is served.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cubby::{
    catalog::model::{Row, State},
    sqlite::{
        deadline::Deadline,
        open::{self, Options},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    self, Process, Server, author,
    sender::{SECRET, deliver, event, gone, user},
};

const REASON: &str = "terms were broken";
const FLAGS: [&str; 2] = ["--clerk-webhook-secret", SECRET];
const PAGE: usize = 4096;

/// Users in every state, a key, a tombstone of one who never was and of one who was purged.
async fn with_users(folder: &Path) {
    let server = Server::on(folder, &FLAGS).await;
    for name in ["user_1", "user_2", "user_gone", "user_out", "user_purged"] {
        deliver(&server.client, name, &event("user.created", user(name, name, 10), 1)).await;
        server.client.note(name, &format!("note of {name}")).await;
    }
    for name in ["user_gone", "user_never"] {
        deliver(&server.client, &format!("{name}-gone"), &event("user.deleted", gone(name), 2)).await;
    }
    server.app.store().suspend(&"user_out".parse().unwrap(), REASON, &author()).await.unwrap();
    server.stop().await;
    harness::stdout(&harness::run(folder, &["tenants", "purge", "user_purged", "--yes"]));
    harness::stdout(&harness::run(folder, &["keys", "create", "--name", "a key"]));
}

fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status().unwrap();
    assert!(copied.success());
    to
}

fn rebuild(folder: &Path) -> Value {
    let output = harness::run(folder, &["doctor", "--rebuild-catalog", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn row(server: &Server, id: &str) -> Option<Row> {
    server.app.store().find(&id.parse().unwrap()).await.unwrap()
}

/// Whoever lived is served, whoever was deleted is not, and can be restored.
async fn everybody_is_served(folder: &Path, what: &str) -> Server {
    let server = Server::on(folder, &FLAGS).await;
    server.client.get("/readyz").await.expect(200);
    for name in ["user_1", "user_2"] {
        assert_eq!(server.client.texts(name).await, [format!("note of {name}")], "{what}");
        server.client.note(name, "and on").await;
    }
    let late = deliver(&server.client, "late", &event("user.created", user("user_gone", "x", 10), 1)).await;
    assert_eq!(late["status"], "ignored", "{what}");
    assert_eq!(row(&server, "user_gone").await.unwrap().state, State::Deleted, "{what}");
    server.app.store().restore(&"user_gone".parse().unwrap(), &author()).await.unwrap();
    assert_eq!(server.client.texts("user_gone").await, ["note of user_gone"], "{what}");
    server
}

fn opened(catalog: &Path) -> rusqlite::Connection {
    open::open(catalog, &Options::default(), &Deadline::none()).unwrap()
}

/// The page that each table and index begins with.
fn root_pages(catalog: &Path) -> Vec<(String, usize)> {
    let conn = opened(catalog);
    let mut pages: Vec<(String, usize)> = conn
        .prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0 AND type = 'table'")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.try_into().unwrap())))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    pages.push(("sqlite_schema".to_owned(), 1));
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_root_page_of_any_table_is_repaired_by_one_rebuild() {
    let whole = TempDir::new().unwrap();
    with_users(whole.path()).await;
    let pages = root_pages(&copy(whole.path()).path().join("catalog.db"));
    assert!(pages.len() > 7, "{pages:?}");
    for (n, (table, page)) in pages.iter().enumerate() {
        let folder = copy(whole.path());
        let catalog = folder.path().join("catalog.db");
        let mut bytes = fs::read(&catalog).unwrap();
        // The first page begins with the header of the file, which is another kind of damage.
        let start = (page - 1) * PAGE + if *page == 1 { 100 } else { 0 };
        bytes[start..page * PAGE].fill(if n % 2 == 0 { 0 } else { 0xA5 });
        fs::write(&catalog, &bytes).unwrap();

        // Some damage is found, some makes the look itself fail: either way it is said what to do.
        let looked = harness::run(folder.path(), &["doctor"]);
        let said = [looked.stdout, looked.stderr].concat();
        assert!(String::from_utf8_lossy(&said).contains("--rebuild-catalog"), "{table}: {said:?}");
        fs::write(&catalog, &bytes).unwrap();

        let report = rebuild(folder.path());
        let aside = PathBuf::from(report["rebuilt"]["aside"].as_str().unwrap());
        assert!(fs::read(aside).unwrap() == bytes, "{table}: the old one is kept as it was found");
        let server = everybody_is_served(folder.path(), table).await;
        let out = row(&server, "user_out").await.unwrap();
        let purged = row(&server, "user_purged").await.map(|row| row.state);
        let never = row(&server, "user_never").await.map(|row| row.state);
        let keys = server.app.store().catalog().read(cubby::catalog::queries::keys::list).unwrap().len();
        match table.as_str() {
            // Nothing is found without it.
            "sqlite_schema" => assert_eq!((out.state, purged, never, keys), (State::Active, None, None, 0)),
            // An index tells who is out of use, but not why.
            "tenants" => {
                assert_eq!((out.state, out.reason), (State::Suspended, None));
                assert_eq!((purged, never, keys), (Some(State::Deleted), Some(State::Deleted), 1));
            }
            table => {
                assert_eq!((out.state, out.reason.as_deref()), (State::Suspended, Some(REASON)), "{table}");
                assert_eq!((purged, never), (Some(State::Deleted), Some(State::Deleted)), "{table}");
                assert_eq!(keys, usize::from(table != "api_keys"), "{table}");
                assert_eq!(row(&server, "user_1").await.unwrap().profile.first_name.as_deref(), Some("user_1"));
            }
        }
        let lost: Vec<&Value> =
            report["rebuilt"]["salvaged"].as_array().unwrap().iter().filter(|part| part["lost"].is_string()).collect();
        // These are counted, written at each start, read from users' files, or made of the users' rows.
        let made = [
            "tenant_counts",
            "schema_counts",
            "current_schema",
            "refinery_schema_history",
            "tenant_migrations",
            "tenant_texts",
        ];
        let kept = made.contains(&table.as_str()) || table.starts_with("tenant_search") || table == "search_merge";
        assert_eq!(lost.is_empty(), kept, "{table}: what is lost is said, {report}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_catalog_whose_log_is_left_is_repaired_by_one_rebuild() {
    for with_shm in [true, false] {
        let folder = TempDir::new().unwrap();
        with_users(folder.path()).await;
        let process = Process::start(folder.path(), &FLAGS);
        deliver(&process.client, "m1", &event("user.updated", user("user_1", "newer", 20), 3)).await;
        process.kill();
        fs::remove_file(folder.path().join("catalog.db")).unwrap();
        if !with_shm {
            fs::remove_file(folder.path().join("catalog.db-shm")).unwrap();
        }
        let log = fs::read(folder.path().join("catalog.db-wal")).unwrap();
        assert!(!log.is_empty());
        let report = rebuild(folder.path());
        let aside = format!("{}-wal", report["rebuilt"]["aside"].as_str().unwrap());
        assert!(fs::read(aside).unwrap() == log, "the log is kept");
        everybody_is_served(folder.path(), "lost").await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_file_in_the_catalogs_place_is_kept_aside_with_its_log() {
    let whole = TempDir::new().unwrap();
    with_users(whole.path()).await;
    let process = Process::start(whole.path(), &FLAGS);
    deliver(&process.client, "m1", &event("user.updated", user("user_1", "newer", 20), 3)).await;
    process.kill();
    let half = fs::read(whole.path().join("catalog.db")).unwrap();
    let half = &half[..half.len() / 2];
    for content in [&b""[..], &b"x".repeat(100), &b"no database at all, \0\x01\xFF".repeat(1000), half] {
        let folder = copy(whole.path());
        fs::write(folder.path().join("catalog.db"), content).unwrap();
        let log = fs::read(folder.path().join("catalog.db-wal")).unwrap();
        let refused = harness::run(folder.path(), &["tenants", "list"]);
        if content.len() < 1000 {
            assert!(String::from_utf8_lossy(&refused.stderr).contains("doctor --rebuild-catalog"), "{refused:?}");
        }
        // What a start that was refused did to the log is not of interest: it is the file that is damaged.
        fs::write(folder.path().join("catalog.db"), content).unwrap();
        fs::write(folder.path().join("catalog.db-wal"), &log).unwrap();
        let report = rebuild(folder.path());
        let aside = report["rebuilt"]["aside"].as_str().unwrap();
        assert!(fs::read(aside).unwrap() == content && fs::read(format!("{aside}-wal")).unwrap() == log);
        everybody_is_served(folder.path(), &format!("{} bytes", content.len())).await.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_in_order_one_in_use_and_a_newer_one_are_not_changed() {
    let folder = TempDir::new().unwrap();
    with_users(folder.path()).await;
    let left = |what: &str, why: &str, status: i32| {
        let before = fs::read(folder.path().join("catalog.db")).unwrap();
        let refused = harness::run(folder.path(), &["doctor", "--rebuild-catalog"]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(status), "{what}: {text}");
        assert!(text.contains(why), "{what}: {text}");
        assert!(fs::read(folder.path().join("catalog.db")).unwrap() == before, "{what}");
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!names.into_iter().any(|name| name.to_string_lossy().contains(".lost")), "{what}");
    };
    left("in order", "in order", 1);
    let process = Process::start(folder.path(), &FLAGS);
    left("in use", "stop the server", 2);
    process.signal("TERM");
    assert!(process.wait().success());
    let conn = opened(&folder.path().join("catalog.db"));
    conn.pragma_update(None, "user_version", 1000).unwrap();
    drop(conn);
    left("newer", "newer than this program's", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_stands_wherever_the_file_is() {
    let folder = TempDir::new().unwrap();
    with_users(folder.path()).await;
    // A deletion of which the row is not known, and one whose file was not moved.
    let path = |id: &str| PathBuf::from(harness::stdout(&harness::run(folder.path(), &["tenants", "path", id])).trim());
    let trash = |id: &str| folder.path().join("trash").join(path(id).file_name().unwrap());
    fs::rename(path("user_out"), trash("user_out")).unwrap();
    fs::rename(trash("user_gone"), path("user_gone")).unwrap();
    let catalog = folder.path().join("catalog.db");
    let (_, page) = root_pages(&catalog).into_iter().find(|(table, _)| table == "audit").unwrap();
    let mut bytes = fs::read(&catalog).unwrap();
    bytes[(page - 1) * PAGE..page * PAGE].fill(0);
    fs::write(&catalog, bytes).unwrap();
    rebuild(folder.path());

    let server = Server::on(folder.path(), &FLAGS).await;
    assert_eq!(row(&server, "user_out").await.unwrap().state, State::Deleted);
    server.client.post("/user_out", json!({"text": "x"})).await.expect(404);
    let back = server.app.store().restore(&"user_out".parse().unwrap(), &author()).await.unwrap();
    assert_eq!((back.state, back.reason.as_deref()), (State::Suspended, Some(REASON)));
    assert_eq!(row(&server, "user_gone").await.unwrap().state, State::Deleted);
    server.client.post("/user_gone", json!({"text": "x"})).await.expect(404);
    server.app.store().restore(&"user_gone".parse().unwrap(), &author()).await.unwrap();
    assert_eq!(server.client.texts("user_gone").await, ["note of user_gone"]);
    server.stop().await;
}
