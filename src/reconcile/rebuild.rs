//! A catalog that is lost or damaged is made anew: from the users' files, and from what can still be
//! read of the old one.
//!
//! What can be read of a row is believed: who was deleted or purged stays so, wherever a file of theirs is.
//! Of whom there is no row, the place of the file says whether they live. A file in the trash outweighs a row
//! that says its user lives: it got there after the deletion was committed, and the row that can be read may
//! be older, since a damaged log ends early. So no deletion is undone; a restoration can be repeated.
//!
//! The new catalog is built in `tmp/` and gets its name when it is whole; the old one is only read from a
//! copy, and kept aside. A crash leaves the old one, or a placeholder with which nothing starts and from
//! which the next rebuild goes on, or the new one; `old.rs` says how.

mod old;

use std::{
    io::ErrorKind as Io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use serde::Serialize;

use super::report::Tally;
use crate::reconcile::rebuild::old::Old;
use crate::{
    catalog::{
        APPLICATION_ID, Catalog,
        audit::Author,
        model::Millis,
        queries::{
            salvage::{self, Salvaged},
            tombstones::{self, Found},
        },
    },
    clock::millis,
    error::{Error, ErrorKind, Result},
    sqlite::{
        check,
        deadline::Deadline,
        migrate,
        open::{self, Locking, Options},
    },
    tenants::{
        disk::{
            files::{self, Location},
            inspect::{Card, inspect},
            lock::FolderLock,
            path::{Layout, shm_of, wal_of},
        },
        options::StoreOptions,
    },
};

/// What a new catalog was made of.
#[derive(Debug, Clone, Serialize)]
pub struct Rebuilt {
    /// Where the old one is kept, its log beside it; none if there was none.
    pub aside: Option<PathBuf>,
    /// What could be read of it, and what is lost.
    pub salvaged: Vec<Salvaged>,
    /// Users whom their file alone, or its place, brought back into the catalog.
    #[serde(skip)]
    pub known: Tally,
}

/// What [`rebuild`] tells of while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A user's file was looked at.
    File,
    /// The data folder was changed: a crash leaves it as it is now.
    Changed,
}

/// Makes the catalog of a folder anew. May block for long; `seen` is told how far it is.
///
/// # Errors
/// [`ErrorKind::Conflict`] if the folder is in use, or the catalog is in order and knows users, or is
/// one of a newer program; whatever keeps a file from being read that is not the file's own damage. Then
/// nothing was changed. After an error while the old one gives up its name, another rebuild completes it.
pub fn rebuild(options: &StoreOptions, author: &Author, mut seen: impl FnMut(Progress)) -> Result<Rebuilt> {
    let layout = Layout::prepare(&options.data)?;
    let _lock = FolderLock::take(&layout.lock())?;
    files::sweep_tmp(&layout)?;
    let rebuilt = replace(options, author, &layout, &mut seen);
    // Copies of people's data; the next start removes what cannot be removed now.
    let _ = files::sweep_tmp(&layout);
    rebuilt
}

fn replace(
    options: &StoreOptions,
    author: &Author,
    layout: &Layout,
    seen: &mut impl FnMut(Progress),
) -> Result<Rebuilt> {
    let old = Old::find(layout)?;
    let (copy, new) = (layout.tmp().join("old-catalog.db"), layout.tmp().join("new-catalog.db"));
    let deadline = Deadline::none();
    let readable = if old.copy_to(&copy)? { opened(&copy, &deadline, layout)? } else { None };

    let catalog = Catalog::open(&new)?;
    let now = options.clock.now();
    let until = now.saturating_add(millis(options.retention));
    let salvaged = match readable {
        Some(conn) => {
            refuse_to_replace(&conn, &deadline, &catalog, layout)?;
            let salvaged = catalog.fill(|tx| Ok(salvage::copy(&conn, tx, now, until)?));
            open::abandon(conn);
            salvaged?
        }
        None => salvage::nothing(),
    };
    if salvaged.iter().any(|part| part.lost.is_some()) {
        read_through(&copy).map_err(|error| stopped(&layout.catalog(), error))?;
    }
    let known = take_in(&catalog, layout, now, until, seen)?;
    catalog.fill(|tx| Ok(author.record(tx, now, "doctor", None, "catalog rebuilt")?))?;
    catalog.close()?;
    drop(catalog);
    for beside in [wal_of(&new), shm_of(&new), copy.clone(), wal_of(&copy)] {
        remove(&beside)?;
    }

    let aside = old.make_way(layout, seen)?;
    files::swap_in(&new, &layout.catalog())?;
    seen(Progress::Changed);
    Ok(Rebuilt { aside, salvaged, known })
}

/// A copy of the old catalog, which may be read in whatever way; none if nothing of it can be read.
fn opened(copy: &Path, deadline: &Deadline, layout: &Layout) -> Result<Option<Connection>> {
    let options = Options { locking: Locking::Exclusive, application_id: APPLICATION_ID, ..Options::default() };
    match open::open(copy, &options, deadline) {
        Ok(conn) => Ok(Some(conn)),
        Err(error) if is_damage(&error) => {
            tracing::warn!(error = %error, "nothing can be read of the old catalog");
            Ok(None)
        }
        Err(error) => Err(stopped(&layout.catalog(), error)),
    }
}

/// Whether the file itself is what is wrong, and not the disk or the machine: another try would end alike.
fn is_damage(error: &Error) -> bool {
    error.kind() == ErrorKind::Damaged || error.sqlite().is_some_and(salvage::is_damage)
}

/// Fails if a database that SQLite calls damaged cannot be read for another reason: it says the same of a
/// disk that fails to read (`SQLITE_IOERR_CORRUPTFS`).
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
        "{}: {}. Nothing was changed. Mend what keeps the file from being read, or move it out of the data folder to do \
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
    let ours = new.fill(|tx| migrate::user_version(tx))?;
    let theirs = readable(migrate::user_version(old).map(|version| u64::try_from(version).ok()))?;
    if let Some(theirs) = theirs.filter(|theirs| u64::try_from(ours).is_ok_and(|ours| *theirs > ours)) {
        let why = format!("the catalog is at version {theirs}, newer than this program's {ours}; use that version");
        return Err(Error::new(ErrorKind::Conflict, why));
    }
    let users = check::quick_check(old, deadline, CHECK).and_then(|_| Ok(Some(salvage::live_users(old)?)));
    let Some(users @ 1..) = readable(users)? else { return Ok(()) };
    let why = format!(
        "the catalog is in order and knows {users} users. `cubby doctor --fix` mends single users; to make all of it \
         anew from their files, without states, tombstones and keys, move {} away first",
        layout.catalog().display()
    );
    Err(Error::new(ErrorKind::Conflict, why))
}

/// Gives every user who has a file and no row the one that belongs to its place, and marks those deleted
/// whose file is in the trash.
fn take_in(
    catalog: &Catalog,
    layout: &Layout,
    now: Millis,
    until: Millis,
    seen: &mut impl FnMut(Progress),
) -> Result<Tally> {
    /// Files for which there is one commit.
    const TOGETHER: usize = 1000;
    let mut known = Tally::default();
    let mut take = |paths: &[PathBuf], in_trash: bool| -> Result<()> {
        let mut cards: Vec<Card> = Vec::with_capacity(paths.len());
        for path in paths {
            seen(Progress::File);
            // What is no user's, or in a stranger's place, is named when catalog and files are compared.
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
        let deleted = in_trash.then_some((now, until));
        catalog.fill(|tx| {
            for card in &cards {
                let what = match tombstones::found(tx, &card.tenant, card.created, card.schema, deleted)? {
                    Found::Known => continue,
                    Found::New if in_trash => "known again, as deleted",
                    Found::New => "known again",
                    Found::Deleted => "deleted, since its file is in the trash",
                };
                known.add(&format!("{}: {what}", card.tenant));
            }
            Ok(())
        })
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for shard in 0..=u8::MAX {
        paths.clear();
        layout.live_in(shard, |path| paths.push(path))?;
        paths.chunks(TOGETHER).try_for_each(|paths| take(paths, false))?;
    }
    paths.clear();
    layout.each_trashed(|path| paths.push(path))?;
    paths.chunks(TOGETHER).try_for_each(|paths| take(paths, true))?;
    Ok(known)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != Io::NotFound => Err(Error::io(path.display(), error)),
        _ => Ok(()),
    }
}
