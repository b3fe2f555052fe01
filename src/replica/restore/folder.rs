//! Restoring a whole data folder without serving it.
//!
//! The catalog is read first and gets its place last, so that a restore that was cut short is no folder that starts. Tenants
//! get their places one by one, each when it is whole and was looked at; a restore that is run again goes on there. A tenant
//! that cannot be restored keeps no other, and has no file then.

use std::{
    collections::VecDeque,
    io::Write,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    LONGEST, Restored,
    apply::blocking,
    fetch, find,
    journal::{Journal, length_if},
    source::{Source, is_of_one},
    verify,
};
use crate::{
    catalog::{
        model::State,
        queries::placement::{self, HasFile},
    },
    clock::{Millis, rfc3339},
    error::{Error, ErrorKind, Result},
    replica::{entry::Head, format::CATALOG},
    sqlite::{
        migrate::Schema,
        open::{self, Options},
    },
    telemetry::disk::space,
    tenants::{
        disk::{
            files::sweep_tmp,
            placing::{Home, Placing},
            template::Template,
        },
        id::TenantId,
    },
};

/// Tenants restored at once.
const AT_ONCE: usize = 8;

/// Tenants read of the catalog at once.
const PAGE: u32 = 1000;

/// Whoever was created at most so long before the moment that is restored may have a row and nothing else, in milliseconds.
const JUST_CREATED: u64 = 60_000;

/// How far a restore is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Tenants that were restored, or cannot be.
    pub done: u64,
    /// All that have files.
    pub tenants: u64,
    /// The length of the files so far, in bytes.
    pub bytes: u64,
}

/// What came of a restore.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Tenants that were restored.
    pub restored: u64,
    /// The length of their files, in bytes.
    pub bytes: u64,
    /// The time of the catalog's newest entry. None if the folder was complete before.
    pub at: Option<Millis>,
    /// Who could not be restored, and why.
    pub failed: Vec<(TenantId, Error)>,
}

/// Makes a data folder of a replica as it is, or as it was at a moment. `report` is told how far it is. `on_restored` is told
/// the head of each tenant and of the catalog in the bucket, ended if the file is of an older entry, before the catalog gets
/// its place.
///
/// # Errors
/// [`ErrorKind::Conflict`] if the folder has something else; [`ErrorKind::DiskFull`]; those of the bucket, and of the
/// catalog's chain. Run again, it goes on. Who of the tenants cannot be restored is no error, but in the summary.
pub async fn restore_folder(
    source: &Source,
    data: &Path,
    at: Option<Millis>,
    mut report: impl FnMut(Progress) + Send,
    mut on_restored: impl FnMut(&str, &Head) -> Result<()> + Send,
) -> Result<Summary> {
    // Before anything is made in the folder.
    Box::pin(find(source, CATALOG, at)).await?;
    let moment = at.map_or_else(|| "as it is".to_owned(), |at| format!("as it was at {}", rfc3339(at)));
    let (folder, what) = (data.to_owned(), format!("{} {moment}", source.remote().url()));
    let Some(placing) = blocking(move || Placing::begin(&folder, &what)).await? else {
        Journal::remove(data)?;
        return Ok(Summary::default());
    };
    let root = placing.layout().root().to_owned();
    let journal = Journal::open(&root)?;
    let run = Run { source, placing: &placing, journal: &journal, at };
    let done = Box::pin(run.all(&mut report, &mut on_restored)).await;
    let (catalog, summary) = match done {
        Ok(done) => done,
        Err(error) => {
            // On a full disk this frees the space of what is not whole.
            if let Err(error) = sweep_tmp(placing.layout()) {
                tracing::warn!(%error, "what was not restored whole stays in tmp/ until this is run again");
            }
            return Err(goes_on(error, &root));
        }
    };
    blocking(move || placing.finish(&catalog)).await.map_err(|error| goes_on(error, &root))?;
    Journal::remove(&root)?;
    Ok(summary)
}

/// Adds to an error what to do next.
fn goes_on(error: Error, root: &Path) -> Error {
    let kind = error.kind();
    let why = match kind {
        ErrorKind::DiskFull => format!(
            "the disk of {} is full: make room on it and run the same command again, which goes on; or restore to another \
             one",
            root.display()
        ),
        ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::Timeout | ErrorKind::Internal => {
            format!("{}. What was restored so far is kept: run the same command again, which goes on", error.message())
        }
        _ => return error,
    };
    Error::new(kind, why).with_source(error)
}

struct Run<'r> {
    source: &'r Source,
    placing: &'r Placing,
    journal: &'r Journal,
    at: Option<Millis>,
}

/// A tenant that has its place.
struct Done {
    head: Option<Head>,
    bytes: u64,
    /// None if it had it before.
    restored: Option<Restored>,
}

impl Run<'_> {
    /// Restores all tenants, and says where the catalog is that is to get its place.
    async fn all(
        &self,
        report: &mut (impl FnMut(Progress) + Send),
        on_restored: &mut (impl FnMut(&str, &Head) -> Result<()> + Send),
    ) -> Result<(PathBuf, Summary)> {
        let (catalog, found) = self.catalog().await?;
        let (tenants, bytes) = read(&catalog, placement::totals).await?;
        self.expect_room(bytes)?;
        let mut summary = Summary { at: Some(found.time), ..Summary::default() };
        let (mut waiting, mut after, mut is_end) = (VecDeque::new(), None::<TenantId>, false);
        let mut running = FuturesUnordered::new();
        let mut progress = Progress { tenants, ..Progress::default() };
        report(progress);
        loop {
            if waiting.is_empty() && !is_end {
                let from = after.take();
                waiting.extend(read(&catalog, move |conn| placement::with_files(conn, from.as_ref(), PAGE)).await?);
                is_end = waiting.is_empty();
                after = waiting.back().map(|last: &HasFile| last.id.clone());
            }
            while running.len() < AT_ONCE
                && let Some(tenant) = waiting.pop_front()
            {
                running.push(self.restore(tenant, found.time));
            }
            if !waiting.is_empty() || is_end || running.len() == AT_ONCE {
                let Some((id, home, done)) = running.next().await else { break };
                match done {
                    Ok(done) => {
                        if let Some(restored) = &done.restored {
                            self.journal.add(&id, home, restored)?;
                        }
                        if let Some(head) = &done.head {
                            on_restored(id.as_str(), head)?;
                        }
                        summary.restored += 1;
                        summary.bytes += done.bytes;
                    }
                    Err(error) if is_of_one(&error) => {
                        tracing::error!(tenant = %id, %error, "cannot be restored");
                        summary.failed.push((id, error));
                    }
                    Err(error) => return Err(error),
                }
                progress = Progress { done: progress.done + 1, bytes: summary.bytes, ..progress };
                report(progress);
            }
        }
        if let Some(head) = &found.head {
            on_restored(CATALOG, head)?;
        }
        summary.failed.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok((catalog, summary))
    }

    /// The catalog, in `tmp/`.
    async fn catalog(&self) -> Result<(PathBuf, Restored)> {
        let (path, _) = self.placing.temporary()?;
        let found = fetch(self.source, CATALOG, self.at, &path).await?;
        let file = path.clone();
        blocking(move || verify(&file, None)).await?;
        Ok((path, found))
    }

    /// Refuses to begin where there is no room for all.
    fn expect_room(&self, bytes: u64) -> Result<()> {
        let free = space(self.placing.layout().root()).map_or(u64::MAX, |disk| disk.free);
        if !self.journal.is_empty() || bytes <= free {
            return Ok(());
        }
        let why = format!("the users' files have {bytes} bytes, and the disk has room for {free}");
        Err(Error::new(ErrorKind::DiskFull, why))
    }

    async fn restore(&self, tenant: HasFile, moment: Millis) -> (TenantId, Home, Result<Done>) {
        let HasFile { id, state, created } = tenant;
        let home = if state == State::Deleted { Home::Trash } else { Home::Live };
        let done = match self.try_restore(&id, home).await {
            // The catalog was sent a moment before the user's own file.
            Err(error) if error.kind() == ErrorKind::NotFound && moment.abs_diff(created) < JUST_CREATED => {
                tracing::warn!(tenant = %id, "was created just before, and begins empty: nothing of it was sent yet");
                self.begin_empty(&id, home, created).await
            }
            done => done,
        };
        (id, home, done)
    }

    /// Gives a tenant an empty database, which is migrated when it is opened.
    async fn begin_empty(&self, id: &TenantId, home: Home, created: Millis) -> Result<Done> {
        let (path, mut file) = self.placing.temporary()?;
        let owner = id.clone();
        let image = blocking(move || {
            let template = Template::build(&Schema::none(), &Options::default())?;
            template.image(&owner, created)
        });
        let image = image.await?;
        file.write_all(&image).map_err(|e| Error::io(path.display(), e))?;
        self.placing.place(id, home, &path)?;
        Ok(Done { head: None, bytes: image.len() as u64, restored: None })
    }

    async fn try_restore(&self, id: &TenantId, home: Home) -> Result<Done> {
        if let Some(done) = self.placed_before(id, home).await? {
            return Ok(done);
        }
        let (path, _) = self.placing.temporary()?;
        let made = self.make(id, home, &path).await;
        if made.is_err() {
            // Only the first error is reported; what stays is removed when this is run again.
            let _ = std::fs::remove_file(&path);
        }
        let restored = made?;
        Ok(Done { head: restored.head.clone(), bytes: restored.bytes, restored: Some(restored) })
    }

    async fn make(&self, id: &TenantId, home: Home, path: &Path) -> Result<Restored> {
        let restored = fetch(self.source, id.as_str(), self.at, path).await?;
        let (file, owner) = (path.to_owned(), id.clone());
        blocking(move || verify(&file, Some(&owner))).await?;
        self.placing.place(id, home, path)?;
        Ok(restored)
    }

    /// A tenant that a restore that was cut short has placed, if its file is whole and there is nothing newer.
    async fn placed_before(&self, id: &TenantId, home: Home) -> Result<Option<Done>> {
        let Some(before) = self.journal.before(id).filter(|before| before.home == home) else { return Ok(None) };
        let Some(path) = self.placing.placed(id, home)? else { return Ok(None) };
        let head = self.source.head(id.as_str()).await?;
        let is_newest = head.as_ref().is_some_and(|head| (head.epoch, head.seq) == before.newest);
        if self.at.is_none() && !is_newest {
            return Ok(None);
        }
        let bytes = blocking(move || length_if(&path, &before.sha256)).await?;
        let head = head.map(|head| Head { ended: head.ended || !is_newest, ..head });
        Ok(bytes.map(|bytes| Done { head, bytes, restored: None }))
    }
}

/// Reads a catalog that nobody writes to.
async fn read<T: Send + 'static>(
    catalog: &Path,
    work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T> {
    let catalog = catalog.to_owned();
    blocking(move || Ok(work(&open::foreign(&catalog, LONGEST)?)?)).await
}
