//! Tenants whose files are not there yet: each is fetched by whoever needs it first.
//!
//! While a data folder is restored, a tenant may have a row and no file. Then its file is *awaited*. Whoever opens the tenant
//! or takes its files ([`Store::take_files`]) has it fetched before, with the tenant's lock or as its opener, so one at a
//! time. It gets its place by one rename when it is whole, looked through and on the disk: a crash leaves all of it there, or
//! nothing. Where it belongs is what its row says under that lock.
//!
//! Who changes a row alone needs no file: the file that comes later follows the row. A tenant that was purged is not awaited.

use std::{path::Path, sync::atomic::Ordering};

use super::{
    fetch::{Fetched, Fetcher},
    slots::Acquired,
};
use crate::{
    catalog::{
        model::{Row, State},
        queries,
    },
    error::{Error, ErrorKind, Result},
    sqlite::flush,
    tenants::{
        disk::files::{self, Location},
        id::TenantId,
        store::Store,
    },
};

impl Store {
    /// Whether files may be awaited.
    pub fn is_fetching(&self) -> bool {
        self.inner.fetcher.read().is_some()
    }

    /// From now on every file that is not there is missing.
    pub fn end_fetching(&self) {
        *self.inner.fetcher.write() = None;
    }

    /// Ends what is being fetched with an error.
    pub(in crate::tenants) fn stop_fetching(&self) {
        let fetcher = self.inner.fetcher.read().clone();
        if let Some(Fetcher(fetch)) = fetcher {
            fetch.stop();
        }
    }

    /// Whether the file of a tenant is awaited. May block.
    pub fn awaits_file(&self, id: &TenantId) -> Result<bool> {
        Ok(self.is_fetching() && self.awaited(id)?.is_some())
    }

    /// Parts those whose files are there, or not to be had, from those whose files are awaited.
    pub async fn part_awaited(&self, ids: Vec<TenantId>) -> Result<(Vec<TenantId>, Vec<TenantId>)> {
        if !self.is_fetching() {
            return Ok((ids, Vec::new()));
        }
        self.blocking(move |store| {
            let (mut there, mut awaited) = (Vec::new(), Vec::new());
            for id in ids {
                let part = if store.awaits_file(&id)? { &mut awaited } else { &mut there };
                part.push(id);
            }
            Ok((there, awaited))
        })
        .await
    }

    /// Has the file of a tenant fetched if it is awaited, without opening it. Waits for whoever opens or locks the tenant.
    ///
    /// # Errors
    /// As [`Fetch::fetch`](super::fetch::Fetch::fetch); those of the disk.
    pub async fn fetch_file(&self, id: &TenantId) -> Result<Fetched> {
        loop {
            if self.inner.closing.load(Ordering::Acquire) {
                return Err(Error::new(ErrorKind::Busy, "the server is shutting down"));
            }
            let ticket = match self.inner.slots.acquire(id, self.tick()) {
                // Open, so its file is there.
                Acquired::Leased(_lease) => return Ok(Fetched::There),
                Acquired::Wait(changed) => {
                    changed.await;
                    continue;
                }
                Acquired::Absent(ticket) => ticket,
            };
            return self
                .blocking(move |store| {
                    let fetched = store.fetch_awaited(ticket.id());
                    ticket.cancel();
                    fetched
                })
                .await;
        }
    }

    /// Has the file of a tenant fetched that is to be opened. The caller is its opener. May block.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if it is not there after that.
    pub(in crate::tenants) fn fetch_to_open(&self, id: &TenantId) -> Result<()> {
        match self.fetch_now(id)? {
            Fetched::There | Fetched::New(_) => Ok(()),
            Fetched::Nothing => {
                tracing::error!(tenant = %id, "there is nothing of it where files are restored from");
                Err(lost())
            }
        }
    }

    /// Has the file of a locked tenant fetched if it is awaited. May block.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if it cannot be had now, or is not whole; [`ErrorKind::DiskFull`].
    pub(in crate::tenants) fn fetch_now(&self, id: &TenantId) -> Result<Fetched> {
        self.fetch_awaited(id).map_err(|error| {
            tracing::warn!(tenant = %id, %error, "its file could not be fetched");
            explained(error)
        })
    }

    /// Has the file of a locked tenant fetched that is to be replaced. One that cannot be made whole is left where it is: then
    /// another one is a way out. May block.
    ///
    /// # Errors
    /// As [`fetch_now`](Self::fetch_now), for what may be over later.
    #[cfg(feature = "server")]
    pub(in crate::tenants) fn fetch_to_replace(&self, id: &TenantId) -> Result<()> {
        match self.fetch_awaited(id) {
            Err(error) if is_lost(&error) => {
                tracing::warn!(tenant = %id, %error, "another file takes the place of one that could not be fetched");
                Ok(())
            }
            fetched => fetched.map(|_| ()).map_err(explained),
        }
    }

    fn fetch_awaited(&self, id: &TenantId) -> Result<Fetched> {
        let Some(Fetcher(fetch)) = self.inner.fetcher.read().clone() else { return Ok(Fetched::There) };
        let Some(row) = self.awaited(id)? else { return Ok(Fetched::There) };
        let paths = self.layout().paths(id);
        let home = if row.state == State::Deleted { &paths.trashed } else { &paths.live };
        let fresh = self.layout().temporary();
        let fetched = fetch.fetch(id, &fresh).and_then(|bytes| match bytes {
            Some(bytes) => place(&fresh, home).map(|()| Fetched::New(bytes)),
            None => Ok(Fetched::Nothing),
        });
        if !matches!(fetched, Ok(Fetched::New(_)))
            && let Err(error) = files::discard(&fresh)
        {
            tracing::warn!(tenant = %id, %error, "a file stays in tmp/ until the next start");
        }
        fetched
    }

    /// The row of a tenant that is to have a file and has none.
    fn awaited(&self, id: &TenantId) -> Result<Option<Row>> {
        let row = self.catalog().read(|conn| queries::find(conn, id))?;
        // Of whom nothing but the deletion was ever reported, there never was one.
        let has_one = |row: &Row| row.purged.is_none() && (row.state != State::Deleted || row.schema_version.is_some());
        let Some(row) = row.filter(has_one) else { return Ok(None) };
        Ok((files::locate(&self.layout().paths(id))? == Location::Nowhere).then_some(row))
    }
}

/// Gives a file its place when it is on the disk: what is written to it from then on may be acknowledged.
fn place(fresh: &Path, home: &Path) -> Result<()> {
    flush::if_there(fresh)?;
    flush::rename_new(fresh, home)?;
    let synced = flush::sync_folder(home.parent().unwrap_or(home));
    if synced.is_err() {
        // Else it would be taken for one that is there.
        files::discard(home)?;
    }
    synced
}

/// Whether another try would not help.
fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Invalid)
}

/// What a caller is told.
fn explained(error: Error) -> Error {
    match error.kind() {
        ErrorKind::DiskFull | ErrorKind::Busy => error,
        _ if is_lost(&error) => lost().with_source(error),
        _ => Error::new(
            ErrorKind::Unavailable,
            "this user's data is being brought back from its copy, which cannot be reached now; try again in a moment",
        )
        .with_source(error),
    }
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "this user's data could not be brought back from its copy; the operator sees the reason, and decides what to do",
    )
}
