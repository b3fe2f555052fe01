//! What the pieces cost, without HTTP: `cargo bench --bench pieces`, or some of them by
//! `cargo bench --bench pieces -- lease`. Files go below `TMPDIR`, which should be on a disk: an fsync
//! costs nothing in memory.
//!
//! What must not wait is polled once and must be done then: a lease or a read that starts to hop to
//! another thread ends the run.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    cell::Cell,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cubby::{
    Result, Store, StoreOptions, Tenant, TenantId,
    clock::{day::Day, rfc3339},
    notes::{
        model::{Note, NoteId, Page},
        queries,
    },
    sqlite::{
        combine::{Limits, Spawn},
        deadline::Deadline,
        open::Options,
    },
    tenants::{
        open::database::{self, OpenParams},
        options::shipped_schema,
    },
};
use divan::{Bencher, black_box, counter::ItemsCount};
use futures_util::{FutureExt, future::join_all};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::Semaphore};

const TEXT: &str = "Bring the blue notebook and two pens to the meeting on Thursday.";
const NOW: i64 = 1_767_225_600_000;

/// Tenants open at once where a lease is looked up.
const OPEN: usize = 100;

fn main() {
    divan::main();
}

fn id(number: usize) -> TenantId {
    format!("user_{number:024}").parse().unwrap()
}

/// A store on a folder of its own. The runtime goes last: closing files needs its threads.
struct House {
    store: Store,
    ids: Vec<TenantId>,
    _folder: TempDir,
    runtime: Runtime,
}

impl House {
    /// With tenants of so many notes each, and room for so many open ones; as many as there is room
    /// for are open.
    fn new(tenants: usize, notes: usize, max_open: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = TempDir::new().unwrap();
        let options = StoreOptions { max_open: Some(max_open), ..StoreOptions::new(folder.path()) };
        let ids: Vec<_> = (0..tenants).map(id).collect();
        let store = runtime.block_on(async {
            let store = Store::open(options.clone()).unwrap();
            for id in &ids {
                let (tenant, _) = store.lease_or_create(id).await.unwrap();
                tenant.write(move |tx| add(tx, notes)).await.unwrap();
            }
            // A write is answered before it lets go of the connection: opened anew, nothing is held.
            store.close(patience()).await;
            drop(store);
            let store = Store::open(options).unwrap();
            for id in &ids {
                store.lease(id).await.unwrap();
            }
            store
        });
        Self { store, ids, _folder: folder, runtime }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> T {
        self.runtime.block_on(work).unwrap()
    }

    fn tenant(&self) -> Tenant {
        self.wait(self.store.lease(&self.ids[0]))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.runtime.block_on(self.store.close(patience()));
    }
}

fn patience() -> tokio::time::Instant {
    tokio::time::Instant::now() + std::time::Duration::from_secs(60)
}

fn add(tx: &rusqlite::Transaction, notes: usize) -> Result<()> {
    for _ in 0..notes {
        queries::insert(tx, TEXT, NOW)?;
    }
    Ok(())
}

/// The result of what must not wait.
fn at_once<T>(work: impl Future<Output = Result<T>>) -> T {
    work.now_or_never().expect("done at the first poll").unwrap()
}

#[divan::bench]
fn id_parse() -> TenantId {
    TenantId::parse(black_box(b"user_2nFq3mXkVbT0pWcYhR8sLdJ7aQz")).unwrap()
}

#[divan::bench]
fn id_to_path(bencher: Bencher) {
    let layout = cubby::tenants::disk::path::Layout::at("/var/lib/cubby".into());
    let id = id(1);
    bencher.bench(|| layout.tenant(black_box(&id)));
}

#[divan::bench]
fn rfc3339_of_a_moment() -> cubby::clock::Rfc3339 {
    rfc3339(black_box(NOW + 123))
}

#[divan::bench]
fn note_to_json() -> Vec<u8> {
    Note { id: "note_abcdefghijklmnop", text: black_box(TEXT), created: NOW, updated: NOW }.to_body()
}

/// Taken and given back, from one thread and from two, over the same tenants.
mod lease {
    use super::{Arc, AtomicUsize, Bencher, House, OPEN, Ordering, at_once, black_box, id};

    #[divan::bench(threads = [1, 2])]
    fn open_tenant(bencher: Bencher) {
        let house = House::new(OPEN, 0, OPEN);
        let next = AtomicUsize::new(0);
        bencher
            .with_inputs(|| &house.ids[next.fetch_add(1, Ordering::Relaxed) % OPEN])
            .bench_values(|id| drop(black_box(at_once(house.store.lease(id)))));
    }

    /// The look-up alone in the cache one would take; it has no leases and does not keep its bound
    /// (`docs/decisions/0002-an-lru-of-our-own.md`).
    #[divan::bench(threads = [1, 2])]
    fn moka_lru_get(bencher: Bencher) {
        let ids: Vec<_> = (0..OPEN).map(id).collect();
        let cache = moka::sync::Cache::builder()
            .max_capacity(OPEN as u64)
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .build();
        for id in &ids {
            cache.insert(id.clone(), Arc::new(()));
        }
        cache.run_pending_tasks();
        assert_eq!(cache.entry_count(), OPEN as u64);
        let next = AtomicUsize::new(0);
        bencher
            .with_inputs(|| &ids[next.fetch_add(1, Ordering::Relaxed) % OPEN])
            .bench_values(|id| drop(black_box(cache.get(id).unwrap())));
    }
}

/// A tenant that is not open.
mod cold {
    use super::{
        Arc, Bencher, Cell, Day, Deadline, House, Limits, NOW, NoteId, OpenParams, Options, Result, Semaphore, Spawn,
        at_once, database, queries, shipped_schema,
    };

    fn note(house: &House) -> NoteId {
        let sql = "SELECT id FROM notes LIMIT 1";
        let text: String = at_once(house.tenant().read(move |conn| Ok(conn.query_row(sql, [], |row| row.get(0))?)));
        NoteId::parse(&text).unwrap()
    }

    fn read(conn: &rusqlite::Connection, id: &NoteId) -> Result<Option<Vec<u8>>> {
        Ok(queries::find(conn, id)?)
    }

    /// As a request meets it: another tenant is closed for it, the catalog asked, the file opened.
    #[divan::bench]
    fn lease_evicting_another(bencher: Bencher) {
        let house = House::new(2, 1, 1);
        let (note, turn) = (note(&house), Cell::new(0));
        bencher.bench_local(|| {
            turn.set(turn.get() + 1);
            let note = note.clone();
            house.wait(async {
                let tenant = house.store.lease(&house.ids[turn.get() % 2]).await?;
                tenant.read(move |conn| read(conn, &note)).await
            })
        });
    }

    /// The file alone: open, look whose it is, read one note, close.
    #[divan::bench]
    fn file_open_read_close(bencher: Bencher) {
        let house = House::new(2, 1, 1);
        let note = note(&house);
        // Closed, since there is room for one.
        drop(house.wait(house.store.lease(&house.ids[1])));
        let (schema, limits) = (shipped_schema().unwrap(), Limits::default());
        let (options, path) =
            (Options { cache_kib: 1024, ..Options::default() }, house.store.layout().tenant(&house.ids[0]));
        let capacity = Arc::new(Semaphore::new(1));
        let log = tempfile::TempDir::new().unwrap();
        let log = cubby::log::Log::start(log.path(), log.path(), cubby::log::Options::default()).unwrap();
        let params = OpenParams {
            quota: cubby::catalog::quota::Quota::default(),
            id: &house.ids[0],
            log: cubby::log::DatabaseLog::new(log, house.ids[0].as_str()),
            path: &path,
            schema: &schema,
            options: &options,
            left: None,
            limits: &limits,
            quarantined: false,
            as_is: false,
            deadline: Deadline::none(),
            today: Day::of(NOW),
            before_commit: &|| Ok(()),
        };
        bencher.bench_local(|| {
            let no_thread: Spawn = Box::new(|_| unreachable!("the connection is free"));
            let opened = database::open_file(&params).unwrap();
            let database =
                opened.into_database(&params, no_thread, capacity.clone().try_acquire_owned().unwrap(), None);
            let note = note.clone();
            let body = at_once(database.combiner().read(|| (), move |conn| read(conn, &note)));
            database.close().unwrap();
            body.unwrap()
        });
    }
}

/// A tenant that did not exist: file, folder and catalog row on the disk.
#[divan::bench]
fn create(bencher: Bencher) {
    let house = House::new(0, 0, 1000);
    let next = Cell::new(0);
    bencher.bench_local(|| {
        next.set(next.get() + 1);
        let (_, created) = house.wait(house.store.lease_or_create(&id(next.get())));
        assert!(created);
    });
}

/// On an open tenant, on the calling thread.
mod read {
    use super::{Bencher, House, NoteId, Page, at_once, queries};

    #[divan::bench]
    fn one(bencher: Bencher) {
        let house = House::new(1, 20, 1);
        let tenant = house.tenant();
        let sql = "SELECT id FROM notes ORDER BY id LIMIT 1 OFFSET 10";
        let text: String = at_once(tenant.read(move |conn| Ok(conn.query_row(sql, [], |row| row.get(0))?)));
        let note = NoteId::parse(&text).unwrap();
        bencher
            .with_inputs(|| note.clone())
            .bench_local_values(|note| at_once(tenant.read(move |conn| Ok(queries::find(conn, &note)?))).unwrap());
    }

    #[divan::bench]
    fn list_20(bencher: Bencher) {
        let house = House::new(1, 100, 1);
        let tenant = house.tenant();
        bencher
            .with_inputs(|| Page { limit: 20, cursor: None, newest_first: false })
            .bench_local_values(|page| at_once(tenant.read(move |conn| Ok(queries::list(conn, &page)?))));
    }
}

/// On an open tenant, each answered after its commit is on the disk.
mod write {
    use super::{Bencher, House, ItemsCount, NOW, TEXT, join_all, queries};

    #[divan::bench]
    fn alone(bencher: Bencher) {
        let house = House::new(1, 0, 1);
        let tenant = house.tenant();
        bencher
            .counter(ItemsCount::new(1usize))
            .bench_local(|| house.wait(tenant.write(|tx| Ok(queries::insert(tx, TEXT, NOW)?))));
    }

    #[divan::bench]
    fn combined_64(bencher: Bencher) {
        let house = House::new(1, 0, 1);
        let tenant = house.tenant();
        bencher.counter(ItemsCount::new(64usize)).bench_local(|| {
            let writes = (0..64).map(|_| tenant.write(|tx| Ok(queries::insert(tx, TEXT, NOW)?)));
            let made = house.runtime.block_on(join_all(writes));
            assert!(made.iter().all(Result::is_ok));
        });
    }
}
