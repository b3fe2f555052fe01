//! Transactions that are held open between calls: who waits for them, what ends them, and what a crash leaves.

use std::{fs, os::unix::process::ExitStatusExt, path::Path, process::Command, time::Duration};

use cubby::{
    Error, ErrorKind, Session, Store, StoreOptions, Tenant, TenantId,
    sqlite::guest::{NoRows, Rules, Statement, guard},
    tenants::disk::path::Layout,
};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::{self, author, eventually};

const LONG: Duration = Duration::from_secs(60);

fn id(name: &str) -> TenantId {
    name.parse().unwrap()
}

struct Folder {
    folder: TempDir,
    store: Store,
    ada: Tenant,
}

async fn folder_with(change: impl FnOnce(&mut StoreOptions)) -> Folder {
    let folder = TempDir::new().unwrap();
    let mut options = StoreOptions::new(folder.path());
    change(&mut options);
    let store = Store::open(options).unwrap();
    let (ada, _) = store.lease_or_create(&id("ada")).await.unwrap();
    Folder { folder, store, ada }
}

async fn folder() -> Folder {
    folder_with(|_| {}).await
}

const INSERT: &str = "INSERT INTO notes VALUES (?1, 'text', 1, 1)";

async fn add(session: &mut Session, note: &str) -> cubby::Result<usize> {
    let note = note.to_owned();
    session.run(move |conn| Ok(conn.execute(INSERT, [note])?)).await
}

async fn write(tenant: &Tenant, note: &str) -> cubby::Result<usize> {
    let note = note.to_owned();
    tenant.write(move |tx| Ok(tx.execute(INSERT, [note])?)).await
}

fn ids(conn: &rusqlite::Connection) -> cubby::Result<String> {
    let sql = "SELECT coalesce(group_concat(id, ' ' ORDER BY id), '') FROM notes";
    Ok(conn.query_row(sql, [], |row| row.get(0))?)
}

async fn notes(tenant: &Tenant) -> String {
    tenant.read(ids).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_writes_is_seen_by_others_after_its_commit_and_reads_go_on_meanwhile() {
    let Folder { ada, folder: _folder, .. } = folder().await;
    write(&ada, "a").await.unwrap();
    let mut session = ada.begin_write(LONG).await.unwrap();
    add(&mut session, "b").await.unwrap();
    add(&mut session, "c").await.unwrap();
    for _ in 0..20 {
        assert_eq!(notes(&ada).await, "a");
    }
    assert_eq!(ada.read_long(LONG, ids).await.unwrap(), "a");
    assert_eq!(session.run(ids).await.unwrap(), "a b c");
    session.commit().await.unwrap();
    assert!(!session.is_open());
    assert_eq!(add(&mut session, "d").await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(notes(&ada).await, "a b c");
    write(&ada, "d").await.unwrap();
    assert_eq!(notes(&ada).await, "a b c d");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_wait_for_a_transaction_and_are_made_after_it() {
    let Folder { ada, folder: _folder, .. } = folder().await;
    let mut session = ada.begin_write(LONG).await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..50 {
        let ada = ada.clone();
        waiting.spawn(async move { write(&ada, &format!("w{n:02}")).await });
    }
    let short = ada.clone();
    waiting.spawn(async move { short.write_short(|tx| Ok(tx.execute(INSERT, ["short"])?)).await });
    for n in 0..20 {
        add(&mut session, &format!("s{n}")).await.unwrap();
        let seen = notes(&ada).await;
        assert_eq!(seen, "");
    }
    assert!(waiting.try_join_next().is_none(), "none was made before the commit");
    session.commit().await.unwrap();
    for made in waiting.join_all().await {
        made.unwrap();
    }
    assert_eq!(notes(&ada).await.split(' ').count(), 71);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_too_long_for_a_transaction_is_busy_and_never_made() {
    let Folder { ada, folder: _folder, .. } =
        folder_with(|options| options.limits.wait = Duration::from_millis(100)).await;
    let mut session = ada.begin_write(LONG).await.unwrap();
    let error = write(&ada, "late").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.message().contains("another transaction"), "{error}");
    add(&mut session, "mine").await.unwrap();
    session.commit().await.unwrap();
    write(&ada, "next").await.unwrap();
    assert_eq!(notes(&ada).await, "mine next");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_take_turns_and_one_that_waits_too_long_is_busy() {
    let Folder { ada, folder: _folder, .. } = folder_with(|options| options.wait = Duration::from_millis(100)).await;
    let first = ada.begin_write(LONG).await.unwrap();
    assert_eq!(ada.begin_write(LONG).await.err().unwrap().kind(), ErrorKind::Busy);
    first.rollback().await;
    let mut second = ada.begin_write(LONG).await.unwrap();
    add(&mut second, "a").await.unwrap();
    second.commit().await.unwrap();
    assert_eq!(notes(&ada).await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_transaction_is_rolled_back_and_writes_go_on() {
    let Folder { ada, folder: _folder, .. } = folder().await;
    let mut session = ada.begin_write(LONG).await.unwrap();
    add(&mut session, "gone").await.unwrap();
    drop(session);
    write(&ada, "kept").await.unwrap();
    assert_eq!(notes(&ada).await, "kept");

    // Also one whose user gave up in the middle of a statement.
    let mut session = ada.begin_write(LONG).await.unwrap();
    add(&mut session, "gone").await.unwrap();
    let endless = session.run(|conn| {
        let sql = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT count(*) FROM n";
        Ok(conn.query_row(sql, [], |row| row.get::<_, i64>(0))?)
    });
    assert!(tokio::time::timeout(Duration::from_millis(50), endless).await.is_err());
    drop(session);
    write(&ada, "last").await.unwrap();
    assert_eq!(notes(&ada).await, "kept last");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_deletes_suspends_migrates_or_closes_does_not_wait_for_a_transaction() {
    for what in ["delete", "suspend", "migrate", "close"] {
        let Folder { store, ada, folder } = folder().await;
        let mut session = ada.begin_write(LONG).await.unwrap();
        let reader = ada.begin_read(LONG).await.unwrap();
        add(&mut session, "half").await.unwrap();
        drop(ada);
        let ada = id("ada");
        let began = Instant::now();
        match what {
            "delete" => drop(store.delete(&ada, &author()).await.unwrap()),
            "suspend" => drop(store.suspend(&ada, "testing", &author()).await.unwrap()),
            "migrate" => drop(store.migrate(&ada, &author()).await.unwrap()),
            _ => assert_eq!(store.close(Instant::now() + LONG).await, 0, "none is in use"),
        }
        assert!(began.elapsed() < LONG / 4, "{what} waited");
        let error = add(&mut session, "more").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{what}: {error}");
        assert!(!session.is_open() && !reader.is_open());
        match what {
            "delete" => drop(store.restore(&ada, &author()).await.unwrap()),
            "suspend" => drop(store.resume(&ada, &author()).await.unwrap()),
            _ => {}
        }
        drop((session, reader));
        let store = if what == "close" {
            drop(store);
            Store::open(StoreOptions::new(folder.path())).unwrap()
        } else {
            store
        };
        assert_eq!(notes(&store.lease(&ada).await.unwrap()).await, "", "{what} left half a transaction");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_interrupts_what_a_transaction_runs() {
    let Folder { store, ada, folder: _folder } = folder().await;
    let mut session = ada.begin_write(LONG).await.unwrap();
    drop(ada);
    let running = tokio::spawn(async move {
        let endless = session.run(|conn| {
            let sql = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT count(*) FROM n";
            Ok(conn.query_row(sql, [], |row| row.get::<_, i64>(0))?)
        });
        endless.await.unwrap_err()
    });
    store.delete(&id("ada"), &author()).await.unwrap();
    assert_eq!(running.await.unwrap().kind(), ErrorKind::Busy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_ends_when_its_time_is_over_and_says_so() {
    let Folder { ada, folder: _folder, .. } = folder().await;
    let mut session = ada.begin_write(Duration::from_millis(50)).await.unwrap();
    add(&mut session, "late").await.unwrap();
    eventually("it is over", async || !session.is_open()).await;
    assert_eq!(session.commit().await.unwrap_err().kind(), ErrorKind::Timeout);
    write(&ada, "next").await.unwrap();
    assert_eq!(notes(&ada).await, "next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_transaction_sees_one_moment_and_cannot_write() {
    let Folder { ada, folder: _folder, .. } = folder().await;
    write(&ada, "a").await.unwrap();
    let mut session = ada.begin_read(LONG).await.unwrap();
    write(&ada, "b").await.unwrap();
    assert_eq!(session.run(ids).await.unwrap(), "a");
    assert_eq!(notes(&ada).await, "a b");
    assert!(add(&mut session, "c").await.is_err());
    session.commit().await.unwrap();
    drop(session);
    let mut session = ada.begin_read(LONG).await.unwrap();
    assert_eq!(session.run(ids).await.unwrap(), "a b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_transaction_that_keeps_the_log_from_being_emptied_is_ended() {
    let change = |options: &mut StoreOptions| (options.limits.checkpoint_pages, options.limits.wal_pages) = (20, 40);
    let Folder { ada, folder: _folder, .. } = folder_with(change).await;
    let mut session = ada.begin_read(LONG).await.unwrap();
    let mut written = 0;
    while session.is_open() {
        write(&ada, &format!("n{written}")).await.unwrap();
        written += 1;
        assert!(written < 1000, "it was never ended");
    }
    assert_eq!(session.run(ids).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_foreign_key_fails_the_commit_and_the_transaction_goes_on() {
    let schema = cubby::Schema::from_sql(&[(
        "V1__tree",
        "CREATE TABLE tree (id INTEGER PRIMARY KEY, up INTEGER REFERENCES tree DEFERRABLE INITIALLY DEFERRED)",
    )]);
    let Folder { ada, folder: _folder, .. } = folder_with(|options| options.schema = Some(schema.unwrap())).await;
    let mut session = ada.begin_write(LONG).await.unwrap();
    session.run(|conn| Ok(conn.execute("INSERT INTO tree VALUES (1, 2)", [])?)).await.unwrap();
    let error = session.commit().await.unwrap_err();
    assert_eq!((error.kind(), session.is_open()), (ErrorKind::Conflict, true), "{error}");
    session.run(|conn| Ok(conn.execute("INSERT INTO tree VALUES (2, NULL)", [])?)).await.unwrap();
    session.commit().await.unwrap();
    let count =
        |conn: &rusqlite::Connection| Ok(conn.query_row("SELECT count(*) FROM tree", [], |r| r.get::<_, i64>(0))?);
    assert_eq!(ada.read(count).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_and_settings_of_a_transaction_do_not_outlive_it() {
    let Folder { ada, folder: _folder, .. } = folder().await;
    // Keeps the database in shared mode.
    let _reader = ada.begin_read(LONG).await.unwrap();
    let mut session = ada.begin_write(LONG).await.unwrap();
    let sql = "CREATE TEMP TABLE mine (x); INSERT INTO mine VALUES (1); PRAGMA recursive_triggers=ON; \
               PRAGMA case_sensitive_like=ON";
    let rules = Rules { temp: true, ..Rules::default() };
    let guests =
        move |conn: &rusqlite::Connection| guard(conn, &rules, |guest| guest.sequence(sql))?.map_err(Error::from);
    session.run(guests).await.unwrap();
    let seen = session.run(|conn| Ok(conn.query_row("SELECT x FROM temp.mine", [], |r| r.get::<_, i64>(0))?));
    assert_eq!(seen.await.unwrap(), 1);
    session.commit().await.unwrap();
    let left = ada.write(|tx| {
        let tables: i64 = tx.query_row("SELECT count(*) FROM temp.sqlite_schema", [], |row| row.get(0))?;
        let triggers: i64 = tx.query_row("PRAGMA recursive_triggers", [], |row| row.get(0))?;
        let like: i64 = tx.query_row("SELECT 'A' LIKE 'a'", [], |row| row.get(0))?;
        Ok((tables, triggers, like))
    });
    assert_eq!(left.await.unwrap(), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_a_statement_asks_for_fails_its_write_alone() {
    let Folder { ada, folder: _folder, .. } = folder().await;
    write(&ada, "a").await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    let session = ada.begin_write(LONG).await.unwrap();
    for n in 0..10 {
        let ada = ada.clone();
        waiting.spawn(async move {
            if n != 5 {
                return write(&ada, &format!("w{n}")).await.map(drop);
            }
            let statement = Statement::new("INSERT OR ROLLBACK INTO notes VALUES ('a', 'b', 1, 1)");
            let guests = move |tx: &rusqlite::Transaction| {
                guard(tx, &Rules::default(), |guest| guest.execute(&statement, &mut NoRows))?.map_err(Error::from)
            };
            let error = ada.write(guests).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            Ok(())
        });
    }
    session.rollback().await;
    for result in waiting.join_all().await {
        // Those before it in the same commit are told that nothing was written.
        assert!(result.is_ok() || result.is_err_and(|error| error.kind() == ErrorKind::Busy));
    }
    write(&ada, "z").await.unwrap();
    assert!(notes(&ada).await.ends_with(" z"));
}

const CHILD: &str = "CUBBY_TEST_CRASH_FOLDER";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below, in a process of its own"]
#[expect(clippy::disallowed_methods, reason = "how the test below says where")]
async fn a_process_that_ends_without_warning() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let store = Store::open(StoreOptions::new(folder)).unwrap();
    let (ada, _) = store.lease_or_create(&id("ada")).await.unwrap();
    // Keeps the database in shared mode: nothing is checkpointed, so what is committed is in the logs alone.
    let _reader = ada.begin_read(LONG).await.unwrap();
    let mut session = ada.begin_write(LONG).await.unwrap();
    add(&mut session, "a").await.unwrap();
    add(&mut session, "b").await.unwrap();
    session.commit().await.unwrap();
    write(&ada, "c").await.unwrap();
    let mut session = ada.begin_write(LONG).await.unwrap();
    // More than the cache has, so that a part of it is in the write-ahead log.
    let sql = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < 5000) \
               INSERT INTO notes SELECT 'half' || x, hex(randomblob(1000)), 1, 1 FROM n";
    session.run(move |conn| Ok(conn.execute(sql, [])?)).await.unwrap();
    std::process::abort();
}

fn crash(folder: &Path) {
    let name = "sessions::a_process_that_ends_without_warning";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let ended = child.args(["--exact", name, "--ignored"]).env(CHILD, folder).output().unwrap();
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_a_committed_transaction_is_there_and_nothing_of_an_open_one() {
    for (power_cut, without_log, left) in [(false, false, "a b c"), (true, false, "a b c"), (true, true, "")] {
        let folder = TempDir::new().unwrap();
        crash(folder.path());
        if power_cut {
            // What was written and not flushed is lost.
            let layout = Layout::at(folder.path().canonicalize().unwrap());
            harness::lose_wal(&layout.tenant(&id("ada")));
        }
        if without_log {
            // Else the case before would prove nothing.
            let segments = fs::read_dir(folder.path().join("log")).unwrap();
            segments.for_each(|segment| fs::remove_file(segment.unwrap().path()).unwrap());
        }
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let ada = store.lease(&id("ada")).await.unwrap();
        assert_eq!(notes(&ada).await, left, "power cut: {power_cut}");
        write(&ada, "d").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_writes_and_reads_at_once_lose_and_tear_nothing() {
    let Folder { ada, store, folder: _folder } = folder_with(|options| {
        (options.limits.checkpoint_pages, options.limits.wal_pages) = (20, 60);
    })
    .await;
    let mut tasks = tokio::task::JoinSet::new();
    for who in 0..4 {
        let ada = ada.clone();
        tasks.spawn(async move {
            for n in 0..10 {
                let mut session = ada.begin_write(LONG).await.unwrap();
                add(&mut session, &format!("s{who}-{n}-1")).await.unwrap();
                add(&mut session, &format!("s{who}-{n}-2")).await.unwrap();
                match n % 3 {
                    0 => drop(session),
                    1 => session.rollback().await,
                    _ => session.commit().await.unwrap(),
                }
            }
        });
        let ada = ada_of(&store).await;
        tasks.spawn(async move {
            for n in 0..30 {
                write(&ada, &format!("w{who}-{n}")).await.unwrap();
                let seen = notes(&ada).await;
                let halves = seen.split(' ').filter(|note| note.starts_with('s')).count();
                assert_eq!(halves % 2, 0, "half a transaction was seen");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(notes(&ada).await.split(' ').count(), 4 * 30 + 4 * 3 * 2);
}

async fn ada_of(store: &Store) -> Tenant {
    store.lease(&id("ada")).await.unwrap()
}
