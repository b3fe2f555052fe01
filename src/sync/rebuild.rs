//! A catalog that is lost or damaged is made anew: from the users' files, and from what can still be
//! read of the old one.
//!
//! What can be read of a row is believed: who was deleted or purged stays so, wherever a file of theirs is.
//! Of whom there is no row, the place of the file says whether they live. A file in the trash outweighs a row
//! that says its user lives: it got there after the deletion was committed, and the row that can be read may
//! be older, since a damaged log ends early. So no deletion is undone; a restoration can be repeated.
//!
//! The new catalog is built in `tmp/`
//! and gets its name when it is whole; the old one is only read from a copy, and kept aside. So a crash
//! leaves the old one, or none, or the new one, and without one nothing starts.

use std::{
    io::ErrorKind as Io,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use serde::Serialize;

use super::report::Tally;
use crate::{
    catalog::{
        APPLICATION_ID, Catalog,
        model::Millis,
        queries::{
            departed::{self, Found},
            salvage::{self, Salvaged},
        },
    },
    clock::millis,
    error::{Error, ErrorKind, Result},
    sqlite::{
        deadline::Deadline,
        flush, migrate,
        open::{self, Locking, Options},
    },
    tenants::{
        files,
        inspect::{Card, inspect},
        lock::FolderLock,
        path::{Layout, shm_of, wal_of},
        store::StoreOptions,
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

/// Makes the catalog of a folder anew. May block for long; `seen` is told of each file.
///
/// # Errors
/// [`ErrorKind::Conflict`] if the folder is in use, or the catalog is in order and knows users, or is
/// one of a newer program. Then, and on any other error, it is left as it was.
pub fn rebuild(options: &StoreOptions, mut seen: impl FnMut()) -> Result<Rebuilt> {
    let layout = Layout::prepare(&options.data)?;
    let _lock = FolderLock::take(&layout.lock())?;
    files::sweep_tmp(&layout)?;
    let (old, new) = (layout.tmp().join("old-catalog.db"), layout.tmp().join("new-catalog.db"));
    let readable = copy_of(&layout.catalog(), &old)?;

    let catalog = Catalog::open(&new)?;
    let now = options.clock.now();
    let until = now.saturating_add(millis(options.retention));
    let salvaged = match readable {
        Some(old) => {
            refuse_to_replace(&old, &catalog, &layout)?;
            let salvaged = catalog.fill(|tx| Ok(salvage::copy(&old, tx, now, until)?));
            open::abandon(old);
            salvaged?
        }
        None => salvage::nothing(),
    };
    let known = take_in(&catalog, &layout, now, until, &mut seen)?;
    catalog.close()?;
    drop(catalog);
    for beside in [wal_of(&new), shm_of(&new), old.clone(), wal_of(&old)] {
        remove(&beside)?;
    }

    let aside = set_aside(&layout)?;
    std::fs::rename(&new, layout.catalog()).map_err(|e| Error::io(layout.catalog().display(), e))?;
    flush::sync_folder(layout.root())?;
    Ok(Rebuilt { aside, salvaged, known })
}

/// A copy that may be read in whatever way, opened; none if there is nothing to be read.
fn copy_of(catalog: &Path, copy: &Path) -> Result<Option<Connection>> {
    for (from, to) in [(catalog.to_owned(), copy.to_owned()), (wal_of(catalog), wal_of(copy))] {
        match std::fs::symlink_metadata(&from) {
            Ok(found) if found.is_file() => {}
            _ => continue,
        }
        std::fs::copy(&from, &to).map_err(|e| Error::io(from.display(), e))?;
    }
    if !copy.exists() {
        return Ok(None);
    }
    let options = Options { locking: Locking::Exclusive, application_id: APPLICATION_ID, ..Options::default() };
    match open::open(copy, &options, &Deadline::none()) {
        Ok(conn) => Ok(Some(conn)),
        Err(error) => {
            tracing::warn!(error = %error, "nothing can be read of the old catalog");
            Ok(None)
        }
    }
}

fn refuse_to_replace(old: &Connection, new: &Catalog, layout: &Layout) -> Result<()> {
    let ours = new.fill(|tx| migrate::user_version(tx))?;
    if let Ok(theirs) = migrate::user_version(old)
        && theirs > ours
    {
        let why = format!("the catalog is at version {theirs}, newer than this program's {ours}; use that version");
        return Err(Error::new(ErrorKind::Conflict, why));
    }
    let Some(users @ 1..) = salvage::sound(old) else { return Ok(()) };
    let why = format!(
        "the catalog is in order and knows {users} users. `cubby doctor --fix` mends single users; to make all of it \
         anew from their files, without states, tombstones and keys, move {} away first",
        layout.catalog().display()
    );
    Err(Error::new(ErrorKind::Conflict, why))
}

/// Gives every user who has a file and no row the one that belongs to its place, and marks those deleted
/// whose file is in the trash.
fn take_in(catalog: &Catalog, layout: &Layout, now: Millis, until: Millis, seen: &mut impl FnMut()) -> Result<Tally> {
    /// Files for which there is one commit.
    const TOGETHER: usize = 1000;
    let mut known = Tally::default();
    let mut take = |paths: &[PathBuf], in_trash: bool| -> Result<()> {
        let mut cards: Vec<Card> = Vec::with_capacity(paths.len());
        for path in paths {
            seen();
            // What is no user's, or in a stranger's place, is named when catalog and files are compared.
            let Ok(card) = inspect(path) else { continue };
            let live = layout.tenant(&card.tenant);
            let in_place =
                if in_trash { *path == layout.trashed(&card.tenant) && !live.exists() } else { *path == live };
            if in_place {
                cards.push(card);
            }
        }
        let deleted = in_trash.then_some((now, until));
        catalog.fill(|tx| {
            for card in &cards {
                let what = match departed::found(tx, &card.tenant, card.created, card.schema, deleted)? {
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

/// Moves the old catalog to a name of its own, with its log: the file first, since a file without its log
/// would be an older catalog in good order. Says where it is.
fn set_aside(layout: &Layout) -> Result<Option<PathBuf>> {
    let catalog = layout.catalog();
    let stamp = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string().replace(':', "");
    let names = (0..).map(|n| match n {
        0 => format!("catalog-{stamp}.lost"),
        n => format!("catalog-{stamp}-{n}.lost"),
    });
    let is_free = |path: &PathBuf| [path.clone(), wal_of(path)].iter().all(|path| path.symlink_metadata().is_err());
    let Some(aside) = names.map(|name| layout.root().join(name)).find(is_free) else { return Ok(None) };
    let mut moved = false;
    for (from, to) in [(catalog.clone(), aside.clone()), (wal_of(&catalog), wal_of(&aside))] {
        match std::fs::rename(&from, &to) {
            Ok(()) => moved = true,
            Err(error) if error.kind() == Io::NotFound => {}
            Err(error) => return Err(Error::io(from.display(), error)),
        }
    }
    // Made anew by whoever opens the database; it holds nothing that is not in the log.
    remove(&shm_of(&catalog))?;
    flush::sync_folder(layout.root())?;
    Ok(moved.then_some(aside))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != Io::NotFound => Err(Error::io(path.display(), error)),
        _ => Ok(()),
    }
}
