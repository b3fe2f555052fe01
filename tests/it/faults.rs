//! What becomes of a tenant whose file or disk fails, and of the others.

use std::{
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use cubby::{
    ErrorKind, Store, StoreOptions, TenantId,
    clock::Clock,
    sqlite::{
        PAGE_SIZE,
        combine::{Combiner, Limits, Spawn},
        flush,
        open::{self, Options},
    },
    tenants::disk::path::{Layout, wal_of},
};
use parking_lot::Mutex;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{self, Server, author, eventually};

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

fn file_of(data: &Path, tenant: &str) -> PathBuf {
    Layout::at(data.canonicalize().unwrap()).tenant(&id(tenant))
}

/// A folder with two tenants of some pages each, closed well.
async fn two_tenants() -> TempDir {
    let folder = TempDir::new().unwrap();
    let server = Server::on(folder.path(), &[]).await;
    for tenant in ["bad", "good"] {
        for number in 0..60 {
            server.client.note(tenant, &format!("{number} {}", "x".repeat(1000))).await;
        }
    }
    server.stop().await;
    folder
}

/// Damages the file of `bad`, then sees it refused with its reason, kept as found, and `good` served.
async fn expect_quarantine(damage: impl FnOnce(&Path), reason: &str) {
    let folder = two_tenants().await;
    let file = file_of(folder.path(), "bad");
    damage(&file);
    let found = std::fs::read(&file).ok();

    let server = Server::on(folder.path(), &[]).await;
    let client = &server.client;
    eventually("quarantined", async || {
        let reply = client.get("/bad?limit=500").await.expect(503);
        reply.code() == "quarantined"
    })
    .await;
    client.post("/bad", json!({"text": "more"})).await.expect(503);
    assert_eq!(client.texts("good").await.len(), 60);
    client.post("/good", json!({"text": "more"})).await.expect(201);
    assert_eq!(std::fs::read(&file).ok(), found, "the file is kept as found");
    server.stop().await;
    assert_eq!(std::fs::read(&file).ok(), found, "the file is kept as found");

    let shown = harness::stdout(&harness::run(folder.path(), &["tenants", "show", "bad"]));
    assert!(shown.contains("state           quarantined"), "{shown}");
    let line = shown.lines().find(|line| line.starts_with("reason")).unwrap();
    assert!(line.contains(reason), "{line}");
    let line = shown.lines().find(|line| line.starts_with("newest fault")).unwrap();
    assert!(line.contains(reason), "{line}");
}

#[tokio::test]
async fn a_damaged_page_quarantines_its_tenant_alone() {
    let damage = |file: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        let pages = file.metadata().unwrap().len() / PAGE_SIZE;
        assert!(pages > 12, "some pages to damage");
        for page in 9..pages {
            file.write_all_at(&[0xA5; 4096], page * PAGE_SIZE).unwrap();
        }
    };
    expect_quarantine(damage, "malformed").await;
}

#[tokio::test]
async fn an_empty_file_is_not_taken_for_a_new_database() {
    expect_quarantine(|file| drop(std::fs::write(file, b"")), "is empty").await;
}

#[tokio::test]
async fn a_missing_file_is_not_made_again() {
    expect_quarantine(|file| std::fs::remove_file(file).unwrap(), "missing").await;
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let damage = |file: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2 / 4096 * 4096).unwrap();
    };
    expect_quarantine(damage, "damaged").await;
}

#[tokio::test]
async fn garbage_is_refused() {
    expect_quarantine(|file| std::fs::write(file, [0x5A; 20_000]).unwrap(), "not a database").await;
}

#[tokio::test]
async fn another_tenants_file_is_refused() {
    let damage = |file: &Path| {
        let other = file_of(file.ancestors().nth(3).unwrap(), "good");
        std::fs::copy(other, file).unwrap();
    };
    expect_quarantine(damage, "belongs to another tenant, \"good\"").await;
}

#[tokio::test]
async fn damage_after_an_unclean_stop_is_found_before_it_is_served() {
    let folder = two_tenants().await;
    let process = harness::Process::start(folder.path(), &[]);
    process.client.note("bad", "the last one").await;
    process.kill();
    let path = file_of(folder.path(), "bad");
    assert!(std::fs::metadata(wal_of(&path)).unwrap().len() > 0, "its log was not emptied");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // A page that the first read does not need.
    file.write_all_at(&[0xA5; 4096], 12 * PAGE_SIZE).unwrap();

    let server = Server::on(folder.path(), &[]).await;
    assert_eq!(server.client.get("/bad?limit=1").await.expect(503).code(), "quarantined");
    server.client.get("/good?limit=1").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_mended_file_leaves_quarantine_by_resume() {
    let folder = two_tenants().await;
    let file = file_of(folder.path(), "bad");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, b"").unwrap();
    let server = Server::on(folder.path(), &[]).await;
    server.client.get("/bad").await.expect(503);
    std::fs::write(&file, &whole).unwrap();
    server.client.get("/bad").await.expect(503);
    server.app.store().resume(&id("bad"), &author()).await.unwrap();
    assert_eq!(server.client.texts("bad").await.len(), 60);
    server.stop().await;
}

/// A server with a clock of its own, whose user `bad` has a note that `quick_check` finds nothing wrong with
/// and that cannot be read.
async fn with_unreadable_note(folder: &Path) -> (Server, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(1_900_000_000_000));
    let told = now.clone();
    let mut options = StoreOptions::new(folder);
    options.clock = Clock::new(move || told.load(Ordering::SeqCst));
    let store = Store::open(options).unwrap();
    let (tenant, _) = store.lease_or_create(&id("bad")).await.unwrap();
    let unreadable = "INSERT INTO notes VALUES ('note_aaaaaaaaaaaaaaaa', CAST(x'ff' AS TEXT), 0, 0)";
    tenant.write(move |tx| Ok(tx.execute(unreadable, [])?)).await.unwrap();
    drop(tenant);
    (Server::over(store, &[]).await, now)
}

/// Asks until the quarantine is known, and how long it is to last.
async fn quarantined_for(server: &Server, now: &AtomicI64) -> i64 {
    eventually("quarantined", async || server.client.get("/bad").await.expect(503).code() == "quarantined").await;
    let row = server.app.store().find(&id("bad")).await.unwrap().unwrap();
    row.retry_at.unwrap() - now.load(Ordering::SeqCst)
}

#[tokio::test]
async fn damage_that_only_reads_meet_is_tried_again_ever_less_often() {
    let folder = TempDir::new().unwrap();
    let (server, now) = with_unreadable_note(folder.path()).await;
    let mut waits = Vec::new();
    for _ in 0..14 {
        let wait = quarantined_for(&server, &now).await;
        waits.push(wait / 1000);
        now.fetch_add(wait, Ordering::SeqCst);
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600, 3600]);
    // An operator's word is a new beginning.
    server.app.store().resume(&id("bad"), &author()).await.unwrap();
    assert_eq!(quarantined_for(&server, &now).await, 2000);
    server.stop().await;
}

#[tokio::test]
async fn a_tenant_that_served_as_long_as_it_was_kept_out_begins_anew() {
    let folder = TempDir::new().unwrap();
    let (server, now) = with_unreadable_note(folder.path()).await;
    for wait in [2000, 4000, 8000] {
        assert_eq!(quarantined_for(&server, &now).await, wait);
        now.fetch_add(wait, Ordering::SeqCst);
    }
    // Back, and served: what is damaged was not asked for.
    server.client.post("/bad", json!({"text": "x"})).await.expect(201);
    now.fetch_add(7999, Ordering::SeqCst);
    assert_eq!(quarantined_for(&server, &now).await, 16_000, "not long enough");
    now.fetch_add(16_000, Ordering::SeqCst);
    server.client.post("/bad", json!({"text": "y"})).await.expect(201);
    now.fetch_add(16_000, Ordering::SeqCst);
    assert_eq!(quarantined_for(&server, &now).await, 2000);
    server.stop().await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_prolong_a_quarantine() {
    let folder = TempDir::new().unwrap();
    let (server, now) = with_unreadable_note(folder.path()).await;
    quarantined_for(&server, &now).await;
    now.fetch_sub(365 * 86_400_000, Ordering::SeqCst);
    server.client.post("/bad", json!({"text": "x"})).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn a_clock_that_was_ahead_does_not_count_faults_for_ever() {
    let folder = TempDir::new().unwrap();
    let (server, now) = with_unreadable_note(folder.path()).await;
    assert_eq!(quarantined_for(&server, &now).await, 2000);
    now.fetch_add(365 * 86_400_000, Ordering::SeqCst);
    server.client.post("/bad", json!({"text": "x"})).await.expect(201);
    now.fetch_sub(364 * 86_400_000, Ordering::SeqCst);
    assert_eq!(quarantined_for(&server, &now).await, 2000);
    server.stop().await;
}

/// A database of one table, and a combiner over it that `spawn` runs.
fn combiner(folder: &TempDir, spawn: Spawn) -> (Arc<Combiner>, PathBuf) {
    let path = folder.path().canonicalize().unwrap().join("x.db");
    let image = {
        let conn = open::in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE a (id INTEGER PRIMARY KEY, of INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
        )
        .unwrap();
        conn.serialize(rusqlite::MAIN_DB).unwrap().to_vec()
    };
    flush::write_new(&path, &image).unwrap();
    let file = path.clone();
    let opener = move |locking, deadline: &_| open::open(&file, &Options { locking, ..Options::default() }, deadline);
    (Arc::new(Combiner::new(Limits::default(), spawn, Box::new(opener))), path)
}

fn on_a_thread() -> Spawn {
    Box::new(|run| drop(std::thread::spawn(run)))
}

fn salts(database: &Path) -> Vec<u8> {
    std::fs::read(wal_of(database)).unwrap().get(16..24).map(<[u8]>::to_vec).unwrap_or_default()
}

#[tokio::test]
async fn nothing_is_written_behind_what_a_fault_left_in_the_log() {
    let folder = TempDir::new().unwrap();
    let (combiner, path) = combiner(&folder, on_a_thread());
    let insert = |tx: &rusqlite::Transaction| Ok(tx.execute("INSERT INTO a DEFAULT VALUES", [])?);
    combiner.write(|| (), insert).await.unwrap();
    let before = salts(&path);
    combiner.write(|| (), insert).await.unwrap();
    assert_eq!(salts(&path), before, "without a fault the log goes on");

    let fault = |_: &rusqlite::Transaction| -> cubby::Result<()> {
        Err(cubby::Error::new(ErrorKind::Unavailable, "as if the disk had failed"))
    };
    combiner.write(|| (), fault).await.unwrap_err();
    let count = |conn: &rusqlite::Connection| Ok(conn.query_row("SELECT count(*) FROM a", [], |r| r.get::<_, i64>(0))?);
    assert_eq!(combiner.read(|| (), count).await.unwrap(), 2);
    combiner.write(|| (), insert).await.unwrap();
    assert_ne!(salts(&path), before, "the log was begun anew");
    assert_eq!(combiner.read(|| (), count).await.unwrap(), 3);
    combiner.close().unwrap();
}

#[tokio::test]
async fn a_failed_commit_is_no_success_for_anyone_in_it() {
    let folder = TempDir::new().unwrap();
    let runs: Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>> = Arc::default();
    let kept = runs.clone();
    let (combiner, _) = combiner(&folder, Box::new(move |run| kept.lock().push(run)));
    let good = combiner.write(|| (), |tx| Ok(tx.execute("INSERT INTO a DEFAULT VALUES", [])?));
    // Refused only at the commit, since the reference is looked at there.
    let bad = combiner.write(|| (), |tx| Ok(tx.execute("INSERT INTO a VALUES (7, 99)", [])?));
    let run = async {
        let next = runs.lock().remove(0);
        tokio::task::spawn_blocking(next).await.unwrap();
    };
    let (good, bad, ()) = tokio::join!(good, bad, run);
    for result in [good, bad] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn nobody_waits_for_a_run_that_never_begins() {
    let folder = TempDir::new().unwrap();
    let (combiner, _) = combiner(&folder, Box::new(drop));
    for _ in 0..2 {
        let error = combiner.write(|| (), |_| Ok(())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_panic_in_one_query_is_that_querys_alone() {
    let folder = TempDir::new().unwrap();
    let (combiner, _) = combiner(&folder, on_a_thread());
    combiner.write(|| (), |tx| Ok(tx.execute("INSERT INTO a DEFAULT VALUES", [])?)).await.unwrap();
    let panic = |_: &rusqlite::Transaction| -> cubby::Result<()> { panic!("on purpose") };
    assert_eq!(combiner.write(|| (), panic).await.unwrap_err().kind(), ErrorKind::Internal);
    let panic = |_: &rusqlite::Connection| -> cubby::Result<()> { panic!("on purpose") };
    assert_eq!(combiner.read(|| (), panic).await.unwrap_err().kind(), ErrorKind::Internal);
    combiner.write(|| (), |tx| Ok(tx.execute("INSERT INTO a DEFAULT VALUES", [])?)).await.unwrap();
    combiner.close().unwrap();
}

#[tokio::test]
async fn a_long_read_is_cut_before_the_log_outgrows_its_bound() {
    const BOUND: u32 = 400;
    let folder = TempDir::new().unwrap();
    let mut options = StoreOptions::new(folder.path());
    options.limits = Limits { checkpoint_pages: 50, wal_pages: BOUND, ..Limits::default() };
    let store = Store::open(options).unwrap();
    let (tenant, _) = store.lease_or_create(&id("ada")).await.unwrap();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let reader = tenant.clone();
    let reading = tokio::spawn(async move {
        reader
            .read_long(Duration::from_secs(600), move |conn| {
                let seen: i64 = conn.query_row("SELECT count(*) FROM notes", [], |r| r.get(0))?;
                let tx = conn.unchecked_transaction()?;
                tx.query_row("SELECT count(*) FROM notes", [], |_| Ok(()))?;
                let _ = begun.send(());
                let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
                tx.query_row(endless, [], |_| Ok(()))?;
                Ok(seen)
            })
            .await
    });
    has_begun.await.unwrap();
    let wal = wal_of(&store.layout().tenant(&id("ada")));
    let mut longest = 0;
    let mut written = 0i64;
    while !reading.is_finished() {
        let text = "y".repeat(8000);
        let write = tenant.write(move |tx| {
            let sql = "INSERT INTO notes VALUES (hex(randomblob(16)), ?1, 0, 0)";
            Ok(tx.execute(sql, [&text])?)
        });
        match write.await {
            Ok(_) => written += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        }
        longest = longest.max(std::fs::metadata(&wal).unwrap().len());
    }
    let error = reading.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.message().contains("kept writes waiting"), "{error}");
    let bound = u64::from(BOUND) * (PAGE_SIZE + 24);
    assert!(longest > bound / 2, "the reader did hold the log: {longest}");
    assert!(longest < bound * 5 / 4, "{longest} bytes, with a bound of {bound}");
    let count: i64 = tenant.read(|c| Ok(c.query_row("SELECT count(*) FROM notes", [], |r| r.get(0))?)).await.unwrap();
    assert_eq!(count, written);
}
