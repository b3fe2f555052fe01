//! Rebuilds a lost or damaged catalog from the users' files and from what is readable of the old catalog.
//!
//! A readable row is right: a user who was deleted or purged stays so, wherever their file is. Without a row the place of
//! the file says whether the user is deleted. A file in the trash overrides a row that says otherwise: it was moved there
//! after the deletion was committed, and the readable row may be older, since a damaged log ends early. So no deletion is
//! undone; a restoration can be repeated.
//!
//! The new catalog is built in `tmp/` and renamed when it is complete. The old one is read from a copy, and kept aside. A
//! crash leaves the old catalog, or a placeholder with which nothing starts and from which the next rebuild continues, or
//! the new one; see `old.rs`.

mod old;

use std::{
    io::ErrorKind as Io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use serde::Serialize;

use self::old::{Old, remove};
use super::{paged, report::Entries};
use crate::{
    catalog::{
        APPLICATION_IDS, Catalog,
        audit::Author,
        model::Millis,
        queries::{
            salvage::{self, Salvaged},
            tombstones::{self, Found},
        },
    },
    clock::millis,
    error::{Error, ErrorKind, Result},
    log::{self, Recovered},
    sqlite::{
        check,
        deadline::Deadline,
        flush, migrate,
        open::{self, Locking, Options},
    },
    tenants::{
        disk::{
            files::{self, Location},
            inspect::{FileInfo, inspect},
            lock::FolderLock,
            marker::Marker,
            path::{Layout, shm_of, wal_of},
        },
        lifecycle::quarantine::record_losses,
        options::StoreOptions,
        startup::refuse_an_older_catalog,
    },
};

/// The result of a rebuild.
#[derive(Debug, Clone, Serialize)]
pub struct Rebuilt {
    /// Where the old catalog is kept, with its log; none if there was none.
    pub aside: Option<PathBuf>,
    /// What was read of it, and what is lost.
    pub salvaged: Vec<Salvaged>,
    /// Users that were added or deleted because of their file.
    #[serde(skip)]
    pub known: Entries,
}

/// The progress of [`rebuild`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A user's file was read.
    File,
    /// The data folder was changed: a crash now leaves it in this state.
    Changed,
}

/// Rebuilds the catalog of a data folder. Blocks for long; calls `seen` with the progress.
///
/// # Errors
/// [`ErrorKind::FolderLocked`] if the folder is in use; [`ErrorKind::Conflict`] if the catalog is in order and has
/// users, or belongs to a newer program; an I/O error that is not damage of the file itself. Then nothing was
/// changed. After an error while the old catalog is moved away, another rebuild completes it.
pub fn rebuild(options: &StoreOptions, author: &Author, mut seen: impl FnMut(Progress)) -> Result<Rebuilt> {
    let layout = Layout::prepare(&options.data)?;
    let _lock = FolderLock::take(&layout.lock())?;
    Marker::refuse(layout.root())?;
    files::sweep_tmp(&layout)?;
    // Before anything is changed: the redo writes to the catalog's log.
    Old::find(&layout)?;
    refuse_an_older_catalog(&layout)?;
    // The redo discards what may not be in the bucket, and the catalog becomes another file.
    flush::remove(&layout.replica_state())?;
    let recovered = log::recover(&layout.log(), layout.root(), |name| layout.logged(name))?;
    let rebuilt = replace(options, author, &layout, &recovered, &mut seen);
    let rebuilt = rebuilt.and_then(|rebuilt| log::losses_recorded(&layout.log()).map(|()| rebuilt));
    // It contains copies of users' data. The next start tries again.
    let _ = files::sweep_tmp(&layout);
    rebuilt
}

fn replace(
    options: &StoreOptions,
    author: &Author,
    layout: &Layout,
    recovered: &Recovered,
    seen: &mut impl FnMut(Progress),
) -> Result<Rebuilt> {
    let old = Old::find(layout)?;
    let (copy, new) = (layout.tmp().join("old-catalog.db"), layout.tmp().join("new-catalog.db"));
    let deadline = Deadline::none();
    let readable = if old.copy_to(&copy)? { opened(&copy, &deadline, layout)? } else { None };

    let catalog = Catalog::open(&new, None)?;
    let now = options.clock.now();
    let until = now.saturating_add(millis(options.retention));
    let salvaged = match readable {
        Some(conn) => {
            // One of which acknowledged changes are missing is not in order.
            if !recovered.damaged.iter().any(String::is_empty) {
                refuse_to_replace(&conn, &deadline, &catalog, layout)?;
            }
            let salvaged = catalog.write_on_this_thread(|tx| Ok(salvage::copy(&conn, tx, now, until)?));
            open::abandon(conn);
            salvaged?
        }
        None => salvage::all_lost(),
    };
    if salvaged.iter().any(|part| part.lost.is_some()) {
        read_through(&copy).map_err(|error| stopped(&layout.catalog(), error))?;
    }
    let known = add_files(&catalog, layout, now, until, seen)?;
    catalog.write_on_this_thread(|tx| {
        record_losses(tx, recovered)?;
        Ok(author.record(tx, now, "doctor", None, "catalog rebuilt")?)
    })?;
    catalog.close()?;
    drop(catalog);
    for beside in [wal_of(&new), shm_of(&new), copy.clone(), wal_of(&copy)] {
        remove(&beside)?;
    }

    let aside = old.move_away(layout, &mut || seen(Progress::Changed))?;
    files::swap_in(&new, &layout.catalog())?;
    seen(Progress::Changed);
    Ok(Rebuilt { aside, salvaged, known })
}

/// Opens the copy of the old catalog; none if nothing of it is readable.
fn opened(copy: &Path, deadline: &Deadline, layout: &Layout) -> Result<Option<Connection>> {
    let options = Options { locking: Locking::Exclusive, application_ids: &APPLICATION_IDS, ..Options::default() };
    match open::open(copy, &options, deadline) {
        Ok(conn) => Ok(Some(conn)),
        Err(error) if is_damage(&error) => {
            tracing::warn!(error = %error, "nothing of the old catalog is readable");
            Ok(None)
        }
        Err(error) => Err(stopped(&layout.catalog(), error)),
    }
}

/// Whether the file itself is damaged, so that another try would fail as well.
fn is_damage(error: &Error) -> bool {
    error.kind() == ErrorKind::Damaged || error.sqlite().is_some_and(salvage::is_damage)
}

/// Fails if a file of a database that SQLite calls damaged cannot be read: SQLite reports a disk error in the same way
/// (`SQLITE_IOERR_CORRUPTFS`).
fn read_through(database: &Path) -> Result<()> {
    for file in [database.to_owned(), wal_of(database)] {
        let read = || match std::fs::symlink_metadata(&file) {
            Ok(found) if found.is_file() => {
                std::io::copy(&mut std::fs::File::open(&file)?, &mut std::io::sink()).map(drop)
            }
            Err(error) if error.kind() != Io::NotFound => Err(error),
            _ => Ok(()),
        };
        read().map_err(|e| Error::io(file.display(), e))?;
    }
    Ok(())
}

fn stopped(path: &Path, error: Error) -> Error {
    let why = format!(
        "{}: {}. Nothing was changed. Repair what keeps the file from being read, or move it out of the data folder to do \
         without it; then run this again",
        path.display(),
        error.message()
    );
    Error::new(error.kind(), why).with_source(error)
}

fn refuse_to_replace(old: &Connection, deadline: &Deadline, new: &Catalog, layout: &Layout) -> Result<()> {
    /// A check takes some seconds for a gigabyte.
    const CHECK: Duration = Duration::from_secs(86_400);
    let readable = |result: Result<Option<u64>>| match result {
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(stopped(&layout.catalog(), error)),
        found => found,
    };
    let ours = new.write_on_this_thread(|tx| migrate::user_version(tx))?;
    let theirs = readable(migrate::user_version(old).map(|version| u64::try_from(version).ok()))?;
    if let Some(theirs) = theirs.filter(|theirs| u64::try_from(ours).is_ok_and(|ours| *theirs > ours)) {
        let why = format!("the catalog is at version {theirs}, newer than this program's {ours}; use that version");
        return Err(Error::new(ErrorKind::Conflict, why));
    }
    let users = check::quick_check(old, deadline, CHECK).and_then(|_| Ok(Some(salvage::live_users(old)?)));
    let Some(users @ 1..) = readable(users)? else { return Ok(()) };
    let why = format!(
        "the catalog is in order and knows {users} users. `cubby doctor --fix` repairs single users; to rebuild all of it \
         from their files, without states, tombstones and keys, move {} away first",
        layout.catalog().display()
    );
    Err(Error::new(ErrorKind::Conflict, why))
}

/// Adds a row for each file that has none, and marks users whose file is in the trash as deleted.
fn add_files(
    catalog: &Catalog,
    layout: &Layout,
    now: Millis,
    until: Millis,
    seen: &mut impl FnMut(Progress),
) -> Result<Entries> {
    /// Files in one commit.
    const BATCH: usize = 1000;
    let mut known = Entries::default();
    for part in paged::files(layout)? {
        let (paths, in_trash) = part?;
        let deleted = in_trash.then_some((now, until));
        for paths in paths.chunks(BATCH) {
            let mut cards: Vec<FileInfo> = Vec::with_capacity(paths.len());
            for path in paths {
                seen(Progress::File);
                // `cubby doctor` reports files that are damaged or misplaced.
                let card = match inspect(path) {
                    Err(error) if error.kind() == ErrorKind::Damaged => {
                        read_through(path).map_err(|error| stopped(path, error))?;
                        continue;
                    }
                    card => card.map_err(|error| stopped(path, error))?,
                };
                let paths = layout.paths(&card.tenant);
                let in_place = match in_trash {
                    true => *path == paths.trashed && files::locate(&paths)? == Location::Trash,
                    false => *path == paths.live,
                };
                if in_place {
                    cards.push(card);
                }
            }
            catalog.write_on_this_thread(|tx| {
                for card in &cards {
                    let what = match tombstones::add_found_file(tx, &card.tenant, card.created, card.schema, deleted)? {
                        Found::Known => continue,
                        Found::New if in_trash => "known again, as deleted",
                        Found::New => "known again",
                        Found::Deleted => "deleted, since its file is in the trash",
                    };
                    known.add(&format!("{}: {what}", card.tenant));
                }
                Ok(())
            })?;
        }
    }
    Ok(known)
}
