//! How many databases are open, for how long, and what becomes of those in use.

use std::{fs, time::Duration};

use cubby::{ErrorKind, Store, StoreOptions, Tenant, TenantId};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{self, Process, Server, author, eventually};

fn id(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// Marks the open connection: the mark, a setting of its own, is gone when it is closed. Not by a write,
/// which keeps its lease for a moment after its answer.
async fn mark(tenant: &Tenant) {
    tenant.read(|conn| Ok(conn.execute_batch("PRAGMA cache_size = 4321")?)).await.unwrap();
}

async fn is_marked(tenant: &Tenant) -> bool {
    let sql = "PRAGMA cache_size";
    tenant.read(|conn| Ok(conn.query_row(sql, [], |row| row.get::<_, i64>(0))?)).await.unwrap() == 4321
}

async fn open(store: &Store, name: &str) -> Tenant {
    store.lease_or_create(&id(name)).await.unwrap().0
}

#[tokio::test]
async fn under_load_a_leased_database_stays_open_and_the_bound_is_kept() {
    let server = Server::with(&["--max-open", "4"]).await;
    let store = server.app.store();
    let held = [open(store, "held_1").await, open(store, "held_2").await];
    for tenant in &held {
        mark(tenant).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let (client, store) = (server.client.clone(), store.clone());
        tasks.spawn(async move {
            for n in 0..25 {
                client.note(&format!("user_{}", (worker * 3 + n) % 20), "x").await;
                assert!(store.open_count() <= store.capacity(), "{} open", store.open_count());
            }
        });
    }
    tasks.join_all().await;
    for tenant in &held {
        assert!(is_marked(tenant).await, "closed although leased: {}", tenant.id());
        tenant.write(|tx| Ok(tx.execute("DELETE FROM notes", [])?)).await.unwrap();
    }
    let mut notes = 0;
    for user in 0..20 {
        notes += server.client.texts(&format!("user_{user}")).await.len();
    }
    assert_eq!(notes, 200, "nothing was lost or failed");
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn the_least_recently_used_is_closed_first() {
    let server = Server::with(&["--max-open", "2"]).await;
    let store = server.app.store();
    mark(&open(store, "a").await).await;
    mark(&open(store, "b").await).await;
    drop(store.lease(&id("a")).await.unwrap());
    drop(open(store, "c").await);
    assert!(is_marked(&store.lease(&id("a")).await.unwrap()).await, "it was used after b");
    assert!(!is_marked(&store.lease(&id("b")).await.unwrap()).await, "it had to go");
    server.stop().await;
}

#[tokio::test]
async fn with_everything_leased_a_request_waits_for_room_and_is_then_told_to_come_again() {
    let server = Server::with(&["--max-open", "1", "--open-timeout", "50ms"]).await;
    let store = server.app.store();
    drop(open(store, "grace").await);
    let held = open(store, "ada").await;
    let reply = server.client.get("/grace").await.expect(503);
    assert_eq!((reply.code().as_str(), reply.header("retry-after")), ("busy", "1"));
    assert_eq!(store.lease(&id("grace")).await.err().unwrap().kind(), ErrorKind::Busy);
    drop(held);
    server.client.get("/grace").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_for_room_goes_on_when_there_is_some() {
    let server = Server::with(&["--max-open", "1", "--open-timeout", "60s"]).await;
    let store = server.app.store();
    drop(open(store, "grace").await);
    let held = open(store, "ada").await;
    let client = server.client.clone();
    let waiting = tokio::spawn(async move { client.get("/grace").await });
    for _ in 0..10 {
        server.client.get("/healthz").await.expect(200);
    }
    assert!(!waiting.is_finished());
    drop(held);
    waiting.await.unwrap().expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_database_that_nobody_uses_is_closed_with_its_log_emptied_and_opens_again() {
    let server = Server::with(&["--idle", "10ms"]).await;
    let store = server.app.store();
    server.client.note("ada", "x").await;
    eventually("idle databases are closed", async || store.open_count() == 0).await;
    let file = store.layout().tenant(&id("ada"));
    let wal = || fs::metadata(file.with_extension("db-wal")).map_or(0, |found| found.len());
    eventually("everything is in the file itself", async || wal() == 0).await;
    eventually("the catalog is told its size", async || {
        store.find(&id("ada")).await.unwrap().unwrap().bytes == Some(fs::metadata(&file).unwrap().len())
    })
    .await;
    assert_eq!(server.client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[tokio::test]
async fn a_store_closes_idle_databases_and_writes_usage_samples_by_itself() {
    let folder = TempDir::new().unwrap();
    let options = StoreOptions { idle: Duration::from_millis(10), ..StoreOptions::new(folder.path()) };
    let store = Store::open(options).unwrap();
    drop(open(&store, "ada").await);
    eventually("the idle database is closed", async || store.open_count() == 0).await;
    eventually("the catalog has its size", async || store.find(&id("ada")).await.unwrap().unwrap().bytes.is_some())
        .await;
    drop(open(&store, "ada").await);
    store.close(tokio::time::Instant::now() + harness::PATIENCE).await;
    drop(store);
    // Nothing in the background has the folder's lock after the close.
    Store::open(StoreOptions::new(folder.path())).unwrap();
}

#[tokio::test]
async fn a_store_that_is_dropped_without_a_close_leaves_no_task_behind() {
    let folder = TempDir::new().unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let store = Store::open(StoreOptions::new(folder.path())).unwrap();
    assert_eq!(tasks(), before + 1, "its maintenance");
    drop(open(&store, "ada").await);
    drop(store);
    eventually("the task has ended", async || tasks() == before).await;
    Store::open(StoreOptions::new(folder.path())).unwrap();
}

#[tokio::test]
async fn a_server_has_no_more_files_open_than_its_bound() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--max-open", "3"]);
    let open_files = || {
        let folder = format!("/proc/{}/fd", server.id());
        let links = fs::read_dir(folder).unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links
            .map(|link| link.to_string_lossy().into_owned())
            // Not the folders, which are opened for a moment to be synced.
            .filter(|link| link.contains("/tenants/") && (link.ends_with(".db") || link.ends_with(".db-wal")))
            .count()
    };
    for round in 0..2 {
        for user in 0..20 {
            server.client.note(&format!("user_{user}"), "x").await;
            assert!(open_files() <= 2 * 3, "{} after {round}/{user}", open_files());
        }
    }
    assert!(open_files() > 0, "the count sees them");
}

#[tokio::test]
async fn an_operation_on_a_database_waits_for_those_who_use_it() {
    let server = Server::start().await;
    let store = server.app.store().clone();
    let held = open(&store, "ada").await;
    let deletion = {
        let store = store.clone();
        tokio::spawn(async move { store.delete(&id("ada"), &author()).await })
    };
    // While it waits nobody is let in, and who is in goes on.
    eventually("the deletion has begun", async || {
        tokio::time::timeout(Duration::from_millis(1), store.lease(&id("ada"))).await.is_err()
    })
    .await;
    held.write(|tx| Ok(tx.execute("DELETE FROM notes", [])?)).await.unwrap();
    assert!(!deletion.is_finished());
    drop(held);
    deletion.await.unwrap().unwrap();
    assert_eq!(store.lease(&id("ada")).await.err().unwrap().kind(), ErrorKind::UnknownTenant);
    server.stop().await;
}

#[tokio::test]
async fn more_open_databases_than_there_may_be_descriptors_are_refused_at_start() {
    let folder = TempDir::new().unwrap();
    let output = crate::harness::run(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--max-open", "1000000"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("ulimit -n") && text.contains("--max-open"), "{text}");
}

#[tokio::test]
async fn readiness_tells_how_much_is_open() {
    let server = Server::with(&["--max-open", "7"]).await;
    server.client.note("ada", "x").await;
    let ready = server.client.get("/readyz").await.expect(200).json();
    assert_eq!((&ready["status"], &ready["open"], &ready["capacity"]), (&json!("ready"), &json!(1), &json!(7)));
    server.stop().await;
}

#[tokio::test]
async fn a_read_cannot_write_and_leaves_the_connection_clean() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(StoreOptions::new(folder.path())).unwrap();
    let (tenant, _) = store.lease_or_create(&"ada".parse().unwrap()).await.unwrap();
    let insert = "INSERT INTO notes VALUES (hex(randomblob(16)), 'x', 0, 0)";
    let attempts = [
        insert.to_owned(),
        format!("BEGIN; {insert}; COMMIT"),
        format!("BEGIN; {insert}"),
        "CREATE TABLE more (x)".to_owned(),
        "DROP TABLE notes".to_owned(),
        "CREATE TEMP TABLE more (x)".to_owned(),
        "PRAGMA user_version = 99".to_owned(),
        format!("PRAGMA query_only = OFF; {insert}"),
        format!("SAVEPOINT a; {insert}; RELEASE a"),
    ];
    for sql in attempts {
        for (swallow, long) in [(false, false), (true, false), (false, true), (true, true)] {
            let text = sql.clone();
            let work = move |conn: &cubby::rusqlite::Connection| match conn.execute_batch(&text) {
                Err(_) if swallow => Ok(()),
                result => Ok(result?),
            };
            let result = match long {
                false => tenant.read(work).await,
                true => tenant.read_long(Duration::from_secs(60), work).await,
            };
            // On a connection that reads only, each statement is refused by itself, and that may be hidden.
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Internal, "{sql}: {error}");
                assert!(error.message().contains("Tenant::write"), "{sql}: {error}");
            } else {
                assert!(swallow && long, "{sql}");
            }
            // And the next one finds nothing of it.
            let state = |conn: &cubby::rusqlite::Connection| {
                let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
                let notes: i64 = conn.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?;
                Ok((conn.is_autocommit(), version, notes))
            };
            assert_eq!(tenant.read(state).await.unwrap(), (true, 2, 0), "{sql}");
            assert_eq!(tenant.read_long(Duration::from_secs(60), state).await.unwrap(), (true, 2, 0), "{sql}");
        }
    }
    // A transaction of its own is a reader's right, and one it forgets is ended for it.
    for long in [false, true] {
        let work = |conn: &cubby::rusqlite::Connection| {
            conn.execute_batch("BEGIN")?;
            Ok(conn.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))?)
        };
        let count = match long {
            false => tenant.read(work).await,
            true => tenant.read_long(Duration::from_secs(60), work).await,
        };
        assert_eq!(count.unwrap(), 0);
        assert!(tenant.read(|conn| Ok(conn.is_autocommit())).await.unwrap());
        assert!(tenant.read_long(Duration::from_secs(60), |conn| Ok(conn.is_autocommit())).await.unwrap());
    }
    tenant.write(move |tx| Ok(tx.execute(insert, [])?)).await.unwrap();
    drop(tenant);
    store.close(tokio::time::Instant::now() + harness::PATIENCE).await;
}
