//! Swapping a new file in for a tenant's.
//!
//! The new file goes to the folder of what was replaced of its tenant, as `<time>-<SHA-256>.new`, and the two are exchanged
//! by one rename: at every moment the tenant has the old file or the new one, and the other is there. Then the old one gets
//! its name: see `replaced.rs`.

use std::path::{Path, PathBuf};

use rusqlite::Transaction;

use super::{
    adopt,
    replaced::{NEW, keep, remove_if_empty, settle},
};
use crate::{
    catalog::{
        audit::Author,
        model::{Profile, Row, State},
        queries::{self, audit},
    },
    clock::Millis,
    error::{Error, ErrorKind, Result},
    sqlite::flush,
    tenants::{
        copy,
        disk::{files, inspect, path::replaced_at},
        id::TenantId,
        open::{database::Database, slots::TenantLock},
        store::Store,
    },
};

/// A file in `tmp/` with a name of its own. Dropped, it is removed.
pub struct Temporary(PathBuf);

impl Temporary {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = files::discard(&self.0) {
            tracing::warn!(%error, "a file stays in tmp/ until the next start");
        }
    }
}

/// What came of a swap.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// The tenant as it is now.
    pub row: Row,
    /// Where the file is that was replaced, if there was one with something of the tenant's own.
    pub kept: Option<PathBuf>,
}

/// A whole database of a tenant's, flushed and closed, that is to be theirs.
struct Ready {
    file: Temporary,
    sha256: [u8; 32],
    schema: i32,
}

/// How a new file is swapped in.
pub(super) struct Swap {
    /// Whether what the tenant has is given up.
    pub replace: bool,
    /// SHA-256 of the new file.
    pub sha256: [u8; 32],
    /// Who does it.
    pub author: Author,
    /// What it is called in the audit trail.
    pub action: &'static str,
    /// What of the tenant's row changes with its file.
    pub change: RowChange,
}

/// Changes the row of a tenant, at this time.
pub(super) type RowChange = Box<dyn FnOnce(&Transaction, &TenantId, Millis) -> rusqlite::Result<()> + Send>;

/// A new file, and the names between which it goes.
pub(super) struct Staged<'s> {
    new: (u64, u64),
    /// Where the new file is before the exchange, and the old one after it.
    pub aside: PathBuf,
    live: &'s Path,
}

impl<'s> Staged<'s> {
    /// What is replaced will be `kept`; `sha256` is that of the new file.
    pub fn new(fresh: &Path, sha256: [u8; 32], kept: &Path, live: &'s Path) -> Result<Self> {
        let new =
            files::identity(fresh)?.ok_or_else(|| Error::internal("the new file that was to be swapped in is gone"))?;
        let name = format!("{}-{}{NEW}", replaced_at(kept).unwrap_or_default(), hex::encode(sha256));
        Ok(Self { new, aside: kept.with_file_name(name), live })
    }

    /// Exchanges the two.
    pub fn exchange(&self, fresh: &Path) -> Result<()> {
        files::relocate(fresh, &self.aside)?;
        files::swap_in(&self.aside, self.live)?;
        self.aside.parent().map_or(Ok(()), flush::sync_folder)
    }

    /// Puts both files back, and removes the new one. Nothing else is ever removed.
    fn take_back(&self) -> Result<()> {
        if files::identity(self.live)? == Some(self.new) {
            match files::identity(&self.aside)? {
                Some(_) => drop(files::swap_in(&self.aside, self.live)?),
                None => files::relocate(self.live, &self.aside)?,
            }
        }
        if files::identity(&self.aside)? == Some(self.new) {
            files::discard(&self.aside)?;
            remove_if_empty(self.aside.parent());
        }
        Ok(())
    }
}

impl Store {
    /// A name for a file that is to be imported, or swapped in.
    pub fn temporary_file(&self) -> Temporary {
        Temporary(self.layout().temporary())
    }

    /// Puts a whole database of a tenant's, with its id in it, in the place of the one that it has. What is replaced goes to
    /// `trash/replaced/`, until the retention ends. The tenant's state stays, and so does everything else of its row but the
    /// schema; `action` is what the audit trail calls it. The swap is one rename: a crash leaves the old file or the new
    /// one. Once the lock is taken it is not cancelled with this future.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the tenant is deleted, or the file was made by a newer program; [`ErrorKind::Damaged`] if
    /// it is another tenant's. Nothing was changed then.
    pub async fn replace_file(
        &self,
        id: &TenantId,
        fresh: Temporary,
        action: &'static str,
        author: &Author,
    ) -> Result<Replaced> {
        let (target, author) = (id.clone(), author.clone());
        let ready = self.blocking(move |store| {
            store.replaceable(&target)?;
            store.examine(fresh, &target)
        });
        let Ready { file, sha256, schema } = ready.await?;
        let (sent, told) = tokio::sync::oneshot::channel();
        let row = self
            .with_lock(id, move |store, lock, _| {
                store.replaceable(lock.id())?;
                store.take_files_to_replace(lock)?;
                let change: RowChange = Box::new(move |tx, id, _| queries::set_schema(tx, id, schema));
                let swap = Swap { replace: true, sha256, author, action, change };
                let kept = store.swap_file(lock, file.path(), swap)?;
                // Whoever asked may be gone.
                let _ = sent.send(kept);
                Ok(())
            })
            .await?;
        let kept = told.await.map_err(|e| Error::internal("the swap of a file did not finish").with_source(e))?;
        tracing::info!(tenant = %id, action, "has another file");
        Ok(Replaced { row, kept })
    }

    /// Creates a tenant that has a whole database from the start, of whichever tenant it was: the id in it is changed. File
    /// before row, as in every creation. A file without a row that is in its place is kept as one that was replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the id is known, in whatever state, or the file was made by a newer program.
    pub async fn create_from_file(
        &self,
        id: &TenantId,
        fresh: Temporary,
        action: &'static str,
        author: &Author,
    ) -> Result<Row> {
        let (target, author) = (id.clone(), author.clone());
        let ready = self.blocking(move |store| {
            store.refuse_known(&target)?;
            adopt::give_to(fresh.path(), &target)?;
            store.examine(fresh, &target)
        });
        let ready = ready.await?;
        let lock = self.inner.slots.lock(id).await;
        let row = self.blocking(move |store| {
            let made = store.create_locked(&lock, ready, action, author);
            // The slot is absent after the lock, so nothing may stay open.
            store.close_locked(&lock);
            made
        });
        let row = row.await?;
        tracing::info!(tenant = %id, action, "created from a file");
        Ok(row)
    }

    fn create_locked(
        &self,
        lock: &TenantLock<Database>,
        ready: Ready,
        action: &'static str,
        author: Author,
    ) -> Result<Row> {
        let id = lock.id();
        self.refuse_known(id)?;
        self.take_files(lock)?;
        files::undo_interrupted_move(&self.layout().paths(id))?;
        let Ready { file, sha256, schema } = ready;
        let change: RowChange =
            Box::new(move |tx, id, now| match queries::insert(tx, id, now, schema, &Profile::default())? {
                true => Ok(()),
                false => Err(rusqlite::Error::StatementChangedRows(0)),
            });
        let swap = Swap { replace: true, sha256, author, action, change };
        if let Some(kept) = self.swap_file(lock, file.path(), swap)? {
            tracing::warn!(tenant = %id, kept = %kept.display(), "a file without a row was in its place");
        }
        self.catalog().read(|conn| queries::find(conn, id))?.ok_or_else(Error::unknown_tenant)
    }

    /// Refuses an id that the catalog has.
    fn refuse_known(&self, id: &TenantId) -> Result<()> {
        let Some(row) = self.catalog().read(|conn| queries::find(conn, id))? else { return Ok(()) };
        let state = if row.purged.is_some() { "purged" } else { row.state.as_str() };
        let why = format!("{id} is known already, and {state}; choose an id that nobody has had");
        Err(Error::new(ErrorKind::Conflict, why))
    }

    /// Looks whether a file can be a tenant's, and flushes it.
    fn examine(&self, file: Temporary, id: &TenantId) -> Result<Ready> {
        let (path, newest) = (file.path(), self.schema().version());
        inspect::merge_log(path)?;
        let card = inspect::inspect(path)?;
        if card.tenant != *id {
            let why = format!("the file says that it is {}'s, not {id}'s; nothing was changed", card.tenant);
            return Err(Error::new(ErrorKind::Damaged, why));
        }
        if card.schema > newest {
            let why = format!(
                "the file has version {} of the schema, made by a newer program than this one, which knows version \
                 {newest}: start the newer one, or choose an earlier moment. Nothing was changed",
                card.schema
            );
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        if card.schema == newest {
            self.record_applied()?;
        }
        let failed = |e| Error::io(path.display(), e);
        let mut opened = std::fs::File::open(path).map_err(failed)?;
        flush::opened(&opened, path)?;
        let (_, sha256) = copy::digest(&mut opened).map_err(failed)?;
        Ok(Ready { file, sha256, schema: card.schema })
    }

    /// The row of a tenant whose file can be replaced.
    pub(super) fn replaceable(&self, id: &TenantId) -> Result<Row> {
        let row = self.catalog().read(|conn| queries::find(conn, id))?.ok_or_else(Error::unknown_tenant)?;
        if row.state == State::Deleted {
            let why = format!("{id} is deleted; `cubby tenants restore {id}` brings them back");
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        Ok(row)
    }

    /// Swaps a new file in and writes that to the catalog; says where what it replaced is kept. The tenant's files are
    /// complete, and the new one is flushed. After an error the tenant has its old file, unless the catalog cannot say
    /// whether it has the change.
    pub(super) fn swap_file(&self, lock: &TenantLock<Database>, fresh: &Path, swap: Swap) -> Result<Option<PathBuf>> {
        let id = lock.id();
        let paths = self.layout().paths(id);
        let there = self.may_replace(id, &paths, swap.replace)?;
        // The sweep of the trash waits.
        let _turn = self.inner.replaced.lock();
        if let Err(error) = settle(&paths.replaced) {
            tracing::warn!(tenant = %id, %error, "what a swap left that was cut short is looked at again later");
        }
        let kept = self.layout().new_replaced(&paths, self.now())?;
        let staged = Staged::new(fresh, swap.sha256, &kept, &paths.live)?;
        let swapped = staged.exchange(fresh).and_then(|()| is_theirs(id, &paths.live));
        let done = swapped.map_err(|error| (error, true)).and_then(|()| self.commit_swap(id, swap));
        if let Err((error, take_back)) = done {
            let left = match take_back {
                true => staged.take_back(),
                false if there => keep(&staged.aside, &kept),
                false => Ok(()),
            };
            if let Err(left) = left {
                let kept = staged.aside.display();
                tracing::error!(tenant = %id, error = %left, %kept, "the swap of a file is not taken back");
            }
            return Err(error);
        }
        self.forget_size(id);
        if !there {
            remove_if_empty(staged.aside.parent());
            return Ok(None);
        }
        Ok(self.put_away(id, &staged.aside, &kept))
    }

    /// Writes a swap to the catalog. An error says whether the catalog does not have it.
    fn commit_swap(&self, id: &TenantId, swap: Swap) -> std::result::Result<(), (Error, bool)> {
        let (to, now) = (id.clone(), self.now());
        let Swap { author, action, change, .. } = swap;
        let committed = self.catalog().write_blocking(move |tx| {
            change(tx, &to, now)?;
            author.record(tx, now, action, to.as_str(), "done")
        });
        let Err(error) = committed else { return Ok(()) };
        // A failed commit may be in the catalog all the same. Asked by a write: that connection has recovered.
        let to = id.clone();
        match self.catalog().write_blocking(move |tx| audit::exists(tx, now, action, to.as_str(), "done")) {
            Ok(true) => Ok(()),
            Ok(false) => Err((error, true)),
            Err(_) => Err((error, false)),
        }
    }
}

/// Whether the file that was swapped in is its tenant's.
fn is_theirs(id: &TenantId, path: &Path) -> Result<()> {
    match inspect::inspect(path)?.tenant {
        tenant if tenant == *id => Ok(()),
        tenant => Err(Error::internal(format!("the new file says that it is {tenant}'s"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::{StoreOptions, tenants::copy::Form};

    const LONG: Duration = Duration::from_secs(600);

    async fn insert(store: &Store, user: &TenantId, text: &'static str) {
        let (tenant, _) = store.lease_or_create(user).await.unwrap();
        let insert = move |tx: &Transaction| {
            Ok(tx.execute("INSERT OR REPLACE INTO notes VALUES ('note_1', ?1, 1, 1)", [text]).map(drop)?)
        };
        tenant.write(insert).await.unwrap();
    }

    fn text_in(file: &Path) -> String {
        inspect::read_file(file, |conn| Ok(conn.query_row("SELECT text FROM notes", [], |row| row.get(0))?)).unwrap()
    }

    async fn copy_of(store: &Store, user: &TenantId) -> Temporary {
        let mut copy = store.export(user, Form::Database, LONG).await.unwrap();
        let file = store.temporary_file();
        std::io::copy(&mut copy.file, &mut std::fs::File::create(file.path()).unwrap()).unwrap();
        file
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_replaced_by_one_of_the_same_tenant_and_kept() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let (ada, ben): (TenantId, TenantId) = ("ada".parse().unwrap(), "ben".parse().unwrap());
        let author = Author::program("test");
        insert(&store, &ada, "old").await;
        insert(&store, &ben, "other").await;
        let (fresh, foreign) = (copy_of(&store, &ada).await, copy_of(&store, &ben).await);
        insert(&store, &ada, "new").await;

        let refused = store.replace_file(&ada, foreign, "tenants rewind", &author).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Damaged);
        store.suspend(&ada, "x", &author).await.unwrap();
        let live = store.layout().tenant(&ada);
        assert_eq!(text_in(&live), "new");

        let replaced = store.replace_file(&ada, fresh, "tenants rewind", &author).await.unwrap();
        assert_eq!(replaced.row.state, State::Suspended);
        assert_eq!((text_in(&live), text_in(&replaced.kept.unwrap())), ("old".to_owned(), "new".to_owned()));
        let lines = store.catalog().read(|conn| audit::page(conn, i64::MAX, 10)).unwrap();
        assert_eq!((lines[0].action.as_str(), lines[0].target.as_deref()), ("tenants rewind", Some("ada")));

        let fresh = copy_of(&store, &ada).await;
        let path = fresh.path().to_owned();
        store.delete(&ada, &author).await.unwrap();
        let refused = store.replace_file(&ada, fresh, "tenants rewind", &author).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(!path.exists() && text_in(&store.layout().trashed(&ada)) == "old");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_tenant_can_begin_with_a_copy_of_another_one() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let (ada, ben): (TenantId, TenantId) = ("ada".parse().unwrap(), "ben".parse().unwrap());
        let author = Author::program("test");
        insert(&store, &ada, "hers").await;
        // As a creation leaves it that was cut short before its row.
        let left = copy_of(&store, &ada).await;
        adopt::give_to(left.path(), &ben).unwrap();
        std::fs::copy(left.path(), store.layout().tenant(&ben)).unwrap();

        let fresh = copy_of(&store, &ada).await;
        let row = store.create_from_file(&ben, fresh, "tenants fork", &author).await.unwrap();
        assert_eq!((row.state, &row.id), (State::Active, &ben));
        insert(&store, &ada, "changed").await;
        let tenant = store.lease(&ben).await.unwrap();
        let read = |conn: &rusqlite::Connection| -> Result<String> {
            Ok(conn.query_row("SELECT text FROM notes", [], |row| row.get(0))?)
        };
        assert_eq!(tenant.read(read).await.unwrap(), "hers");
        drop(tenant);
        assert_eq!(std::fs::read_dir(store.layout().paths(&ben).replaced).unwrap().count(), 1);

        for _ in 0..2 {
            let fresh = copy_of(&store, &ada).await;
            let refused = store.create_from_file(&ben, fresh, "tenants fork", &author).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
            if store.find(&ben).await.unwrap().is_some_and(|row| row.state == State::Active) {
                store.delete(&ben, &author).await.unwrap();
            }
        }
    }
}
