//! Tenants by the thousand, by the server's own parts but without its fsyncs: what is made here is
//! a data folder like any other, and not worth a power cut's care while it is being made.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use cubby::{
    Store, StoreOptions, TenantId,
    catalog::{model::Profile, queries},
    tenants::template::Template,
};

/// Rows in one catalog commit.
const BATCH: u32 = 5_000;

/// The id of the `n`th user.
pub fn id(n: u32) -> TenantId {
    format!("user_{n:08}").parse().unwrap()
}

/// Makes users 0 to `count` in `data`, with nothing in their databases.
pub async fn run(data: &Path, count: u32) {
    let started = Instant::now();
    let store = Store::open(StoreOptions::new(data)).unwrap();
    let (template, layout) = (Template::build(store.schema()).unwrap(), store.layout());
    let (now, version) = (store.clock().now(), store.schema().version());
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let path = layout.tenant(&id(n));
                    if !path.exists() {
                        std::fs::write(path, template.image(&id(n), now).unwrap()).unwrap();
                    }
                }
            });
        }
    });
    for first in (0..count).step_by(BATCH as usize) {
        store
            .catalog()
            .write(move |tx| {
                for n in first..count.min(first + BATCH) {
                    queries::insert(tx, &id(n), now, version, &Profile::default())?;
                }
                Ok(())
            })
            .await
            .unwrap();
    }
    let counts = store.counts().await.unwrap();
    store.close(tokio::time::Instant::now() + Duration::from_secs(60)).await;
    println!("{} users in {}, made in {:.1?}", counts.active, data.display(), started.elapsed());
}
