//! What must hold of the files once the server is down.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use cubby::{
    TenantId,
    sqlite::{
        deadline::Deadline,
        open::{self, Locking, Options},
    },
    tenants::disk::path::{Layout, wal_of},
};
use rusqlite::Connection;

/// A connection to a file that nobody else has open.
pub fn connect(path: &Path) -> cubby::Result<Connection> {
    open::open(path, &Options { locking: Locking::Exclusive, ..Options::default() }, &Deadline::none())
}

/// A connection beside others. A store of this process lets go of the catalog's connections a moment after
/// it is closed.
pub fn connect_shared(path: &Path) -> cubby::Result<Connection> {
    open::open(path, &Options::default(), &Deadline::none())
}

/// Catalog and files agree, every file is whole, and `tmp/` is empty. Tenants for which `leave`
/// holds may be as they are.
pub fn files(data: &Path, leave: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let layout = Layout::at(data.canonicalize().unwrap());
    for stray in entries(&layout.tmp()) {
        wrong.push(format!("STRAY: {}", stray.display()));
    }
    let rows: Vec<(String, String, bool)> = match catalog(&layout.catalog()) {
        Ok(rows) => rows,
        Err(error) => return vec![format!("CATALOG: {error}")],
    };
    let mut known = HashSet::new();
    for (id, state, purged) in rows {
        let tenant: TenantId = id.parse().unwrap();
        let (live, trashed) = (layout.tenant(&tenant), layout.trashed(&tenant));
        known.insert(live.clone());
        known.insert(trashed.clone());
        if leave(&id) {
            continue;
        }
        let place = if state == "deleted" { &trashed } else { &live };
        if !place.exists() {
            if !purged {
                wrong.push(format!("MISSING: {id} is {state}, and {} is not there", place.display()));
            }
            continue;
        }
        if live.exists() && trashed.exists() {
            wrong.push(format!("TWICE: {id} is in its place and in the trash"));
        }
        if let Err(why) = whole(place, &id) {
            wrong.push(format!("DAMAGED: {id}: {why}"));
        }
    }
    for path in databases(&layout) {
        // A creation that was interrupted before its row: adopted by the next one if it is whole, else replaced.
        if !known.contains(&path)
            && !is_unfinished(&path)
            && let Err(why) = whole(&path, "")
        {
            wrong.push(format!("ORPHAN: {}: {why}", path.display()));
        }
    }
    wrong
}

/// What somebody does who looks at the files with `sqlite3` after a crash: it checkpoints each when it closes it.
#[expect(clippy::disallowed_methods, reason = "as a program that is not this one")]
pub fn open_all(data: &Path) {
    let layout = Layout::at(data.canonicalize().unwrap());
    for path in databases(&layout).into_iter().chain([layout.catalog()]) {
        let conn = Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        // A file that was created a moment before is not one yet.
        let _ = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    }
}

/// Every write-ahead log is empty, and so is the log of all.
pub fn checkpointed(data: &Path) -> Vec<String> {
    let layout = Layout::at(data.canonicalize().unwrap());
    let mut paths = databases(&layout);
    paths.push(layout.catalog());
    let length = |path: &Path| std::fs::metadata(wal_of(path)).map_or(0, |found| found.len());
    let full = paths.iter().filter(|path| length(path) > 0);
    let left = full.map(|path| format!("WAL: {} has {} bytes left", path.display(), length(path)));
    left.chain(entries(&layout.log()).iter().map(|path| format!("LOG: {} is left", path.display()))).collect()
}

fn catalog(path: &Path) -> cubby::Result<Vec<(String, String, bool)>> {
    let conn = connect_shared(path)?;
    integrity(&conn)?;
    let mut statement = conn.prepare("SELECT id, state, purged IS NOT NULL FROM tenants")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn integrity(conn: &Connection) -> cubby::Result<()> {
    let found: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(cubby::Error::internal(found)),
    }
}

fn whole(path: &Path, id: &str) -> cubby::Result<()> {
    let conn = connect(path)?;
    integrity(&conn)?;
    let owner: String = conn.query_row("SELECT tenant FROM cubby_meta", [], |row| row.get(0))?;
    match id.is_empty() || owner == id {
        true => Ok(()),
        false => Err(cubby::Error::internal(format!("belongs to {owner}"))),
    }
}

/// Whether a file is shorter than it says: a power cut came before all of it was on the disk.
fn is_unfinished(path: &Path) -> bool {
    // The page size and the number of pages in the header (<https://sqlite.org/fileformat2.html>).
    const PAGE_SIZE_AT: usize = 16;
    const PAGES_AT: usize = 28;
    let bytes = std::fs::read(path).unwrap();
    let number =
        |at: usize, length: usize| bytes[at..at + length].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    bytes.len() < PAGES_AT + 4 || bytes.len() < number(PAGE_SIZE_AT, 2) * number(PAGES_AT, 4)
}

fn databases(layout: &Layout) -> Vec<PathBuf> {
    let mut folders = entries(&layout.tenants());
    folders.push(layout.trash());
    let is_database = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "db");
    folders.iter().flat_map(|folder| entries(folder)).filter(is_database).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map(|found| found.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}
