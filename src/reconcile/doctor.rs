//! Catalog and files compared: what a crash, a hand or a lost catalog left behind.
//!
//! For a store that serves nobody. Files are looked at one after another and rows page by page, so
//! memory does not grow with tenants, but for the names of the files in the trash.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{report::Tally, spool::chunks};
use crate::{
    catalog::{
        audit::Author,
        model::{Row, State},
        queries::{self, tombstones},
    },
    clock::{Millis, millis},
    error::Result,
    tenants::{
        disk::{
            files::{self, Location},
            inspect::{Card, inspect},
            path::{TenantPaths, lone_of},
        },
        id::TenantId,
        store::Store,
    },
};

/// What was found; with `fix`, what is left after mending what can be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// Files looked at.
    pub files: u64,
    /// Rows looked at.
    pub rows: u64,
    /// What is wrong with the catalog itself.
    pub catalog: Tally,
    /// Files that the catalog does not know, and that say whose they are.
    pub orphans: Tally,
    /// Live tenants without a file.
    pub missing: Tally,
    /// Deletions and restorations that were interrupted between row and file.
    pub interrupted: Tally,
    /// Files that are no tenant's: empty, of another program, damaged.
    pub damaged: Tally,
    /// Files whose place is another tenant's.
    pub misplaced: Tally,
    /// A deleted tenant's file beside the live one.
    pub leftover: Tally,
    /// Tenants out of service for their files.
    pub quarantined: Tally,
    /// Files with a schema newer than this program's.
    pub newer: Tally,
    /// Files with an older schema: they are migrated when next opened.
    pub older: u64,
    /// What was mended.
    pub fixed: Tally,
}

impl Findings {
    /// How many things want a person's hand.
    pub fn problems(&self) -> u64 {
        let all = [
            &self.catalog,
            &self.orphans,
            &self.missing,
            &self.interrupted,
            &self.damaged,
            &self.misplaced,
            &self.leftover,
            &self.quarantined,
            &self.newer,
        ];
        all.iter().map(|tally| tally.count).sum()
    }
}

/// Compares. With `fix`, whose author the audit trail names, it also adopts files whose inner id proves whose
/// they are, and completes what was interrupted. May block for long; `seen` is told of each file.
pub fn examine(store: &Store, fix: Option<&Author>, mut seen: impl FnMut()) -> Result<Findings> {
    let mut found = Findings::default();
    for complaint in store.catalog().check()? {
        found.catalog.add(&complaint);
    }
    let mut lone = lone_logs(store, fix, &mut found)?;
    // Looked up first: what is moved there below is not looked at twice.
    let mut trashed: Vec<PathBuf> = Vec::new();
    store.layout().each_trashed(|path| trashed.push(path))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for shard in 0..=u8::MAX {
        files.clear();
        store.layout().live_in(shard, |path| files.push(path))?;
        for path in &files {
            seen();
            file(store, path, false, fix, &mut found)?;
        }
    }
    for path in &trashed {
        seen();
        file(store, path, true, fix, &mut found)?;
    }
    for row in rows(store) {
        let row = row?;
        found.rows += 1;
        let paths = store.layout().paths(&row.id);
        let location = files::locate(&paths)?;
        match row.state {
            State::Deleted => {
                let half = half_erased(&row, location, store.clock().now());
                if let Some(what) = half.filter(|_| files::remains(&paths).unwrap_or(true)) {
                    lone.retain(|log| store.layout().paths_of(log).as_ref() != Some(&paths));
                    match fix.map(|author| store.erase_rest(&row.id, author)) {
                        Some(Ok(())) => found.fixed.add(&format!("{}: erased", row.id)),
                        Some(Err(error)) => found.interrupted.add(&format!("{}: {what}: {}", row.id, error.message())),
                        None => found.interrupted.add(&format!("{}: {what}", row.id)),
                    }
                } else if location == Location::Nowhere && is_restorable(&row, store.clock().now()) {
                    found.missing.add(&format!("{}, deleted", row.id));
                }
            }
            _ if matches!(location, Location::Nowhere | Location::Trash) => found.missing.add(&row.id),
            State::Quarantined => {
                found.quarantined.add(&format!("{}: {}", row.id, row.reason.as_deref().unwrap_or("no reason")));
            }
            State::Active | State::Suspended => {}
        }
    }
    for log in lone {
        found.damaged.add(&format!("{}: a write-ahead log without its database", name_of(store, &log)));
    }
    Ok(found)
}

/// What of an erasure is left to be done, if anything of the tenant remains.
fn half_erased(row: &Row, location: Location, now: Millis) -> Option<&'static str> {
    match row.purged {
        Some(_) => Some("it is purged, and a file of it is left"),
        None if location == Location::Nowhere && row.purge_after.is_some_and(|at| at <= now) => {
            Some("its purge is to be completed")
        }
        None => None,
    }
}

/// Whether a deleted tenant has a file until its retention ends. One of whom nothing but a deletion was
/// ever told has no schema and no file.
fn is_restorable(row: &Row, now: Millis) -> bool {
    row.purged.is_none() && row.schema_version.is_some() && row.purge_after.is_some_and(|at| at > now)
}

/// Write-ahead logs without a database beside them. Those that an interrupted move parted from theirs are
/// counted, and with `fix` brought back; the others are returned.
fn lone_logs(store: &Store, fix: Option<&Author>, found: &mut Findings) -> Result<Vec<PathBuf>> {
    let (mut all, mut lone): (Vec<PathBuf>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for shard in 0..=u8::MAX {
        store.layout().lone_logs_in(shard, |log| all.push(log))?;
    }
    store.layout().lone_logs_in_trash(|log| all.push(log))?;
    for log in all {
        let Some(paths) = store.layout().paths_of(&log) else { continue };
        // An empty one says nothing; whatever comes next takes its place.
        if std::fs::symlink_metadata(&log).is_ok_and(|found| found.len() == 0) {
            continue;
        }
        let name = name_of(store, &log);
        if lone_of(&paths.live) == log || lone_of(&paths.trashed) == log || !was_parted(store, &paths)? {
            lone.push(log);
        } else if let Some(author) = fix {
            match store.gather(&paths, author) {
                Ok(()) => found.fixed.add(&format!("{name}: brought back to its database")),
                Err(error) => found.damaged.add(&format!("{name}: {}", error.message())),
            }
        } else {
            found.interrupted.add(&format!("{name}: its database is in the other folder"));
        }
    }
    Ok(lone)
}

/// Whether a lone log belongs to the database in the other folder: an interrupted move parts them only
/// while the tenant is deleted.
fn was_parted(store: &Store, paths: &TenantPaths) -> Result<bool> {
    let database = match files::locate(paths)? {
        Location::Live => &paths.live,
        Location::Trash => &paths.trashed,
        Location::Nowhere | Location::Both => return Ok(false),
    };
    let Ok(card) = inspect(database) else { return Ok(false) };
    let row = store.catalog().read(|conn| queries::find(conn, &card.tenant))?;
    Ok(row.is_none_or(|row| row.state == State::Deleted))
}

fn name_of(store: &Store, path: &Path) -> String {
    path.strip_prefix(store.layout().root()).unwrap_or(path).display().to_string()
}

fn rows(store: &Store) -> impl Iterator<Item = Result<Row>> + use<> {
    let store = store.clone();
    chunks(move |after: Option<&Row>| {
        let after = after.map(|row| row.id.as_str());
        store.catalog().read(|conn| queries::list(conn, None, after, 1000))
    })
}

/// What one file's place and the catalog's word come to.
fn file(store: &Store, path: &Path, in_trash: bool, fix: Option<&Author>, found: &mut Findings) -> Result<()> {
    found.files += 1;
    let name = name_of(store, path);
    let card = match inspect(path) {
        Ok(card) => card,
        Err(error) => {
            found.damaged.add(&format!("{name}: {}", error.detail()));
            return Ok(());
        }
    };
    let id = card.tenant.clone();
    let (live, trashed) = (store.layout().tenant(&id), store.layout().trashed(&id));
    if path != if in_trash { &trashed } else { &live } {
        found.misplaced.add(&format!("{name} says that it is {id}'s, whose place is elsewhere"));
        return Ok(());
    }
    match card.schema.cmp(&store.schema().version()) {
        std::cmp::Ordering::Less => found.older += 1,
        std::cmp::Ordering::Equal => {}
        std::cmp::Ordering::Greater => found.newer.add(&format!("{id}: schema {}", card.schema)),
    }
    let row = store.catalog().read(|conn| queries::find(conn, &id))?;
    let both = files::locate(&store.layout().paths(&id))? == Location::Both;
    match (row.map(|row| (row.state, row.purged.is_some())), in_trash) {
        (None, _) if let Some(author) = fix => {
            adopt(store, &card, in_trash, author)?;
            found.fixed.add(&format!("{id}: known again{}", if in_trash { ", as deleted" } else { "" }));
        }
        (None, _) => found.orphans.add(&format!("{id} ({name})")),
        // Looked at with the rows.
        (Some((State::Deleted, true)), _) => {}
        (Some((State::Deleted, _)), false) if both => {
            found.leftover.add(&format!("{id} has two files; the newer one is a person's to choose"));
        }
        (Some((State::Deleted, _)), false) => settle(store, &id, "to the trash", fix, found),
        (Some((State::Deleted, _)), true) | (Some(_), false) => {}
        (Some(_), true) if both => found.leftover.add(&format!("{id} lives, and {name} is there too")),
        (Some(_), true) => settle(store, &id, "back from the trash", fix, found),
    }
    Ok(())
}

/// Has a file moved to where its row says.
fn settle(store: &Store, id: &TenantId, what: &str, fix: Option<&Author>, found: &mut Findings) {
    match fix.map(|author| store.settle(id, author)) {
        Some(Ok(())) => found.fixed.add(&format!("{id}: file moved {what}")),
        Some(Err(error)) => found.interrupted.add(&format!("{id}: its file is to go {what}: {}", error.message())),
        None => found.interrupted.add(&format!("{id}: its file is to go {what}")),
    }
}

fn adopt(store: &Store, card: &Card, in_trash: bool, author: &Author) -> Result<()> {
    let author = author.clone();
    let (id, created, schema) = (card.tenant.clone(), card.created, card.schema);
    let now = store.clock().now();
    let until = now.saturating_add(millis(store.retention()));
    store.catalog().write_blocking(move |tx| {
        tombstones::found(tx, &id, created, schema, in_trash.then_some((now, until)))?;
        author.record(tx, now, "doctor", id.as_str(), "done")
    })
}
