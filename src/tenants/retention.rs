//! The end of a tenant: its file and all that is personal are removed, and a tombstone stays.

use super::{files, id::TenantId, store::Store};
use crate::{
    catalog::{
        model::{Row, State},
        queries::{self, departed},
    },
    error::{Error, ErrorKind, Result},
};

/// Tenants looked up at once.
const CHUNK: u32 = 100;

impl Store {
    /// Removes a tenant's file, its personal data and the bodies of the deliveries about it, at
    /// once and for good. The tombstone that stays keeps late messages from bringing it back.
    ///
    /// `actor` and `origin` are for the audit trail, which is written in the same commit.
    pub async fn purge(&self, id: &TenantId, actor: &'static str, origin: Option<String>) -> Result<Row> {
        self.under_gate(id, move |store, hold, row| {
            let (id, now) = (hold.id().clone(), store.now());
            if row.state != State::Deleted {
                // First out of use: a crash from here on leaves a deleted tenant, which is purged
                // again, and never a live one without its file.
                let gone = id.clone();
                store.catalog().write_blocking(move |tx| queries::mark_deleted(tx, &gone, now, now))?;
            }
            Self::close_held(hold);
            for path in [store.layout().tenant(&id), store.layout().trashed(&id)] {
                files::erase(&path)?;
            }
            let forgotten = id.clone();
            store.catalog().write_blocking(move |tx| {
                departed::forget(tx, &forgotten, now)?;
                queries::audit(tx, now, actor, "tenants purge", Some(forgotten.as_str()), origin.as_deref(), "done")
            })?;
            tracing::info!(tenant = %id, actor, "purged");
            Ok(())
        })
        .await
    }

    /// Brings back a deleted tenant of whom nothing is left, with an empty database.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it is not deleted, or has a file that could be restored.
    pub async fn revive(&self, id: &TenantId, actor: &'static str) -> Result<Row> {
        let row = self.find(id).await?.ok_or_else(Error::unknown_tenant)?;
        if row.state != State::Deleted || self.layout().trashed(id).exists() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{id} has a file or is not deleted; `cubby tenants restore {id}` brings a deleted one back"),
            ));
        }
        let (back, now) = (id.clone(), self.now());
        self.bring_back(id, move |tx| {
            departed::reinstate(tx, &back, now)?;
            queries::audit(tx, now, actor, "tenants revive", Some(back.as_str()), None, "done")
        })
        .await?;
        self.find(id).await?.ok_or_else(Error::unknown_tenant)
    }

    /// Purges every deleted tenant whose retention has ended; says how many. One that cannot be
    /// purged does not keep the others, and is tried again next time.
    pub async fn purge_due(&self) -> Result<u64> {
        let mut purged = 0;
        let before = self.now();
        loop {
            let due = self.catalog().query(move |conn| departed::due(conn, before, CHUNK)).await?;
            if due.is_empty() {
                return Ok(purged);
            }
            let mut failed = None;
            for id in &due {
                match self.purge(id, "retention", None).await {
                    Ok(_) => purged += 1,
                    Err(error) => {
                        tracing::error!(tenant = %id, error = %error, "cannot be purged yet");
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }
}
