//! Giving a tenant the rows of a file that somebody else made.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    catalog::{
        audit::Author,
        model::{Row, State},
        queries::{self, audit},
    },
    error::{Error, ErrorKind, Result},
    sqlite::{
        deadline::Deadline,
        flush,
        import::{Answer, Order},
        migrate::Step,
        open::{self, Options},
    },
    tenants::{
        disk::{
            files::{self, Location},
            inspect::{self, options},
            path::{TenantPaths, wal_of},
            template::{self, BOOKKEEPING, Template},
        },
        id::TenantId,
        open::{database::Database, slots::TenantLock},
        store::Store,
    },
};

/// What an import is called in the audit trail.
const ACTION: &str = "tenants import";

/// How long the new file is looked at for damage before it is swapped in.
const CHECK: Duration = Duration::from_secs(60);

/// Carries out an [`Order`], in a process of its own. May block.
pub type Worker = Arc<dyn Fn(&Order) -> Result<Answer> + Send + Sync>;

/// A file to be imported.
pub struct Import {
    /// The file, in `tmp/`. It is removed whatever comes of it.
    pub file: PathBuf,
    /// Whether what the tenant has is given up.
    pub replace: bool,
    /// Names that are taken although the schema does not have them.
    pub allow: Vec<String>,
}

/// What came of an import.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The tenant as it is now.
    pub row: Row,
    /// Rows that were taken.
    pub rows: u64,
    /// What was made although the schema does not have it.
    pub made: Vec<String>,
    /// Where the file is that was replaced, if there was one with rows.
    pub replaced: Option<PathBuf>,
}

/// Removes the files of an import in `tmp/`, whatever comes of it.
struct Temporary(Vec<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        for file in &self.0 {
            if let Err(error) = files::discard(file) {
                tracing::warn!(%error, "a file of an import stays in tmp/ until the next start");
            }
        }
    }
}

impl Store {
    /// A name for a file that is to be imported.
    pub fn import_file(&self) -> PathBuf {
        self.layout().temporary()
    }

    /// Puts the rows of a file into a fresh database of the newest schema, and that in the place of a tenant's. What
    /// is replaced goes to `trash/replaced/`, until the retention ends or another import replaces it. The tenant's state
    /// stays; until the swap it is served.
    ///
    /// A crash before the swap changes nothing but that folder. The swap is one rename.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file cannot be taken, with why; [`ErrorKind::Conflict`] if the tenant has rows and
    /// they are not to be replaced; [`ErrorKind::QuotaExceeded`], [`ErrorKind::DiskFull`].
    pub async fn import(&self, id: &TenantId, import: Import, author: &Author, worker: Worker) -> Result<Imported> {
        let (author, id) = (author.clone(), id.clone());
        let mut temporary = Temporary(vec![import.file.clone()]);
        let (target, fresh) = (id.clone(), self.layout().temporary());
        temporary.0.push(fresh.clone());
        let (made, file) = self
            .blocking(move |store| {
                store.importable(&target)?;
                let fresh = temporary.0[1].clone();
                let made = store.fill(&target, &import, &fresh, &worker)?;
                Ok((made, (import, temporary)))
            })
            .await?;
        let (rows, made) = made;
        let (sent, told) = tokio::sync::oneshot::channel();
        let drifted = !made.is_empty();
        let row = self
            .with_lock(&id, move |store, lock, _| {
                let (import, _temporary) = file;
                store.take_files(lock)?;
                let replaced = store.swap_imported(lock, &fresh, import.replace, drifted, &author)?;
                // Whoever asked may be gone.
                let _ = sent.send(replaced);
                Ok(())
            })
            .await?;
        let replaced = told.await.map_err(|e| Error::internal("an import did not finish").with_source(e))?;
        tracing::info!(tenant = %id, rows, "imported a file");
        Ok(Imported { row, rows, made, replaced })
    }

    /// The row of a tenant that a file can be imported for.
    fn importable(&self, id: &TenantId) -> Result<Row> {
        let row = self.catalog().read(|conn| queries::find(conn, id))?.ok_or_else(Error::unknown_tenant)?;
        if row.state == State::Deleted {
            let why = format!("{id} is deleted; `cubby tenants restore {id}` brings them back");
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        Ok(row)
    }

    /// Fills a fresh database with the rows of a file, and migrates it to the newest schema.
    fn fill(&self, id: &TenantId, import: &Import, fresh: &Path, worker: &Worker) -> Result<(u64, Vec<String>)> {
        let settings = &self.inner.options;
        let order = Order {
            file: import.file.clone(),
            into: None,
            allow: import.allow.clone(),
            own: BOOKKEEPING.map(str::to_owned).to_vec(),
            max_bytes: settings.quota,
            max_value_bytes: settings.max_value_bytes,
        };
        let history: Vec<Step> = match worker(&order)? {
            Answer::Inspected(ran) => ran.into_iter().map(Step::from).collect(),
            answer => return Err(self.refusal(answer)),
        };
        let image = self.image_at(id, &history)?;
        flush::write_unflushed(fresh, &image)?;
        let (rows, made) = match worker(&Order { into: Some(fresh.to_owned()), ..order })? {
            Answer::Copied { rows, made } => (rows, made),
            answer => return Err(self.refusal(answer)),
        };
        self.record_applied()?;
        let options = Options { max_bytes: settings.quota, max_value_bytes: settings.max_value_bytes, ..options() };
        let mut conn = open::open(fresh, &options, &Deadline::none())?;
        template::upgrade(&mut conn, &self.inner.schema).map_err(|error| match error.kind() {
            ErrorKind::Quarantined => invalid(format!("the file's rows cannot be migrated: {}", error.message())),
            _ => error,
        })?;
        open::close(conn)?;
        inspect::merge_log(fresh)?;
        if !inspect::check(fresh, CHECK)? {
            tracing::warn!(tenant = %id, "too large to be looked through whole");
        }
        flush::if_there(fresh)?;
        Ok((rows, made))
    }

    /// An empty database of the schema that a file with this history has; of the newest for a file without one.
    fn image_at(&self, id: &TenantId, history: &[Step]) -> Result<Vec<u8>> {
        let inner = &*self.inner;
        let version = history.last().map_or(inner.schema.version(), |step| step.version);
        if inner.schema.continues(history).is_err() || version > inner.schema.version() {
            let newest = history.last().map(ToString::to_string).unwrap_or_default();
            return Err(invalid(format!(
                "the file was made with other migrations than this server has; its newest is {newest:?}"
            )));
        }
        if version == inner.schema.version() {
            return inner.template.image(id, self.now());
        }
        Template::build(&inner.schema.up_to(version)?, &inner.options.sqlite())?.image(id, self.now())
    }

    fn refusal(&self, answer: Answer) -> Error {
        match answer {
            Answer::Refused(why) => invalid(why),
            Answer::Full if self.inner.options.quota > 0 => Error::new(
                ErrorKind::QuotaExceeded,
                format!(
                    "the file's rows take more than the quota of {} bytes, or the disk is full",
                    self.inner.options.quota
                ),
            ),
            Answer::Full => Error::new(ErrorKind::DiskFull, "the disk is full"),
            Answer::Inspected(_) | Answer::Copied { .. } => Error::internal("another answer to an order of an import"),
        }
    }

    /// Swaps the new file in and writes the import to the catalog. The tenant's files are complete.
    fn swap_imported(
        &self,
        lock: &TenantLock<Database>,
        fresh: &Path,
        replace: bool,
        drifted: bool,
        author: &Author,
    ) -> Result<Option<PathBuf>> {
        let id = lock.id();
        self.importable(id)?;
        let paths = self.layout().paths(id);
        let there = Self::may_replace(id, &paths, replace)?;
        // In its place the new file is swapped with the old one, which then has the name that it keeps.
        let aside = &paths.replaced;
        self.layout().make_replaced()?;
        files::discard(aside)?;
        files::relocate(fresh, aside)?;
        let back = |error: Error| {
            let undone = match there {
                true => files::swap_in(aside, &paths.live).map(drop),
                false => files::relocate(&paths.live, aside),
            };
            if let Err(undone) = undone.and_then(|()| files::discard(aside)) {
                tracing::error!(tenant = %id, error = %undone, kept = %aside.display(), "an import is not taken back");
            }
            Err(error)
        };
        if let Err(error) = files::swap_in(aside, &paths.live) {
            files::discard(aside)?;
            return Err(error);
        }
        flush::sync_folder(aside.parent().unwrap_or(aside))?;
        match inspect::inspect(&paths.live) {
            Ok(found) if found.tenant == *id => {}
            Ok(found) => return back(Error::internal(format!("the new file says that it is {}'s", found.tenant))),
            Err(error) => return back(error),
        }
        self.forget_samples(id);
        let (to, by, schema, now) = (id.clone(), author.clone(), self.inner.schema.version(), self.now());
        let committed = self.catalog().write_blocking(move |tx| {
            queries::set_schema(tx, &to, schema)?;
            if drifted {
                queries::mark_drifted(tx, &to, now)?;
            }
            by.record(tx, now, ACTION, to.as_str(), "done")
        });
        if let Err(error) = committed {
            // A failed commit may be in the catalog all the same. Asked by a write: that connection has recovered.
            let to = id.clone();
            return match self.catalog().write_blocking(move |tx| audit::exists(tx, now, ACTION, to.as_str(), "done")) {
                Ok(false) => back(error),
                Ok(true) | Err(_) => Err(error),
            };
        }
        if there && inspect::read_file(aside, template::is_untouched).unwrap_or(false) {
            // Without a row nobody misses it.
            files::discard(aside)?;
            return Ok(None);
        }
        Ok(there.then(|| aside.clone()))
    }

    /// Whether there is a file, which may be replaced and is one file.
    fn may_replace(id: &TenantId, paths: &TenantPaths, replace: bool) -> Result<bool> {
        if !matches!(files::locate(paths)?, Location::Live | Location::Both) {
            return Ok(false);
        }
        if !replace && !inspect::read_file(&paths.live, template::is_untouched).unwrap_or(false) {
            let why = format!(
                "{id} has data of their own; --replace puts the file in its place, and their data into the trash"
            );
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        inspect::merge_log(&paths.live).map_err(|error| {
            let log = wal_of(&paths.live);
            let why = format!(
                "the write-ahead log of the file of {id} cannot be emptied, so that they cannot be moved together: move \
                 {} and {} away, and try again",
                paths.live.display(),
                log.display()
            );
            Error::new(ErrorKind::Conflict, why).with_source(error)
        })?;
        Ok(true)
    }

    /// Removes replaced files whose retention has ended; says how many. May block.
    pub fn remove_replaced(&self) -> Result<u64> {
        let retention = self.inner.options.retention;
        let mut removed = 0;
        if !self.layout().replaced().exists() {
            return Ok(0);
        }
        for file in crate::tenants::disk::path::databases(&self.layout().replaced())? {
            let old = files::changed(&file)?.is_some_and(|at| at.elapsed().is_ok_and(|age| age > retention));
            if old {
                files::discard(&file)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn invalid(why: String) -> Error {
    Error::invalid("file", why)
}
