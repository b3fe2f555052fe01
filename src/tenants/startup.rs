//! Opening a store: lock, catalog, and whether the schema fits the data folder.

use std::sync::{Arc, atomic::AtomicBool};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};

use super::{
    disk::{
        files,
        lock::FolderLock,
        path::{Layout, wal_of},
        template::Template,
    },
    lifecycle::{applied, faults::Faults, rehearsal::rehearse, steady_clock::SteadyClock},
    open::{descriptors, long_reads::LongReads, slots::Slots},
    options::{StoreOptions, shipped_schema},
    store::{Inner, Store},
};
use crate::{
    catalog::{self, Catalog},
    error::{Error, Result},
    sqlite::process::{self, Globals},
};

impl Store {
    /// Opens a data folder: takes its lock, opens its catalog, and tries new migrations on copies of a few files.
    /// Must be called inside a tokio runtime. May block for some seconds.
    ///
    /// # Errors
    /// [`ErrorKind::FolderLocked`](crate::ErrorKind::FolderLocked) if another process has the folder;
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if the folder, the catalog or the migrations cannot be used.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let runtime =
            Handle::try_current().map_err(|_| Error::config("a store must be opened inside a tokio runtime"))?;
        process::init(if options.change_process { Globals::Adjust } else { Globals::Keep })?;
        let schema = match &options.schema {
            Some(schema) => schema.clone(),
            None => shipped_schema()?,
        };
        let template = Template::build(&schema, &options.sqlite())?;
        let layout = Layout::prepare(&options.data)?;
        let lock = FolderLock::take(&layout.lock())?;
        files::sweep_tmp(&layout)?;
        refuse_a_lost_catalog(&layout)?;
        let catalog = Catalog::open(&layout.catalog())?;
        let applied =
            applied::check(&catalog, &layout, &schema, options.schema.is_none()).map_err(catalog::explain_damage)?;
        for failure in rehearse(&schema, &options.sqlite(), &applied)? {
            tracing::warn!(
                failure,
                "migrations failed on generated rows; `cubby migrate --all --dry-run` tries them on real ones"
            );
        }
        catalog.set_current_schema(schema.digest())?;
        let applied_recorded = applied.is_all(&schema);
        let capacity = descriptors::capacity(options.max_open, options.change_process)?;
        let store = Self {
            inner: Arc::new(Inner {
                layout,
                catalog,
                slots: Slots::new(),
                schema,
                template,
                applied_recorded: AtomicBool::new(applied_recorded),
                capacity,
                free: Arc::new(Semaphore::new(capacity)),
                long_reads: LongReads::new(options.long_reads)?,
                usage_samples: Mutex::default(),
                faults: Faults::default(),
                closing: AtomicBool::new(false),
                epoch: Instant::now(),
                steady: Mutex::new(SteadyClock::new(Instant::now(), options.clock.now())),
                runtime,
                options,
                maintenance_stopped: Arc::default(),
                _lock: lock,
            }),
        };
        store.start_maintenance();
        Ok(store)
    }
}

/// Refuses to create a catalog in a folder that has lost one: with an empty catalog, deleted and suspended users
/// would be served again.
fn refuse_a_lost_catalog(layout: &Layout) -> Result<()> {
    let catalog = layout.catalog();
    if catalog.exists() {
        return Ok(());
    }
    // A catalog that was closed has an empty log.
    let log = std::fs::symlink_metadata(wal_of(&catalog)).is_ok_and(|found| found.len() > 0);
    if !log && !layout.has_files()? {
        return Ok(());
    }
    Err(Error::config(format!(
        "{} is missing, and the folder has {}. Put it back, with its -wal, from where it was moved or from a backup; \
         or rebuild it from the users' files with `cubby doctor --rebuild-catalog`",
        catalog.display(),
        if log { "its log" } else { "users' files" }
    )))
}
