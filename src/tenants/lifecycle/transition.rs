//! One change of a tenant's row and files together.
//!
//! Every deletion and restoration is this function with another commit, so that a crash leaves the same
//! states behind, and each of them completes what another left.

use rusqlite::Transaction;

use crate::{
    catalog::{
        model::{Row, State},
        queries,
    },
    error::{Error, ErrorKind, Result},
    tenants::{
        disk::{
            files::{self, FileCreation, Location},
            inspect,
            path::TenantPaths,
        },
        id::TenantId,
        open::{database::Database, slots::TenantLock},
        store::Store,
    },
};

/// Where a tenant's database must be before its row is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tenants) enum Expect {
    /// In any path, in both or in neither: the files follow the row.
    AnywhereOrNowhere,
    /// The database is in the live path. If there is none, that is an error.
    Live,
    /// The database is in the live path; if there is none, an empty one is created.
    LiveOrNew,
}

/// A tenant's files when its row is about to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prepared {
    /// An empty database was created in the live path.
    Created,
    /// The database is in the live path.
    Live,
    /// The database is in the trash, in both paths or in neither, or its files cannot be moved.
    Elsewhere,
}

impl Store {
    /// Puts a tenant's files where `expect` wants them, commits, and moves them to the trash if the row then
    /// says deleted. The caller has the tenant's lock. May block.
    ///
    /// A restoration moves files before it changes the row, a deletion after. A crash between leaves a
    /// deleted tenant whose file is in the live folder; it is not served, and the next transition, the purge
    /// and the doctor look in both folders.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if there is no database and [`Expect::Live`] asks for one.
    pub(in crate::tenants) fn transition<T, F>(
        &self,
        lock: &TenantLock<Database>,
        expect: Expect,
        commit: F,
    ) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let id = lock.id();
        match expect == Expect::AnywhereOrNowhere && self.awaits_file(id)? {
            // Nothing of it is or was here. Its file comes to where its row says then.
            true => self.inner.feeds.end(id),
            false => self.take_files(lock)?,
        }
        let row = self.catalog().read(|conn| queries::find(conn, id))?;
        let paths = self.layout().paths(id);
        let prepared = self.prepare(id, row.as_ref(), &paths, expect)?;
        if prepared == Prepared::Created {
            return self.commit_created(id, FileCreation::New, commit);
        }
        let (done, state) = self.commit_row(id, commit);
        if prepared == Prepared::Live && matches!(state, Ok(Some(State::Deleted))) {
            let damaged = row.is_some_and(|row| is_damaged(&row));
            // Not an error: a deleted tenant is not served from the live path, and a purge erases both.
            if let Err(error) = relocate(&paths.live, &paths.trashed, damaged) {
                tracing::error!(tenant = %id, error = %error, "deleted, but its file is not in the trash yet");
            }
        }
        done
    }

    /// Commits for a tenant whose file is in place. A file that was created for it is removed again if the
    /// tenant has no live row after that. May block.
    pub(in crate::tenants) fn commit_created<T, F>(&self, id: &TenantId, placed: FileCreation, commit: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (done, state) = self.commit_row(id, commit);
        match state {
            Ok(None | Some(State::Deleted)) if placed == FileCreation::New => {
                self.settle(id)?;
                files::discard(&self.layout().tenant(id))?;
            }
            Ok(Some(State::Active)) if placed == FileCreation::New => {
                self.log_of(id).confirm_creation(&self.layout().tenant(id))?;
                tracing::info!(tenant = %id, schema = self.schema().version(), "created");
            }
            _ => {}
        }
        done
    }

    /// Commits, and says in which state the tenant's row is then. A failed commit may be in the catalog all
    /// the same, so the state is asked for again: by a write, whose connection has recovered from the file.
    fn commit_row<T, F>(&self, id: &TenantId, commit: F) -> (Result<T>, Result<Option<State>>)
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let state_of = |id: TenantId| move |tx: &Transaction| Ok(queries::access_row(tx, &id)?.map(|row| row.state));
        let state = state_of(id.clone());
        match self.catalog().write_blocking(move |tx| Ok((commit(tx)?, state(tx)?))) {
            Ok((value, state)) => (Ok(value), Ok(state)),
            Err(error) => (Err(error), self.catalog().write_blocking(state_of(id.clone()))),
        }
    }

    /// Completes or undoes an interrupted operation, then moves or creates the file as `expect` asks.
    fn prepare(&self, id: &TenantId, row: Option<&Row>, paths: &TenantPaths, expect: Expect) -> Result<Prepared> {
        let was_purged = |row: &Row| row.state == State::Deleted && row.purged.is_some();
        if row.is_some_and(was_purged) && files::any_exist(paths)? {
            tracing::warn!(tenant = %id, "purged, and a file was left: it is erased now");
            erase(paths)?;
        }
        let found = match row.map(|row| row.state) {
            None | Some(State::Deleted) => files::undo_interrupted_move(paths),
            Some(State::Active | State::Suspended | State::Quarantined) => {
                files::locate(paths).and_then(|location| match location {
                    Location::Live => files::set_detached_wal_aside(paths).map(|()| location),
                    _ => Ok(location),
                })
            }
        };
        let location = match found {
            // A deletion must not fail because of the files.
            Err(error) if expect == Expect::AnywhereOrNowhere => {
                tracing::error!(tenant = %id, error = %error, "its files stay where they are");
                return Ok(Prepared::Elsewhere);
            }
            found => found?,
        };
        match (expect, location) {
            (_, Location::Live) => Ok(Prepared::Live),
            (Expect::AnywhereOrNowhere, _) | (_, Location::Both) => Ok(Prepared::Elsewhere),
            (_, Location::Trash) => {
                relocate(&paths.trashed, &paths.live, row.is_some_and(is_damaged))?;
                Ok(Prepared::Live)
            }
            (Expect::Live, Location::Nowhere) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "nothing is left of the data of {id}. `cubby tenants revive {id}` brings them back with an empty \
                     database"
                ),
            )),
            (Expect::LiveOrNew, Location::Nowhere) => {
                tracing::warn!(tenant = %id, "nothing is left of its data: it starts empty");
                Ok(if self.create_file(id)? == FileCreation::New { Prepared::Created } else { Prepared::Live })
            }
        }
    }
}

/// Erases a tenant's files. A log is first checkpointed if that is possible, so that a crash leaves the whole
/// database or nothing.
pub(in crate::tenants) fn erase(paths: &TenantPaths) -> Result<()> {
    for path in [&paths.live, &paths.trashed] {
        if let Err(error) = inspect::merge_log(path) {
            tracing::debug!(file = %path.display(), error = %error, "erased with its write-ahead log");
        }
    }
    files::erase(paths)
}

/// Whether a tenant is, or was when it was deleted, in quarantine.
fn is_damaged(row: &Row) -> bool {
    row.state == State::Quarantined || row.state_before == Some(State::Quarantined)
}

/// Moves a database, checkpointed first so that it is one file; if that fails, with its write-ahead log, and
/// [`files::undo_interrupted_move`] is needed after a crash. A damaged database is moved as it is.
fn relocate(from: &std::path::Path, to: &std::path::Path, damaged: bool) -> Result<()> {
    if !damaged && let Err(error) = inspect::merge_log(from) {
        tracing::warn!(file = %from.display(), error = %error, "moved with its write-ahead log");
    }
    files::relocate(from, to)
}
