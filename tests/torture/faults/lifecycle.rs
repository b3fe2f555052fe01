//! Everything done to tenants at once: lease, write, evict, suspend, delete, restore and migrate, by
//! eight tasks on twenty tenants, against the library itself.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cubby::{ErrorKind, Store, StoreOptions, TenantId};

use super::{Report, Setup, folder};
use crate::{check, people::author, rng::Rng};

const TASKS: u64 = 8;
const TENANTS: u64 = 20;
/// No operation takes so long unless it waits for something that never comes.
const DEADLOCK: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Shared {
    /// Numbers whose write was acknowledged, by tenant.
    written: Mutex<HashMap<String, HashSet<i64>>>,
    violations: Mutex<Vec<String>>,
    operations: Mutex<BTreeMap<&'static str, u64>>,
    next: AtomicU64,
    acknowledged: AtomicU64,
}

impl Shared {
    fn wrong(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }
}

pub fn run(setup: &Setup) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let (_folder, data) = folder();
    let shared = Arc::new(Shared::default());
    let time = Duration::from_secs(setup.seconds.unwrap_or(if setup.control { 5 } else { 30 }));
    let mut report = Report::default();
    runtime.block_on(torture(setup, &data, time, &shared));
    runtime.shutdown_timeout(Duration::from_secs(5));
    report.violations.append(&mut shared.violations.lock().unwrap());
    report.violations.extend(check::checkpointed(&data));
    report.violations.extend(check::files(&data, |_| false));
    let operations = shared.operations.lock().unwrap();
    report.note(format!("{operations:?}"));
    report.faults = operations.values().sum();
    report.acknowledged = shared.acknowledged.load(Ordering::Relaxed);
    report
}

async fn torture(setup: &Setup, data: &Path, time: Duration, shared: &Arc<Shared>) {
    let mut options = StoreOptions::new(data);
    // Fewer than tenants, so that every other lease evicts.
    options.max_open = Some(6);
    options.idle = Duration::from_millis(50);
    options.wait = Duration::from_secs(10);
    let store = Store::open(options).unwrap();
    let until = Instant::now() + time;
    let over = Arc::new(AtomicBool::new(false));

    let watcher = {
        let (over, shared, store, control) = (over.clone(), shared.clone(), store.clone(), setup.control);
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                descriptors(&store, &shared);
                if control {
                    // Somebody else's hand in the folder.
                    let file = store.layout().tenant(&"t3".parse().unwrap());
                    let _ = std::fs::rename(&file, store.layout().tmp().join("stolen"));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (store, shared, seed) = (store.clone(), shared.clone(), setup.seed);
        tasks.spawn(async move {
            let mut rng = Rng::new(seed, task);
            while Instant::now() < until {
                let id: TenantId = format!("t{}", rng.range(0, TENANTS)).parse().unwrap();
                let dice = rng.range(0, 100);
                let step = operation(&store, &shared, &id, dice);
                if tokio::time::timeout(DEADLOCK, step).await.is_err() {
                    shared.wrong(format!("DEADLOCK: {dice} on {id}"));
                    return;
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    over.store(true, Ordering::Relaxed);
    watcher.join().unwrap();

    // Everybody is brought back and read.
    for number in 0..TENANTS {
        let id: TenantId = format!("t{number}").parse().unwrap();
        let _ = store.restore(&id, &author()).await;
        let _ = store.resume(&id, &author()).await;
        let expected = shared.written.lock().unwrap().remove(id.as_str()).unwrap_or_default();
        let found = match store.lease(&id).await {
            Ok(tenant) => tenant.read(numbers).await,
            Err(error) if error.kind() == ErrorKind::UnknownTenant && expected.is_empty() => continue,
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => {
                let lost = expected.difference(&found).count();
                if lost > 0 {
                    shared.wrong(format!("LOST: {lost} writes of {id}"));
                }
            }
            Err(error) => shared.wrong(format!("UNREADABLE: {id}: {error}")),
        }
    }
    if store.close(tokio::time::Instant::now() + DEADLOCK).await > 0 {
        shared.wrong("STILL LEASED at the end".into());
    }
}

fn numbers(conn: &rusqlite::Connection) -> cubby::Result<HashSet<i64>> {
    let mut statement = conn.prepare_cached("SELECT created FROM notes")?;
    let found = statement.query_map([], |row| row.get(0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

async fn operation(store: &Store, shared: &Shared, id: &TenantId, dice: u64) {
    let (name, result) = match dice {
        0..60 => ("write", write(store, shared, id).await),
        60..80 => ("read", read(store, shared, id).await),
        80..85 => ("suspend", store.suspend(id, "for a moment", &author()).await.map(drop)),
        85..91 => ("resume", store.resume(id, &author()).await.map(drop)),
        91..94 => ("delete", store.delete(id, &author()).await.map(drop)),
        94..98 => ("restore", store.restore(id, &author()).await.map(drop)),
        _ => ("migrate", store.migrate(id, &author()).await.map(drop)),
    };
    *shared.operations.lock().unwrap().entry(name).or_default() += 1;
    if let Err(error) = result {
        let expected = matches!(
            error.kind(),
            ErrorKind::UnknownTenant | ErrorKind::Suspended | ErrorKind::Conflict | ErrorKind::Busy
        );
        if !expected {
            shared.wrong(format!("ERROR: {name} of {id}: {error}"));
        }
    }
}

async fn write(store: &Store, shared: &Shared, id: &TenantId) -> cubby::Result<()> {
    let number = shared.next.fetch_add(1, Ordering::Relaxed) as i64;
    let (tenant, _) = store.lease_or_create(id).await?;
    tenant
        .write(move |tx| {
            let note = format!("note_{number:016}");
            Ok(tx.execute("INSERT INTO notes VALUES (?1, 'x', ?2, 0)", rusqlite::params![note, number])?)
        })
        .await?;
    shared.acknowledged.fetch_add(1, Ordering::Relaxed);
    shared.written.lock().unwrap().entry(id.to_string()).or_default().insert(number);
    Ok(())
}

async fn read(store: &Store, shared: &Shared, id: &TenantId) -> cubby::Result<()> {
    let expected = shared.written.lock().unwrap().get(id.as_str()).cloned().unwrap_or_default();
    let tenant = store.lease(id).await?;
    let found = match expected.len() % 5 {
        // Now and then on a connection apart, which opens and closes the file in shared mode.
        0 => tenant.read_long(Duration::from_secs(5), numbers).await?,
        _ => tenant.read(numbers).await?,
    };
    let lost = expected.difference(&found).count();
    if lost > 0 {
        shared.wrong(format!("LOST: {lost} acknowledged writes of {id} are not read back"));
    }
    Ok(())
}

/// What this process has open: no file without a name, and no two files under one name.
fn descriptors(store: &Store, shared: &Shared) {
    let root = store.layout().root().display().to_string();
    let mut inodes: HashMap<String, u64> = HashMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let name = target.display().to_string();
        let Some(place) = name.strip_prefix(&root).filter(|place| !place.contains("-shm")) else { continue };
        if place.ends_with(" (deleted)") || place.ends_with("stolen") || place.starts_with("/trash/") && place.len() > 9
        {
            shared.wrong(format!("MOVED WHILE OPEN: {name}"));
        }
        if let Ok(meta) = std::fs::metadata(entry.path())
            // The descriptor may have been closed and its number given to another file between the two looks.
            && std::fs::read_link(entry.path()).is_ok_and(|now| now == target)
            && name.ends_with(".db")
            && inodes.insert(name.clone(), meta.ino()).is_some_and(|other| other != meta.ino())
        {
            shared.wrong(format!("TWO FILES open as {name}"));
        }
    }
}
