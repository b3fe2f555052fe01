//! Giving the data of a deleted tenant to another one, for a user who signed up again.

use std::{path::Path, time::Duration};

use crate::{
    catalog::{
        audit::Author,
        model::{Row, State},
        queries::{self, audit, tombstones},
    },
    error::{Error, ErrorKind, Result},
    log,
    sqlite::{deadline::Deadline, open},
    telemetry::with_request_id_async,
    tenants::{
        disk::{
            files::{self, Location},
            inspect::{self, FileInfo, options},
            path::{TenantPaths, shm_of, wal_of},
            template,
        },
        id::TenantId,
        store::Store,
    },
};

/// How long the copy of a file is looked at for damage: an operator waits for it, and both users do.
const CHECK: Duration = Duration::from_secs(60);

impl Store {
    /// Moves the file of a deleted tenant under the id of a live one, whose own file must be
    /// untouched unless `replace` gives it up. The old tenant is purged by it.
    ///
    /// The old file is copied and the copy renamed inside. Then it is swapped in, opened where it is, and
    /// written to the catalog; only then is the old one erased, and last of all its row says purged. A
    /// crash before the swap changes nothing; one after it leaves the old file in the trash, and the next
    /// sweep erases it once the catalog has the adoption.
    pub async fn adopt(&self, new: &TenantId, from: &TenantId, replace: bool, author: &Author) -> Result<Row> {
        if new == from {
            return Err(Error::invalid("from", "a user cannot adopt their own data"));
        }
        let (new, from, author, store) = (new.clone(), from.clone(), author.clone(), self.clone());
        // A task of its own, so that it is not cancelled between the two locks.
        let done = self.inner.runtime.spawn(with_request_id_async(async move {
            // In the order of ids, so that two adoptions cannot deadlock.
            let (first, second) = if new < from { (&new, &from) } else { (&from, &new) };
            let locks = [store.inner.slots.lock(first).await, store.inner.slots.lock(second).await];
            store
                .blocking(move |store| {
                    let taken = locks.iter().try_for_each(|lock| store.take_files(lock));
                    let row = taken.and_then(|()| store.exchange(&new, &from, replace, &author));
                    drop(locks);
                    row
                })
                .await
        }));
        done.await.map_err(|e| Error::internal("an adoption did not finish").with_source(e))?
    }

    fn exchange(&self, new: &TenantId, from: &TenantId, replace: bool, author: &Author) -> Result<Row> {
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
        let (source, place) = (self.layout().paths(from), self.layout().paths(new));
        if old.purged.is_some() {
            files::erase(&source)?;
        }
        let database = match files::undo_interrupted_move(&source)? {
            Location::Nowhere => return conflict(format!("nothing is left of the data of {from}")),
            Location::Live => source.live.clone(),
            Location::Trash => source.trashed.clone(),
            Location::Both => {
                return conflict(format!(
                    "{from} has two files, {} and {}; move the one that is not to be adopted out of the data folder",
                    source.live.display(),
                    source.trashed.display()
                ));
            }
        };
        let card = inspect::inspect(&database)?;
        if card.tenant != *from {
            return conflict(format!("the file of {from} says that it is {}'s; `cubby doctor` says more", card.tenant));
        }
        let taken = matches!(files::locate(&place)?, Location::Live | Location::Both);
        if taken && !replace && !inspect::read_file(&place.live, |conn| self.inner.template.is_untouched(conn))? {
            return conflict(format!("{new} has data of their own; --replace gives it up for that of {from}"));
        }
        if taken {
            // Its log into its file: the swap exchanges one file for one.
            inspect::merge_log(&place.live)?;
        }
        inspect::merge_log(&database)?;

        let copy = self.layout().temporary();
        let made = copy_as(&database, &copy, new).and_then(|()| is_whole(&copy, new));
        let swapped =
            made.map_err(Unfinished::from).and_then(|()| self.swap_and_commit(&copy, &place, &card, new, from, author));
        if let Err(Unfinished { error, keep: true }) = &swapped {
            let what_to_do = "move the file that was replaced out of tmp/: the next start removes it";
            let kept = copy.display();
            tracing::error!(tenant = %new, %kept, %error, what_to_do, "an adoption cannot be taken back");
            return Err(error.clone());
        }
        // What was replaced, or a copy that came to nothing.
        let discarded = files::discard(&copy);
        swapped.map_err(|unfinished| unfinished.error)?;
        tracing::info!(tenant = %new, from = %from, "adopted another user's data");
        // The adoption is done: an error would say that it is not. The next start removes what is left in tmp/, and the
        // next sweep what is left of the source, whose row is due for a purge.
        if let Err(error) = discarded.and_then(|()| self.erase_adopted(from)) {
            tracing::error!(tenant = %from, %error, "what is left of an adopted user is erased later");
        }
        find(new)?.ok_or_else(|| unknown(new))
    }

    /// Erases what is left of a tenant whose data another one has.
    fn erase_adopted(&self, id: &TenantId) -> Result<()> {
        files::erase(&self.layout().paths(id))?;
        log::erase_kept(&self.layout().log(), id.as_str())?;
        let (gone, now) = (id.clone(), self.now());
        self.forget_samples(id);
        self.catalog().write_blocking(move |tx| tombstones::anonymize(tx, &gone, now))
    }

    /// Swaps a copy in, sees whose it is where it is, and writes the adoption to the catalog. On an error
    /// the swap is taken back, unless the catalog has the adoption all the same.
    fn swap_and_commit(
        &self,
        copy: &Path,
        place: &TenantPaths,
        card: &FileInfo,
        new: &TenantId,
        from: &TenantId,
        author: &Author,
    ) -> Result<(), Unfinished> {
        let replaced = files::swap_in(copy, &place.live)?;
        let take_back = |error: Error| {
            let taken = match replaced {
                true => files::swap_in(copy, &place.live).map(drop),
                false => files::remove(&place.live).map(drop),
            };
            Err(Unfinished { error, keep: taken.is_err() })
        };
        match inspect::inspect(&place.live) {
            Ok(found) if found.tenant == *new => {}
            Ok(found) => return take_back(wrong_owner(&found.tenant)),
            Err(error) => return take_back(error),
        }
        let (to, gone, by, schema, now) = (new.clone(), from.clone(), author.clone(), card.schema, self.now());
        let result = format!("done, from {from}");
        let line = result.clone();
        let committed = self.catalog().write_blocking(move |tx| {
            queries::set_schema(tx, &to, schema)?;
            tombstones::schedule_purge(tx, &gone, now)?;
            by.record(tx, now, ACTION, to.as_str(), &line)
        });
        let Err(error) = committed else { return Ok(()) };
        // A failed commit may be in the catalog all the same, and then its source goes at the next sweep.
        // Asked by a write: that connection has recovered from the file.
        let to = new.clone();
        match self.catalog().write_blocking(move |tx| audit::exists(tx, now, ACTION, to.as_str(), &result)) {
            Ok(false) => take_back(error),
            Ok(true) => Err(Unfinished { error, keep: false }),
            Err(_) => Err(Unfinished { error, keep: true }),
        }
    }
}

/// What an adoption is called in the audit trail.
const ACTION: &str = "tenants adopt";

/// An adoption that failed. `keep`: what is in `tmp/` may be the only copy of the user's file.
struct Unfinished {
    error: Error,
    keep: bool,
}

impl From<Error> for Unfinished {
    fn from(error: Error) -> Self {
        Self { error, keep: false }
    }
}

fn wrong_owner(found: &TenantId) -> Error {
    Error::new(ErrorKind::Damaged, format!("the copy says that it is {found}'s"))
}

/// Whether a copy is its user's and undamaged.
fn is_whole(path: &Path, id: &TenantId) -> Result<()> {
    let card = inspect::inspect(path)?;
    if card.tenant != *id {
        return Err(wrong_owner(&card.tenant));
    }
    if !inspect::check(path, CHECK)? {
        tracing::warn!(tenant = %id, "too large to be looked through whole");
    }
    Ok(())
}

/// Copies a closed database without a write-ahead log, makes the copy another tenant's, and flushes it.
fn copy_as(database: &Path, copy: &Path, id: &TenantId) -> Result<()> {
    std::fs::copy(database, copy).map_err(|e| Error::io(copy.display(), e))?;
    give_to(copy, id)
}

/// Makes a closed database without a write-ahead log another tenant's, and flushes it.
pub(super) fn give_to(file: &Path, id: &TenantId) -> Result<()> {
    let conn = open::open(file, &options(), &Deadline::none())?;
    template::rename(&conn, id)?;
    open::close(conn)?;
    for log in [wal_of(file), shm_of(file)] {
        files::remove_unless_filled(&log)?;
    }
    std::fs::File::open(file).and_then(|opened| opened.sync_all()).map_err(|e| Error::io(file.display(), e))
}
