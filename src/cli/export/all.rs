//! Everybody's database in a folder, which an interrupted run is gone on with.
//!
//! Files are flushed some at a time, get their names after that, and are written to the list last. So what has a
//! name is whole, and what is in the list is on the disk. A name that is not in the list is of a run that was cut short
//! there, and is written again.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, ErrorKind as Io, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    part::{Part, Saved, failed, is_part},
    request::{LIST, What, save},
};
use crate::{
    admin::tenants::Tenants as Listed,
    catalog::model::State,
    cli::{
        interrupt::interrupted,
        shared::{bar, print_json, print_rows},
        target::{Target, segment},
    },
    error::{Error, ErrorKind, Result},
    sqlite::flush,
    tenants::id::TenantId,
};

/// Files that wait for a flush at most, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 64 << 20;

/// How long after a flush the next file brings another, so that a kill loses little of a slow run.
const BATCH_TIME: Duration = Duration::from_secs(1);

/// Failures that are told.
const TOLD: usize = 100;

/// A line of the list.
#[derive(Serialize, Deserialize)]
struct Line {
    id: TenantId,
    file: String,
    bytes: u64,
    sha256: String,
}

/// A user who could not be exported.
#[derive(Serialize)]
struct Failure {
    id: TenantId,
    error: String,
}

/// The folder of an export.
struct Folder {
    path: PathBuf,
    list: File,
    /// Whose files in the list are there, and their names.
    whole: HashSet<(TenantId, String)>,
    /// Those that have come, and are not flushed.
    waiting: Vec<(Part, Line)>,
    /// Their bytes.
    bytes: u64,
    /// The last flush.
    flushed: Instant,
}

/// Whether so many files, of so many bytes, are flushed so long after the last flush.
fn is_due(files: usize, bytes: u64, since: Duration) -> bool {
    files >= BATCH || bytes >= BATCH_BYTES || since >= BATCH_TIME
}

impl Folder {
    /// Makes a folder, or goes on with one.
    ///
    /// # Errors
    /// It has something else, or another process writes to it.
    fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| failed(path, e))?;
        let at = path.join(LIST);
        let is_new = at.symlink_metadata().is_err_and(|e| e.kind() == Io::NotFound);
        let names: Vec<_> = std::fs::read_dir(path)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .take(if is_new { 1 } else { usize::MAX })
                    .collect()
            })
            .map_err(|e| failed(path, e))?;
        if is_new && !names.is_empty() {
            let why = format!(
                "{} is not empty, and has no export that could be gone on with; name a new folder",
                path.display()
            );
            return Err(Error::config(why));
        }
        let mut list = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&at)
            .map_err(|e| failed(&at, e))?;
        if flock(&list, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::new(ErrorKind::Conflict, format!("another export writes to {}", path.display())));
        }
        // Of a run that was killed.
        for name in names.iter().filter(|name| name.to_str().is_some_and(is_part)) {
            std::fs::remove_file(path.join(name)).map_err(|e| failed(path, e))?;
        }
        let whole = read(&mut list, path).map_err(|e| failed(&at, e))?;
        Ok(Self { path: path.to_owned(), list, whole, waiting: Vec::new(), bytes: 0, flushed: Instant::now() })
    }

    /// Takes one that has come; flushes when that is due.
    fn add(&mut self, id: TenantId, file: String, saved: Saved) -> Result<()> {
        let line = Line { id, file, bytes: saved.bytes, sha256: hex::encode(saved.sha256) };
        self.waiting.push((saved.part, line));
        self.bytes += saved.bytes;
        let is_due = is_due(self.waiting.len(), self.bytes, self.flushed.elapsed());
        if is_due { self.flush() } else { Ok(()) }
    }

    /// Flushes those that have come, gives them their names, and writes them to the list.
    fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        flush::file_system_of(&self.list, &self.path)?;
        let mut lines = Vec::new();
        for (part, line) in self.waiting.drain(..) {
            part.replace(&self.path.join(&line.file))?;
            serde_json::to_writer(&mut lines, &line).map_err(|e| Error::internal("JSON").with_source(e))?;
            lines.push(b'\n');
        }
        flush::sync_folder(&self.path)?;
        let written = self.list.write_all(&lines).and_then(|()| self.list.sync_data());
        (self.bytes, self.flushed) = (0, Instant::now());
        written.map_err(|e| failed(&self.path.join(LIST), e))
    }
}

/// Reads the list, and cuts off a line that was being written when its run was killed.
fn read(list: &mut File, folder: &Path) -> std::io::Result<HashSet<(TenantId, String)>> {
    let is_there = |line: &Line| {
        let found = folder.join(&line.file).symlink_metadata();
        found.is_ok_and(|found| found.is_file() && found.len() == line.bytes)
    };
    let (mut good, mut text, mut whole) = (0, Vec::new(), HashSet::new());
    let mut reader = BufReader::new(&*list);
    while reader.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
        good += text.len() as u64;
        let line = serde_json::from_slice::<Line>(&text).ok().filter(is_there);
        whole.extend(line.map(|line| (line.id, line.file)));
        text.clear();
    }
    list.set_len(good)?;
    list.seek(SeekFrom::Start(good))?;
    Ok(whole)
}

pub async fn run(target: &Target, what: &What, to: &Path, jobs: usize, json: bool) -> Result<ExitCode> {
    let mut folder = Folder::open(to)?;
    let bar = bar("{pos}/{len} {wide_bar} {per_sec} {eta}")?;
    let interrupt = interrupted()?.shared();
    // Page by page: a million ids are not in memory at once.
    let length = bar.clone();
    let pages = stream::try_unfold((None::<TenantId>, length), |(after, bar)| async move {
        let start = after.map_or(String::new(), |after| format!("&after={}", segment(after.as_str())));
        let page: Listed = target.get(&format!("/api/admin/tenants?limit=1000{start}")).await?;
        bar.set_length(page.counts.active + page.counts.suspended + page.counts.quarantined);
        let last = page.tenants.last().map(|row| row.id.clone());
        Ok::<_, Error>(last.map(|last| (page.tenants, (Some(last), bar))))
    });
    let rows = pages.map_ok(|rows| stream::iter(rows.into_iter().map(Ok::<_, Error>))).try_flatten();
    let whole = std::mem::take(&mut folder.whole);
    let (whole, path) = (&whole, folder.path.clone());
    let saved = rows.try_filter(|row| std::future::ready(row.state != State::Deleted)).map_ok(|row| {
        let (id, file) = (row.id.clone(), what.file_of(&row.id));
        let to = path.join(&file);
        async move {
            let named = (id, file);
            if whole.contains(&named) {
                return Ok::<_, Error>((named.0, named.1, Ok(None)));
            }
            let (id, file) = named;
            let again = |error: &Error| error.kind() == ErrorKind::Busy;
            let saved =
                (|| save(target, &id, what, &to)).retry(ExponentialBuilder::default().with_jitter()).when(again).await;
            Ok((id, file, saved.map(Some)))
        }
    });
    // What is under way when it is interrupted is given up, since it may never come; its parts are removed at the end.
    let mut saved = pin!(saved.try_buffer_unordered(jobs).take_until(interrupt.clone()));
    let (mut exported, mut already, mut count, mut failures) = (0_u64, 0_u64, 0_u64, Vec::new());
    while let Some((id, file, saved)) = saved.try_next().await? {
        bar.inc(1);
        match saved {
            Ok(Some(saved)) => {
                folder.add(id, file, saved)?;
                exported += 1;
            }
            Ok(None) => already += 1,
            // Deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::UnknownTenant => {}
            // Nothing further could be written, or be asked for.
            Err(error) if matches!(error.kind(), ErrorKind::DiskFull | ErrorKind::Unavailable) => {
                folder.flush()?;
                return Err(error);
            }
            Err(error) => {
                count += 1;
                if failures.len() < TOLD {
                    failures.push(Failure { id, error: error.detail() });
                }
            }
        }
    }
    folder.flush()?;
    bar.finish_and_clear();
    let interrupted = interrupt.now_or_never().is_some();
    if json {
        print_json(&json!({
            "folder": to, "exported": exported, "already_there": already, "failed": count, "failures": failures,
            "interrupted": interrupted,
        }))?;
    } else {
        let summary = format!("{exported} exported to {}, {already} were there already, {count} failed", to.display());
        let after = interrupted.then(|| "interrupted; run it again to go on".to_owned());
        print_rows(&failures, false, Some(summary), after, |failure| format!("  {}: {}", failure.id, failure.error))?;
    }
    Ok(ExitCode::from(u8::from(count > 0 || interrupted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_files_many_bytes_and_a_while_are_each_enough_for_a_flush() {
        assert!(!is_due(BATCH - 1, BATCH_BYTES - 1, BATCH_TIME / 2));
        assert!(is_due(BATCH, 0, Duration::ZERO));
        assert!(is_due(1, BATCH_BYTES, Duration::ZERO));
        assert!(is_due(1, 0, BATCH_TIME));
    }
}
