//! Opening a tenant that is not open: who waits for it, what is made first, and what a failure means.

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
    },
    clock::{Millis, millis},
    error::{Error, ErrorKind, Result},
    sqlite::{migrate::Applied, open::Options},
    telemetry::with_request_id,
    tenants::{
        disk::files,
        id::TenantId,
        open::{
            database::{self, Database, OpenParams, Opened},
            slots::{Acquired, CapacityWait, Lease, Opening},
        },
        store::Store,
        tenant::Tenant,
    },
};

/// A quarantined tenant is tried again after this, then after twice as long each time…
const RETRY: Duration = Duration::from_secs(2);

/// …but at least this often.
const RETRY_AT_MOST: Duration = Duration::from_secs(3600);

/// `last_seen` in the catalog is right to this.
const SAMPLE_EVERY: Duration = Duration::from_secs(3600);

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
struct New {
    profile: Profile,
    counter: Option<Arc<dyn Counter>>,
    /// Who makes it, if that is to be in the audit trail.
    author: Option<Author>,
}

enum Tried {
    Open(Lease<Database>, bool),
    AtCapacity(CapacityWait<Database>),
}

impl Store {
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
        self.lease_or_make(id, New { profile: Profile::default(), counter: None, author: None }).await
    }

    /// As [`lease_or_create`](Self::lease_or_create), and `counter` has a say before a tenant is made.
    ///
    /// # Errors
    /// Besides, what the counter refuses with. It is asked only for an id without a row in the catalog.
    pub async fn lease_or_create_counted(&self, id: &TenantId, counter: Arc<dyn Counter>) -> Result<(Tenant, bool)> {
        self.lease_or_make(id, New { profile: Profile::default(), counter: Some(counter), author: None }).await
    }

    /// As [`lease_or_create`](Self::lease_or_create), with what is known of the user. The profile
    /// of a tenant that exists is left as it is.
    pub async fn create(&self, id: &TenantId, profile: Profile, author: &Author) -> Result<(Tenant, bool)> {
        self.lease_or_make(id, New { profile, counter: None, author: Some(author.clone()) }).await
    }

    async fn lease_or_make(&self, id: &TenantId, new: New) -> Result<(Tenant, bool)> {
        match self.inner.slots.acquire(id, self.tick()) {
            Acquired::Leased(lease) => Ok((Tenant { lease, store: self.clone() }, false)),
            other => self.wait_or_open(id, other, Some(new)).await,
        }
    }

    async fn wait_or_open(
        &self,
        id: &TenantId,
        mut acquired: Acquired<Database>,
        create: Option<New>,
    ) -> Result<(Tenant, bool)> {
        let until = Instant::now() + self.inner.options.wait;
        let busy = |()| Error::new(ErrorKind::Busy, "all databases that may be open are in use; try again in a moment");
        loop {
            match acquired {
                Acquired::Leased(lease) => return Ok((Tenant { lease, store: self.clone() }, false)),
                Acquired::Wait(changed) => tokio::time::timeout_at(until, changed).await.map_err(|_| busy(()))?,
                Acquired::Absent(ticket) => {
                    let (store, create) = (self.clone(), create.clone());
                    // Not cancelled with this future: whoever else waits gets what it opens.
                    let tried = self
                        .inner
                        .runtime
                        .spawn_blocking(with_request_id(move || store.open_absent(ticket, create)))
                        .await
                        .map_err(|e| Error::internal("opening a tenant did not finish").with_source(e))??;
                    match tried {
                        Tried::Open(lease, created) => return Ok((Tenant { lease, store: self.clone() }, created)),
                        // Looked at first: one that is woken again and again must not wait for ever.
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

    fn open_absent(&self, ticket: Opening<Database>, create: Option<New>) -> Result<Tried> {
        let inner = &*self.inner;
        if inner.closing.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Busy, "the server is shutting down"));
        }
        let id = ticket.id().clone();
        let row = inner.catalog.read(|conn| queries::gate(conn, &id))?;
        match (&row, &create) {
            (None, None) => return Err(Error::unknown_tenant()),
            (None, Some(_)) => {}
            (Some(row), _) => match row.state {
                State::Active => {}
                State::Deleted => return Err(Error::unknown_tenant()),
                State::Suspended => return Err(suspended(row.reason.as_deref())),
                State::Quarantined if self.is_due(row) => {}
                State::Quarantined => return Err(quarantined()),
            },
        }
        let permit = match self.take_capacity() {
            Ok(permit) => permit,
            Err(wait) => {
                ticket.cancel();
                return Ok(Tried::AtCapacity(wait));
            }
        };
        let path = inner.layout.tenant(&id);
        let created = match (row.is_none(), create) {
            (true, Some(new)) => self.provision_counted(&id, new)?,
            _ => false,
        };
        let options = self.sqlite_options();
        let noted = || self.note_applied();
        let suspect = row.as_ref().is_some_and(|row| row.state == State::Quarantined);
        let params = OpenParams { applying: &noted, ..self.open_params(&id, &path, &options, suspect) };
        let opened = self.open_or_quarantine(&params).map_err(|error| match is_quarantine(&error) {
            true => quarantined(),
            false => error,
        })?;
        let migrated = opened.applied != Applied::Nothing;
        let known_bytes = row.as_ref().and_then(|row| row.bytes);
        let runtime = inner.runtime.clone();
        let spawn = Box::new(move |run: Box<dyn FnOnce() + Send>| drop(runtime.spawn_blocking(run)));
        let lease = ticket.complete(opened.into_database(&params, spawn, permit, known_bytes), self.tick());
        let stale = |at: Option<Millis>| at.is_none_or(|at| self.now() - at > millis(SAMPLE_EVERY));
        if row.is_some_and(|row| migrated || stale(row.last_seen)) {
            self.sample_usage(&id, &lease, lease.bytes());
        }
        Ok(Tried::Open(lease, created))
    }

    /// Asked under the tenant's gate and once its row is known to be missing: a crowd of first requests is
    /// one creation, and only what was made is counted.
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

    /// File and catalog row of a new tenant, in this order: a crash between leaves a file that the
    /// next creation adopts. `false` if the catalog knew it after all.
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

    /// Puts an empty file in place for a tenant that has none. May block.
    pub(in crate::tenants) fn create_file(&self, id: &TenantId) -> Result<files::FileCreation> {
        self.note_applied()?;
        let image = self.inner.template.image(id, self.now())?;
        let placed = files::create(&self.inner.layout, &self.inner.layout.paths(id), &image)?;
        if placed == files::FileCreation::Found {
            tracing::warn!(tenant = %id, "a file was there already, left by an interrupted creation: adopted");
        }
        Ok(placed)
    }

    /// How a tenant's file is opened, but for [`OpenParams::applying`]. `suspect`: it is quarantined, and what put it
    /// there may be deeper than what an open reads.
    pub(in crate::tenants) fn open_params<'a>(
        &'a self,
        id: &'a TenantId,
        path: &'a Path,
        options: &'a Options,
        suspect: bool,
    ) -> OpenParams<'a> {
        let inner = &*self.inner;
        let limits = &inner.options.limits;
        OpenParams { id, path, schema: &inner.schema, options, limits, suspect, applying: &|| Ok(()) }
    }

    /// Writes down that the migrations run on files of this folder from now on, so that a program that does
    /// not have them is refused. Before the first file has them, lest a crash in between leave it unsaid.
    pub(in crate::tenants) fn note_applied(&self) -> Result<()> {
        let inner = &*self.inner;
        if !inner.noted.load(Ordering::Acquire) {
            let steps = inner.schema.steps();
            inner.catalog.write_blocking(move |tx| queries::migrations::add_applied(tx, &steps))?;
            inner.noted.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Opens a file and brings it to the newest schema: for a request, and for the command that does so
    /// before one comes. What fails quarantines its tenant; what succeeds lets it out.
    pub(in crate::tenants) fn open_or_quarantine(&self, params: &OpenParams) -> Result<Opened> {
        let id = params.id;
        let opened = database::open_file(params).inspect_err(|error| {
            self.inner.faults.note(id, self.now(), error);
            if is_quarantine(error) {
                self.record_quarantine(id, error);
            }
        })?;
        if let Applied::From(version) = opened.applied {
            tracing::info!(tenant = %id, from = version, to = params.schema.version(), "migrated");
        }
        if params.suspect {
            self.release(id)?;
        }
        Ok(opened)
    }

    /// Whether a quarantined tenant is to be tried again: its time has come, or a program with other
    /// migrations has.
    fn is_due(&self, row: &queries::Gate) -> bool {
        let now = self.now();
        let latest = now.saturating_add(millis(RETRY_AT_MOST));
        // Later than that was written by a clock that was ahead.
        row.retry_at.is_some_and(|at| at <= now || at > latest)
            || row.quarantine_digest != Some(self.inner.schema.digest())
    }

    fn release(&self, id: &TenantId) -> Result<()> {
        let (healed, now) = (id.clone(), self.now());
        self.inner.catalog.write_blocking(move |tx| {
            let kept_out = queries::gate(tx, &healed)?.map_or(0, |row| row.faults.saturating_sub(1));
            queries::release(tx, &healed, now.saturating_add(millis(wait_after(kept_out))))
        })?;
        tracing::info!(tenant = %id, "out of quarantine");
        Ok(())
    }

    pub(in crate::tenants) fn record_quarantine(&self, id: &TenantId, error: &Error) {
        let (target, reason, digest, now) = (id.clone(), error.detail(), self.inner.schema.digest(), self.now());
        let file = self.inner.layout.tenant(id);
        let why = reason.clone();
        let written = self.inner.catalog.write_blocking(move |tx| {
            // It has proven healthy if its last quarantine is as long ago as it lasted. Later than the longest
            // was written by a clock that was ahead.
            let latest = now.saturating_add(millis(RETRY_AT_MOST));
            let faults = queries::gate(tx, &target)?
                .filter(|row| row.healthy_at.is_none_or(|at| at > now && at <= latest))
                .map_or(0, |row| row.faults);
            let wait = wait_after(faults);
            let retry_at = now.saturating_add(millis(wait));
            let faults = faults.saturating_add(1);
            queries::quarantine(tx, &target, &queries::Quarantine { reason, retry_at, faults, digest })?;
            Ok(wait)
        });
        match written {
            Ok(wait) => {
                tracing::error!(tenant = %id, file = %file.display(), reason = why, retry_in = ?wait, "quarantined");
            }
            Err(error) => {
                tracing::error!(tenant = %id, file = %file.display(), reason = why, error = %error, "the quarantine could not be written to the catalog");
            }
        }
    }
}

/// How long a tenant is kept out that was quarantined so often in a row before.
fn wait_after(faults: u32) -> Duration {
    RETRY.saturating_mul(2u32.saturating_pow(faults)).min(RETRY_AT_MOST)
}

/// Whether what failed is the file's own fault, or its migration's.
fn is_quarantine(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Quarantined | ErrorKind::Damaged)
}

fn suspended(reason: Option<&str>) -> Error {
    let reason = reason.unwrap_or("no reason was given");
    Error::new(ErrorKind::Suspended, format!("this user is suspended: {reason}"))
}

fn quarantined() -> Error {
    Error::new(ErrorKind::Quarantined, "this user's database is out of service until an operator has looked at it")
}
