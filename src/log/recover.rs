//! Redo: bringing the databases' own write-ahead logs to where the log says, after a crash.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    boot::Boot,
    erase,
    plan::{Plan, plan},
    record::{BadRecord, Change, Record, What, read_u32, read_u64},
    scan::{self, Entry, NAMES, RECORDED},
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{flush, header, wal},
};

/// What [`recover`] did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Databases whose write-ahead logs or files were written.
    pub databases: usize,
    /// Records that were written to them.
    pub records: usize,
    /// Databases of which the log has damaged records: they lack commits that were acknowledged.
    pub damaged: Vec<String>,
    /// Databases whose files are missing, and of which the log has commits.
    pub missing: Vec<String>,
}

/// Writes to the databases what the log in `folder` has of them, flushes all of it, and empties the log. Doing it again
/// after a crash in between changes nothing. `path_of` maps the name of a database to its path; none for a name that
/// is no database's.
///
/// A log with damaged records, or with commits of files that are missing, is kept beside `folder`, and these databases
/// are named each time until [`losses_recorded`].
///
/// # Errors
/// The log is damaged and it cannot be told whose records are lost, or something could not be read or written. The log
/// is then as it was.
pub fn recover(folder: &Path, data: &Path, path_of: impl Fn(&str) -> Option<PathBuf>) -> Result<Recovered> {
    remove_discarded(folder)?;
    // Before anything is written: it is told of the errors since then.
    let opened = File::open(data).map_err(|e| Error::io(data.display(), e))?;
    let mut recovered = Recovered::default();
    for kept in damaged_logs(folder)?.into_iter().filter(|kept| is_unrecorded(kept)) {
        recovered.damaged.extend(names_in(&kept)?);
    }
    for kept in beside(folder, KEPT)?.into_iter().filter(|kept| is_unrecorded(kept)) {
        let missing = names_in(&kept)?;
        erase_others(&kept, &missing)?;
        recovered.missing.extend(missing);
    }
    let (mut damaged, mut missing) = (Vec::new(), Vec::new());
    for (name, path, redone) in redo_all(plan(&scan::read(folder)?), path_of)? {
        match redone {
            Redone::Damaged => damaged.push(name),
            Redone::Records(records) => {
                recovered.records += records;
                recovered.databases += usize::from(records > 0);
            }
            Redone::Missing => missing.push(name),
            Redone::Unwritable(error) if name.is_empty() => return Err(error),
            Redone::Unwritable(error) => {
                tracing::error!(file = %path.display(), error = %error, "the log could not be redone");
                damaged.push(name);
            }
        }
    }
    // Also if there was nothing to redo: what the process before this one wrote may be read from now on.
    if !scan::is_empty(folder)? {
        flush::file_system_of(&opened, data)?;
    }
    if !damaged.is_empty() {
        damaged.append(&mut missing);
        let aside = set_aside(folder, DAMAGED, &damaged)?;
        tracing::error!(log = %aside.display(), "the log is damaged: it is kept for you to look at with `cubby log show`");
    } else if !missing.is_empty() {
        let aside = set_aside(folder, KEPT, &missing)?;
        erase_others(&aside, &missing)?;
        tracing::warn!(log = %aside.display(), "the log has commits of files that are missing, and is kept");
    } else {
        discard(folder)?;
    }
    recovered.damaged.extend(damaged);
    recovered.missing.extend(missing);
    Ok(recovered)
}

/// Everybody who has to know of what is lost knows: [`recover`] does not name these databases again.
pub fn losses_recorded(folder: &Path) -> Result<()> {
    kept(folder)?.iter().filter(|kept| is_unrecorded(kept)).try_for_each(|kept| {
        flush::write_new(&kept.join(RECORDED), &[])?;
        flush::sync_folder(kept)
    })
}

/// Erases the records of databases that are not `missing`: these have theirs.
fn erase_others(kept: &Path, missing: &[String]) -> Result<()> {
    erase::erase(kept, |name, is_whole| is_whole && !missing.iter().any(|missing| missing == name))
}

fn names_in(kept: &Path) -> Result<Vec<String>> {
    let path = kept.join(NAMES);
    let names = std::fs::read_to_string(&path).map_err(|e| Error::io(path.display(), e))?;
    Ok(names.split('\n').map(str::to_owned).collect())
}

/// Whether the databases of a log that is kept are to be named.
fn is_unrecorded(kept: &Path) -> bool {
    !kept.join(RECORDED).exists()
}

/// Damaged logs that are kept beside `folder`.
pub fn damaged_logs(folder: &Path) -> Result<Vec<PathBuf>> {
    beside(folder, DAMAGED)
}

/// All logs that are kept beside `folder`: damaged ones, and those with commits of files that were missing.
fn kept(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok([damaged_logs(folder)?, beside(folder, KEPT)?].concat())
}

/// Erases the records of the database `name` from the logs that are kept beside `folder`. May block.
pub fn erase_kept(folder: &Path, name: &str) -> Result<()> {
    kept(folder)?.iter().try_for_each(|log| erase::erase(log, |of, _| of == name))
}

/// What the names of logs that are kept have after that of the log's folder, before a number: of one with damaged
/// records, and of one with commits of a file that is missing.
const DAMAGED: &str = ".damaged-";
const KEPT: &str = ".kept-";

fn beside(folder: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let parent = folder.parent().unwrap_or(folder);
    let failed = |e| Error::io(parent.display(), e);
    let (mut found, start) = (Vec::new(), wal::with_suffix(folder, suffix));
    for entry in std::fs::read_dir(parent).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let number = path.to_string_lossy().strip_prefix(&*start.to_string_lossy()).map(str::parse::<u64>);
        if number.is_some_and(|number| number.is_ok()) && path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Gives the log's folder a name that is free, with the names of the databases for which it is kept, and makes an empty
/// one.
fn set_aside(folder: &Path, suffix: &str, databases: &[String]) -> Result<PathBuf> {
    flush::write_new(&folder.join(NAMES), databases.join("\n").as_bytes())?;
    flush::sync_folder(folder)?;
    let number = |path: &PathBuf| path.to_string_lossy().rsplit_once('-').and_then(|(_, n)| n.parse::<u64>().ok());
    let newest = beside(folder, suffix)?.iter().filter_map(number).max().unwrap_or(0);
    let aside = wal::with_suffix(folder, &format!("{suffix}{}", newest + 1));
    move_away(folder, &aside)?;
    Ok(aside)
}

/// The segment that was read last: records are redone by database, and a database's are mostly near each other.
#[derive(Default)]
struct Segments(BTreeMap<PathBuf, File>);

impl Segments {
    fn change(&mut self, entry: &Entry) -> Result<Change<'static>> {
        let failed = |e| Error::io(entry.segment.display(), e);
        if !self.0.contains_key(&entry.segment) {
            self.0.insert(entry.segment.clone(), File::open(&entry.segment).map_err(failed)?);
        }
        let file = self.0.get(&entry.segment).ok_or_else(|| Error::internal("no segment"))?;
        // Most records are shorter.
        let mut bytes = vec![0; 8 << 10];
        let read = file.read_at(&mut bytes, entry.at).map_err(failed)?;
        let length = read_u32(&bytes, 8) as usize;
        bytes.resize(length, 0);
        if length > read {
            file.read_exact_at(&mut bytes[read..], entry.at + read as u64).map_err(failed)?;
        }
        let decoded = Record::decode(&bytes).map_err(|BadRecord| scan::lost(&entry.segment, entry.group))?;
        Ok(decoded.0.change)
    }
}

/// `O_NOFOLLOW`.
#[expect(clippy::cast_possible_wrap, reason = "a flag of the system's")]
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// Makes the file of a database that was created a short while ago and whose later records are damaged, unless it is
/// there: without it, an operator who resumes its user has nothing to go on with.
fn create_unless_whole(path: &Path, plan: &Plan, segments: &mut Segments) -> Result<()> {
    let Some(entry) = &plan.create else { return Ok(()) };
    let is_unfinished = match std::fs::symlink_metadata(path) {
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        Ok(found) => header::is_unfinished(path, found.len()).unwrap_or(false),
    };
    if !is_unfinished || header::refuse_links(path).is_err() {
        return Ok(());
    }
    if let Change::Create(image) = segments.change(entry)?
        && let Err(error) = write(path, 0, &image, true)
    {
        tracing::error!(file = %path.display(), error = %error, "a new database could not be made again");
    }
    Ok(())
}

/// What the redo of one database came to.
#[derive(Debug, Clone)]
enum Redone {
    /// So many records were written.
    Records(usize),
    /// A record that is needed is damaged: nothing was written but the file of a new database.
    Damaged,
    /// Its file is missing.
    Missing,
    /// Its files cannot be written, which is this database's fault alone.
    Unwritable(Error),
}

/// How many databases are redone at once.
const THREADS: usize = 4;

/// Redoes all databases. What one comes to does not depend on others.
fn redo_all(
    plans: BTreeMap<String, Plan>,
    path_of: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Vec<(String, PathBuf, Redone)>> {
    let plans: Vec<_> =
        plans.into_iter().filter_map(|(name, plan)| path_of(&name).map(|path| (name, path, plan))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut segments, mut done) = (Segments::default(), Vec::new());
        while let Some((name, path, plan)) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((name.clone(), path.clone(), redo(path, plan, &mut segments)?));
        }
        Ok(done)
    };
    let done: Result<Vec<_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS.min(plans.len())).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Error::internal("the redo panicked");
        threads.into_iter().map(|thread| thread.join().map_err(panicked)?).collect()
    });
    Ok(done?.concat())
}

fn redo(path: &Path, plan: &Plan, segments: &mut Segments) -> Result<Redone> {
    if plan.damaged {
        create_unless_whole(path, plan, segments)?;
        return Ok(Redone::Damaged);
    }
    let is_missing = match path.metadata() {
        Ok(_) => false,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        // A file that cannot be examined is not missing.
        Err(error) => return Ok(Redone::Unwritable(Error::io(path.display(), error))),
    };
    // An interrupted rebuild of the catalog leaves a link to nothing.
    if is_missing && path.is_symlink() {
        return Ok(Redone::Missing);
    }
    // What stands in the place of a file is not written through, nor one with a second name.
    if let Err(error) = header::refuse_links(path) {
        return Ok(Redone::Unwritable(error));
    }
    let written = |result: Result<()>| match result {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == ErrorKind::DiskFull => Err(error),
        Err(error) => Ok(Some(Redone::Unwritable(error))),
    };
    let mut redone = 0;
    if let Some(entry) = &plan.create
        && let Change::Create(image) = segments.change(entry)?
    {
        if let Some(unwritable) = written(write(path, 0, &image, true))? {
            return Ok(unwritable);
        }
        redone += 1;
    }
    if plan.commits.is_empty() {
        return Ok(Redone::Records(redone));
    }
    if is_missing && plan.create.is_none() {
        tracing::warn!(file = %path.display(), "the log has commits of a file that is not there");
        return Ok(Redone::Missing);
    }
    let log = wal::wal_of(path);
    if let Some(needed) = plan.needed_salts(Boot::current()) {
        match salts_of(&log) {
            Err(error) => return Ok(Redone::Unwritable(error)),
            // It was checkpointed since: all of these are in the database file.
            Ok(there) if there != Some(needed) => return Ok(Redone::Records(redone)),
            Ok(_) => {}
        }
    }
    let (mut buffer, mut start) = (Vec::new(), 0);
    for entry in &plan.commits {
        if let (What::Commit { offset, .. }, Change::Commit { bytes, .. }) = (entry.what, segments.change(entry)?) {
            // They follow each other, but for a write-ahead log that was added as a whole again.
            if offset != start + buffer.len() as u64 || buffer.len() >= WRITTEN_AT_ONCE {
                if let Some(unwritable) = written(write(&log, start, &buffer, false))? {
                    return Ok(unwritable);
                }
                buffer.clear();
                start = offset;
            }
            buffer.extend_from_slice(&bytes);
            redone += 1;
        }
    }
    Ok(written(write(&log, start, &buffer, false))?.unwrap_or(Redone::Records(redone)))
}

/// Commits of one database are written together, up to this many bytes.
const WRITTEN_AT_ONCE: usize = 1 << 20;

fn write(path: &Path, at: u64, bytes: &[u8], truncate: bool) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let failed = |e| Error::io(path.display(), e);
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(truncate).mode(0o600).custom_flags(NOFOLLOW);
    options.open(path).and_then(|file| file.write_all_at(bytes, at)).map_err(failed)
}

fn salts_of(log: &Path) -> Result<Option<u64>> {
    let mut header = [0; 32];
    match File::open(log).and_then(|file| file.read_exact_at(&mut header, 0)) {
        Ok(()) => Ok(Some(read_u64(&header, wal::SALTS_AT))),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof) => Ok(None),
        Err(e) => Err(Error::io(log.display(), e)),
    }
}

/// Removes the log's segments: first all at once from their names, since some of them would be taken for a damaged log.
pub(super) fn discard(folder: &Path) -> Result<()> {
    move_away(folder, &discarded(folder))?;
    remove_discarded(folder)
}

/// Gives the log's folder another name and makes an empty one.
fn move_away(folder: &Path, to: &Path) -> Result<()> {
    let failed = |e| Error::io(folder.display(), e);
    flush::rename_new(folder, to)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        // Another process that was about to find the data folder locked has made it.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made.map_err(failed)?,
    }
    flush::sync_folder(folder.parent().unwrap_or(folder))
}

fn remove_discarded(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(discarded(folder)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder.display(), e)),
        _ => Ok(()),
    }
}

fn discarded(folder: &Path) -> PathBuf {
    wal::with_suffix(folder, ".discarded")
}
