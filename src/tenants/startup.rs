//! Opening a store: lock, redo of the log, catalog, and whether the schema fits the data folder.

use std::sync::{Arc, atomic::AtomicBool};

use parking_lot::{Mutex, RwLock};
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};

use super::{
    disk::{
        files,
        lock::FolderLock,
        marker::Marker,
        path::{Layout, wal_of},
        placing::refuse_unfinished,
        template::Template,
    },
    lifecycle::{applied, faults::Faults, rehearsal::rehearse, steady_clock::SteadyClock},
    open::{descriptors, feeds::Feeds, long_reads::LongReads, slots::Slots, unflushed::Unflushed, uses::Waiting},
    options::{StoreOptions, shipped_schema},
    store::{Inner, Store},
};
use crate::{
    catalog::{self, Catalog},
    clock::day::Day,
    error::{Error, Result},
    log::{self, Log, Recovered},
    sqlite::{
        flush,
        migrate::Schema,
        process::{self, Globals},
    },
};

impl Store {
    /// Opens a data folder: takes its lock, redoes its log, opens its catalog, and tries new migrations on copies of a
    /// few files.
    /// Must be called inside a tokio runtime. May block for some seconds.
    ///
    /// # Errors
    /// [`ErrorKind::FolderLocked`](crate::ErrorKind::FolderLocked) if another process has the folder;
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if the folder, the catalog or the migrations cannot be used.
    pub fn open(options: StoreOptions) -> Result<Self> {
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
        refuse_unfinished(layout.root())?;
        if options.fetcher.is_none() {
            Marker::refuse(layout.root())?;
        }
        refuse_a_lost_catalog(&layout)?;
        refuse_an_older_catalog(&layout)?;
        let (log, recovered) = recover(&layout, &options.log)?;
        // Kept until the log is closed.
        let lock = Arc::new(lock);
        let opened = Self::open_with(options, schema, template, layout, lock.clone(), log.clone(), recovered);
        opened.inspect_err(|_| {
            // Only the first error is reported.
            let _ = log.close_complete();
            drop(lock);
        })
    }

    fn open_with(
        options: StoreOptions,
        schema: Schema,
        template: Template,
        layout: Layout,
        lock: Arc<FolderLock>,
        log: Log,
        recovered: Recovered,
    ) -> Result<Self> {
        let runtime = Handle::current();
        let catalog = Catalog::open(&layout.catalog(), Some(log.clone()))?;
        let applied = applied::check(&catalog, &layout, &schema, &options).map_err(catalog::explain_damage)?;
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
                log,
                slots: Slots::new(),
                schema,
                template,
                applied_recorded: AtomicBool::new(applied_recorded),
                capacity,
                free: Arc::new(Semaphore::new(capacity)),
                long_reads: LongReads::new(options.long_reads)?,
                feeds: Feeds::new(options.feeds),
                fetcher: RwLock::new(options.fetcher.clone()),
                unflushed: Unflushed::default(),
                unclean: Mutex::default(),
                usage_samples: Mutex::default(),
                usage_days: Waiting::new(Day::of(options.clock.now())),
                #[cfg(feature = "server")]
                replaced: Mutex::default(),
                own_rates: AtomicBool::new(false),
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
        store.quarantine_for_losses(recovered)?;
        store.start_maintenance();
        Ok(store)
    }
}

/// Brings the databases to where the log says, and begins a new log.
fn recover(layout: &Layout, options: &log::Options) -> Result<(Log, Recovered)> {
    let left = log::newest_of_all(&layout.log())?;
    match &options.tail {
        Some(tail) => tail.note_left(&left)?,
        // What of it is not in the bucket is discarded with this log, and nobody would know.
        None if !left.is_empty() => flush::remove(&layout.replica_state())?,
        None => {}
    }
    let recovered = log::recover(&layout.log(), layout.root(), |name| layout.logged(name))?;
    if recovered.records > 0 {
        let (databases, records) = (recovered.databases, recovered.records);
        tracing::info!(databases, records, "redid the log after an unclean stop");
    }
    if recovered.damaged.iter().any(String::is_empty) {
        return Err(Error::config(
            "the log is damaged, and acknowledged changes of the catalog may be missing: restore the data folder from a \
             backup, or rebuild the catalog from the users' files and what is left of it with `cubby doctor \
             --rebuild-catalog`",
        ));
    }
    let unread = options.tail.is_none().then(|| layout.replica_state());
    let log = Log::start(&layout.log(), layout.root(), log::Options { unread, ..options.clone() })?;
    Ok((log, recovered))
}

/// Refuses a log with records beside a catalog of a program that had no log: that program has been started since, and its
/// files are newer than these records.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) then.
pub fn refuse_an_older_catalog(layout: &Layout) -> Result<()> {
    let catalog = layout.catalog();
    if !catalog::is_before_the_log(&catalog)? || log::read(&layout.log())?.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!(
        "{} was made or used by a version without the log, which has written to the users' files since: what {} has is \
         older. Restore the data folder from a backup of before; or move that folder away to go on with the files as they \
         are, without what was acknowledged last before the older version was started",
        catalog.display(),
        layout.log().display()
    )))
}

/// Refuses to create a catalog in a folder that has lost one: with an empty catalog, deleted and suspended users
/// would be served again.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) then.
pub fn refuse_a_lost_catalog(layout: &Layout) -> Result<()> {
    let catalog = layout.catalog();
    if catalog.exists() {
        return Ok(());
    }
    // A catalog that was closed has an empty WAL, and the log nothing of it.
    let log = std::fs::symlink_metadata(wal_of(&catalog)).is_ok_and(|found| found.len() > 0)
        || !log::read(&layout.log())?.is_empty();
    if !log && !layout.has_files()? {
        return Ok(());
    }
    Err(Error::config(format!(
        "{} is missing, and the folder has {}. Put it back, with its -wal, from where it was moved; restore the \
         whole folder from a backup; or rebuild it from the users' files with `cubby doctor --rebuild-catalog`",
        catalog.display(),
        if log { "its log" } else { "users' files" }
    )))
}
