//! Purging a tenant: its file and its personal data are erased, and a tombstone stays.

use std::time::Duration;

use tokio::time::Instant;

use super::transition::{Expect, erase};
use crate::{
    catalog::{
        audit::Author,
        model::{Millis, Row, State},
        queries::{self, tombstones},
    },
    error::{Error, ErrorKind, Result},
    log,
    tenants::{
        disk::files::{self, Location},
        id::TenantId,
        open::{database::Database, slots::TenantLock},
        store::Store,
    },
};

/// What a purge is called in the audit trail.
const PURGE: &str = "tenants purge";

/// Tenants looked up at once.
const CHUNK: u32 = 100;

/// How long the time of day must have been steady before anything is removed by it, or for the retention
/// if that is shorter. A machine that starts with a wrong clock has asked a time server by then.
const STEADY_FOR: Duration = Duration::from_secs(3600);

impl Store {
    /// Removes a tenant's file, its personal data and the bodies of the deliveries about it, at
    /// once and for good. The tombstone that stays keeps late messages from bringing it back.
    pub async fn purge(&self, id: &TenantId, author: &Author) -> Result<Row> {
        let author = author.clone();
        self.with_lock(id, move |store, lock, _| store.purge_locked(lock, author)).await
    }

    /// Purges a tenant if, with its lock taken, it is still deleted and its retention ended by `before`.
    async fn purge_if_due(&self, id: &TenantId, before: Millis, author: &Author) -> Result<bool> {
        let author = author.clone();
        let row = self
            .with_lock(id, move |store, lock, row| match is_due(row, before) {
                true => store.purge_locked(lock, author),
                false => Ok(()),
            })
            .await?;
        Ok(row.purged.is_some_and(|at| at >= before))
    }

    fn purge_locked(&self, lock: &TenantLock<Database>, author: Author) -> Result<()> {
        let (id, now) = (lock.id().clone(), self.now());
        // First out of use, and due: after a crash from here on the next sweep completes the purge. One that is due
        // already is not recorded again each time that the sweep tries.
        let (due, by) = (id.clone(), author.clone());
        self.catalog().write_blocking(move |tx| {
            if queries::find(tx, &due)?.is_some_and(|row| is_due(&row, now)) {
                return Ok(());
            }
            tombstones::schedule_purge(tx, &due, now)?;
            by.record(tx, now, PURGE, due.as_str(), "started")
        })?;
        // What is awaited is not fetched to be erased.
        let erased = self.take_files_there(lock).and_then(|()| {
            self.forget_samples(&id);
            erase(&self.layout().paths(&id))?;
            log::erase_kept(&self.layout().log(), id.as_str())
        });
        erased.map_err(|error| {
            let why = format!(
                "{id} is deleted, but not erased yet: {}. The server tries again each minute while it runs; what is there \
                 still, `cubby tenants restore {id}` takes back",
                error.message()
            );
            Error::new(error.kind(), why).with_source(error)
        })?;
        // Last: a row that says purged has no file left.
        let (forgotten, actor) = (id.clone(), author.actor.clone());
        self.catalog().write_blocking(move |tx| {
            tombstones::anonymize(tx, &forgotten, now)?;
            author.record(tx, now, PURGE, forgotten.as_str(), "done")
        })?;
        tracing::info!(tenant = %id, actor, "purged");
        Ok(())
    }

    /// Restores a deleted tenant without a file, with an empty database.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it is not deleted, or has a file that could be restored.
    pub async fn revive(&self, id: &TenantId, author: &Author) -> Result<Row> {
        let author = author.clone();
        self.with_lock(id, move |store, lock, row| {
            let (id, now) = (lock.id().clone(), store.now());
            store.fetch_now(&id)?;
            // What a purge left is erased by the transition.
            let whole = row.purged.is_none() && files::locate(&store.layout().paths(&id))? != Location::Nowhere;
            if row.state != State::Deleted || whole {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "{id} has a file or is not deleted; `cubby tenants restore {id}` brings a deleted one back"
                    ),
                ));
            }
            store.transition(lock, Expect::LiveOrNew, move |tx| {
                tombstones::restore(tx, &id, now)?;
                author.record(tx, now, "tenants revive", id.as_str(), "done")
            })
        })
        .await
    }

    /// Whether the time of day can be relied on for removing what is kept for `retention`: it has been
    /// steady for an hour, or for the retention if that is shorter. Look every minute or so.
    pub fn clock_is_steady(&self, retention: Duration) -> bool {
        self.inner.steady.lock().look(Instant::now(), self.now()) >= STEADY_FOR.min(retention)
    }

    /// Purges every deleted tenant whose retention has ended; says how many. One that cannot be
    /// purged does not keep the others, and is tried again next time.
    pub async fn purge_due(&self) -> Result<u64> {
        let mut purged = 0;
        let (before, author) = (self.now(), Author::program("retention"));
        let mut after = None;
        loop {
            let from = after.take();
            let due =
                self.catalog().query(move |conn| tombstones::due_for_purge(conn, before, from.as_ref(), CHUNK)).await?;
            for (id, _) in &due {
                match self.purge_if_due(id, before, &author).await {
                    Ok(done) => purged += u64::from(done),
                    Err(error) => tracing::error!(tenant = %id, error = %error, "cannot be purged yet"),
                }
            }
            after = due.into_iter().next_back();
            if after.is_none() {
                return Ok(purged);
            }
        }
    }
}

fn is_due(row: &Row, before: Millis) -> bool {
    row.state == State::Deleted && row.purged.is_none() && row.purge_after.is_some_and(|at| at <= before)
}
