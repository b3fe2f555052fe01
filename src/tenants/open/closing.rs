//! Closing: to make room, which flushes nothing, and before files are moved, which makes them complete.

use crate::{
    error::{Error, ErrorKind, Result},
    log::{DatabaseLog, record::Change},
    sqlite::{
        combine::Combiner,
        deadline::Deadline,
        open::{self, Locking, Options},
    },
    tenants::{
        disk::{files, inspect, path::wal_of, template::APPLICATION_ID},
        id::TenantId,
        open::{database::Database, slots::TenantLock, unflushed::Added},
        store::Store,
    },
};

impl Store {
    /// Closes a locked tenant's database, and takes a usage sample if its size has changed. May block.
    pub(in crate::tenants) fn close_and_sample(&self, lock: &TenantLock<Database>) {
        self.close_locked(lock);
        if let Some((database, bytes)) = lock.open().and_then(|database| Some((database, database.new_size()?))) {
            self.sample_usage(lock.id(), database, bytes);
        }
    }

    /// Closes a locked tenant's database, if it is open, and leaves it to a later flush to complete it. May block.
    pub(in crate::tenants) fn close_locked(&self, lock: &TenantLock<Database>) {
        let (id, unflushed) = (lock.id(), &self.inner.unflushed);
        let Some(database) = lock.open() else { return };
        self.take_uses(id, database);
        let closed = match unflushed.has_room() {
            true => database.close_unflushed(),
            false => database.close().map(|()| None),
        };
        match closed {
            Ok(Some(left)) if unflushed.add(id, left) == Added::StartFlush => {
                let store = self.clone();
                self.inner.runtime.spawn_blocking(move || store.complete_closed());
            }
            Ok(_) => {}
            Err(error) => self.closed_unclean(id, &error),
        }
    }

    /// Completes the databases that were closed without a flush. May block.
    pub(crate) fn complete_closed(&self) {
        let inner = &*self.inner;
        let flush = || inner.log.flush_databases().map(drop);
        if let Err(error) = inner.unflushed.complete(flush, |id| inner.layout.tenant(id)) {
            tracing::error!(error = %error, "closed databases could not be flushed");
        }
    }

    fn closed_unclean(&self, id: &TenantId, error: &Error) {
        tracing::error!(tenant = %id, error = %error, "closed without emptying its write-ahead log");
        self.inner.unclean.lock().insert(id.clone());
    }

    /// Closes a locked tenant's database and makes its files complete without the log, so that they may be moved,
    /// replaced or removed. A file that is awaited is fetched first. May block.
    ///
    /// # Errors
    /// They cannot be made so; not for a damaged database, whose files are taken as they are.
    pub(in crate::tenants) fn take_files(&self, lock: &TenantLock<Database>) -> Result<()> {
        self.fetch_now(lock.id())?;
        self.take_files_there(lock)
    }

    /// The same for files that are to be replaced.
    #[cfg(feature = "server")]
    pub(in crate::tenants) fn take_files_to_replace(&self, lock: &TenantLock<Database>) -> Result<()> {
        self.fetch_to_replace(lock.id())?;
        self.take_files_there(lock)
    }

    /// The same for those that are there.
    pub(in crate::tenants) fn take_files_there(&self, lock: &TenantLock<Database>) -> Result<()> {
        let id = lock.id();
        let closed = lock.open().map_or(Ok(()), |database| {
            self.take_uses(id, database);
            database.close()
        });
        let merged = match self.inner.unflushed.take(id) {
            // First: what empties the WAL of a new database may not leave its creation to a redo.
            Some(_) => self.log_of(id).place().and_then(|()| inspect::merge_log(&self.inner.layout.tenant(id))),
            None => Ok(()),
        };
        if let Err(error) = closed.and(merged) {
            self.closed_unclean(id, &error);
        }
        if self.inner.unclean.lock().contains(id) {
            match self.complete_unclean(id) {
                // Kept as found.
                Err(error) if error.kind() == ErrorKind::Damaged => {}
                completed => completed?,
            }
            self.inner.unclean.lock().remove(id);
        }
        self.settle(id)
    }

    /// Adds the whole of a closed database's WAL to the log and empties it: a flush that failed may have left it in the
    /// page cache alone, and would not fail again.
    fn complete_unclean(&self, id: &TenantId) -> Result<()> {
        let path = self.inner.layout.tenant(id);
        if !files::is_filled(&wal_of(&path))? {
            return Ok(());
        }
        let (locking, deadline) = (Locking::Exclusive, Deadline::none());
        let options = Options { locking, application_ids: &[APPLICATION_ID], logged: true, ..self.sqlite_options() };
        let conn = open::open(&path, &options, &deadline)?;
        let once = Box::new(|_: Locking, _: &Deadline| Err(Error::internal("the connection is used once")));
        let combiner =
            Combiner::over(Some(conn), deadline, self.inner.options.limits.clone(), Box::new(|run| run()), once);
        combiner.logged_by(self.log_of(id)).after_unclean_stop().close()
    }

    /// Makes the files of a tenant that is not written to complete without the log: what the log has of it before this is
    /// never redone. Ends its feed, which would not hear of what is written to them. May block.
    pub(in crate::tenants) fn settle(&self, id: &TenantId) -> Result<()> {
        self.inner.feeds.end(id);
        let (wal, log) = (wal_of(&self.inner.layout.tenant(id)), self.log_of(id));
        log.place()?;
        // What is no file was not written through, and must not keep a user from being deleted.
        if wal.symlink_metadata().is_ok_and(|found| found.is_file()) {
            self.inner.log.flush_file(&wal)?;
        }
        self.inner.log.wait_blocking(log.append(Change::Barrier, 0, None))
    }

    pub(in crate::tenants) fn log_of(&self, id: &TenantId) -> DatabaseLog {
        DatabaseLog::new(self.inner.log.clone(), id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Transaction;

    use super::*;
    use crate::StoreOptions;

    async fn insert(store: &Store, user: &str, text: &'static str) -> Result<()> {
        let (tenant, _) = store.lease_or_create(&user.parse().unwrap()).await?;
        let insert =
            move |tx: &Transaction| Ok(tx.execute("INSERT INTO notes VALUES (?1, ?1, 1, 1)", [text]).map(drop)?);
        tenant.write(insert).await
    }

    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if path.is_dir() {
                std::fs::create_dir_all(&to).unwrap();
                copy(&path, &to);
            } else {
                std::fs::copy(&path, &to).unwrap();
            }
        }
    }

    /// Else the redo would make the file anew, with what was written after that alone.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_wal_of_a_new_database_is_not_emptied_while_a_redo_would_create_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(StoreOptions { max_open: Some(1), ..StoreOptions::new(folder.path()) }).unwrap();
        let ada: TenantId = "ada".parse().unwrap();
        // More than a page, so that the last one does not have all of them.
        for text in (0..40).map(|n| &*format!("{n:03} {}", "long ".repeat(60)).leak()) {
            insert(&store, "ada", text).await.unwrap();
        }
        insert(&store, "bob", "evicts ada").await.unwrap();
        store.inner.log.fail_flushes();
        let (locked, id) = (store.clone(), ada.clone());
        let lock = store.inner.slots.lock(&ada).await;
        let taken = tokio::task::spawn_blocking(move || locked.take_files(&lock)).await.unwrap();
        taken.unwrap_err();
        // Refused or not: if it is acknowledged, so is all before it.
        let later = insert(&store, "ada", "later").await;
        let killed = tempfile::TempDir::new().unwrap();
        copy(folder.path(), killed.path());
        let store = Store::open(StoreOptions::new(killed.path())).unwrap();
        let tenant = store.lease(&id).await.unwrap();
        let count =
            tenant.read(|conn| Ok(conn.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))?)).await;
        let expected = if later.is_ok() { 41 } else { 40 };
        assert_eq!(count.unwrap(), expected);
    }
}
