//! Giving a tenant the rows of a file that somebody else made.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::swap::{RowChange, Swap, Temporary};
use crate::{
    catalog::{audit::Author, model::Row, queries},
    error::{Error, ErrorKind, Result},
    sqlite::{
        deadline::Deadline,
        flush,
        import::{Answer, Order},
        migrate::Step,
        open::{self, Options},
    },
    telemetry::disk::space,
    tenants::{
        copy,
        disk::{
            inspect::{self, options},
            template::{self, BOOKKEEPING, Template},
        },
        id::TenantId,
        store::Store,
    },
};

/// What an import is called in the audit trail.
const ACTION: &str = "tenants import";

/// How long the new file is looked at for damage before it is swapped in.
const CHECK: Duration = Duration::from_secs(60);

/// With less than this free, in bytes, it is the disk that is full, whatever the quota.
const LOW_DISK: u64 = 1 << 20;

/// Carries out an [`Order`], in a process of its own. May block.
pub type Worker = Arc<dyn Fn(&Order) -> Result<Answer> + Send + Sync>;

/// A file to be imported.
pub struct Import {
    /// The file. It is removed whatever comes of it.
    pub file: Temporary,
    /// Whether what the tenant has is given up.
    pub replace: bool,
    /// Names that are taken although the schema does not have them.
    pub allow: Vec<String>,
    /// Nothing is changed after this.
    pub until: Instant,
}

/// What came of an import.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The tenant as it is now.
    pub row: Row,
    /// Rows that were taken, without those in which indexes keep their content.
    pub rows: u64,
    /// What was made although the schema does not have it.
    pub made: Vec<String>,
    /// Where the file is that was replaced, if there was one with something of the tenant's own.
    pub replaced: Option<PathBuf>,
}

/// A fresh database with the rows of a file.
struct Filled {
    fresh: Temporary,
    /// Its digest. It is not written to any more.
    sha256: [u8; 32],
    rows: u64,
    /// What was made that the schema does not have.
    made: Vec<String>,
}

impl Store {
    /// Puts the rows of a file into a fresh database of the newest schema, and that in the place of a tenant's. What
    /// is replaced goes to `trash/replaced/`, until the retention ends; of many such files the oldest and the newest are
    /// kept. The tenant's state stays; until the swap it is served.
    ///
    /// A crash before the swap changes nothing but that folder. The swap is one rename. Before it, this is cancelled with
    /// its future.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file cannot be taken, with why; [`ErrorKind::Conflict`] if the tenant has data and
    /// they are not to be replaced; [`ErrorKind::QuotaExceeded`], [`ErrorKind::DiskFull`]; [`ErrorKind::Timeout`] if it was
    /// not done in time.
    pub async fn import(&self, id: &TenantId, import: Import, author: &Author, worker: Worker) -> Result<Imported> {
        let (author, target) = (author.clone(), id.clone());
        let Import { file, replace, allow, until } = import;
        let filled = self.blocking(move |store| store.fill(&target, &file, allow, until, &worker));
        let Filled { fresh, sha256, rows, made } = timeout_at(until, filled).await.map_err(|_| too_late())??;
        let (sent, told) = tokio::sync::oneshot::channel();
        let drifted = !made.is_empty();
        let lock = timeout_at(until, self.inner.slots.lock(id)).await.map_err(|_| too_late())?;
        let row = self
            .locked(lock, move |store, lock, _| {
                store.replaceable(lock.id())?;
                store.take_files_to_replace(lock)?;
                if Instant::now() >= until {
                    return Err(too_late());
                }
                let schema = store.schema().version();
                let change: RowChange = Box::new(move |tx, id, now| {
                    queries::set_schema(tx, id, schema)?;
                    queries::set_drifted(tx, id, drifted.then_some(now)).map(drop)
                });
                let swap = Swap { replace, sha256, author, action: ACTION, change };
                let replaced = store.swap_file(lock, fresh.path(), swap)?;
                // Whoever asked may be gone.
                let _ = sent.send(replaced);
                Ok(())
            })
            .await?;
        let replaced = told.await.map_err(|e| Error::internal("an import did not finish").with_source(e))?;
        tracing::info!(tenant = %id, rows, "imported a file");
        Ok(Imported { row, rows, made, replaced })
    }

    /// Fills a fresh database with the rows of a file, and migrates it to the newest schema.
    fn fill(
        &self,
        id: &TenantId,
        file: &Temporary,
        allow: Vec<String>,
        until: Instant,
        worker: &Worker,
    ) -> Result<Filled> {
        let row = self.replaceable(id)?;
        let (settings, max_bytes) = (&self.inner.options, self.max_bytes_of(&row));
        let seconds = || u32::try_from(until.saturating_duration_since(Instant::now()).as_secs()).unwrap_or(u32::MAX);
        let order = Order {
            file: file.path().to_owned(),
            into: None,
            allow,
            own: BOOKKEEPING.map(str::to_owned).to_vec(),
            max_bytes,
            max_value_bytes: settings.max_value_bytes,
            seconds: seconds(),
        };
        let history: Vec<Step> = match worker(&order)? {
            Answer::Inspected(ran) => ran.into_iter().map(Step::from).collect(),
            answer => return Err(self.refusal(id, answer, max_bytes)),
        };
        let image = self.image_at(id, &history)?;
        let fresh = self.temporary_file();
        flush::write_unflushed(fresh.path(), &image)?;
        let (rows, made) = match worker(&Order { into: Some(fresh.path().to_owned()), seconds: seconds(), ..order })? {
            Answer::Copied { rows, made } => (rows, made),
            answer => return Err(self.refusal(id, answer, max_bytes)),
        };
        self.record_applied()?;
        let options = Options { max_bytes, max_value_bytes: settings.max_value_bytes, ..options() };
        let mut conn = open::open(fresh.path(), &options, &Deadline::none())?;
        template::upgrade(&mut conn, &self.inner.schema).map_err(|error| match error.kind() {
            ErrorKind::Quarantined => invalid(format!("the file's rows cannot be migrated: {}", error.message())),
            _ => error,
        })?;
        open::close(conn)?;
        inspect::merge_log(fresh.path())?;
        if !inspect::check(fresh.path(), CHECK)? {
            tracing::warn!(tenant = %id, "too large to be looked through whole");
        }
        let failed = |e| Error::io(fresh.path().display(), e);
        let mut file = std::fs::File::open(fresh.path()).map_err(failed)?;
        flush::opened(&file, fresh.path())?;
        let (_, sha256) = copy::digest(&mut file).map_err(failed)?;
        Ok(Filled { fresh, sha256, rows, made })
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

    /// The error of an order that was not carried out. What was made for it is still there.
    fn refusal(&self, id: &TenantId, answer: Answer, max_bytes: u64) -> Error {
        match answer {
            Answer::Refused(why) => invalid(why),
            Answer::Full if max_bytes > 0 && self.has_room() => Error::new(
                ErrorKind::QuotaExceeded,
                format!(
                    "the file's rows take more than the quota of {max_bytes} bytes that {id} has; {}",
                    raise_quota(id)
                ),
            ),
            Answer::Full => Error::new(ErrorKind::DiskFull, "the disk is full"),
            Answer::Inspected(_) | Answer::Copied { .. } => Error::internal("another answer to an order of an import"),
        }
    }

    /// Whether the disk is not full. SQLite reports a full disk and a reached bound of a file with one code.
    fn has_room(&self) -> bool {
        space(&self.layout().tmp()).is_none_or(|disk| disk.free >= LOW_DISK)
    }
}

/// How a quota is raised.
pub fn raise_quota(id: &TenantId) -> String {
    format!("`cubby tenants quota {id} --bytes SIZE` gives them more")
}

fn invalid(why: String) -> Error {
    Error::invalid("file", why)
}

/// The error of an import that was not done in time.
pub fn too_late() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "the import took longer than --transfer-timeout allows, and nothing was changed; give it more time, or import less",
    )
}
