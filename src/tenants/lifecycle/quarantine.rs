//! The quarantine backoff: a tenant whose file is damaged or cannot be migrated is refused, and its file is tried
//! again by its next request after a while, ever less often.

use std::time::Duration;

use rusqlite::Transaction;

use crate::{
    catalog::queries::{self, AccessRow, Quarantine, rollouts},
    clock::millis,
    error::{Error, ErrorKind, Result},
    log::{self, Recovered},
    telemetry::{measures, with_request_id_async},
    tenants::{
        id::TenantId,
        open::{
            database::{self, Database, OpenParams, Opened},
            slots::Lease,
        },
        store::Store,
    },
};

/// The first retry comes after this, each later one after twice as long…
const RETRY: Duration = Duration::from_secs(2);

/// …up to this.
const MAX_RETRY: Duration = Duration::from_secs(3600);

/// How often an open file is found damaged before its tenant is quarantined.
const MAX_DAMAGE: u32 = 3;

/// The backoff after this many quarantines in a row.
fn backoff(quarantines: u32) -> Duration {
    RETRY.saturating_mul(2u32.saturating_pow(quarantines)).min(MAX_RETRY)
}

impl Store {
    /// Opens a file and migrates it, for a request or for eager migration. A failure quarantines the tenant, unless
    /// it is the disk's or the catalog's; a success releases it.
    pub(in crate::tenants) fn open_or_quarantine(&self, params: &OpenParams) -> Result<Opened> {
        self.open_or_quarantine_in(params, None)
    }

    /// The same, in a run of migrations perhaps. The commit that quarantines a tenant counts it in the run, unless it was
    /// quarantined before: so no crash parts the two.
    pub(in crate::tenants) fn open_or_quarantine_in(&self, params: &OpenParams, run: Option<i64>) -> Result<Opened> {
        let id = params.id;
        let opened = database::open_file(params).inspect_err(|error| {
            // One that was cut short since the server ends is no fault.
            if !params.deadline.was_cancelled() {
                self.inner.faults.record(id, self.now(), error);
            }
            if matches!(error.kind(), ErrorKind::Quarantined | ErrorKind::Damaged) {
                self.quarantine(id, error, run.filter(|_| !params.quarantined));
            }
        })?;
        if let Some(version) = opened.migrated_from {
            measures::MIGRATED.increment();
            tracing::info!(tenant = %id, from = version, to = params.schema.version(), "migrated");
        }
        if params.quarantined
            && let Err(error) = self.release(id)
        {
            opened.abandon();
            return Err(error);
        }
        Ok(opened)
    }

    /// Whether a quarantined tenant's file is tried again: the backoff is over, or the migrations are not those that
    /// it failed with. Not after damage of the log: then an operator decides.
    pub(in crate::tenants) fn may_retry(&self, row: &AccessRow) -> bool {
        let now = self.now();
        let latest = now.saturating_add(millis(MAX_RETRY));
        let other_schema = row.quarantine_digest != Some(self.inner.schema.digest());
        // A later time was written by a clock that was ahead.
        row.retry_at.is_some_and(|at| at <= now || at > latest || other_schema)
    }

    /// What a request is told that comes before that.
    pub(in crate::tenants) fn quarantined() -> Error {
        Error::new(
            ErrorKind::Quarantined,
            "this user's database is out of service: its file could not be read or migrated, and is kept as found. It \
             is tried again later; the operator sees the reason",
        )
    }

    fn release(&self, id: &TenantId) -> Result<()> {
        let (healed, now) = (id.clone(), self.now());
        self.inner.catalog.write_blocking(move |tx| {
            let row = queries::access_row(tx, &healed)?;
            if row.as_ref().is_some_and(|row| row.retry_at.is_none()) {
                // The log was damaged: only an operator ends this one.
                return Ok(false);
            }
            let last = backoff(row.map_or(0, |row| row.consecutive_quarantines.saturating_sub(1)));
            queries::end_quarantine(tx, &healed, now.saturating_add(millis(last)))
        })?;
        tracing::info!(tenant = %id, "out of quarantine");
        Ok(())
    }

    fn quarantine(&self, id: &TenantId, error: &Error, run: Option<i64>) {
        let (target, reason, digest, now) = (id.clone(), error.detail(), self.inner.schema.digest(), self.now());
        let file = self.inner.layout.tenant(id);
        // Somebody may replace the file: what the log has of this one is not redone onto another.
        if let Err(error) = self.settle(id) {
            tracing::warn!(tenant = %id, error = %error, "quarantined while the log still has records of its file");
        }
        let why = reason.clone();
        let written = self.inner.catalog.write_blocking(move |tx| {
            // The backoff starts anew after as long a time in service as the last quarantine lasted. A time later
            // than the longest was written by a clock that was ahead.
            let latest = now.saturating_add(millis(MAX_RETRY));
            let before = queries::access_row(tx, &target)?
                .filter(|row| row.healthy_at.is_none_or(|at| at > now && at <= latest))
                .map_or(0, |row| row.consecutive_quarantines);
            let (wait, consecutive) = (backoff(before), before.saturating_add(1));
            let retry_at = Some(now.saturating_add(millis(wait)));
            let quarantine = Quarantine { reason, retry_at, consecutive, digest };
            if queries::quarantine(tx, &target, &quarantine)?
                && let Some(run) = run
            {
                rollouts::count_failure(tx, run, &target, &quarantine.reason)?;
            }
            Ok(wait)
        });
        match written {
            Ok(wait) => {
                measures::QUARANTINED.increment();
                tracing::error!(tenant = %id, file = %file.display(), reason = why, retry_in = ?wait, "quarantined");
            }
            Err(error) => tracing::error!(
                tenant = %id, file = %file.display(), reason = why, error = %error,
                "the quarantine could not be written to the catalog"
            ),
        }
    }

    /// Quarantines the tenants whose acknowledged commits the redo could not bring back, until an operator resumes
    /// them. At start, before anybody is served.
    pub(in crate::tenants) fn quarantine_for_losses(&self, recovered: Recovered) -> Result<()> {
        if recovered.damaged.is_empty() && recovered.missing.is_empty() {
            return Ok(());
        }
        self.inner.catalog.write_at_start(move |tx| record_losses(tx, &recovered))?;
        log::losses_recorded(&self.inner.layout.log())
    }

    /// Quarantines a tenant in the background, if its open file was found damaged too often.
    pub(in crate::tenants) fn quarantine_if_damaged(&self, lease: &Lease<Database>, cause: &Error) {
        if cause.kind() != ErrorKind::Damaged || lease.combiner().faults() < MAX_DAMAGE {
            return;
        }
        let (store, id, cause) = (self.clone(), lease.id().clone(), cause.clone());
        self.inner.runtime.spawn(with_request_id_async(async move {
            let lock = store.inner.slots.lock(&id).await;
            let done = store.blocking(move |store| {
                match lock.open().filter(|database| database.combiner().faults() >= MAX_DAMAGE) {
                    Some(database) => {
                        // Closed first and without a checkpoint: a damaged file is kept as found.
                        store.take_uses(lock.id(), database);
                        database.abandon();
                        store.inner.feeds.end(lock.id());
                        store.quarantine(lock.id(), &cause, None);
                    }
                    // Another request has quarantined it already.
                    None => store.close_locked(&lock),
                }
                Ok(())
            });
            if let Err(error) = done.await {
                tracing::error!(tenant = %id, error = %error, "quarantine did not finish");
            }
        }));
    }
}

/// Quarantines the databases whose acknowledged commits a redo of the log could not bring back.
pub fn record_losses(tx: &Transaction, recovered: &Recovered) -> rusqlite::Result<()> {
    let damaged = "the log was damaged, and acknowledged writes of this user may be missing: restore the file from a \
                   backup, or `cubby tenants resume` the user to go on with what is there";
    let missing = "the file was missing at a start, and the log that was kept then has acknowledged writes of it: put \
                   the file back or restore it from a backup, then `cubby tenants resume` the user";
    for (names, reason) in [(&recovered.damaged, damaged), (&recovered.missing, missing)] {
        for id in names.iter().filter_map(|name| name.parse().ok()) {
            tracing::error!(tenant = %id, reason, "quarantined");
            queries::quarantine_for_operator(tx, &id, reason)?;
        }
    }
    Ok(())
}
