//! Databases that were closed without a flush.
//!
//! Closing one for good costs four flushes: its write-ahead log (WAL), its file, and for a new one its folder and a
//! record. So a database that is closed to make room is checkpointed without a flush and keeps its WAL: a crash leaves
//! the WAL, whose end the data folder's log redoes. One flush of the file system then completes all that were closed
//! before it, and when the log does not redo them any more, their WALs are emptied.

use std::{collections::HashMap, fs::OpenOptions, path::Path};

use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    sqlite::combine::WalLeft,
    tenants::{disk::path::wal_of, id::TenantId},
};

/// How many wait for a flush before one begins.
pub const FLUSH_AT: usize = 512;

/// How many may wait. A database that is closed beyond these is flushed by itself.
const MOST: usize = 16 * FLUSH_AT;

/// The WALs that were left by databases that are closed now. Whoever opens or moves the files of a database takes its
/// entry out first.
#[derive(Default)]
pub struct Unflushed {
    state: Mutex<State>,
    /// Held for a whole flush.
    turn: Mutex<()>,
}

#[derive(Default)]
struct State {
    entries: HashMap<TenantId, (u64, WalLeft)>,
    /// Entries so far, which tells a new one from one that was there before a flush.
    added: u64,
    flushing: bool,
}

/// What [`Unflushed::add`] wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// Nothing.
    Enough,
    /// A flush: this caller is to start it, nobody else does.
    StartFlush,
}

impl Unflushed {
    /// Whether one more may be closed without a flush.
    pub fn has_room(&self) -> bool {
        self.state.lock().entries.len() < MOST
    }

    /// Adds a database that was closed.
    pub fn add(&self, id: &TenantId, left: WalLeft) -> Added {
        let mut state = self.state.lock();
        state.added += 1;
        let entry = (state.added, left);
        state.entries.insert(id.clone(), entry);
        match state.entries.len() >= FLUSH_AT && !state.flushing {
            true => {
                state.flushing = true;
                Added::StartFlush
            }
            false => Added::Enough,
        }
    }

    /// Takes the entry of a database that is about to be opened, or its files changed.
    pub fn take(&self, id: &TenantId) -> Option<WalLeft> {
        self.state.lock().entries.remove(id).map(|(_, left)| left)
    }

    /// Completes the databases that are closed now: calls `flush`, which flushes the file system, and empties their WALs.
    /// May block.
    ///
    /// # Errors
    /// Those of `flush`: what it did not write is unknown, so that the databases are treated as after a crash when they
    /// are opened the next time.
    pub fn complete(
        &self,
        flush: impl FnOnce() -> Result<()>,
        path: impl Fn(&TenantId) -> std::path::PathBuf,
    ) -> Result<()> {
        let _turn = self.turn.lock();
        if self.is_empty() {
            self.state.lock().flushing = false;
            return Ok(());
        }
        let upto = self.state.lock().added;
        let flushed = flush();
        let ids: Vec<TenantId> = {
            let state = self.state.lock();
            state.entries.iter().filter(|(_, (number, _))| *number <= upto).map(|(id, _)| id.clone()).collect()
        };
        for id in ids {
            // Under the lock: nobody can open the file meanwhile.
            let mut state = self.state.lock();
            if state.entries.get(&id).is_none_or(|(number, _)| *number > upto) {
                continue;
            }
            state.entries.remove(&id);
            if flushed.is_ok()
                && let Err(error) = empty(&wal_of(&path(&id)))
            {
                tracing::warn!(tenant = %id, error = %error, "its write-ahead log could not be emptied");
            }
        }
        self.state.lock().flushing = false;
        flushed
    }

    fn is_empty(&self) -> bool {
        self.state.lock().entries.is_empty()
    }
}

/// Empties a file that may have been removed.
fn empty(path: &Path) -> Result<()> {
    match OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path.display(), error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn id(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn of(users: &[&str]) -> Self {
            let folder = Self(tempfile::TempDir::new().unwrap());
            users.iter().for_each(|user| fs::write(wal_of(&folder.path(&id(user))), "frames").unwrap());
            folder
        }

        fn path(&self, id: &TenantId) -> std::path::PathBuf {
            self.0.path().join(id.as_str())
        }

        fn is_emptied(&self, user: &str) -> bool {
            fs::metadata(wal_of(&self.path(&id(user)))).unwrap().len() == 0
        }
    }

    #[test]
    fn a_flush_completes_what_was_closed_before_it_and_nothing_else() {
        let (folder, unflushed) = (Folder::of(&["before", "opened", "during"]), Unflushed::default());
        unflushed.add(&id("before"), WalLeft::default());
        unflushed.add(&id("opened"), WalLeft::default());
        let flush = || {
            assert!(unflushed.take(&id("opened")).is_some());
            unflushed.add(&id("during"), WalLeft::default());
            Ok(())
        };
        unflushed.complete(flush, |id| folder.path(id)).unwrap();
        assert!(folder.is_emptied("before") && !folder.is_emptied("opened") && !folder.is_emptied("during"));
        assert_eq!(unflushed.take(&id("before")), None);
        assert!(unflushed.take(&id("during")).is_some());
    }

    #[test]
    fn a_database_that_was_closed_again_during_a_flush_waits_for_the_next() {
        let (folder, unflushed) = (Folder::of(&["ada"]), Unflushed::default());
        unflushed.add(&id("ada"), WalLeft::default());
        let flush = || {
            unflushed.take(&id("ada"));
            unflushed.add(&id("ada"), WalLeft::default());
            Ok(())
        };
        unflushed.complete(flush, |id| folder.path(id)).unwrap();
        assert!(!folder.is_emptied("ada"));
        unflushed.complete(|| Ok(()), |id| folder.path(id)).unwrap();
        assert!(folder.is_emptied("ada"));
    }

    #[test]
    fn after_a_flush_that_failed_databases_are_opened_as_after_a_crash() {
        let (folder, unflushed) = (Folder::of(&["ada"]), Unflushed::default());
        unflushed.add(&id("ada"), WalLeft::default());
        unflushed.complete(|| Err(Error::internal("the disk")), |id| folder.path(id)).unwrap_err();
        assert!(!folder.is_emptied("ada"));
        assert_eq!(unflushed.take(&id("ada")), None);
    }

    #[test]
    fn one_caller_is_asked_to_start_a_flush() {
        let unflushed = Unflushed::default();
        let add = |n: usize| unflushed.add(&id(&format!("user{n}")), WalLeft::default());
        let started = (0..FLUSH_AT + 10).filter(|n| add(*n) == Added::StartFlush).count();
        assert_eq!(started, 1);
        let folder = Folder::of(&[]);
        unflushed.complete(|| Ok(()), |id| folder.path(id)).unwrap();
        assert_eq!((0..FLUSH_AT).filter(|n| add(*n) == Added::StartFlush).count(), 1);
    }
}
