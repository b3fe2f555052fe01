//! Writes that share a commit: each is alone all the same, and none is answered before it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cubby::{
    Error, ErrorKind, Result, Store, StoreOptions, Tenant, TenantId, rusqlite::Transaction, sqlite::combine::Limits,
};
use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{self, Server, author, blocked::Blocked, eventually, wire::Wire};

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

async fn tenant() -> (TempDir, Store, Tenant) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(StoreOptions::new(folder.path())).unwrap();
    let (tenant, _) = store.lease_or_create(&id("ada")).await.unwrap();
    (folder, store, tenant)
}

fn add(tx: &Transaction, text: &str) -> Result<()> {
    tx.execute("INSERT INTO notes VALUES (hex(randomblob(16)), ?1, 0, 0)", [text])?;
    Ok(())
}

async fn texts(tenant: &Tenant) -> Vec<String> {
    let texts = tenant.read(|conn| {
        let mut statement = conn.prepare("SELECT text FROM notes ORDER BY text")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
    });
    texts.await.unwrap()
}

type Write = Box<dyn FnOnce(&Transaction) -> Result<()> + Send>;

/// Runs writes in one batch: they queue up behind one that has the connection. Checked by what each
/// sees of the one before: only within a transaction can it be seen before anyone is answered.
async fn together(tenant: &Tenant, writes: Vec<Write>) -> Vec<Result<()>> {
    let blocked = Blocked::start(tenant.clone()).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut all: Vec<Pin<Box<dyn Future<Output = Result<()>> + Send>>> = Vec::new();
    for work in writes {
        let (tenant, answered, seen) = (tenant.clone(), answered.clone(), answered.clone());
        all.push(Box::pin(async move {
            let work = move |tx: &Transaction| {
                assert_eq!(seen.load(Ordering::SeqCst), 0, "somebody was answered before the commit");
                work(tx)
            };
            let result = tenant.write(work).await;
            answered.fetch_add(1, Ordering::SeqCst);
            result
        }));
    }
    for write in &mut all {
        assert!(write.as_mut().now_or_never().is_none(), "it waits");
    }
    let (results, ()) = tokio::join!(join_all(all), blocked.end());
    results
}

fn write(work: impl FnOnce(&Transaction) -> Result<()> + Send + 'static) -> Write {
    Box::new(work)
}

fn kinds(results: &[Result<()>]) -> Vec<Option<ErrorKind>> {
    results.iter().map(|result| result.as_ref().err().map(Error::kind)).collect()
}

#[tokio::test]
async fn a_write_that_fails_in_a_batch_leaves_nothing_and_harms_nobody() {
    let (_folder, _store, tenant) = tenant().await;
    let results = together(
        &tenant,
        vec![
            write(|tx| add(tx, "first")),
            write(|tx| {
                add(tx, "half done")?;
                Err(Error::new(ErrorKind::Conflict, "on purpose"))
            }),
            write(|tx| {
                let before: i64 = tx.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?;
                assert_eq!(before, 1, "the first is there, in the same transaction, and the second is not");
                add(tx, "third")
            }),
            write(|tx| {
                add(tx, "before the constraint")?;
                tx.execute("INSERT INTO notes VALUES (NULL, NULL, 0, 0)", [])?;
                Ok(())
            }),
            write(|tx| add(tx, "fifth")),
        ],
    )
    .await;
    assert_eq!(kinds(&results), [None, Some(ErrorKind::Conflict), None, Some(ErrorKind::Internal), None]);
    assert_eq!(texts(&tenant).await, ["fifth", "first", "third"]);
}

#[tokio::test]
async fn a_write_that_takes_the_batch_with_it_is_told_so_and_the_writes_behind_it_never_notice() {
    const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                           INSERT INTO notes SELECT 'endless' || i, '', 0, 0 FROM n";
    let folder = TempDir::new().unwrap();
    let limits = Limits { statement: Duration::from_millis(50), ..Limits::default() };
    let quota = 64 * 4096;
    const LARGE: &str = "INSERT INTO notes VALUES ('large', hex(zeroblob(150000)), 0, 0)";
    const USED_UP: &str = "CREATE TABLE counted (n INTEGER PRIMARY KEY AUTOINCREMENT, v);
                           INSERT INTO counted VALUES (9223372036854775807, 'last')";
    const NEXT: &str = "INSERT INTO counted (v) VALUES ('one more')";
    for (kind, sql, options) in [
        (ErrorKind::Timeout, ENDLESS, StoreOptions { limits, ..StoreOptions::new(folder.path().join("slow")) }),
        (ErrorKind::QuotaExceeded, LARGE, StoreOptions { quota, ..StoreOptions::new(folder.path().join("large")) }),
        (ErrorKind::QuotaExceeded, NEXT, StoreOptions::new(folder.path().join("used_up"))),
    ] {
        let store = Store::open(options).unwrap();
        let (tenant, _) = store.lease_or_create(&id("ada")).await.unwrap();
        tenant.write(|tx| Ok(tx.execute_batch(USED_UP)?)).await.unwrap();
        let blocked = Blocked::start(tenant.clone()).await;
        let mut writes = vec![
            tenant.write(|tx| add(tx, "before")).boxed(),
            tenant.write(|tx| Ok(tx.execute(sql, []).map(drop)?)).boxed(),
            tenant.write(|tx| add(tx, "behind")).boxed(),
            tenant.write(|tx| add(tx, "last")).boxed(),
        ];
        for write in &mut writes {
            assert!(write.now_or_never().is_none(), "it waits");
        }
        let (results, ()) = tokio::join!(join_all(writes), blocked.end());
        assert_eq!(kinds(&results), [Some(ErrorKind::Busy), Some(kind), None, None], "{sql}");
        assert_eq!(texts(&tenant).await, ["behind", "last"], "{sql}");
        tenant.write(|tx| add(tx, "again")).await.unwrap();
        assert_eq!(texts(&tenant).await, ["again", "behind", "last"]);
    }
}

#[tokio::test]
async fn a_panic_in_a_batch_is_that_writes_alone() {
    let (_folder, _store, tenant) = tenant().await;
    let results = together(
        &tenant,
        vec![
            write(|tx| add(tx, "first")),
            write(|tx| {
                add(tx, "half done")?;
                panic!("on purpose")
            }),
            write(|tx| add(tx, "third")),
        ],
    )
    .await;
    assert_eq!(kinds(&results), [None, Some(ErrorKind::Internal), None]);
    assert_eq!(texts(&tenant).await, ["first", "third"]);
}

/// A write that does `sql` to the transaction it runs in: nobody in its batch is told that theirs is
/// done, nothing of any is there, and the next write works.
async fn nobody_gets_a_success_beside(sql: &'static str) {
    let (_folder, _store, tenant) = tenant().await;
    tenant.write(|tx| add(tx, "long before")).await.unwrap();
    let results = together(
        &tenant,
        vec![
            write(|tx| add(tx, "first")),
            write(move |tx| {
                add(tx, "second")?;
                Ok(tx.execute_batch(sql)?)
            }),
            write(|tx| add(tx, "third")),
        ],
    )
    .await;
    assert!(results.iter().all(Result::is_err), "{sql}: {results:?}");
    assert_eq!(texts(&tenant).await, ["long before"], "{sql}");
    tenant.write(|tx| add(tx, "long after")).await.unwrap();
    assert_eq!(texts(&tenant).await, ["long after", "long before"], "{sql}");
}

#[tokio::test]
async fn a_batch_whose_savepoint_cannot_be_released_commits_nothing() {
    nobody_gets_a_success_beside("RELEASE cubby_write").await;
}

#[tokio::test]
async fn a_batch_whose_transaction_was_rolled_back_commits_nothing() {
    nobody_gets_a_success_beside("ROLLBACK").await;
}

#[tokio::test]
async fn a_failing_write_cannot_leave_rows_behind_savepoints_of_its_own() {
    let (_folder, _store, tenant) = tenant().await;
    let results = together(
        &tenant,
        vec![
            write(|tx| add(tx, "first")),
            write(|tx| {
                add(tx, "before")?;
                tx.execute_batch("SAVEPOINT job; SAVEPOINT own")?;
                add(tx, "within")?;
                Err(Error::new(ErrorKind::Conflict, "on purpose"))
            }),
            write(|tx| add(tx, "third")),
        ],
    )
    .await;
    assert_eq!(kinds(&results), [None, Some(ErrorKind::Conflict), None]);
    assert_eq!(texts(&tenant).await, ["first", "third"]);
}

#[tokio::test]
async fn a_tenant_is_let_go_by_a_client_that_does_not_wait_for_its_answer() {
    let server = Server::start().await;
    server.client.note("ada", "before").await;
    let store = server.app.store();
    let blocked = Blocked::start(store.lease(&id("ada")).await.unwrap()).await;
    let mut gone = JoinSet::new();
    for number in 0..5 {
        let client = server.client.clone();
        gone.spawn(async move { client.post("/ada", json!({"text": number.to_string()})).await });
    }
    let address = server.address;
    let sent = tokio::task::spawn_blocking(move || {
        let body = r#"{"text":"of one who hung up"}"#;
        let head = "POST /ada HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length:";
        Wire::connect(address).send(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes());
    });
    sent.await.unwrap();
    gone.shutdown().await;
    blocked.end().await;

    // Each was done or not, and none of them has the database still: this waits for all leases.
    store.suspend(&id("ada"), "to see that nobody uses it", &author()).await.unwrap();
    store.resume(&id("ada"), &author()).await.unwrap();
    server.client.note("ada", "after").await;
    let texts = server.client.texts("ada").await;
    let (first, last) = (texts.first().unwrap(), texts.last().unwrap());
    assert_eq!((first.as_str(), last.as_str()), ("before", "after"));
    assert!(texts.len() <= 2 + 6, "no write was done twice: {texts:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_write_whose_caller_is_gone_is_done_or_not_and_the_next_one_works() {
    let (_folder, store, tenant) = tenant().await;
    let blocked = Blocked::start(tenant.clone()).await;
    let mut abandoned = Box::pin(tenant.write(|tx| add(tx, "abandoned")));
    assert!(abandoned.as_mut().now_or_never().is_none());
    drop(abandoned);
    blocked.end().await;
    tenant.write(|tx| add(tx, "next")).await.unwrap();
    drop(tenant);
    store.suspend(&id("ada"), "to see that nobody uses it", &author()).await.unwrap();
    store.resume(&id("ada"), &author()).await.unwrap();
    let found = texts(&store.lease(&id("ada")).await.unwrap()).await;
    assert!(found == ["next"] || found == ["abandoned", "next"], "{found:?}");
}

#[tokio::test]
async fn a_read_that_was_given_up_before_its_turn_does_not_run() {
    let (_folder, _store, tenant) = tenant().await;
    let blocked = Blocked::start(tenant.clone()).await;
    let ran = Arc::new(AtomicUsize::new(0));
    let read = |ran: Arc<AtomicUsize>| tenant.read(move |_| Ok(ran.fetch_add(1, Ordering::SeqCst)));
    let mut given_up: Vec<_> = (0..5).map(|_| Box::pin(read(ran.clone()))).collect();
    let mut wanted = Box::pin(read(ran.clone()));
    for read in &mut given_up {
        assert!(read.as_mut().now_or_never().is_none());
    }
    assert!(wanted.as_mut().now_or_never().is_none());
    drop(given_up);
    blocked.end().await;
    assert_eq!(wanted.await.unwrap(), 0, "the first that ran");
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_eviction_races_batches() {
    let server = Server::with(&["--max-open", "1"]).await;
    let mut tasks = JoinSet::new();
    for writer in 0..6 {
        let client = server.client.clone();
        tasks.spawn(async move {
            for number in 0..15 {
                client.note("ada", &format!("{writer} {number:02}")).await;
                // Only one may be open: each of these closes the other's.
                client.note("bob", "x").await;
            }
        });
    }
    tasks.join_all().await;
    let mut found = server.client.texts("ada").await;
    found.sort();
    let expected: Vec<_> = (0..6).flat_map(|w| (0..15).map(move |n| format!("{w} {n:02}"))).collect();
    assert_eq!(found, expected);
    assert_eq!(server.client.texts("bob").await.len(), 6 * 15);
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_that_races_batches_keeps_all_that_was_acknowledged_and_no_more() {
    let server = Server::start().await;
    server.client.note("ada", "first").await;
    let written = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for writer in 0..8 {
        let (client, written) = (server.client.clone(), written.clone());
        tasks.spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let text = format!("{writer} {number}");
                let reply = client.post("/ada", json!({"text": text})).await;
                if reply.status == 404 {
                    break;
                }
                reply.expect(201);
                acknowledged.push(text);
                written.fetch_add(1, Ordering::SeqCst);
            }
            acknowledged
        });
    }
    eventually("many are writing", async || written.load(Ordering::SeqCst) > 50).await;
    server.app.store().delete(&id("ada"), &author()).await.unwrap();
    let mut acknowledged = tasks.join_all().await.concat();
    assert!(server.client.texts("ada").await.is_empty(), "as of one who never was");

    server.app.store().restore(&id("ada"), &author()).await.unwrap();
    let mut found = server.client.texts("ada").await;
    acknowledged.push("first".to_owned());
    acknowledged.sort();
    found.sort();
    assert_eq!(found, acknowledged);
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_with_full_queues_answers_everyone_who_was_let_in() {
    const QUEUE: usize = 8;
    const SENT: usize = 20;
    let folder = TempDir::new().unwrap();
    let mut server = Server::on(folder.path(), &["--tenant-queue", &QUEUE.to_string()]).await;
    let users = ["ada", "bob", "eve"];
    let mut blocked = Vec::new();
    let mut sent = JoinSet::new();
    for user in users {
        server.client.note(user, "before").await;
        blocked.push(Blocked::start(server.app.store().lease(&id(user)).await.unwrap()).await);
        for number in 0..SENT {
            let client = server.client.clone();
            sent.spawn(async move { client.post(&format!("/{user}"), json!({"text": number.to_string()})).await });
        }
    }
    for _ in 0..users.len() * (SENT - QUEUE) {
        assert_eq!(sent.join_next().await.unwrap().unwrap().expect(503).code(), "busy");
    }
    server.ask_to_stop();
    eventually("it is shutting down", async || server.app.door().is_draining()).await;
    for blocked in blocked {
        blocked.end().await;
    }
    let mut accepted = 0;
    while let Some(reply) = sent.join_next().await {
        reply.unwrap().expect(201);
        accepted += 1;
    }
    assert_eq!(accepted, users.len() * QUEUE, "all that were let in");
    server.stop().await;

    let server = Server::on(folder.path(), &[]).await;
    for user in users {
        assert_eq!(server.client.texts(user).await.len(), 1 + QUEUE, "{user}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_closes_lets_the_writes_in_its_queues_finish() {
    let (folder, store, tenant) = tenant().await;
    let blocked = Blocked::start(tenant.clone()).await;
    let mut writes: Vec<_> = (0..50).map(|n| Box::pin(tenant.write(move |tx| add(tx, &n.to_string())))).collect();
    for write in &mut writes {
        assert!(write.as_mut().now_or_never().is_none());
    }
    let until = tokio::time::Instant::now() + harness::PATIENCE;
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close(until).await }
    });
    let refused = async || store.lease_or_create(&id("late")).await.err().is_some_and(|e| e.kind() == ErrorKind::Busy);
    eventually("no new ones are let in", refused).await;
    blocked.end().await;
    for result in join_all(writes).await {
        result.unwrap();
    }
    drop(tenant);
    assert_eq!(closing.await.unwrap(), 0, "everything was closed");
    drop(store);
    let store = Store::open(StoreOptions { idle: Duration::from_secs(1), ..StoreOptions::new(folder.path()) }).unwrap();
    assert_eq!(texts(&store.lease(&id("ada")).await.unwrap()).await.len(), 50);
}
