//! Opening a tenant that is not open: who waits for it, what is made first, and what a failure means.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{SIGHTING, Store, quarantined, suspended};
use crate::{
    catalog::{
        model::{Profile, State},
        queries,
    },
    clock::{Millis, millis},
    error::{Error, ErrorKind, Result},
    sqlite::migrate::Applied,
    telemetry::carried,
    tenants::{
        database::{self, Database, Recipe},
        files,
        id::TenantId,
        slots::{Acquired, Lease, Opening, Starved},
        tenant::Tenant,
    },
};

/// A quarantined tenant is tried again after this, then after twice as long each time…
const RETRY: Duration = Duration::from_secs(2);

/// …but at least this often.
const RETRY_AT_MOST: Duration = Duration::from_secs(3600);

enum Tried {
    Open(Lease<Database>, bool),
    NoRoom(Starved<Database>),
}

impl Store {
    pub(super) async fn wait_or_open(
        &self,
        id: &TenantId,
        mut acquired: Acquired<Database>,
        create: Option<Profile>,
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
                        .spawn_blocking(carried(move || store.open_absent(ticket, create)))
                        .await
                        .map_err(|e| Error::internal("opening a tenant did not finish").with_source(e))??;
                    match tried {
                        Tried::Open(lease, created) => return Ok((Tenant { lease, store: self.clone() }, created)),
                        // Looked at first: one that is woken again and again must not wait for ever.
                        Tried::NoRoom(_) if Instant::now() >= until => return Err(busy(())),
                        Tried::NoRoom(starved) => {
                            tokio::time::timeout_at(until, starved.wait()).await.map_err(|_| busy(()))?;
                        }
                    }
                }
            }
            acquired = self.inner.slots.acquire(id, self.tick());
        }
    }

    fn open_absent(&self, ticket: Opening<Database>, create: Option<Profile>) -> Result<Tried> {
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
                State::Quarantined if row.retry_at.is_some_and(|at| at <= self.now()) => {}
                State::Quarantined => return Err(quarantined()),
            },
        }
        let permit = match self.room() {
            Ok(permit) => permit,
            Err(starved) => {
                ticket.withdraw();
                return Ok(Tried::NoRoom(starved));
            }
        };
        let path = inner.layout.tenant(&id);
        let created = match (row.is_none(), create) {
            (true, Some(profile)) => self.provision(&id, profile)?,
            _ => false,
        };
        let options = self.sqlite_options();
        let recipe = Recipe {
            id: &id,
            path: &path,
            schema: &inner.schema,
            options: &options,
            limits: &inner.options.limits,
            // What put it there may be deeper than what an open reads.
            suspect: row.as_ref().is_some_and(|row| row.state == State::Quarantined),
        };
        let opened = database::open_file(&recipe).map_err(|error| self.failed_to_open(&id, row.as_ref(), error))?;
        if let Applied::From(version) = opened.applied {
            tracing::info!(tenant = %id, from = version, to = inner.schema.version(), "migrated");
        }
        if row.as_ref().is_some_and(|row| row.state == State::Quarantined) {
            let healed = id.clone();
            inner.catalog.write_blocking(move |tx| queries::activate(tx, &healed))?;
            tracing::info!(tenant = %id, "out of quarantine");
        }
        let migrated = opened.applied != Applied::Nothing;
        let known_bytes = row.as_ref().and_then(|row| row.bytes);
        let runtime = inner.runtime.clone();
        let spawn = Box::new(move |run: Box<dyn FnOnce() + Send>| drop(runtime.spawn_blocking(run)));
        let lease = ticket.complete(opened.into_database(&recipe, spawn, permit, known_bytes), self.tick());
        let stale = |at: Option<Millis>| at.is_none_or(|at| self.now() - at > millis(SIGHTING));
        if row.is_some_and(|row| migrated || stale(row.last_seen)) {
            self.sighted(&id, &lease, lease.bytes());
        }
        Ok(Tried::Open(lease, created))
    }

    /// File and catalog row of a new tenant, in this order: a crash between leaves a file that the
    /// next creation adopts. `false` if the catalog knew it after all.
    fn provision(&self, id: &TenantId, profile: Profile) -> Result<bool> {
        let (now, version) = (self.now(), self.inner.schema.version());
        self.place(id)?;
        let new = id.clone();
        let inserted =
            self.inner.catalog.write_blocking(move |tx| queries::insert(tx, &new, now, version, &profile))?;
        if inserted {
            tracing::info!(tenant = %id, schema = version, "created");
        }
        Ok(inserted)
    }

    /// Puts an empty file in place for a tenant that has none. May block.
    pub(in crate::tenants) fn place(&self, id: &TenantId) -> Result<files::Placed> {
        let image = self.inner.template.image(id, self.now())?;
        let placed = files::place(&self.inner.layout, &self.inner.layout.places(id), &image)?;
        if placed == files::Placed::Found {
            tracing::warn!(tenant = %id, "a file was there already, left by an interrupted creation: adopted");
        }
        Ok(placed)
    }

    fn failed_to_open(&self, id: &TenantId, row: Option<&queries::Gate>, error: Error) -> Error {
        self.inner.faults.note(id, self.now(), &error);
        match error.kind() {
            ErrorKind::Quarantined | ErrorKind::Damaged => {
                let faults = row.map_or(0, |row| row.faults);
                self.record_quarantine(id, faults, &error);
                quarantined()
            }
            _ => error,
        }
    }

    pub(in crate::tenants) fn record_quarantine(&self, id: &TenantId, faults: u32, error: &Error) {
        let wait = RETRY.saturating_mul(2u32.saturating_pow(faults)).min(RETRY_AT_MOST);
        let retry_at = self.now().saturating_add(millis(wait));
        let (target, reason) = (id.clone(), error.detail());
        let file = self.inner.layout.tenant(id);
        tracing::error!(tenant = %id, file = %file.display(), reason, retry_in = ?wait, "quarantined");
        let written = self
            .inner
            .catalog
            .write_blocking(move |tx| queries::quarantine(tx, &target, &reason, Some(retry_at)).map(drop));
        if let Err(error) = written {
            tracing::error!(tenant = %id, error = %error, "the quarantine could not be written to the catalog");
        }
    }
}
