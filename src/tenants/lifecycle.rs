//! What an operator or the provider does to a tenant: suspend, resume, delete, restore, purge,
//! migrate.
//!
//! All take the tenant's gate first ([`Slots::hold`](super::slots::Slots::hold)), then write the
//! catalog, then close, then move files. In this order a crash at any point leaves the catalog's
//! word standing and the files where the next operation finds them; and an open that is under way
//! cannot slip in between the catalog's word and the close.

use super::{
    database::{self, Database, Recipe},
    files,
    id::TenantId,
    slots::Hold,
    store::Store,
};
use crate::{
    catalog::{
        model::{Row, State},
        queries::{self, departed},
    },
    clock::millis,
    error::{Error, ErrorKind, Result},
    sqlite::migrate::Applied,
    telemetry::carried,
};

impl Store {
    /// Refuses reads and writes of a tenant, with a reason that its user is told, until it is
    /// [resumed](Self::resume). Waits for the requests that are under way.
    pub async fn suspend(&self, id: &TenantId, reason: &str) -> Result<Row> {
        let reason = reason.to_owned();
        self.under_gate(id, move |store, hold, row| {
            match row.state {
                State::Deleted => return Err(deleted(hold.id())),
                State::Active | State::Suspended | State::Quarantined => {}
            }
            let id = hold.id().clone();
            store.catalog().write_blocking(move |tx| queries::suspend(tx, &id, &reason))?;
            Self::close_held(hold);
            tracing::info!(tenant = %hold.id(), "suspended");
            Ok(())
        })
        .await
    }

    /// Lets a suspended or quarantined tenant be used again.
    pub async fn resume(&self, id: &TenantId) -> Result<Row> {
        self.under_gate(id, |store, hold, row| {
            if row.state == State::Deleted {
                return Err(deleted(hold.id()));
            }
            let id = hold.id().clone();
            store.catalog().write_blocking(move |tx| queries::activate(tx, &id))?;
            tracing::info!(tenant = %hold.id(), was = %row.state, "resumed");
            Ok(())
        })
        .await
    }

    /// Deletes a tenant: it is unknown from now on. Its file is kept in `trash/` until the
    /// retention ends. Deleting it again changes nothing.
    pub async fn delete(&self, id: &TenantId) -> Result<Row> {
        self.under_gate(id, |store, hold, row| {
            let id = hold.id().clone();
            if row.state != State::Deleted {
                let now = store.now();
                let until = now.saturating_add(millis(store.inner.options.retention));
                let gone = id.clone();
                store.catalog().write_blocking(move |tx| queries::mark_deleted(tx, &gone, now, until))?;
                tracing::info!(tenant = %id, "deleted");
            }
            Self::close_held(hold);
            // Also when it was deleted before: an interrupted deletion is completed.
            let (live, trashed) = (store.layout().tenant(&id), store.layout().trashed(&id));
            if live.exists() { files::relocate(&live, &trashed) } else { Ok(()) }
        })
        .await
    }

    /// Brings a deleted tenant back, with everything it had.
    pub async fn restore(&self, id: &TenantId) -> Result<Row> {
        self.under_gate(id, |store, hold, row| {
            let id = hold.id().clone();
            if row.state != State::Deleted {
                return Err(Error::new(ErrorKind::Conflict, format!("{id} is {}, not deleted", row.state)));
            }
            let (live, trashed) = (store.layout().tenant(&id), store.layout().trashed(&id));
            if !live.exists() {
                if row.purged.is_some() || !trashed.exists() {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!(
                            "the file of {id} was purged; nothing is left to restore. `cubby tenants revive {id}` brings \
                             them back with an empty database"
                        ),
                    ));
                }
                files::relocate(&trashed, &live)?;
            } else if !trashed.exists() {
                files::rejoin(&trashed, &live)?;
            }
            // Last: until the files are back, nobody may open them.
            let (back, now) = (id.clone(), store.now());
            store.catalog().write_blocking(move |tx| departed::reinstate(tx, &back, now))?;
            tracing::info!(tenant = %id, "restored");
            Ok(())
        })
        .await
    }

    /// Brings one tenant's file to the newest schema without serving it. Returns the version it
    /// came from, if it was not there already.
    pub async fn migrate(&self, id: &TenantId) -> Result<Option<i32>> {
        let hold = self.inner.slots.hold(id).await;
        let store = self.clone();
        self.inner
            .runtime
            .spawn_blocking(carried(move || store.migrate_held(&hold)))
            .await
            .map_err(|e| Error::internal("a migration did not finish").with_source(e))?
    }

    fn migrate_held(&self, hold: &Hold<Database>) -> Result<Option<i32>> {
        let id = hold.id().clone();
        Self::close_held(hold);
        let schema = &self.inner.schema;
        let options = self.sqlite_options();
        let path = self.layout().tenant(&id);
        let row = self.catalog().read(|conn| queries::find(conn, &id))?.ok_or_else(Error::unknown_tenant)?;
        if row.state == State::Deleted {
            // Its file is in the trash, and is migrated when it is back and used.
            return Err(deleted(&id));
        }
        let recipe = Recipe {
            id: &id,
            path: &path,
            schema,
            options: &options,
            limits: &self.inner.options.limits,
            suspect: row.state == State::Quarantined,
        };
        let opened = match database::open_file(&recipe) {
            Ok(opened) => opened,
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Quarantined | ErrorKind::Damaged) {
                    let (target, reason) = (id.clone(), error.detail());
                    tracing::error!(tenant = %id, file = %path.display(), reason, "quarantined");
                    self.catalog().write_blocking(move |tx| queries::quarantine(tx, &target, &reason, None))?;
                }
                return Err(error);
            }
        };
        let applied = opened.applied;
        opened.close()?;
        let version = schema.version();
        let mended = row.state == State::Quarantined;
        self.catalog().write_blocking(move |tx| {
            if mended {
                queries::activate(tx, &id)?;
            }
            queries::set_schema(tx, &id, version)
        })?;
        Ok(match applied {
            Applied::From(version) => Some(version),
            Applied::Nothing => None,
        })
    }

    /// Runs `work` while nobody uses or opens the tenant, on a thread that may block. It is not
    /// cancelled with this future: half an operation is nobody's wish.
    pub(super) async fn under_gate<F>(&self, id: &TenantId, work: F) -> Result<Row>
    where
        F: FnOnce(&Store, &Hold<Database>, &Row) -> Result<()> + Send + 'static,
    {
        let hold = self.inner.slots.hold(id).await;
        let store = self.clone();
        self.inner
            .runtime
            .spawn_blocking(carried(move || {
                let row = |hold: &Hold<Database>| {
                    store.catalog().read(|conn| queries::find(conn, hold.id()))?.ok_or_else(Error::unknown_tenant)
                };
                let before = row(&hold)?;
                let result = work(&store, &hold, &before);
                // Whatever became of it, nothing may stay open behind a tenant that is absent.
                Self::close_held(&hold);
                result.and_then(|()| row(&hold))
            }))
            .await
            .map_err(|e| Error::internal("an operation on a tenant did not finish").with_source(e))?
    }
}

fn deleted(id: &TenantId) -> Error {
    Error::new(ErrorKind::Conflict, format!("{id} is deleted; restore it first"))
}
