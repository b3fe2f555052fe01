//! A user who comes back under a new id gets their old data, by an operator's hand.

use super::{
    files,
    id::TenantId,
    inspect::{self, options},
    path::{shm_of, wal_of},
    retention::Author,
    store::Store,
    template,
};
use crate::{
    catalog::{
        model::{Row, State},
        queries::{self, departed},
    },
    error::{Error, ErrorKind, Result},
    sqlite::{deadline::Deadline, flush, open},
};

impl Store {
    /// Moves the file of a deleted tenant under the id of a live one, whose own file must be
    /// untouched unless `replace` gives it up. The old tenant is purged by it.
    ///
    /// The old file is copied, the copy renamed inside, and put in place by one rename; only then is
    /// the old one removed. A crash before the rename changes nothing; one after it leaves the old
    /// file in the trash until its retention ends.
    pub async fn adopt(&self, new: &TenantId, from: &TenantId, replace: bool, author: &Author) -> Result<Row> {
        if new == from {
            return Err(Error::invalid("from", "a user cannot adopt their own data"));
        }
        // Both gates, always in the same order: two adoptions crosswise must not wait for each other.
        let (first, second) = if new < from { (new, from) } else { (from, new) };
        let holds = [self.inner.slots.hold(first).await, self.inner.slots.hold(second).await];
        let (new, from, author) = (new.clone(), from.clone(), author.clone());
        self.blocking(move |store| {
            holds.iter().for_each(Self::close_held);
            let row = store.exchange(&new, &from, replace, author);
            drop(holds);
            row
        })
        .await
    }

    fn exchange(&self, new: &TenantId, from: &TenantId, replace: bool, author: Author) -> Result<Row> {
        let conflict = |why: String| Err(Error::new(ErrorKind::Conflict, why));
        let find = |id: &TenantId| self.catalog().read(|conn| queries::find(conn, id));
        let unknown = |id: &TenantId| Error::new(ErrorKind::UnknownTenant, format!("{id} is unknown"));
        match find(new)?.ok_or_else(|| unknown(new))?.state {
            State::Active => {}
            state => return conflict(format!("{new} is {state}; only an active user can adopt another's data")),
        }
        let old = find(from)?.ok_or_else(|| unknown(from))?;
        if old.state != State::Deleted {
            return conflict(format!("{from} is {}; `cubby tenants delete {from}` first", old.state));
        }
        let (live, trashed, place) =
            (self.layout().tenant(from), self.layout().trashed(from), self.layout().tenant(new));
        let source = if trashed.exists() { trashed.clone() } else { live.clone() };
        if old.purged.is_some() || !source.exists() {
            return conflict(format!("nothing is left of the data of {from}"));
        }
        let card = inspect::inspect(&source)?;
        if card.tenant != *from {
            return conflict(format!("the file of {from} says that it is {}'s; `cubby doctor` says more", card.tenant));
        }
        if !replace && !is_untouched(&place)? {
            return conflict(format!("{new} has data of their own; --replace gives it up for that of {from}"));
        }

        let copy = self.layout().tmp().join("adopted.db");
        // Its log first into the file, so that the file alone is all of it.
        let conn = open::open(&source, &options(), &Deadline::none())?;
        open::checkpoint(&conn)?;
        conn.close().map_err(|(_, error)| error)?;
        std::fs::copy(&source, &copy).map_err(|e| Error::io(copy.display(), e))?;
        let conn = open::open(&copy, &options(), &Deadline::none())?;
        template::rename(&conn, new)?;
        open::checkpoint(&conn)?;
        conn.close().map_err(|(_, error)| error)?;
        for log in [wal_of(&copy), shm_of(&copy), wal_of(&place), shm_of(&place)] {
            files::remove(&log)?;
        }
        let failed = |e| Error::io(place.display(), e);
        std::fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(failed)?;
        std::fs::rename(&copy, &place).map_err(failed)?;
        flush::sync_folder(place.parent().unwrap_or(&place))?;

        let (to, gone, now) = (new.clone(), from.clone(), self.now());
        self.catalog().write_blocking(move |tx| {
            queries::set_schema(tx, &to, card.schema)?;
            departed::forget(tx, &gone, now)?;
            author.signs(tx, now, "tenants adopt", &to, &format!("done, from {gone}"))
        })?;
        for path in [live, trashed] {
            files::erase(&path)?;
        }
        tracing::info!(tenant = %new, from = %from, "adopted another user's data");
        find(new)?.ok_or_else(|| unknown(new))
    }
}

fn is_untouched(path: &std::path::Path) -> Result<bool> {
    if !path.exists() {
        return Ok(true);
    }
    let conn = open::open(path, &options(), &Deadline::none())?;
    let untouched = template::is_untouched(&conn);
    conn.close().map_err(|(_, error)| error)?;
    untouched
}
