//! Leases: waiting for a tenant, creating it, opening its file.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    catalog::{
        audit::Author,
        model::{Profile, State},
        queries,
        quota::Quota,
    },
    clock::{Millis, day::Day, millis},
    error::{Error, ErrorKind, Result},
    sqlite::{deadline::Deadline, open::Options},
    telemetry::{measures, trace},
    tenants::{
        disk::files,
        id::TenantId,
        open::{
            database::{Database, OpenParams},
            slots::{Acquired, CapacityWait, Lease, Opening, Tick},
        },
        store::Store,
        tenant::Tenant,
    },
};

/// How old `last_seen` in the catalog may be before an open takes a usage sample.
const SAMPLE_EVERY: Duration = Duration::from_secs(3600);

/// Limits how many tenants are created.
pub trait Counter: Send + Sync {
    /// Counts a creation that is about to begin.
    ///
    /// # Errors
    /// Why it is refused.
    fn count(&self) -> Result<()>;

    /// Takes one back that was counted and then failed.
    fn uncount(&self);
}

/// How a tenant is created if there is none.
#[derive(Clone, Default)]
struct New {
    profile: Profile,
    counter: Option<Arc<dyn Counter>>,
    /// Who makes it, if that is to be in the audit trail.
    author: Option<Author>,
}

/// What is to become of a tenant that is not open.
#[derive(Clone)]
enum Wanted {
    /// It is opened and migrated, if it exists.
    There,
    /// It is opened if it has the newest schema, and left as it is otherwise.
    AsIs,
    /// It is created, if there is none.
    Made(New),
}

enum Tried {
    Open(Lease<Database>, bool),
    AtCapacity(CapacityWait<Database>),
}

impl Store {
    /// Leases a tenant that exists; opens and migrates its file if needed. This never creates one.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTenant`] if there is none, or it was deleted; [`ErrorKind::Suspended`],
    /// [`ErrorKind::Quarantined`]; [`ErrorKind::Busy`] if there was no capacity for
    /// [`StoreOptions::wait`](crate::StoreOptions::wait).
    pub async fn lease(&self, id: &TenantId) -> Result<Tenant> {
        let now = self.tick();
        // The hot path: no allocation, no await.
        match self.inner.slots.acquire(id, now) {
            Acquired::Leased(lease) => Ok(self.leased(lease, now)),
            other => Ok(self.wait_or_open(id, other, Wanted::There).await?.0),
        }
    }

    /// Leases a tenant that exists, if its file has the newest schema; else nothing is changed, and there is none.
    ///
    /// # Errors
    /// As [`lease`](Self::lease).
    pub(in crate::tenants) async fn lease_as_is(&self, id: &TenantId) -> Result<Option<Tenant>> {
        let acquired = self.inner.slots.acquire(id, self.tick());
        match self.wait_or_open(id, acquired, Wanted::AsIs).await {
            Ok((tenant, _)) => Ok(Some(tenant)),
            // Of its schema: see `database::open_file`.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Leases a tenant, and creates it if it never existed. Says whether it did.
    ///
    /// # Errors
    /// As [`lease`](Self::lease). A deleted tenant is not created again.
    pub async fn lease_or_create(&self, id: &TenantId) -> Result<(Tenant, bool)> {
        self.lease_or_make(id, New::default).await
    }

    /// Like [`lease_or_create`](Self::lease_or_create), if `counter` allows a creation. It is asked only for an id
    /// without a row in the catalog.
    ///
    /// # Errors
    /// The counter's, too.
    pub async fn lease_or_create_counted<C>(&self, id: &TenantId, counter: &Arc<C>) -> Result<(Tenant, bool)>
    where
        C: Counter + 'static,
    {
        self.lease_or_make(id, || New { counter: Some(counter.clone()), ..New::default() }).await
    }

    /// Like [`lease_or_create`](Self::lease_or_create), with a profile for the new user. The profile of a tenant
    /// that exists is not changed.
    pub async fn create(&self, id: &TenantId, profile: Profile, author: &Author) -> Result<(Tenant, bool)> {
        self.lease_or_make(id, || New { profile, author: Some(author.clone()), counter: None }).await
    }

    async fn lease_or_make(&self, id: &TenantId, new: impl FnOnce() -> New) -> Result<(Tenant, bool)> {
        let now = self.tick();
        match self.inner.slots.acquire(id, now) {
            Acquired::Leased(lease) => Ok((self.leased(lease, now), false)),
            other => self.wait_or_open(id, other, Wanted::Made(new())).await,
        }
    }

    fn leased(&self, lease: Lease<Database>, now: Tick) -> Tenant {
        lease.activity().count(now);
        Tenant { lease, store: self.clone() }
    }

    async fn wait_or_open(
        &self,
        id: &TenantId,
        acquired: Acquired<Database>,
        wanted: Wanted,
    ) -> Result<(Tenant, bool)> {
        let started = Instant::now();
        let leased = self.wait_or_open_until(id, acquired, wanted, started + self.inner.options.wait);
        let leased = trace::during("lease", leased).await;
        measures::LEASE_WAIT.record_time(started.elapsed());
        leased
    }

    async fn wait_or_open_until(
        &self,
        id: &TenantId,
        mut acquired: Acquired<Database>,
        wanted: Wanted,
        until: Instant,
    ) -> Result<(Tenant, bool)> {
        let busy = |()| Error::new(ErrorKind::Busy, "all databases that may be open are in use; try again in a moment");
        loop {
            match acquired {
                Acquired::Leased(lease) => return Ok((self.leased(lease, self.tick()), false)),
                Acquired::Wait(changed) => tokio::time::timeout_at(until, changed).await.map_err(|_| busy(()))?,
                Acquired::Absent(ticket) => {
                    let wanted = wanted.clone();
                    // Not cancelled with this future: others may wait for the same tenant.
                    let tried =
                        self.blocking(move |store| trace::within("open", || store.open_absent(ticket, wanted))).await?;
                    match tried {
                        Tried::Open(lease, created) => return Ok((self.leased(lease, self.tick()), created)),
                        // Checked here too, or a caller that is woken again and again would wait for ever.
                        Tried::AtCapacity(_) if Instant::now() >= until => return Err(busy(())),
                        Tried::AtCapacity(wait) => {
                            tokio::time::timeout_at(until, wait.wait()).await.map_err(|_| busy(()))?;
                        }
                    }
                }
            }
            acquired = self.inner.slots.acquire(id, self.tick());
        }
    }

    fn open_absent(&self, ticket: Opening<Database>, wanted: Wanted) -> Result<Tried> {
        let inner = &*self.inner;
        if inner.closing.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Busy, "the server is shutting down"));
        }
        let id = ticket.id().clone();
        trace::of_tenant(id.as_str());
        let reads_metadata = inner.options.metadata_quota.is_some();
        let (row, metadata) = inner.catalog.read(|conn| {
            let row = queries::access_row(conn, &id)?;
            let metadata = if reads_metadata { queries::quota::metadata(conn, &id)? } else { None };
            Ok((row, metadata))
        })?;
        let as_is = matches!(wanted, Wanted::AsIs);
        match (&row, &wanted) {
            (None, Wanted::Made(_)) => {}
            (None, _) => return Err(Error::unknown_tenant()),
            (Some(row), _) => match row.state {
                State::Active => {}
                State::Deleted => return Err(Error::unknown_tenant()),
                State::Suspended => return Err(suspended(row.reason.as_deref())),
                State::Quarantined if !as_is && self.may_retry(row) => {}
                State::Quarantined => return Err(Self::quarantined()),
            },
        }
        if row.is_some() {
            self.fetch_to_open(&id)?;
        }
        let permit = match self.take_capacity() {
            Ok(permit) => permit,
            Err(wait) => {
                ticket.cancel();
                return Ok(Tried::AtCapacity(wait));
            }
        };
        let (path, started) = (inner.layout.tenant(&id), Instant::now());
        let created = match (row.is_none(), wanted) {
            (true, Wanted::Made(new)) => self.provision_counted(&id, new)?,
            _ => false,
        };
        // An earlier creation may have been cut short by the log.
        self.log_of(&id).confirm_creation(&path)?;
        let quota = self.quota_of(row.as_ref().map_or_else(Quota::default, |row| row.quota), metadata.as_deref());
        let mut options = self.sqlite_options();
        options.max_bytes = quota.bytes.unwrap_or(options.max_bytes);
        if quota.rate.is_some() {
            inner.own_rates.store(true, Ordering::Relaxed);
        }
        // A migration is not in the log.
        let record = || self.record_applied().and_then(|()| self.settle(&id));
        let was_quarantined = row.as_ref().is_some_and(|row| row.state == State::Quarantined);
        let usual = self.open_params(&id, &path, &options, was_quarantined);
        let params = OpenParams { before_commit: &record, quota, as_is, ..usual };
        let opened = self.open_or_quarantine(&params).map_err(|error| match error.kind() {
            ErrorKind::Quarantined | ErrorKind::Damaged => Self::quarantined(),
            _ => error,
        })?;
        let migrated = opened.migrated_from.is_some();
        let known_bytes = row.as_ref().and_then(|row| row.bytes);
        let runtime = inner.runtime.clone();
        let spawn = Box::new(move |run: Box<dyn FnOnce() + Send>| drop(runtime.spawn_blocking(run)));
        let database = opened.into_database(&params, spawn, permit, known_bytes);
        if let Some(feed) = inner.feeds.find(&id) {
            database.combiner().attach(&feed);
        }
        let lease = ticket.complete(database, self.tick());
        measures::OPEN_TIME.record_time(started.elapsed());
        let stale = |at: Option<Millis>| at.is_none_or(|at| self.now() - at > millis(SAMPLE_EVERY));
        if row.is_some_and(|row| !as_is && (migrated || stale(row.last_seen))) {
            self.sample_usage(&id, &lease, lease.bytes());
        }
        Ok(Tried::Open(lease, created))
    }

    /// Counts a creation and provisions it. Called by the tenant's one opener after the catalog had no row, so
    /// concurrent first requests count once.
    fn provision_counted(&self, id: &TenantId, new: New) -> Result<bool> {
        let counter = new.counter.clone();
        if let Some(counter) = &counter {
            counter.count()?;
        }
        let made = self.provision(id, new);
        if let Some(counter) = counter.filter(|_| !matches!(made, Ok(true))) {
            counter.uncount();
        }
        made
    }

    /// Creates the file of a new tenant, then its catalog row: a crash in between leaves a file that the next
    /// creation adopts. `false` if the catalog has the row already.
    fn provision(&self, id: &TenantId, new: New) -> Result<bool> {
        let (now, version) = (self.now(), self.inner.schema.version());
        let (placed, New { profile, author, .. }) = (self.create_file(id)?, new);
        let of = id.clone();
        self.commit_created(id, placed, move |tx| {
            let inserted = queries::insert(tx, &of, now, version, &profile)?;
            if let Some(author) = author.filter(|_| inserted) {
                author.record(tx, now, "tenants create", of.as_str(), "done")?;
            }
            Ok(inserted)
        })
    }

    /// Creates an empty file for a tenant that has none. May block.
    pub(in crate::tenants) fn create_file(&self, id: &TenantId) -> Result<files::FileCreation> {
        self.record_applied()?;
        let image = self.inner.template.image(id, self.now())?;
        let placed = files::create(&self.inner.layout, &self.inner.layout.paths(id), &image)?;
        if placed == files::FileCreation::Found {
            tracing::warn!(tenant = %id, "a file was there already, left by an interrupted creation: adopted");
        } else {
            // Before the catalog's row, which is durable after it.
            if !self.log_of(id).create(&image) {
                files::flush(&self.inner.layout.tenant(id))?;
            }
        }
        Ok(placed)
    }

    /// The open parameters of a tenant's file, with nothing to do before a migration's commit.
    pub(in crate::tenants) fn open_params<'a>(
        &'a self,
        id: &'a TenantId,
        path: &'a Path,
        options: &'a Options,
        quarantined: bool,
    ) -> OpenParams<'a> {
        let inner = &*self.inner;
        let limits = &inner.options.limits;
        OpenParams {
            id,
            log: self.log_of(id),
            left: inner.unflushed.take(id),
            path,
            schema: &inner.schema,
            options,
            limits,
            quarantined,
            quota: Quota::default(),
            deadline: Deadline::none(),
            today: Day::of(self.now()),
            as_is: false,
            before_commit: &|| Ok(()),
        }
    }

    /// Records in the catalog that the schema's migrations have run on files of this folder, so that a program
    /// without them is refused. Done before the first file has them: a crash in between is harmless.
    pub(in crate::tenants) fn record_applied(&self) -> Result<()> {
        let inner = &*self.inner;
        if !inner.applied_recorded.load(Ordering::Acquire) {
            let steps = inner.schema.steps();
            inner.catalog.write_blocking(move |tx| queries::migrations::add_applied(tx, &steps))?;
            inner.applied_recorded.store(true, Ordering::Release);
        }
        Ok(())
    }
}

fn suspended(reason: Option<&str>) -> Error {
    let reason = reason.unwrap_or("no reason was given");
    Error::new(ErrorKind::Suspended, format!("this user is suspended: {reason}"))
}
