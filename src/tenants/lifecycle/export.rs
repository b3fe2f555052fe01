//! A tenant's database as a file for an operator, whatever its state.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::{
    catalog::model::{Row, State},
    error::{Error, ErrorKind, Result},
    sqlite::deadline::Deadline,
    tenants::{
        copy::{self, Copy, Form},
        disk::{files, inspect},
        id::TenantId,
        store::Store,
    },
};

impl Store {
    /// A copy of a tenant's database as it is at one moment, made within `limit`. An active tenant is served meanwhile.
    /// One that is suspended or deleted stays so; what is left of it is copied where it is.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTenant`] if there is none; [`ErrorKind::Conflict`] if it is quarantined or nothing is left of
    /// it; as [`Tenant::copy`](crate::Tenant::copy).
    pub async fn export(&self, id: &TenantId, form: Form, limit: Duration) -> Result<Copy> {
        let row = self.find(id).await?.ok_or_else(Error::unknown_tenant)?;
        match row.state {
            State::Active => self.lease(id).await?.copy(form, limit).await,
            State::Quarantined => Err(quarantined(id)),
            State::Suspended | State::Deleted => self.export_closed(id, form, limit).await,
        }
    }

    async fn export_closed(&self, id: &TenantId, form: Form, limit: Duration) -> Result<Copy> {
        let path = self.layout().temporary();
        self.read_closed(id, limit, move |conn| copy::make(conn, form, &path, Instant::now() + limit)).await
    }

    /// Reads the whole database of a tenant where it is, within `limit` from now and with the tenant's lock: whoever
    /// leases it meanwhile waits. What is suspended or deleted stays so.
    ///
    /// # Errors
    /// As [`export`](Self::export); [`ErrorKind::Busy`] if others kept the lock for that long.
    pub(in crate::tenants) async fn read_closed<T, F>(&self, id: &TenantId, limit: Duration, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (read, done) = tokio::sync::oneshot::channel();
        let until = Instant::now() + limit;
        self.with_lock(id, move |store, lock, row| {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("{} is being read or changed by others; try again", lock.id());
                return Err(Error::new(ErrorKind::Busy, why));
            }
            store.take_files(lock)?;
            let path = store.file_of(lock.id(), row)?;
            let deadline = Deadline::none();
            deadline.set(Some(left));
            // Whoever asked may be gone.
            let _ = read.send(inspect::read_within(&path, &deadline, work)?);
            Ok(())
        })
        .await?;
        done.await.map_err(|e| Error::internal("a read of a closed database did not finish").with_source(e))
    }

    /// Where the whole database of a locked tenant is, whose files are complete.
    fn file_of(&self, id: &TenantId, row: &Row) -> Result<std::path::PathBuf> {
        let gone = || Error::new(ErrorKind::Conflict, format!("nothing is left of the data of {id}"));
        let paths = self.layout().paths(id);
        if row.state == State::Quarantined || row.state_before == Some(State::Quarantined) {
            return Err(quarantined(id));
        }
        if row.purged.is_some() {
            return Err(gone());
        }
        let location = match row.state {
            State::Deleted => files::undo_interrupted_move(&paths)?,
            _ => files::locate(&paths)?,
        };
        match location {
            files::Location::Live | files::Location::Both => Ok(paths.live),
            files::Location::Trash => Ok(paths.trashed),
            files::Location::Nowhere => Err(gone()),
        }
    }
}

fn quarantined(id: &TenantId) -> Error {
    let why = format!(
        "{id} is quarantined, and their file is kept as it was found: copy the one that `cubby tenants path {id}` names, \
         with its -wal, or mend what `cubby tenants show {id}` says"
    );
    Error::new(ErrorKind::Conflict, why)
}
