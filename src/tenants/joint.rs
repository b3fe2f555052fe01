//! Changes to files that share their catalog commit with the caller's own rows, so that a webhook
//! costs one commit: its delivery and what it did to the tenant.
//!
//! The caller's part runs inside the transaction, and what the row says after it is what is done
//! to the file. None of these is cancelled with its future.

use rusqlite::Transaction;
use tokio::time::Instant;

use super::{files, id::TenantId, slots::Acquired, store::Store};
use crate::{
    catalog::{model::State, queries},
    error::{Error, ErrorKind, Result},
    telemetry::{carried, carried_along},
    tenants::files::Placed,
};

impl Store {
    /// Puts an empty file in place for a tenant that has none, then commits. If the tenant does not
    /// live after that, the file is taken away again. The tenant is not opened.
    pub async fn establish<T, F>(&self, id: &TenantId, commit: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let until = Instant::now() + self.inner.options.wait;
        let busy = |_| Error::new(ErrorKind::Busy, "this user's database is being opened or moved; try again");
        loop {
            let ticket = match self.inner.slots.acquire(id, self.tick()) {
                // It is open, so its file is there.
                Acquired::Leased(_lease) => return self.catalog().write(commit).await,
                Acquired::Wait(changed) => {
                    tokio::time::timeout_at(until, changed).await.map_err(busy)?;
                    continue;
                }
                Acquired::Absent(ticket) => ticket,
            };
            let store = self.clone();
            let done = self.inner.runtime.spawn(carried_along(async move {
                let (id, of) = (ticket.id().clone(), ticket.id().clone());
                let placed = store.blocking(move |store| store.place(&id)).await?;
                // After a failed commit the row may be there all the same: a file too many is found
                // by the next creation, a file too few is a loss.
                let (value, state) = store.catalog().write(move |tx| and_state(tx, &of, commit)).await?;
                if placed == Placed::New && state == Some(State::Active) {
                    tracing::info!(tenant = %ticket.id(), schema = store.schema().version(), "created");
                }
                if placed == Placed::New && state.is_none_or(|state| state == State::Deleted) {
                    let path = store.layout().tenant(ticket.id());
                    store.blocking(move |_| files::erase(&path)).await?;
                }
                drop(ticket);
                Ok(value)
            }));
            return done.await.map_err(|e| Error::internal("a creation did not finish").with_source(e))?;
        }
    }

    /// Waits until nobody uses a tenant and commits. If it is deleted after that, its file goes to
    /// the trash.
    pub async fn take_out<T, F>(&self, id: &TenantId, commit: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let hold = self.inner.slots.hold(id).await;
        let store = self.clone();
        let done = self.inner.runtime.spawn(carried_along(async move {
            let of = hold.id().clone();
            let committed = store.catalog().write(move |tx| and_state(tx, &of, commit)).await;
            store
                .blocking(move |store| {
                    Self::close_held(&hold);
                    let (value, state) = committed?;
                    if state == Some(State::Deleted) {
                        let id = hold.id();
                        let (live, trashed) = (store.layout().tenant(id), store.layout().trashed(id));
                        // The catalog's word stands without the move: nobody can reach the file, and
                        // the purge looks in both places.
                        if live.exists()
                            && let Err(error) = files::relocate(&live, &trashed)
                        {
                            tracing::error!(tenant = %id, error = %error, "deleted, but its file is not in the trash yet");
                        }
                    }
                    Ok(value)
                })
                .await
        }));
        done.await.map_err(|e| Error::internal("a deletion did not finish").with_source(e))?
    }

    /// Puts a deleted tenant's file back, or an empty one where nothing is left of it, then commits.
    /// If the tenant does not live after that, the file goes back to the trash.
    pub async fn bring_back<T, F>(&self, id: &TenantId, commit: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let hold = self.inner.slots.hold(id).await;
        let store = self.clone();
        let done = self.inner.runtime.spawn(carried_along(async move {
            store
                .blocking(move |store| {
                    // Of a tenant that lives after all something may be open.
                    Self::close_held(&hold);
                    let id = hold.id().clone();
                    let (live, trashed) = (store.layout().tenant(&id), store.layout().trashed(&id));
                    match (live.exists(), trashed.exists()) {
                        (true, _) => {}
                        (false, true) => files::relocate(&trashed, &live)?,
                        (false, false) => {
                            tracing::warn!(tenant = %id, "nothing is left of its data: it starts empty");
                            store.place(&id)?;
                        }
                    }
                    let of = id.clone();
                    let (value, state) = store.catalog().write_blocking(move |tx| and_state(tx, &of, commit))?;
                    if state == Some(State::Deleted) {
                        files::relocate(&live, &trashed)?;
                    }
                    Ok(value)
                })
                .await
        }));
        done.await.map_err(|e| Error::internal("a restoration did not finish").with_source(e))?
    }

    /// Runs `work` on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        let done = self.inner.runtime.spawn_blocking(carried(move || work(&store))).await;
        done.map_err(|e| Error::internal("work on a tenant's files did not finish").with_source(e))?
    }
}

/// Runs the caller's part, then looks at the row it left.
fn and_state<T>(
    tx: &Transaction,
    id: &TenantId,
    commit: impl FnOnce(&Transaction) -> rusqlite::Result<T>,
) -> rusqlite::Result<(T, Option<State>)> {
    let value = commit(tx)?;
    Ok((value, queries::gate(tx, id)?.map(|row| row.state)))
}
