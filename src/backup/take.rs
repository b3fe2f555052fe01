//! Makes a backup: users' databases first, the catalog last, then the list of what there is.
//!
//! A user's database that changes after it was copied is in the backup as it was then. The catalog is newer than all that
//! were copied before it, so the list goes by its rows: the state that decides where a file belongs is that of this
//! catalog, and whoever has come in the meantime is copied after it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable};
use futures_util::{TryStreamExt, stream};
use parking_lot::Mutex;
use rusqlite::Connection;

use super::{
    destination::Destination,
    fingerprint::{self, Fingerprint},
    journal::{self, Journal, Taken},
    manifest::{End, Header, Line, Manifest, Object, Writer},
    name::Name,
    queries::CopyRow,
    report::{Outcome, Phase},
    scratch::{self, blocking},
    under_way::Guard,
};
use crate::{
    catalog::{
        model::{Row, State},
        queries,
    },
    clock::Millis,
    error::{Error, ErrorKind, Result},
    rate::pause_after,
    replica::{
        format::{CATALOG, is_sealed},
        object,
    },
    sqlite::open,
    tenants::{copy::Copy, disk::path::TenantPaths, id::TenantId, store::Store},
};

/// Databases copied at once.
const AT_ONCE: usize = 4;

/// How long one copy may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// Rows looked at together, and objects listed together.
const PAGE: u32 = 500;
const LISTED: usize = 10_000;

/// The longest text in a row of the catalog.
const LONGEST: u64 = 16 << 20;

/// A backup that is being made.
pub struct Take<'t> {
    /// The tenants.
    pub store: &'t Store,
    /// Where it goes.
    pub destination: &'t Destination,
    /// Its progress.
    pub guard: &'t Guard,
    /// Whether callers' requests are in flight.
    pub is_busy: &'t (dyn Fn() -> bool + Send + Sync),
    /// Its name.
    pub name: &'t Name,
    /// When it was begun.
    pub started: Millis,
    /// What is remembered on this machine.
    pub journal: Arc<Journal>,
    /// The number of the data folder.
    pub installation: String,
}

/// What became of a tenant.
enum Took {
    Copied(CopyRow, Outcome),
    Missing(String),
    Gone,
}

impl Take<'_> {
    /// Makes it. What an earlier run did that was cut short is used.
    ///
    /// # Errors
    /// Those of the destination and of a full disk. What cannot be copied of one user is no error, and is told.
    pub async fn run(&self) -> Result<End> {
        self.guard.enter(Phase::Looking);
        self.look().await?;
        self.guard.enter(Phase::Users);
        let counts = self.store.counts().await?;
        let total = counts.active + counts.suspended + counts.deleted + counts.quarantined;
        self.guard.with(|report| report.total = total);
        let mut after = None;
        loop {
            let rows = self.store.list(None, after.take(), PAGE).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.id.clone());
            for row in rows.iter().filter(|row| row.purged.is_some()) {
                self.guard.add(row.id.as_str(), Outcome::Gone, 0);
            }
            self.take_all(rows).await?;
        }
        self.guard.enter(Phase::Catalog);
        self.write_manifest().await
    }

    /// Looks at what is there: what the newest backup knows of users' files, and which objects there are.
    async fn look(&self) -> Result<()> {
        let newest = self.newest().await?;
        let (journal, run) = (self.journal.clone(), self.name.to_string());
        let before = blocking(move || {
            journal.begin(&run, |add| {
                let Some(manifest) = newest else { return Ok(()) };
                let mut lines = manifest.into_lines()?;
                loop {
                    let page = lines.page(LISTED)?;
                    if page.is_empty() {
                        return Ok(());
                    }
                    for line in page {
                        if let (Some(Object { path, sha256, bytes }), Some(fingerprint)) = (line.copy, line.fingerprint)
                        {
                            let row = CopyRow { fingerprint: Some(fingerprint), object: path, sha256, bytes };
                            add(&line.id, &row)?;
                        }
                    }
                }
            })
        })
        .await?;
        // Of the run that this one goes on with.
        if let Some(before) = before {
            self.destination.end(&before).await?;
        }
        self.destination.begin(self.name.as_str()).await?;
        let mut copies = self.destination.copies()?;
        loop {
            let page = copies.page(LISTED).await?;
            if page.is_empty() {
                return Ok(());
            }
            let (journal, paths) =
                (self.journal.clone(), page.into_iter().map(|object| object.path).collect::<Vec<_>>());
            blocking(move || journal.add_present(&paths)).await?;
        }
    }

    /// The manifest of the newest backup that is whole.
    async fn newest(&self) -> Result<Option<Manifest>> {
        for found in self.destination.backups().await?.iter().rev() {
            let file = scratch::unnamed(&self.store.layout().tmp())?;
            match self.destination.manifest(found, file).await {
                Ok(manifest) => return Ok(Some(manifest)),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(backup = %found.name, %error, "this backup is of no use; an older one is looked at");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Copies some, and records what became of each.
    async fn take_all(&self, rows: Vec<Row>) -> Result<()> {
        let rows = rows.into_iter().filter(|row| row.purged.is_none());
        let taken = stream::iter(rows.map(Ok::<_, Error>)).map_ok(|row| async move {
            let took = self.take(&row).await?;
            Ok::<_, Error>((row.id, took))
        });
        let mut taken = std::pin::pin!(taken.try_buffer_unordered(AT_ONCE));
        while let Some((id, took)) = taken.try_next().await? {
            let (taken, outcome, bytes): (Taken, _, _) = match took {
                Took::Copied(copy, outcome) => {
                    let bytes = copy.bytes;
                    (Ok(copy), outcome, bytes)
                }
                Took::Missing(why) => {
                    tracing::debug!(tenant = %id, why, "not in the backup");
                    (Err(why.clone()), Outcome::Missing(why), 0)
                }
                Took::Gone => {
                    self.guard.add(id.as_str(), Outcome::Gone, 0);
                    continue;
                }
            };
            self.guard.add(id.as_str(), outcome, bytes);
            let journal = self.journal.clone();
            blocking(move || journal.add(id, taken)).await?;
        }
        Ok(())
    }

    async fn take(&self, row: &Row) -> Result<Took> {
        if row.state == State::Quarantined || row.state_before == Some(State::Quarantined) {
            let why = row.reason.as_deref().or(row.reason_before.as_deref()).unwrap_or("no reason was recorded");
            return Ok(Took::Missing(format!("quarantined: {why}")));
        }
        let path = path_of(self.store.layout().paths(&row.id), row.state);
        let (journal, id, at) = (self.journal.clone(), row.id.clone(), path.clone());
        let known = blocking(move || {
            let Some(seen) = fingerprint::look(&at)? else { return Ok(None) };
            let known = journal.known(&id)?;
            Ok(known.filter(|known| known.fingerprint.as_ref().is_some_and(|text| *text == seen.to_string())))
        })
        .await?;
        // Where a key was set or left out since, it is copied anew.
        let known = known.filter(|known| is_sealed(&known.object) == self.destination.seal.is_on());
        if let Some(known) = known {
            return Ok(Took::Copied(known, Outcome::Unchanged));
        }
        let began = Instant::now();
        let read = self.read(&row.id, &path).await;
        if (self.is_busy)() {
            tokio::time::sleep(pause_after(began.elapsed())).await;
        }
        let (copy, fingerprint) = match read {
            Ok(read) => read,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::UnknownTenant => Ok(Took::Gone),
                    ErrorKind::DiskFull => Err(error),
                    _ => Ok(Took::Missing(error.detail())),
                };
            }
        };
        let Copy { file, bytes, sha256 } = copy;
        let object = self.destination.copy_path(row.id.as_str(), &sha256);
        let (journal, path) = (self.journal.clone(), object.clone());
        let outcome = match blocking(move || journal.is_present(&path)).await? {
            true => Outcome::Same,
            false => {
                object::upload(&self.destination.remote, &self.destination.seal, &object, file, sha256).await?;
                Outcome::Uploaded
            }
        };
        let fingerprint = fingerprint.map(|fingerprint| fingerprint.to_string());
        Ok(Took::Copied(CopyRow { fingerprint, object, sha256, bytes }, outcome))
    }

    /// A copy of a tenant's file, and the fingerprint of the file if it has the same: see [`fingerprint`].
    async fn read(&self, id: &TenantId, path: &Path) -> Result<(Copy, Option<Fingerprint>)> {
        let before = Arc::new(Mutex::new(None));
        let copy = || {
            let (before, path) = (before.clone(), path.to_owned());
            let begun = move || {
                *before.lock() = fingerprint::look(&path)?.and_then(Fingerprint::if_settled);
                Ok::<_, Error>(())
            };
            self.store.snapshot(id, LIMIT, begun)
        };
        let again = |error: &Error| error.kind() == ErrorKind::Busy;
        let copy = copy.retry(ExponentialBuilder::default().with_jitter()).when(again).await?;
        let Some(before) = before.lock().take() else { return Ok((copy, None)) };
        let path = path.to_owned();
        let after = blocking(move || fingerprint::look(&path)).await?;
        let is_same = after == Some(before) && before.bytes() == copy.bytes;
        Ok((copy, is_same.then_some(before)))
    }

    /// Copies the catalog, and whoever is new in it; then writes what there is.
    async fn write_manifest(&self) -> Result<End> {
        let Copy { mut file, bytes, sha256 } = self.store.snapshot_catalog(LIMIT, || Ok(())).await?;
        let path = self.destination.copy_path(CATALOG, &sha256);
        // Under a name, to be read as a database.
        let named = scratch::Named::new(self.store.layout().temporary());
        let at = named.path().to_owned();
        let (file, mut conn) = blocking(move || {
            scratch::copy(&mut file, &at)?;
            Ok((file, open::foreign(&at, LONGEST)?))
        })
        .await?;
        object::upload(&self.destination.remote, &self.destination.seal, &path, file, sha256).await?;
        let catalog = Object { path, sha256, bytes };
        let header = Header::new(self.installation.clone(), self.name.to_string(), self.started, catalog);
        let tmp = self.store.layout().tmp();
        let mut writer = blocking(move || Writer::new(scratch::unnamed(&tmp)?, &header)).await?;
        let mut after = None;
        loop {
            let (back, rows) = page(conn, after.take()).await?;
            conn = back;
            let Some(last) = rows.last() else { break };
            after = Some(last.id.clone());
            self.take_late(&rows).await?;
            let journal = self.journal.clone();
            writer = blocking(move || write(writer, &journal, &rows)).await?;
        }
        drop((conn, named));
        let finished = self.store.clock().now();
        let (file, sha256, end) = blocking(move || writer.finish(finished)).await?;
        self.destination.put_manifest(self.name, file, sha256).await?;
        Ok(end)
    }

    /// Copies those of some rows that were not copied: they came meanwhile, or could not be copied before.
    async fn take_late(&self, rows: &[Row]) -> Result<()> {
        let ids: Vec<TenantId> = rows.iter().map(|row| row.id.clone()).collect();
        let journal = self.journal.clone();
        let taken = blocking(move || journal.taken(&ids.iter().collect::<Vec<_>>())).await?;
        let mut late = Vec::new();
        for (row, taken) in rows.iter().zip(taken) {
            match taken {
                Some(Ok(_)) => continue,
                Some(Err(_)) if row.state == State::Quarantined => continue,
                Some(Err(_)) => self.guard.with(|report| report.take_back(row.id.as_str())),
                None => {}
            }
            late.push(row.clone());
        }
        self.take_all(late).await
    }
}

/// Writes the lines of some rows.
fn write(mut writer: Writer, journal: &Journal, rows: &[Row]) -> Result<Writer> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.purged.is_none()).collect();
    let ids: Vec<&TenantId> = rows.iter().map(|row| &row.id).collect();
    for (row, taken) in rows.iter().zip(journal.taken(&ids)?) {
        let (copy, fingerprint, missing) = match taken {
            Some(Ok(CopyRow { fingerprint, object, sha256, bytes })) => {
                (Some(Object { path: object, sha256, bytes }), fingerprint, None)
            }
            Some(Err(why)) => (None, None, Some(why)),
            None => (None, None, Some("purged while the backup was made".to_owned())),
        };
        writer.add(&Line { id: row.id.clone(), state: row.state, copy, fingerprint, missing })?;
    }
    Ok(writer)
}

/// Some rows of a copy of the catalog.
async fn page(conn: Connection, after: Option<TenantId>) -> Result<(Connection, Vec<Row>)> {
    blocking(move || {
        let rows = queries::list(&conn, None, after.as_ref().map(TenantId::as_str), PAGE)?;
        Ok((conn, rows))
    })
    .await
}

/// Where the whole file of a tenant in this state is.
fn path_of(paths: TenantPaths, state: State) -> PathBuf {
    if state == State::Deleted { paths.trashed } else { paths.live }
}

/// Opens what a data folder remembers of backups to a place. May block.
pub fn open_journal(store: &Store, destination: &Destination) -> Result<Journal> {
    Journal::open(&store.layout().root().join(journal::FILE), &destination.url())
}
