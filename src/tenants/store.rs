//! What all users of one data folder share: its catalog, its open tenants, capacity, usage samples.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    disk::{lock::FolderLock, path::Layout, template::Template},
    id::TenantId,
    lifecycle::{faults::Faults, steady_clock::SteadyClock},
    open::{
        database::Database,
        feeds::Feeds,
        fetch::Fetcher,
        long_reads::LongReads,
        slots::{CapacityWait, Slots, Tick},
        unflushed::Unflushed,
        uses::Waiting,
    },
    options::StoreOptions,
};
use crate::{
    catalog::{
        Catalog,
        model::{Counts, Row, State, UsageSample},
        queries,
    },
    clock::{Clock, Millis},
    error::{Error, Result},
    log::Log,
    sqlite::{migrate::Schema, open::Options},
    telemetry::measures,
};

/// A data folder with a SQLite database for each tenant. Cloning is cheap, and all clones share the open databases.
///
/// ```no_run
/// # async fn example() -> cubby::Result<()> {
/// use cubby::{Store, StoreOptions, TenantId};
///
/// let store = Store::open(StoreOptions::new("./data"))?;
/// let ada: TenantId = "ada".parse().expect("a legal id");
/// let (tenant, _created) = store.lease_or_create(&ada).await?;
/// let notes: i64 = tenant.read(|conn| Ok(conn.query_row("SELECT count(*) FROM notes", [], |r| r.get(0))?)).await?;
/// drop(tenant);
/// store.close(tokio::time::Instant::now() + std::time::Duration::from_secs(10)).await;
/// # Ok(()) }
/// ```
///
/// # Leases
/// [`lease`](Self::lease) and [`lease_or_create`](Self::lease_or_create) open a tenant's database, migrate it to the
/// schema if it has an older one, and return a [`Tenant`](crate::Tenant). The database stays open while leases of it
/// exist, and after that until it is idle for [`StoreOptions::idle`] or its capacity is needed for another one.
/// A file that is damaged, or that a migration fails on, quarantines its own tenant and no other.
///
/// # In the background
/// A task on the runtime closes idle databases and writes usage samples to the catalog. It ends with the last clone
/// of the store. What is deleted is removed for good only by [`purge_due`](Self::purge_due), which the embedder
/// calls when it wants to.
///
/// # One process
/// A data folder belongs to one process at a time: a second [`open`](Self::open) fails with
/// [`ErrorKind::FolderLocked`](crate::ErrorKind::FolderLocked). [`StoreOptions`] says what a store changes in its
/// process.
///
/// # The end
/// [`close`](Self::close) waits for leases and closes every database. A store that is dropped, or killed, loses
/// nothing that was acknowledged.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) layout: Layout,
    pub(super) catalog: Catalog,
    pub(super) log: Log,
    pub(super) slots: Arc<Slots<Database>>,
    pub(super) schema: Schema,
    pub(super) options: StoreOptions,
    pub(super) template: Template,
    /// Whether the catalog has it that the migrations of `schema` have run on files of this folder.
    pub(super) applied_recorded: AtomicBool,
    pub(super) capacity: usize,
    /// One permit for each tenant that may still be opened.
    pub(super) free: Arc<Semaphore>,
    pub(super) long_reads: LongReads,
    pub(super) feeds: Arc<Feeds>,
    /// Who fetches files that are not there yet; none if all are.
    pub(super) fetcher: RwLock<Option<Fetcher>>,
    pub(super) unflushed: Unflushed,
    /// Databases whose close has failed: what their WALs have may not be on the disk.
    pub(super) unclean: Mutex<HashSet<TenantId>>,
    pub(super) usage_samples: Mutex<VecDeque<UsageSample>>,
    pub(super) usage_days: Waiting,
    /// Held while files in `trash/replaced/` change.
    #[cfg(feature = "server")]
    pub(super) replaced: Mutex<()>,
    /// Whether some tenant was opened that has a rate of its own.
    pub(super) own_rates: AtomicBool,
    pub(super) faults: Faults,
    pub(super) closing: AtomicBool,
    pub(super) epoch: Instant,
    pub(super) steady: Mutex<SteadyClock>,
    pub(super) runtime: Handle,
    /// Locked while maintenance runs.
    pub(super) maintenance_stopped: Arc<tokio::sync::Mutex<bool>>,
    pub(super) _lock: Arc<FolderLock>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Ends the log's thread, if the store was not closed.
        let _ = self.log.close();
    }
}

/// Usage samples kept until they are written; of more, the oldest are dropped.
const MAX_SAMPLES: usize = 100_000;

/// How often idle tenants are looked for: every idle time, within these bounds.
const SHORTEST_PERIOD: Duration = Duration::from_millis(50);
const LONGEST_PERIOD: Duration = Duration::from_secs(2);

impl Store {
    /// The catalog: the database of who exists, and in what state.
    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    /// The paths of the data folder.
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The tenants' schema.
    pub fn schema(&self) -> &Schema {
        &self.inner.schema
    }

    /// The clock that tells the time of day.
    pub fn clock(&self) -> &Clock {
        &self.inner.options.clock
    }

    /// Whether the tenants' schema has a table.
    pub fn has_table(&self, name: &str) -> bool {
        self.inner.template.has_table(name)
    }

    /// From now on every write fails with this error.
    pub fn refuse_writes(&self, error: &Error) {
        self.inner.log.refuse(error);
    }

    /// How many tenants may be open at once.
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }

    /// How many tenants are open now.
    pub fn open_count(&self) -> usize {
        self.inner.capacity - self.inner.free.available_permits()
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

    pub(super) fn sqlite_options(&self) -> Options {
        self.inner.options.sqlite()
    }

    /// Takes the capacity for one more tenant, and closes the least recently used for it if needed.
    pub(super) fn take_capacity(&self) -> std::result::Result<OwnedSemaphorePermit, CapacityWait<Database>> {
        let inner = &*self.inner;
        let mut wait = None;
        loop {
            if let Ok(permit) = inner.free.clone().try_acquire_owned() {
                return Ok(permit);
            }
            if let Some(eviction) = inner.slots.evict(self.tick(), Tick::MAX) {
                tracing::debug!(tenant = %eviction.id(), "evicted");
                measures::CLOSED_FOR_ROOM.increment();
                self.close_and_sample(&eviction);
            } else if let Some(wait) = wait {
                return Err(wait);
            } else {
                // Registered before the last try, or a close in between would be missed.
                wait = Some(inner.slots.wait_for_capacity());
            }
        }
    }

    pub(super) fn sample_usage(&self, id: &TenantId, database: &Database, bytes: u64) {
        let mut usage_samples = self.inner.usage_samples.lock();
        if usage_samples.len() >= MAX_SAMPLES {
            usage_samples.pop_front();
        }
        usage_samples.push_back(UsageSample { id: id.clone(), bytes, schema_version: database.schema_version() });
    }

    /// Drops all that is not in the catalog yet of a tenant that is being purged.
    pub(super) fn forget_samples(&self, id: &TenantId) {
        self.forget_size(id);
        self.inner.usage_days.forget(id);
    }

    /// Drops the sizes and the fault of a tenant's file that are not in the catalog yet: it has another file now.
    pub(super) fn forget_size(&self, id: &TenantId) {
        self.inner.usage_samples.lock().retain(|seen| seen.id != *id);
        self.inner.faults.forget(id);
    }

    /// Runs [`maintain`](Self::maintain) every few seconds, until the store is closed or its last clone dropped.
    pub(super) fn start_maintenance(&self) {
        let period = self.inner.options.idle.clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
        let (inner, stopped) = (Arc::downgrade(&self.inner), self.inner.maintenance_stopped.clone());
        self.inner.runtime.spawn(async move {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let stopped = stopped.clone().lock_owned().await;
                let Some(inner) = (!*stopped).then(|| inner.upgrade()).flatten() else { return };
                let done = tokio::task::spawn_blocking(move || {
                    Self { inner }.maintain();
                    // Last: when `close` has returned, this does not keep the store alive.
                    drop(stopped);
                });
                if let Err(error) = done.await {
                    tracing::error!(error = %error, "maintenance did not finish");
                }
            }
        });
    }

    /// Closes tenants that nobody used for the idle time, and writes usage samples and faults to the
    /// catalog. May block.
    fn maintain(&self) {
        let now = self.tick();
        let idle = u64::try_from(self.inner.options.idle.as_nanos()).unwrap_or(Tick::MAX);
        if let Some(until) = now.checked_sub(idle) {
            // A store that is closing closes the rest itself, by its deadline.
            while !self.inner.closing.load(Ordering::Acquire)
                && let Some(eviction) = self.inner.slots.evict(now, until)
            {
                tracing::debug!(tenant = %eviction.id(), "evicted");
                measures::CLOSED_IDLE.increment();
                self.close_and_sample(&eviction);
            }
        }
        self.inner.feeds.expire();
        self.complete_closed();
        let usage_samples: Vec<UsageSample> = self.inner.usage_samples.lock().drain(..).collect();
        let faults = self.inner.faults.take();
        self.write_usage();
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
            tracing::warn!(error = %error, "usage samples and faults could not be written to the catalog");
        }
    }

    /// Ends what listens to tenants' [changes](crate::Tenant::changes), and lets nobody listen any more: before the end
    /// of a process that waits for them.
    pub fn end_changes(&self) {
        self.inner.feeds.close();
    }

    /// Up to `limit` tenants in the order of ids after `after`, of one state or of all.
    pub async fn list(&self, state: Option<State>, after: Option<TenantId>, limit: u32) -> Result<Vec<Row>> {
        self.catalog().query(move |conn| queries::list(conn, state, after.as_ref().map(TenantId::as_str), limit)).await
    }

    /// The catalog's row of a tenant, in any state.
    pub async fn find(&self, id: &TenantId) -> Result<Option<Row>> {
        let id = id.clone();
        self.catalog().query(move |conn| queries::find(conn, &id)).await
    }

    /// How many tenants are in each state.
    pub async fn counts(&self) -> Result<Counts> {
        self.catalog().query(queries::counts).await
    }

    /// Refuses new leases, waits until `until` for leases to be dropped, closes every database with an empty WAL,
    /// the catalog, and the log last. Returns how many were still leased and so not closed; their writes are safe in
    /// the log, which is then kept for the next start.
    pub async fn close(&self, until: Instant) -> usize {
        self.inner.closing.store(true, Ordering::Release);
        self.end_changes();
        self.stop_fetching();
        *self.inner.maintenance_stopped.lock().await = true;
        let mut closes = tokio::task::JoinSet::new();
        for id in self.inner.slots.ids() {
            let store = self.clone();
            closes.spawn(async move {
                let Ok(lock) = tokio::time::timeout_at(until, store.inner.slots.lock(&id)).await else {
                    tracing::warn!(tenant = %id, "still in use at shutdown");
                    return 1;
                };
                let runtime = store.inner.runtime.clone();
                let closed = runtime.spawn_blocking(move || store.close_and_sample(&lock)).await;
                usize::from(closed.is_err())
            });
        }
        let mut left = 0;
        while let Some(result) = closes.join_next().await {
            left += result.unwrap_or(1);
        }
        let store = self.clone();
        let ended = self
            .inner
            .runtime
            .spawn_blocking(move || {
                store.maintain();
                let closed = store.inner.catalog.close();
                let log = &store.inner.log;
                let ended = if left == 0 && closed.is_ok() { log.close_complete() } else { log.close() };
                if let Err(error) = closed {
                    tracing::error!(error = %error, "the catalog was closed without emptying its write-ahead log");
                }
                ended
            })
            .await;
        if let Ok(Err(error)) = ended {
            tracing::error!(error = %error, "the log is kept for the next start");
        }
        left
    }
}
