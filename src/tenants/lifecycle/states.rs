//! Create, suspend, resume, delete, restore and migrate a tenant.
//!
//! All take the tenant's lock first ([`Slots::lock`](crate::tenants::open::slots::Slots::lock)), so that no
//! request opens the tenant between the change of its row and the move of its files. Files are moved by a
//! transition (`transition.rs`).

use rusqlite::Transaction;
use tokio::time::Instant;

use super::transition::Expect;
use crate::{
    catalog::{
        audit::Author,
        model::{Row, State},
        queries::{self, rollouts, tombstones},
    },
    clock::millis,
    error::{Error, ErrorKind, Result},
    sqlite::deadline::{Cancel, Deadline},
    telemetry::with_request_id,
    tenants::{
        disk::{
            files::{self, FileCreation, Location},
            path::TenantPaths,
        },
        id::TenantId,
        open::{
            database::{Database, OpenParams},
            slots::{Acquired, Peeked, TenantLock},
        },
        store::Store,
    },
};

impl Store {
    /// Refuses reads and writes of a tenant, with a reason that its user is told, until it is
    /// [resumed](Self::resume). Waits for running requests.
    pub async fn suspend(&self, id: &TenantId, reason: &str, author: &Author) -> Result<Row> {
        let reason = reason.to_owned();
        self.change(id, author, "tenants suspend", "suspended", move |tx, id| queries::suspend(tx, id, &reason)).await
    }

    /// Lets a suspended or quarantined tenant be used again.
    pub async fn resume(&self, id: &TenantId, author: &Author) -> Result<Row> {
        self.change(id, author, "tenants resume", "resumed", queries::activate).await
    }

    /// Changes the row of a tenant that is not deleted.
    pub(super) async fn change<F>(
        &self,
        id: &TenantId,
        author: &Author,
        action: &'static str,
        done: &'static str,
        change: F,
    ) -> Result<Row>
    where
        F: FnOnce(&Transaction, &TenantId) -> rusqlite::Result<bool> + Send + 'static,
    {
        let author = author.clone();
        self.with_lock(id, move |store, lock, row| {
            if row.state == State::Deleted {
                return Err(deleted(lock.id()));
            }
            let (id, now) = (lock.id().clone(), store.now());
            store.catalog().write_blocking(move |tx| {
                change(tx, &id)?;
                author.record(tx, now, action, id.as_str(), "done")
            })?;
            tracing::info!(tenant = %lock.id(), was = %row.state, "{done}");
            Ok(())
        })
        .await
    }

    /// Deletes a tenant: it is unknown from then on. Its file is kept in `trash/` until the
    /// retention ends. Deleting it again changes nothing, but completes a deletion that was interrupted.
    pub async fn delete(&self, id: &TenantId, author: &Author) -> Result<Row> {
        let author = author.clone();
        self.with_lock(id, move |store, lock, row| {
            let (id, now) = (lock.id().clone(), store.now());
            let until = now.saturating_add(millis(store.inner.options.retention));
            store.transition(lock, Expect::AnywhereOrNowhere, move |tx| {
                queries::mark_deleted(tx, &id, now, until)?;
                author.record(tx, now, "tenants delete", id.as_str(), "done")
            })?;
            if row.state != State::Deleted {
                tracing::info!(tenant = %lock.id(), "deleted");
            }
            Ok(())
        })
        .await
    }

    /// Brings a deleted tenant back, with everything it had.
    pub async fn restore(&self, id: &TenantId, author: &Author) -> Result<Row> {
        let author = author.clone();
        self.with_lock(id, move |store, lock, row| {
            let id = lock.id().clone();
            if row.state != State::Deleted {
                return Err(Error::new(ErrorKind::Conflict, format!("{id} is {}, not deleted", row.state)));
            }
            let now = store.now();
            store.transition(lock, Expect::Live, move |tx| {
                tombstones::restore(tx, &id, now)?;
                author.record(tx, now, "tenants restore", id.as_str(), "done")
            })?;
            tracing::info!(tenant = %lock.id(), "restored");
            Ok(())
        })
        .await
    }

    /// Creates an empty file for a tenant without a row, then commits. If the tenant has no live row after
    /// that, the file is removed again. The tenant is not opened. The caller's `commit` writes the row, so that
    /// a delivery and its change are one commit. Not cancelled with this future.
    pub async fn create_with<T, F>(&self, id: &TenantId, commit: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let until = Instant::now() + self.inner.options.wait;
        let busy = |_| Error::new(ErrorKind::Busy, "this user's database is being opened or moved; try again");
        loop {
            let ticket = match self.inner.slots.acquire(id, self.tick()) {
                // Open, so its file exists.
                Acquired::Leased(_lease) => return self.catalog().write(commit).await,
                Acquired::Wait(changed) => {
                    tokio::time::timeout_at(until, changed).await.map_err(busy)?;
                    continue;
                }
                Acquired::Absent(ticket) => ticket,
            };
            // The ticket is held until the files are where the row says.
            return self
                .blocking(move |store| {
                    let id = ticket.id();
                    let placed = match store.catalog().read(|conn| queries::access_row(conn, id))? {
                        None => store.create_file(id)?,
                        // A known tenant has a file already, in the live place or in the trash.
                        Some(_) => FileCreation::Found,
                    };
                    store.commit_created(id, placed, commit)
                })
                .await;
        }
    }

    /// Takes a tenant's lock and commits. If its row says deleted after that, its file is moved to the trash.
    /// Not cancelled with this future.
    pub async fn delete_with<T, F>(&self, id: &TenantId, commit: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let lock = self.inner.slots.lock(id).await;
        self.blocking(move |store| store.transition(&lock, Expect::AnywhereOrNowhere, commit)).await
    }

    /// Moves a deleted tenant's file out of the trash, or creates an empty one where there is none, then
    /// commits. If its row still says deleted after that, the file goes back. Not cancelled with this future.
    pub async fn restore_with<T, F>(&self, id: &TenantId, commit: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let lock = self.inner.slots.lock(id).await;
        self.blocking(move |store| store.transition(&lock, Expect::LiveOrNew, commit)).await
    }

    /// Completes an interrupted deletion or restoration: moves a tenant's files to the path that its row asks for.
    /// Blocks; not for an async thread.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if they cannot be moved.
    pub fn complete_transition(&self, id: &TenantId, author: &Author) -> Result<()> {
        let author = author.clone();
        let row = self.inner.runtime.block_on(self.with_lock(id, move |store, lock, row| {
            store.record_start(&author, "doctor", lock.id().as_str())?;
            let expect = if row.state == State::Deleted { Expect::AnywhereOrNowhere } else { Expect::Live };
            store.transition(lock, expect, |_| Ok(()))
        }))?;
        let expected = if row.state == State::Deleted { Location::Trash } else { Location::Live };
        match files::locate(&self.layout().paths(id))? {
            found if found == expected => Ok(()),
            _ => Err(Error::new(ErrorKind::Conflict, format!("the file of {id} cannot be moved; the log says why"))),
        }
    }

    /// Completes an interrupted purge. Blocks; not for an async thread.
    pub fn complete_purge(&self, id: &TenantId, author: &Author) -> Result<()> {
        self.inner.runtime.block_on(self.purge(id, author)).map(drop)
    }

    /// Moves a write-ahead log back to its database after an interrupted move. For a store that serves nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the database has another one.
    pub fn undo_interrupted_move(&self, paths: &TenantPaths, author: &Author) -> Result<()> {
        self.record_start(author, "doctor", &paths.live.to_string_lossy())?;
        files::undo_interrupted_move(paths).map(drop)
    }

    /// Records, before it begins, a change of files that the catalog has no part in.
    fn record_start(&self, author: &Author, action: &'static str, target: &str) -> Result<()> {
        let (author, target, now) = (author.clone(), target.to_owned(), self.now());
        self.catalog().write_blocking(move |tx| author.record(tx, now, action, target.as_str(), "started"))
    }

    /// Migrates one tenant's file to the newest schema without opening it for requests. Returns the version
    /// before, or none if it was the newest already.
    pub async fn migrate(&self, id: &TenantId, author: &Author) -> Result<Option<i32>> {
        let (lock, author) = (self.inner.slots.lock(id).await, author.clone());
        self.blocking(move |store| store.migrate_locked(&lock, &Within::Itself(author))).await
    }

    /// The same as one of many, which are in the audit trail as a whole; `run` counts it. A tenant that is open has the newest
    /// schema, and is left alone.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] if `cut` was triggered before it was done: the file is as it was.
    pub async fn migrate_one_of_many(&self, id: &TenantId, run: i64, cut: &Cancel) -> Result<Option<i32>> {
        let cut = Deadline::until(cut);
        if let Peeked::Open(open) = self.inner.slots.peek(id) {
            let (version, id) = (open.look().0.schema_version(), id.clone());
            let set = move |tx: &Transaction| {
                queries::set_schema(tx, &id, version)?;
                rollouts::count(tx, run, false)
            };
            self.catalog().write(set).await?;
            return Ok(None);
        }
        let lock = self.inner.slots.lock(id).await;
        self.blocking(move |store| {
            let migrated = store.migrate_locked(&lock, &Within::Run(run, cut.clone()));
            migrated.map_err(|error| match cut.was_cancelled() {
                true => Error::new(ErrorKind::Timeout, "the server ends").with_source(error),
                false => error,
            })
        })
        .await
    }

    fn migrate_locked(&self, lock: &TenantLock<Database>, within: &Within) -> Result<Option<i32>> {
        let id = lock.id().clone();
        let row = self.undeleted_row(&id)?;
        if row.state == State::Quarantined && row.retry_at.is_none() {
            let why = format!(
                "{}; only `cubby tenants resume {id}` ends that",
                row.reason.as_deref().unwrap_or("quarantined until an operator has looked")
            );
            return Err(Error::new(ErrorKind::Quarantined, why));
        }
        self.take_files(lock)?;
        let options = self.options_of(&row);
        let path = self.layout().tenant(&id);
        // Before the file commits.
        let record = || {
            self.record_applied()?;
            match within {
                Within::Itself(author) => self.record_start(author, "tenants migrate", id.as_str()),
                Within::Run(..) => Ok(()),
            }
        };
        let (run, deadline) = match within {
            Within::Itself(_) => (None, Deadline::none()),
            Within::Run(run, cut) => (Some(*run), cut.clone()),
        };
        let params = OpenParams {
            before_commit: &record,
            deadline,
            ..self.open_params(&id, &path, &options, row.state == State::Quarantined)
        };
        let migrated_from = self.open_or_quarantine_in(&params, run)?.close()?;
        let (migrated, version) = (id.clone(), self.inner.schema.version());
        self.catalog().write_blocking(move |tx| {
            queries::set_schema(tx, &migrated, version)?;
            run.map_or(Ok(()), |run| rollouts::count(tx, run, migrated_from.is_some()))
        })?;
        Ok(migrated_from)
    }

    /// The row of a tenant whose file is not in the trash.
    pub(in crate::tenants) fn undeleted_row(&self, id: &TenantId) -> Result<Row> {
        let row = self.catalog().read(|conn| queries::find(conn, id))?.ok_or_else(Error::unknown_tenant)?;
        if row.state == State::Deleted { Err(deleted(id)) } else { Ok(row) }
    }

    /// Runs `work` on a thread that may block. Not cancelled with this future.
    pub(in crate::tenants) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        let done = self.inner.runtime.spawn_blocking(with_request_id(move || work(&store))).await;
        done.map_err(|e| Error::internal("work on a tenant's files did not finish").with_source(e))?
    }

    /// Runs `work` with the tenant's lock, on a thread that may block. Not cancelled with this future.
    pub(in crate::tenants) async fn with_lock<F>(&self, id: &TenantId, work: F) -> Result<Row>
    where
        F: FnOnce(&Store, &TenantLock<Database>, &Row) -> Result<()> + Send + 'static,
    {
        let lock = self.inner.slots.lock(id).await;
        self.locked(lock, work).await
    }

    /// The same with a lock that was taken.
    pub(in crate::tenants) async fn locked<F>(&self, lock: TenantLock<Database>, work: F) -> Result<Row>
    where
        F: FnOnce(&Store, &TenantLock<Database>, &Row) -> Result<()> + Send + 'static,
    {
        let id = lock.id();
        // Who listens must ask again whether they may.
        self.inner.feeds.end(id);
        self.blocking(move |store| {
            let row = |lock: &TenantLock<Database>| {
                store.catalog().read(|conn| queries::find(conn, lock.id()))?.ok_or_else(Error::unknown_tenant)
            };
            let result = row(&lock).and_then(|before| work(store, &lock, &before));
            // The slot is absent after the lock, so nothing may stay open.
            store.close_locked(&lock);
            result.and_then(|()| row(&lock))
        })
        .await
    }
}

/// Of what a migration is a part.
enum Within {
    /// Of nothing: it is a line of the audit trail for this author.
    Itself(Author),
    /// Of a run of migrations, which may be cut short.
    Run(i64, Deadline),
}

fn deleted(id: &TenantId) -> Error {
    Error::new(ErrorKind::Conflict, format!("{id} is deleted; restore it first"))
}
