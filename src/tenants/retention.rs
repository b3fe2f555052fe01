//! The end of a tenant: its file and all that is personal are removed, and a tombstone stays.

use super::{files, id::TenantId, store::Store};
use crate::{
    catalog::{
        model::{Millis, Row, State},
        queries::{self, departed},
    },
    error::{Error, ErrorKind, Result},
};

/// Who does something that is written to the audit trail in the same commit, and from where.
#[derive(Debug, Clone)]
pub struct Author {
    /// Who.
    pub actor: String,
    /// From where: an address, or the command line.
    pub origin: Option<String>,
}

impl Author {
    /// The program itself, for a reason.
    fn itself(reason: &str) -> Self {
        Self { actor: reason.to_owned(), origin: None }
    }

    /// Writes the line.
    pub(super) fn signs(
        &self,
        tx: &rusqlite::Transaction,
        at: Millis,
        action: &str,
        target: &TenantId,
        result: &str,
    ) -> rusqlite::Result<()> {
        queries::audit(tx, at, &self.actor, action, Some(target.as_str()), self.origin.as_deref(), result)
    }
}

/// Tenants looked up at once.
const CHUNK: u32 = 100;

impl Store {
    /// Removes a tenant's file, its personal data and the bodies of the deliveries about it, at
    /// once and for good. The tombstone that stays keeps late messages from bringing it back.
    pub async fn purge(&self, id: &TenantId, author: &Author) -> Result<Row> {
        let author = author.clone();
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
            let actor = author.actor.clone();
            store.catalog().write_blocking(move |tx| {
                departed::forget(tx, &forgotten, now)?;
                author.signs(tx, now, "tenants purge", &forgotten, "done")
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
    pub async fn revive(&self, id: &TenantId, author: &Author) -> Result<Row> {
        let row = self.find(id).await?.ok_or_else(Error::unknown_tenant)?;
        if row.state != State::Deleted || self.layout().trashed(id).exists() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{id} has a file or is not deleted; `cubby tenants restore {id}` brings a deleted one back"),
            ));
        }
        let (back, now, author) = (id.clone(), self.now(), author.clone());
        self.bring_back(id, move |tx| {
            departed::reinstate(tx, &back, now)?;
            author.signs(tx, now, "tenants revive", &back, "done")
        })
        .await?;
        self.find(id).await?.ok_or_else(Error::unknown_tenant)
    }

    /// Purges every deleted tenant whose retention has ended; says how many. One that cannot be
    /// purged does not keep the others, and is tried again next time.
    pub async fn purge_due(&self) -> Result<u64> {
        let mut purged = 0;
        let (before, author) = (self.now(), Author::itself("retention"));
        loop {
            let due = self.catalog().query(move |conn| departed::due(conn, before, CHUNK)).await?;
            if due.is_empty() {
                return Ok(purged);
            }
            let mut failed = None;
            for id in &due {
                match self.purge(id, &author).await {
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
