//! `cubby doctor`: compares the catalog with the files, and repairs what a crash or manual changes left behind.
//!
//! For a store that serves no requests. It reads files one by one and rows page by page, so memory does not grow with
//! the number of tenants, except for the names of the files in the trash.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    paged::{files as files_of, rows},
    report::Entries,
};
use crate::{
    catalog::{
        audit::Author,
        model::{Row, State},
        queries::{self, tombstones},
    },
    clock::{Millis, millis},
    error::Result,
    log,
    tenants::{
        disk::{
            files::{self, Location},
            inspect::inspect,
            path::{TenantPaths, detached_wal_of, detached_wals},
        },
        id::TenantId,
        store::Store,
    },
};

/// What was found, or with `fix` what is left after the repairs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// Files checked.
    pub files: u64,
    /// Rows checked.
    pub rows: u64,
    /// Errors of the catalog itself.
    pub catalog: Entries,
    /// Damaged logs that were kept.
    pub logs: Entries,
    /// Files of tenants that the catalog does not have.
    pub orphans: Entries,
    /// Tenants that are not deleted and have no file.
    pub missing: Entries,
    /// Deletions and restorations that were interrupted between row and file.
    pub interrupted: Entries,
    /// Files that are no tenant's: empty, of another program, damaged.
    pub damaged: Entries,
    /// Files in the place of another tenant's.
    pub misplaced: Entries,
    /// A deleted tenant's file beside the live one.
    pub leftover: Entries,
    /// Tenants in quarantine.
    pub quarantined: Entries,
    /// Files with a newer schema than this program's.
    pub newer: Entries,
    /// Files with an older schema; opening migrates them.
    pub older: u64,
    /// What was repaired.
    pub fixed: Entries,
}

impl Findings {
    /// The number of findings that the operator must resolve.
    pub fn problems(&self) -> u64 {
        let all = [
            &self.catalog,
            &self.logs,
            &self.orphans,
            &self.missing,
            &self.interrupted,
            &self.damaged,
            &self.misplaced,
            &self.leftover,
            &self.quarantined,
            &self.newer,
        ];
        all.iter().map(|entries| entries.count).sum()
    }

    /// Records a repair that was tried, or what it would be for.
    fn settle(&mut self, id: &TenantId, tried: Option<Result<()>>, done: &str, left: &str) {
        match tried {
            Some(Ok(())) => self.fixed.add(&format!("{id}: {done}")),
            Some(Err(error)) => self.interrupted.add(&format!("{id}: {left}: {}", error.message())),
            None => self.interrupted.add(&format!("{id}: {left}")),
        }
    }
}

/// Compares catalog and files. With `fix` it adds files without a row to the catalog, by the id in the file, and
/// completes interrupted operations. The audit trail names the author of the repairs.
/// Blocks for long; calls `seen` for each file.
pub fn examine(store: &Store, fix: Option<&Author>, mut seen: impl FnMut()) -> Result<Findings> {
    let mut found = Findings::default();
    store.complete_closed();
    for complaint in store.catalog().check()? {
        found.catalog.add(&complaint);
    }
    for kept in log::damaged_logs(&store.layout().log())? {
        found.logs.add(&kept.display().to_string());
    }
    let mut lone = lone_logs(store, fix, &mut found)?;
    for part in files_of(store.layout())? {
        let (paths, in_trash) = part?;
        for path in &paths {
            seen();
            file(store, path, in_trash, fix, &mut found)?;
        }
    }
    for row in rows(store) {
        let row = row?;
        found.rows += 1;
        let paths = store.layout().paths(&row.id);
        let location = files::locate(&paths)?;
        match row.state {
            State::Deleted => {
                let erasure = interrupted_erasure(&row, location, store.clock().now());
                if let Some(what) = erasure.filter(|_| files::any_exist(&paths).unwrap_or(true)) {
                    lone.retain(|log| store.layout().paths_of(log).as_ref() != Some(&paths));
                    let erased = fix.map(|author| store.complete_purge(&row.id, author));
                    found.settle(&row.id, erased, "erased", what);
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

/// What is left to do of an interrupted erasure, if files of the tenant remain.
fn interrupted_erasure(row: &Row, location: Location, now: Millis) -> Option<&'static str> {
    match row.purged {
        Some(_) => Some("it is purged, and a file of it is left"),
        None if location == Location::Nowhere && row.purge_after.is_some_and(|at| at <= now) => {
            Some("its purge is to be completed")
        }
        None => None,
    }
}

/// Whether a deleted tenant must have a file: until its retention ends, unless only its deletion was ever reported,
/// which leaves a tombstone without a schema and without a file.
fn is_restorable(row: &Row, now: Millis) -> bool {
    row.purged.is_none() && row.schema_version.is_some() && row.purge_after.is_some_and(|at| at > now)
}

/// Write-ahead logs without a database beside them. Those that an interrupted move separated from their database are
/// counted, and with `fix` moved back; the others are returned.
fn lone_logs(store: &Store, fix: Option<&Author>, found: &mut Findings) -> Result<Vec<PathBuf>> {
    let (mut all, mut lone): (Vec<PathBuf>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for folder in store.layout().shards().chain([store.layout().trash()]) {
        all.extend(detached_wals(&folder)?);
    }
    for log in all {
        let Some(paths) = store.layout().paths_of(&log) else { continue };
        // An empty log has no commits, and the next open replaces it.
        if std::fs::symlink_metadata(&log).is_ok_and(|found| found.len() == 0) {
            continue;
        }
        let name = name_of(store, &log);
        if detached_wal_of(&paths.live) == log
            || detached_wal_of(&paths.trashed) == log
            || !was_separated(store, &paths)?
        {
            lone.push(log);
        } else if let Some(author) = fix {
            match store.undo_interrupted_move(&paths, author) {
                Ok(()) => found.fixed.add(&format!("{name}: moved back to its database")),
                Err(error) => found.damaged.add(&format!("{name}: {}", error.message())),
            }
        } else {
            found.interrupted.add(&format!("{name}: its database is in the other folder"));
        }
    }
    Ok(lone)
}

/// Whether a log belongs to the database in the other folder: an interrupted move separates them only while the tenant is
/// deleted.
fn was_separated(store: &Store, paths: &TenantPaths) -> Result<bool> {
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

/// Compares one file with its row.
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
        found.misplaced.add(&format!("{name} is {id}'s, whose place is elsewhere"));
        return Ok(());
    }
    match card.schema.cmp(&store.schema().version()) {
        std::cmp::Ordering::Less => found.older += 1,
        std::cmp::Ordering::Equal => {}
        std::cmp::Ordering::Greater => found.newer.add(&format!("{id}: schema {}", card.schema)),
    }
    let row = store.catalog().read(|conn| queries::find(conn, &id))?;
    let moved = || fix.map(|author| store.complete_transition(&id, author));
    let both = files::locate(&store.layout().paths(&id))? == Location::Both;
    match (row.map(|row| (row.state, row.purged.is_some())), in_trash) {
        (None, _) if let Some(author) = fix => {
            let (author, now) = (author.clone(), store.clock().now());
            let deleted = in_trash.then(|| (now, now.saturating_add(millis(store.retention()))));
            store.catalog().write_blocking(move |tx| {
                tombstones::add_found_file(tx, &card.tenant, card.created, card.schema, deleted)?;
                author.record(tx, now, "doctor", card.tenant.as_str(), "done")
            })?;
            found.fixed.add(&format!("{id}: known again{}", if in_trash { ", as deleted" } else { "" }));
        }
        (None, _) => found.orphans.add(&format!("{id} ({name})")),
        // Checked with the rows.
        (Some((State::Deleted, true)), _) => {}
        (Some((State::Deleted, _)), false) if both => {
            found.leftover.add(&format!("{id} has two files; the newer one is a person's to choose"));
        }
        (Some((State::Deleted, _)), false) => {
            found.settle(&id, moved(), "file moved to the trash", "its file is to go to the trash");
        }
        (Some((State::Deleted, _)), true) | (Some(_), false) => {}
        (Some(_), true) if both => found.leftover.add(&format!("{id} is not deleted, and {name} is there too")),
        (Some(_), true) => {
            found.settle(&id, moved(), "file moved back from the trash", "its file is to go back from the trash");
        }
    }
    Ok(())
}
