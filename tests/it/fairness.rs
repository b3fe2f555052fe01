//! One tenant's storm or slow query costs the others nothing.

use std::{sync::mpsc, time::Duration};

use cubby::{ErrorKind, Store, StoreOptions, Tenant, TenantId};
use futures_util::FutureExt;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use crate::harness::{Server, author, blocked::Blocked, eventually};

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_tenant_with_a_full_queue_is_refused_and_the_others_are_served() {
    const QUEUE: usize = 8;
    const SENT: usize = 20;
    let server = Server::with(&["--tenant-queue", &QUEUE.to_string()]).await;
    let client = &server.client;
    client.note("quiet", "before").await;
    client.note("flooded", "before").await;
    let blocked = Blocked::start(server.app.store().lease(&id("flooded")).await.unwrap()).await;

    let mut flood = JoinSet::new();
    for number in 0..SENT {
        let client = client.clone();
        flood.spawn(async move { client.post("/flooded", json!({"text": number.to_string()})).await });
    }
    let mut refused = 0;
    while refused < SENT - QUEUE {
        let reply = flood.join_next().await.unwrap().unwrap().expect(503);
        assert_eq!(reply.code(), "busy");
        assert!(reply.header("retry-after").parse::<u32>().unwrap() > 0);
        refused += 1;
    }
    // What waits is bounded: reads beyond it are refused too, and at once.
    client.get("/flooded").await.expect(503);

    client.note("quiet", "meanwhile").await;
    assert_eq!(client.texts("quiet").await, ["before", "meanwhile"]);
    client.note("newcomer", "first").await;

    blocked.end().await;
    let mut accepted = 0;
    while let Some(reply) = flood.join_next().await {
        reply.unwrap().expect(201);
        accepted += 1;
    }
    assert_eq!(accepted, QUEUE);
    assert_eq!(client.texts("flooded").await.len(), 1 + QUEUE);
    server.stop().await;
}

/// A store on a runtime with so many threads that may block, and tenants that exist.
fn store_of(threads: usize, tenants: &[&str], test: impl AsyncFnOnce(Store)) {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(threads)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        for tenant in tenants {
            store.lease_or_create(&id(tenant)).await.unwrap();
        }
        test(store).await;
    });
}

/// A read on a connection apart that takes as long as this lives.
struct LongRead {
    _gate: mpsc::Sender<()>,
    read: JoinHandle<cubby::Result<()>>,
}

impl LongRead {
    async fn start(tenant: Tenant) -> Self {
        let (gate, opened) = mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let read = tokio::spawn(async move {
            let wait = move |_: &rusqlite::Connection| {
                let _ = begun.send(());
                let _ = opened.recv();
                Ok(())
            };
            tenant.read_long(Duration::from_secs(600), wait).await
        });
        has_begun.await.unwrap();
        Self { _gate: gate, read }
    }

    async fn end(self) {
        let Self { _gate: gate, read } = self;
        drop(gate);
        read.await.unwrap().unwrap();
    }
}

fn count(conn: &rusqlite::Connection) -> cubby::Result<i64> {
    Ok(conn.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?)
}

fn add(tx: &rusqlite::Transaction) -> cubby::Result<usize> {
    Ok(tx.execute("INSERT INTO notes VALUES (hex(randomblob(16)), 'x', 0, 0)", [])?)
}

#[test]
fn a_short_read_of_an_open_tenant_needs_no_thread_that_may_block() {
    store_of(4, &["a", "b", "c", "d", "quiet"], async |store| {
        let quiet = store.lease(&id("quiet")).await.unwrap();
        let mut slow = Vec::new();
        for tenant in ["a", "b", "c", "d"] {
            slow.push(Blocked::start(store.lease(&id(tenant)).await.unwrap()).await);
        }
        let taken = tokio::task::spawn_blocking(|| ());
        tokio::pin!(taken);
        for _ in 0..100 {
            let lease = store.lease(&id("quiet")).now_or_never().expect("at once").unwrap();
            assert_eq!(lease.read(count).now_or_never().expect("at once").unwrap(), 0);
        }
        drop(quiet);
        assert!(taken.as_mut().now_or_never().is_none(), "all four threads were taken");
        for tenant in slow {
            tenant.end().await;
        }
        taken.await.unwrap();
    });
}

#[test]
fn as_many_long_reads_as_may_run_leave_threads_for_everyone_else() {
    // One combiner, open or close at a time.
    store_of(1, &["a", "b", "c", "d", "quiet", "closed"], async |store| {
        store.suspend(&id("closed"), "to close it", &author()).await.unwrap();
        store.resume(&id("closed"), &author()).await.unwrap();
        let mut slow = Vec::new();
        for tenant in ["a", "b", "c", "d"] {
            let tenant = store.lease(&id(tenant)).await.unwrap();
            for _ in 0..4 {
                slow.push(LongRead::start(tenant.clone()).await);
            }
            // Its own writes and short reads go on beside them.
            tenant.write(add).await.unwrap();
            assert_eq!(tenant.read(count).await.unwrap(), 1);
        }
        let quiet = store.lease(&id("quiet")).await.unwrap();
        quiet.write(add).await.unwrap();
        assert_eq!(quiet.read(count).await.unwrap(), 1);
        let (newcomer, _) = store.lease_or_create(&id("newcomer")).await.unwrap();
        newcomer.write(add).await.unwrap();
        assert_eq!(store.lease(&id("closed")).await.unwrap().read(count).await.unwrap(), 0);
        for read in slow {
            read.end().await;
        }
    });
}

#[tokio::test]
async fn one_tenants_long_reads_leave_turns_for_the_others() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(StoreOptions::new(folder.path())).unwrap();
    let (greedy, _) = store.lease_or_create(&id("greedy")).await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.push(LongRead::start(greedy.clone()).await);
    }
    // As many as all tenants have turns, and more: they wait for their own tenant's.
    let mut more: Vec<_> = (0..40).map(|_| Box::pin(greedy.read_long(Duration::from_secs(1), count))).collect();
    for read in &mut more {
        assert!(read.as_mut().now_or_never().is_none(), "it waits");
    }
    let (other, _) = store.lease_or_create(&id("other")).await.unwrap();
    assert_eq!(other.read_long(Duration::from_secs(60), count).await.unwrap(), 0);
    for read in slow {
        read.end().await;
    }
    for read in more {
        assert_eq!(read.await.unwrap(), 0);
    }
}

#[tokio::test]
async fn long_reads_beyond_their_bound_are_told_to_come_later() {
    let folder = TempDir::new().unwrap();
    let options = StoreOptions { wait: Duration::from_millis(50), ..StoreOptions::new(folder.path()) };
    let store = Store::open(options).unwrap();
    let mut slow = Vec::new();
    for tenant in ["a", "b", "c", "d"] {
        let (tenant, _) = store.lease_or_create(&id(tenant)).await.unwrap();
        for _ in 0..4 {
            slow.push(LongRead::start(tenant.clone()).await);
        }
    }
    let (tenant, _) = store.lease_or_create(&id("e")).await.unwrap();
    let error = tenant.read_long(Duration::from_secs(1), count).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    for read in slow {
        read.end().await;
    }
    eventually("room again", async || tenant.read_long(Duration::from_secs(1), count).await.is_ok()).await;
}

#[test]
fn a_short_read_that_is_not_short_does_not_keep_the_thread_that_asked() {
    store_of(1, &["a"], async |store| {
        let tenant = store.lease(&id("a")).await.unwrap();
        let on = |sql: &'static str| {
            move |conn: &rusqlite::Connection| {
                let found: i64 = conn.query_row(sql, [], |row| row.get(0))?;
                Ok((found, std::thread::current().id()))
            }
        };
        // On the thread of this test, which is no worker of the runtime.
        let here = std::thread::current().id();
        assert_eq!(tenant.read(on("SELECT 7")).await.unwrap(), (7, here));
        let counting =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT max(i) FROM n";
        let (found, there) = tenant.read(on(counting)).await.unwrap();
        assert_eq!(found, 300_000);
        assert_ne!(there, here);
    });
}
