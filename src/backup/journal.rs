//! What a run remembers on this machine: `backup.db` in the data folder.
//!
//! It saves reading and uploading again what a run has done that was cut short, and it is where a run looks things up that
//! would need memory for each tenant. It may be lost. Whatever it says of a tenant's file is believed only while the file has
//! that fingerprint and the object is at the destination.

use std::{path::Path, time::Duration, time::Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, Transaction};

use super::queries::{self, CopyRow};
use crate::{
    error::{ErrorKind, Result},
    sqlite::{flush, open, wal::with_suffix},
    tenants::id::TenantId,
};

/// The file's name.
pub const FILE: &str = "backup.db";

/// Tenants that are recorded in one commit at most, and how long the first of them waits for it.
const BATCH: usize = 256;
const WAIT: Duration = Duration::from_secs(1);

const DESTINATION: &str = "destination";
const RUN: &str = "run";

/// What a run did with a tenant: its copy, or why there is none.
pub type Taken = Result<CopyRow, String>;

/// The file.
pub struct Journal(Mutex<State>);

struct State {
    conn: Connection,
    waiting: Vec<(TenantId, Taken)>,
    since: Instant,
}

impl Journal {
    /// Opens the file or makes it. What it has of another destination is forgotten. May block.
    pub fn open(path: &Path, destination: &str) -> Result<Self> {
        let conn = match open_file(path, destination) {
            Ok(conn) => conn,
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(file = %path.display(), %error, "made anew: what an earlier backup did is read again");
                remove(path)?;
                open_file(path, destination)?
            }
            Err(error) => return Err(error),
        };
        Ok(Self(Mutex::new(State { conn, waiting: Vec::new(), since: Instant::now() })))
    }

    /// Begins a run of this name: calls `known` for what the newest backup has, to which what an earlier run took is added that
    /// did not come to its end. Gives that run's name. May block.
    pub fn begin(
        &self,
        run: &str,
        known: impl FnOnce(&mut dyn FnMut(&TenantId, &CopyRow) -> Result<()>) -> Result<()>,
    ) -> Result<Option<String>> {
        let mut state = self.0.lock();
        let before = queries::about(&state.conn, RUN)?;
        let tx = state.conn.transaction()?;
        queries::forget_known(&tx)?;
        known(&mut |id, copy| Ok(queries::add_known(&tx, id.as_str(), copy)?))?;
        queries::know_taken(&tx)?;
        queries::set_about(&tx, RUN, run)?;
        tx.commit()?;
        Ok(before)
    }

    /// Notes which objects there are. May block.
    pub fn add_present(&self, paths: &[String]) -> Result<()> {
        self.all(paths, queries::add_present)
    }

    /// Whether an object was there when the run began. May block.
    pub fn is_present(&self, path: &str) -> Result<bool> {
        Ok(queries::is_present(&self.0.lock().conn, path)?)
    }

    /// What was known of a tenant before the run, if its object is there. May block.
    pub fn known(&self, id: &TenantId) -> Result<Option<CopyRow>> {
        let state = self.0.lock();
        let Some(known) = queries::known(&state.conn, id.as_str())? else { return Ok(None) };
        Ok(queries::is_present(&state.conn, &known.object)?.then_some(known))
    }

    /// Records what the run did with a tenant. May block.
    pub fn add(&self, id: TenantId, taken: Taken) -> Result<()> {
        let mut state = self.0.lock();
        if state.waiting.is_empty() {
            state.since = Instant::now();
        }
        state.waiting.push((id, taken));
        let is_due = state.waiting.len() >= BATCH || state.since.elapsed() >= WAIT;
        if is_due { state.write() } else { Ok(()) }
    }

    /// What the run did with these tenants. May block.
    pub fn taken(&self, ids: &[&TenantId]) -> Result<Vec<Option<Taken>>> {
        let mut state = self.0.lock();
        state.write()?;
        ids.iter().map(|id| Ok(queries::taken(&state.conn, id.as_str())?)).collect()
    }

    /// Forgets which objects manifests name, before those are noted anew. May block.
    pub fn forget_named(&self) -> Result<()> {
        Ok(queries::forget_named(&self.0.lock().conn)?)
    }

    /// Notes which objects a manifest names. May block.
    pub fn add_named(&self, paths: &[String]) -> Result<()> {
        self.all(paths, queries::add_named)
    }

    /// Those of some objects that no manifest names. May block.
    pub fn unnamed(&self, paths: Vec<String>) -> Result<Vec<String>> {
        let state = self.0.lock();
        let mut unnamed = Vec::new();
        for path in paths {
            if !queries::is_named(&state.conn, &path)? {
                unnamed.push(path);
            }
        }
        Ok(unnamed)
    }

    fn all(&self, paths: &[String], add: impl Fn(&Transaction, &str) -> rusqlite::Result<()>) -> Result<()> {
        let mut state = self.0.lock();
        let tx = state.conn.transaction()?;
        paths.iter().try_for_each(|path| add(&tx, path))?;
        Ok(tx.commit()?)
    }
}

impl State {
    fn write(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let tx = self.conn.transaction()?;
        for (id, taken) in &self.waiting {
            queries::add_taken(&tx, id.as_str(), taken)?;
        }
        tx.commit()?;
        self.waiting.clear();
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // A run that is cut short has done this much.
        if let Err(error) = self.write() {
            tracing::debug!(%error, "the last of a backup's progress was not recorded");
        }
    }
}

fn open_file(path: &Path, destination: &str) -> Result<Connection> {
    let conn = open::own(path)?;
    queries::create(&conn)?;
    if queries::about(&conn, DESTINATION)?.as_deref() != Some(destination) {
        queries::forget_all(&conn)?;
        queries::set_about(&conn, DESTINATION, destination)?;
    }
    Ok(conn)
}

/// Removes the file, which nobody has open: the run is over, and its manifest says what there is. May block.
pub fn remove(path: &Path) -> Result<()> {
    // The rollback journal last: without its database it is nobody's.
    ["", "-journal"].iter().try_for_each(|suffix| flush::remove(&with_suffix(path, suffix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(n: u8) -> CopyRow {
        CopyRow {
            fingerprint: Some(format!("{n}-1-2-3")),
            object: format!("base/{n}"),
            sha256: [n; 32],
            bytes: u64::from(n),
        }
    }

    fn id(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[test]
    fn what_a_run_took_is_known_to_the_next_one_if_its_object_is_there() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join(FILE);
        let journal = Journal::open(&path, "one").unwrap();
        let known = |add: &mut dyn FnMut(&TenantId, &CopyRow) -> Result<()>| {
            add(&id("ada"), &copy(1))?;
            add(&id("bob"), &copy(2))
        };
        assert_eq!(journal.begin("first", known).unwrap(), None);
        assert_eq!(journal.known(&id("ada")).unwrap(), None, "its object is not there");
        journal.add_present(&["base/1".into(), "base/2".into()]).unwrap();
        assert_eq!(journal.known(&id("ada")).unwrap(), Some(copy(1)));
        journal.add(id("ada"), Ok(copy(3))).unwrap();
        journal.add(id("bob"), Ok(CopyRow { fingerprint: None, ..copy(4) })).unwrap();
        journal.add(id("cy"), Err("quarantined".into())).unwrap();
        let (ada, cy, dan) = (id("ada"), id("cy"), id("dan"));
        let taken = journal.taken(&[&ada, &cy, &dan]).unwrap();
        assert_eq!(taken, [Some(Ok(copy(3))), Some(Err("quarantined".into())), None]);
        drop(journal);

        let journal = Journal::open(&path, "one").unwrap();
        assert_eq!(journal.begin("second", known).unwrap().as_deref(), Some("first"));
        journal.add_present(&["base/1".into(), "base/2".into(), "base/3".into(), "base/4".into()]).unwrap();
        assert_eq!(journal.known(&id("ada")).unwrap(), Some(copy(3)));
        assert_eq!(journal.known(&id("bob")).unwrap(), Some(copy(2)), "the other copy has no fingerprint");
        assert_eq!(journal.taken(&[&ada]).unwrap(), [None]);
        drop(journal);

        let journal = Journal::open(&path, "other").unwrap();
        assert_eq!(journal.begin("third", |_| Ok(())).unwrap(), None);
        journal.add_present(&["base/3".into()]).unwrap();
        assert_eq!(journal.known(&ada).unwrap(), None);
        drop(journal);
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_database_is_made_anew() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "no database at all, but text that is longer than a header of one".repeat(9)).unwrap();
        let journal = Journal::open(&path, "one").unwrap();
        journal.add_named(&["a".into()]).unwrap();
        assert_eq!(journal.unnamed(vec!["a".into(), "b".into()]).unwrap(), ["b"]);
    }
}
