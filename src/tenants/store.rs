//! The LRU of open tenants: finds, opens, creates and evicts.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

use super::{
    disk::{
        files,
        lock::FolderLock,
        path::{Layout, wal_of},
        template::Template,
    },
    id::TenantId,
    lifecycle::{applied, faults::Faults, purge::SteadyClock, rehearsal::rehearse},
    open::{
        database::{DESCRIPTORS, Database},
        descriptors::{Budget, MAX_LONG_READS, Permit, descriptors_for},
        long_reads::LongReads,
        slots::{Acquired, CapacityWait, Eviction, Slots, TenantLock, Tick},
    },
    tenant::Tenant,
};
use crate::{
    catalog::{
        self, Catalog,
        model::{Counts, Profile, Row, State, UsageSample},
        queries,
    },
    clock::{Clock, Millis},
    error::{Error, ErrorKind, Result},
    sqlite::{combine::Limits, migrate::Schema, open, open::Options},
};

/// How a [`Store`] is to be.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The data folder. Made if it is not there.
    pub data: PathBuf,
    /// The tenants' schema; none for the notes that ship with this crate.
    pub schema: Option<Schema>,
    /// How many tenants may be open at once; none derives it from the limit on descriptors.
    pub max_open: Option<usize>,
    /// A tenant that nobody used for so long is closed.
    pub idle: Duration,
    /// The largest a tenant's file may grow, in bytes; 0 for no bound.
    pub quota: u64,
    /// The longest string, blob or row of a tenant, in bytes.
    pub max_value_bytes: u64,
    /// The page cache of one open tenant, in KiB.
    pub cache_kib: u32,
    /// How long a request waits for a tenant that is being opened, closed or moved, or for room.
    pub wait: Duration,
    /// How long a deleted tenant's file is kept.
    pub retention: Duration,
    /// Long reads at once, all tenants together; 16 at most. Each takes a thread of low priority.
    pub long_reads: usize,
    /// Bounds of one tenant's queue.
    pub limits: Limits,
    /// The time of day.
    pub clock: Clock,
}

impl StoreOptions {
    /// The defaults, on a data folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            schema: None,
            max_open: None,
            idle: Duration::from_secs(300),
            quota: 0,
            max_value_bytes: Options::default().max_value_bytes,
            cache_kib: 1024,
            wait: Duration::from_secs(5),
            retention: Duration::from_secs(30 * 86_400),
            long_reads: MAX_LONG_READS,
            limits: Limits::default(),
            clock: Clock::system(),
        }
    }
}

/// Bounds how many tenants are made.
pub trait Counter: Send + Sync {
    /// Counts one that is about to be made.
    ///
    /// # Errors
    /// Why it may not be made.
    fn count(&self) -> Result<()>;

    /// It was counted, and was not made after all.
    fn uncount(&self);
}

/// What a tenant is to be made with, should there be none.
#[derive(Clone)]
pub(super) struct New {
    pub(super) profile: Profile,
    pub(super) counter: Option<Arc<dyn Counter>>,
}

/// The open tenants of one data folder. Cloning shares it. Must be made inside a tokio runtime.
///
/// ```no_run
/// # async fn example() -> cubby::Result<()> {
/// use cubby::{Store, StoreOptions};
/// let store = Store::open(StoreOptions::new("./data"))?;
/// let (tenant, _created) = store.lease_or_create(&"ada".parse().expect("a legal id")).await?;
/// let notes: i64 = tenant.read(|conn| Ok(conn.query_row("SELECT count(*) FROM notes", [], |r| r.get(0))?)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) layout: Layout,
    pub(super) catalog: Catalog,
    pub(super) slots: Arc<Slots<Database>>,
    pub(super) schema: Schema,
    pub(super) options: StoreOptions,
    pub(super) template: Template,
    /// Whether the catalog knows that the migrations of `schema` have run on files of this folder.
    pub(super) noted: AtomicBool,
    budget: Arc<Budget>,
    /// Readers apart from their tenants' own connection, all tenants together.
    pub(super) long: LongReads,
    usage_samples: Mutex<VecDeque<UsageSample>>,
    pub(super) faults: Faults,
    pub(super) closing: AtomicBool,
    epoch: Instant,
    pub(super) steady: Mutex<SteadyClock>,
    pub(super) runtime: Handle,
    _lock: FolderLock,
}

mod embedded {
    refinery::embed_migrations!("migrations/tenant");
}

/// The schema of the notes that ship with this crate.
pub fn shipped_schema() -> Result<Schema> {
    Schema::new(embedded::migrations::runner().get_migrations().clone())
}

/// `last_seen` in the catalog is right to this.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(3600);

/// Sightings kept until they are written; more than that are forgotten, oldest first.
const MAX_SAMPLES: usize = 100_000;

impl Store {
    /// Takes the data folder: lock, catalog, template. May block for a moment.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if another process has the folder; [`ErrorKind::Config`] if the
    /// folder, the catalog or the migrations cannot be used.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let runtime =
            Handle::try_current().map_err(|_| Error::config("a store must be opened inside a tokio runtime"))?;
        open::init()?;
        let schema = match &options.schema {
            Some(schema) => schema.clone(),
            None => shipped_schema()?,
        };
        let template = Template::build(&schema, &sqlite_options(&options))?;
        let layout = Layout::prepare(&options.data)?;
        let lock = FolderLock::take(&layout.lock())?;
        files::sweep_tmp(&layout)?;
        refuse_a_lost_catalog(&layout)?;
        let catalog = Catalog::open(&layout.catalog())?;
        let applied = applied::check(&catalog, &layout, &schema, options.schema.is_none()).map_err(catalog::damaged)?;
        for doubt in rehearse(&schema, &sqlite_options(&options), &applied)? {
            tracing::warn!(
                doubt,
                "migrations failed on rows that were made up; `cubby migrate --all --dry-run` tries them on real ones"
            );
        }
        catalog.set_current_schema(schema.digest())?;
        let noted = applied == schema.steps();
        let descriptors = descriptors_for(options.max_open)?;
        Ok(Self {
            inner: Arc::new(Inner {
                layout,
                catalog,
                slots: Slots::new(),
                schema,
                template,
                noted: AtomicBool::new(noted),
                budget: Budget::new(descriptors),
                long: LongReads::new(options.long_reads)?,
                usage_samples: Mutex::default(),
                faults: Faults::default(),
                closing: AtomicBool::new(false),
                epoch: Instant::now(),
                steady: Mutex::new(SteadyClock::new(Instant::now(), options.clock.now())),
                runtime,
                options,
                _lock: lock,
            }),
        })
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    /// The data folder.
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The tenants' schema.
    pub fn schema(&self) -> &Schema {
        &self.inner.schema
    }

    /// The time of day.
    pub fn clock(&self) -> &Clock {
        &self.inner.options.clock
    }

    /// Whether the tenants' schema has a table.
    pub fn has_table(&self, name: &str) -> bool {
        self.inner.template.has_table(name)
    }

    /// How many tenants may be open at once.
    pub fn capacity(&self) -> usize {
        self.inner.budget.limit() / DESCRIPTORS
    }

    /// How many tenants are open now.
    pub fn open_count(&self) -> usize {
        self.inner.budget.used() / DESCRIPTORS
    }

    /// How long a deleted tenant's file is kept.
    pub fn retention(&self) -> Duration {
        self.inner.options.retention
    }

    pub(super) fn tick(&self) -> Tick {
        u64::try_from(self.inner.epoch.elapsed().as_nanos()).unwrap_or(Tick::MAX)
    }

    pub(super) fn now(&self) -> Millis {
        self.inner.options.clock.now()
    }

    /// A lease on a tenant that exists, opening and migrating its file if need be.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTenant`] if there is none, or it was deleted; [`ErrorKind::Suspended`],
    /// [`ErrorKind::Quarantined`]; [`ErrorKind::Busy`] if everything that may be open is in use
    /// for longer than the store may wait.
    pub async fn lease(&self, id: &TenantId) -> Result<Tenant> {
        // The hot path: no allocation, no await.
        match self.inner.slots.acquire(id, self.tick()) {
            Acquired::Leased(lease) => Ok(Tenant { lease, store: self.clone() }),
            other => Ok(self.wait_or_open(id, other, None).await?.0),
        }
    }

    /// A lease on a tenant, which is created if it never existed. Says whether it was.
    ///
    /// # Errors
    /// As [`lease`](Self::lease). A deleted tenant is not created again.
    pub async fn lease_or_create(&self, id: &TenantId) -> Result<(Tenant, bool)> {
        self.create(id, Profile::default()).await
    }

    /// As [`lease_or_create`](Self::lease_or_create), and `counter` has a say before a tenant is made.
    ///
    /// # Errors
    /// Besides, what the counter refuses with. It is asked only for an id without a row in the catalog.
    pub async fn lease_or_create_counted(&self, id: &TenantId, counter: Arc<dyn Counter>) -> Result<(Tenant, bool)> {
        self.lease_or_make(id, New { profile: Profile::default(), counter: Some(counter) }).await
    }

    /// As [`lease_or_create`](Self::lease_or_create), with what is known of the user. The profile
    /// of a tenant that exists is left as it is.
    pub async fn create(&self, id: &TenantId, profile: Profile) -> Result<(Tenant, bool)> {
        self.lease_or_make(id, New { profile, counter: None }).await
    }

    async fn lease_or_make(&self, id: &TenantId, new: New) -> Result<(Tenant, bool)> {
        match self.inner.slots.acquire(id, self.tick()) {
            Acquired::Leased(lease) => Ok((Tenant { lease, store: self.clone() }, false)),
            other => self.wait_or_open(id, other, Some(new)).await,
        }
    }

    pub(super) fn sqlite_options(&self) -> Options {
        sqlite_options(&self.inner.options)
    }

    /// Descriptors for one tenant more, closing the least recently used for it if need be.
    pub(super) fn take_capacity(&self) -> std::result::Result<Permit, CapacityWait<Database>> {
        let inner = &*self.inner;
        loop {
            if let Some(permit) = inner.budget.take(DESCRIPTORS) {
                return Ok(permit);
            }
            if let Some(eviction) = inner.slots.evict(self.tick(), Tick::MAX) {
                self.close_evicted(&eviction);
                continue;
            }
            // Registered before the last try, or a close in between would go unnoticed.
            let wait = inner.slots.wait_for_capacity();
            if let Some(permit) = inner.budget.take(DESCRIPTORS) {
                return Ok(permit);
            }
            match inner.slots.evict(self.tick(), Tick::MAX) {
                Some(eviction) => self.close_evicted(&eviction),
                None => return Err(wait),
            }
        }
    }

    fn close_evicted(&self, eviction: &Eviction<Database>) {
        tracing::debug!(tenant = %eviction.id(), "evicted");
        self.close_noting(eviction);
    }

    /// Closes what a lock took out of use, and remembers its size for the catalog if that changed.
    /// May block.
    fn close_noting(&self, lock: &TenantLock<Database>) {
        Self::close_locked(lock);
        if let Some((database, bytes)) = lock.open().and_then(|database| Some((database, database.new_size()?))) {
            self.sample_usage(lock.id(), database, bytes);
        }
    }

    /// Closes what a lock took out of use. May block.
    pub(super) fn close_locked(lock: &TenantLock<Database>) {
        let Some(database) = lock.open() else { return };
        if let Err(error) = database.close() {
            tracing::error!(tenant = %lock.id(), error = %error, "closed without emptying its write-ahead log");
        }
    }

    pub(super) fn sample_usage(&self, id: &TenantId, database: &Database, bytes: u64) {
        let mut usage_samples = self.inner.usage_samples.lock();
        if usage_samples.len() >= MAX_SAMPLES {
            usage_samples.pop_front();
        }
        usage_samples.push_back(UsageSample {
            id: id.clone(),
            at: self.now(),
            bytes,
            schema_version: database.schema_version(),
        });
    }

    /// Forgets what was noticed of a tenant and is not in the catalog yet.
    pub(super) fn forget_samples(&self, id: &TenantId) {
        self.inner.usage_samples.lock().retain(|seen| seen.id != *id);
        self.inner.faults.forget(id);
    }

    /// Closes tenants that nobody used for the idle time and writes what was noticed to the
    /// catalog. Call it every few seconds. May block.
    pub fn maintain(&self) {
        let now = self.tick();
        let idle = u64::try_from(self.inner.options.idle.as_nanos()).unwrap_or(Tick::MAX);
        if let Some(until) = now.checked_sub(idle) {
            while let Some(eviction) = self.inner.slots.evict(now, until) {
                self.close_evicted(&eviction);
            }
        }
        let usage_samples: Vec<UsageSample> = self.inner.usage_samples.lock().drain(..).collect();
        let faults = self.inner.faults.take();
        if usage_samples.is_empty() && faults.is_empty() {
            return;
        }
        let written = self.inner.catalog.write_blocking(move |tx| {
            for (id, fault) in &faults {
                queries::record_fault(tx, id, fault.at, &fault.what)?;
            }
            queries::record_usage_samples(tx, &usage_samples)
        });
        if let Err(error) = written {
            tracing::warn!(error = %error, "when tenants were last seen, and their faults, could not be written");
        }
    }

    /// Up to `limit` tenants in the order of ids, after `after`, in one state or in any.
    pub async fn list(&self, state: Option<State>, after: Option<TenantId>, limit: u32) -> Result<Vec<Row>> {
        self.catalog().query(move |conn| queries::list(conn, state, after.as_ref().map(TenantId::as_str), limit)).await
    }

    /// What the catalog knows of a tenant, in whatever state.
    pub async fn find(&self, id: &TenantId) -> Result<Option<Row>> {
        let id = id.clone();
        self.catalog().query(move |conn| queries::find(conn, &id)).await
    }

    /// How many tenants are in each state.
    pub async fn counts(&self) -> Result<Counts> {
        self.catalog().query(queries::counts).await
    }

    /// Refuses new tenants, waits until `until` for leases to end, and closes everything with its
    /// WAL emptied, the catalog last. Says how many were still leased and so not closed; their
    /// writes are safe in their WALs.
    pub async fn close(&self, until: Instant) -> usize {
        self.inner.closing.store(true, Ordering::Release);
        let mut closes = tokio::task::JoinSet::new();
        for id in self.inner.slots.ids() {
            let store = self.clone();
            closes.spawn(async move {
                let Ok(lock) = tokio::time::timeout_at(until, store.inner.slots.lock(&id)).await else {
                    tracing::warn!(tenant = %id, "still in use at shutdown");
                    return 1;
                };
                let runtime = store.inner.runtime.clone();
                let closed = runtime.spawn_blocking(move || store.close_noting(&lock)).await;
                usize::from(closed.is_err())
            });
        }
        let mut left = 0;
        while let Some(result) = closes.join_next().await {
            left += result.unwrap_or(1);
        }
        let store = self.clone();
        let catalog = self
            .inner
            .runtime
            .spawn_blocking(move || {
                store.maintain();
                store.inner.catalog.close()
            })
            .await;
        if let Ok(Err(error)) = catalog {
            tracing::error!(error = %error, "the catalog was closed without emptying its write-ahead log");
        }
        left
    }
}

fn sqlite_options(options: &StoreOptions) -> Options {
    Options {
        max_bytes: options.quota,
        max_value_bytes: options.max_value_bytes,
        cache_kib: options.cache_kib,
        ..Options::default()
    }
}

/// Refuses to make an empty catalog where there was another: whoever was deleted or suspended would be
/// served again by the next message about them.
fn refuse_a_lost_catalog(layout: &Layout) -> Result<()> {
    let catalog = layout.catalog();
    if catalog.exists() {
        return Ok(());
    }
    // Its log is emptied when it is closed.
    let log = std::fs::symlink_metadata(wal_of(&catalog)).is_ok_and(|found| found.len() > 0);
    if !log && !layout.has_files()? {
        return Ok(());
    }
    Err(Error::config(format!(
        "{} is missing, and the folder has {}. Put it back, with its -wal, from where it went or from a backup; or \
         make it anew from the users' files with `cubby doctor --rebuild-catalog`",
        catalog.display(),
        if log { "its log" } else { "users' files" }
    )))
}

pub(super) fn suspended(reason: Option<&str>) -> Error {
    let reason = reason.unwrap_or("no reason was given");
    Error::new(ErrorKind::Suspended, format!("this user is suspended: {reason}"))
}

pub(super) fn quarantined() -> Error {
    Error::new(ErrorKind::Quarantined, "this user's database is out of service until an operator has looked at it")
}
