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
    rusqlite::{Connection, MAIN_DB},
    sqlite::open::Options,
    tenants::disk::template::Template,
};

/// Rows in one catalog commit.
const BATCH: u32 = 5_000;

/// The id of the `n`th user.
pub fn id(n: u32) -> TenantId {
    format!("user_{n:08}").parse().unwrap()
}

/// New files with a note in each.
struct Noted(Connection);

/// Where a database's header says that it is in WAL mode: 2 is yes, and no database in memory is.
const FORMAT_VERSIONS: std::ops::RangeInclusive<usize> = 18..=19;

impl Noted {
    fn new(mut image: Vec<u8>, now: i64, page_size: u32) -> Self {
        image[FORMAT_VERSIONS].fill(1);
        // A VACUUM in memory keeps the size of the pages.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), image).unwrap();
        let resize = format!("PRAGMA page_size = {page_size}; VACUUM");
        Connection::open(file.path()).unwrap().execute_batch(&resize).unwrap();
        let image = std::fs::read(file.path()).unwrap();
        let mut conn = Connection::open_in_memory().unwrap();
        conn.deserialize_read_exact(MAIN_DB, image.as_slice(), image.len(), false).unwrap();
        let insert = "INSERT INTO notes VALUES ('note_abcdefghijklmnop', ?1, ?2, ?2)";
        conn.execute(insert, ("Bring the blue notebook and two pens on Thursday.", now)).unwrap();
        Self(conn)
    }

    fn image(&self, id: &TenantId) -> Vec<u8> {
        let mut name = self.0.prepare_cached("UPDATE cubby_meta SET tenant = ?1").unwrap();
        name.execute([id.as_str()]).unwrap();
        let mut image = self.0.serialize(MAIN_DB).unwrap().to_vec();
        image[FORMAT_VERSIONS].fill(2);
        image
    }
}

/// Makes users 0 to `count` in `data`, with nothing in their databases or one note and pages of so many bytes.
pub async fn run(data: &Path, count: u32, note: Option<u32>) {
    let started = Instant::now();
    let store = Store::open(StoreOptions::new(data)).unwrap();
    let (template, layout) = (Template::build(store.schema(), &Options::default()).unwrap(), store.layout());
    let (now, version) = (store.clock().now(), store.schema().version());
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(|| {
                let noted = note.map(|page_size| Noted::new(template.image(&id(0), now).unwrap(), now, page_size));
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let path = layout.tenant(&id(n));
                    if !path.exists() {
                        let image = match &noted {
                            Some(noted) => noted.image(&id(n)),
                            None => template.image(&id(n), now).unwrap(),
                        };
                        std::fs::write(path, image).unwrap();
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
