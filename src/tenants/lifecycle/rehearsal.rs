//! Trying migrations without changing anything: on generated databases of older schemas, and on copies of files.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, backup::Backup};

use crate::{
    catalog::{
        Catalog,
        queries::{self, migrations},
    },
    error::{Error, ErrorKind, Result},
    sqlite::{
        deadline::Deadline,
        fill, header,
        migrate::{self, Schema, Step},
        open::{self, Locking, Options},
    },
    tenants::{
        disk::{
            files,
            path::{Layout, wal_of},
            template::{self, APPLICATION_ID},
        },
        id::TenantId,
        lifecycle::quota::max_bytes_by,
        open::database::{self, OpenParams},
        options::StoreOptions,
        store::Store,
    },
};

/// Users' files whose copies are migrated at start.
const TRIED: usize = 3;

/// The largest of them, in bytes.
const TRIED_BYTES: u64 = 16 << 20;

/// Files that are opened to find some that are not empty.
const CANDIDATES: u32 = 32;

/// How long all of them may take together, while the operator waits for the start.
const TRIED_FOR: Duration = Duration::from_secs(5);

/// The migrations that have run on a data folder, and the versions that its files may have.
pub(in crate::tenants) struct Past<'a> {
    layout: &'a Layout,
    applied: Vec<Step>,
    /// The versions that files may have; `None` stands for an unknown one.
    versions: Vec<Option<i32>>,
    /// Tenants with small files of older versions, and how large each may grow.
    behind: Vec<(TenantId, u64)>,
}

impl<'a> Past<'a> {
    /// Reads it from the catalog. `applied` are the migrations that have run.
    pub fn of(
        catalog: &Catalog,
        layout: &'a Layout,
        schema: &Schema,
        applied: Vec<Step>,
        options: &StoreOptions,
    ) -> Result<Self> {
        let mut past = Self { layout, applied, versions: Vec::new(), behind: Vec::new() };
        if !past.is_all(schema) {
            let bytes = i64::try_from(TRIED_BYTES).unwrap_or(i64::MAX);
            past.versions = catalog.read(migrations::versions)?;
            // The catalog may not have it yet which file had the newest.
            past.versions.extend(past.applied.last().map(|step| Some(step.version)));
            let version = schema.version();
            let behind = catalog.read(|conn| migrations::smallest_behind(conn, version, bytes, CANDIDATES))?;
            for id in behind {
                let row = catalog.read(|conn| queries::find(conn, &id))?;
                past.behind.extend(row.map(|row| (id, max_bytes_by(options, &row))));
            }
        }
        Ok(past)
    }

    /// Whether migrating a file of `version` by `steps` failed in a migration that has not run yet.
    fn is_of_a_new_one(&self, error: &Error, version: i32, steps: &[Step]) -> bool {
        let named = |step: &&Step| error.message().starts_with(&format!("migration {step} failed"));
        let newest_applied = self.applied.last().map_or(0, |step| step.version);
        steps.iter().find(named).map_or(version >= newest_applied, |failed| !self.applied.contains(failed))
    }

    /// Whether all migrations of a schema have run.
    pub fn is_all(&self, schema: &Schema) -> bool {
        self.applied == schema.steps()
    }

    fn may_have(&self, version: i32) -> bool {
        self.versions.iter().any(|known| known.is_none_or(|known| known == version))
    }
}

/// Tries the new migrations of `schema` on a generated database of each older version that files have, with a
/// tenant's settings and bounds and with rows in its tables; then on copies of a few files. Returns failures that
/// the generated rows may have caused. Migrations that have run before are not tried: they cannot be changed.
///
/// # Errors
/// [`ErrorKind::Config`] for a failure that every tenant would have.
pub(in crate::tenants) fn rehearse(schema: &Schema, options: &Options, past: &Past) -> Result<Vec<String>> {
    let (steps, mut failures) = (schema.steps(), Vec::new());
    let (Some(newest), false) = (steps.last(), past.is_all(schema)) else { return Ok(failures) };
    for step in steps.iter().filter(|step| *step != newest && past.may_have(step.version)) {
        let is_new = |error: &Error| past.is_of_a_new_one(error, step.version, &steps);
        let refused = |error: &Error| {
            Error::config(format!("the tenant migrations do not run on a file of version {step}: {}", error.message()))
        };
        let old = schema.up_to(step.version)?;
        // Where it cannot be made without the later migrations, no file has this version.
        let Ok(conn) = template::blank(&old, options) else { continue };
        let empty = fill::fill(&conn, &template::BOOKKEEPING)?;
        if !empty.is_empty() {
            let tables = empty.join(", ");
            tracing::warn!(
                version = %step, tables,
                "no rows could be generated for these tables, and migrations were tried with them empty; `cubby \
                 migrate --all --dry-run` tries them on real ones"
            );
        }
        let mut conn = reconnect(&conn, options)?;
        let Some(error) = template::upgrade(&mut conn, schema).err().filter(is_new) else { continue };
        // SQLite's refusal to alter any table that has rows, whatever is in them.
        if error.message().to_ascii_lowercase().contains("failed: cannot add a ") {
            return Err(refused(&error));
        }
        let mut conn = reconnect(&template::blank(&old, options)?, options)?;
        match template::upgrade(&mut conn, schema) {
            Err(error) if is_new(&error) => return Err(refused(&error)),
            _ => failures.push(format!("from version {step}: {}", error.message())),
        }
    }
    try_on_copies(schema, options, past)?;
    Ok(failures)
}

/// Copies a database in memory to a new connection: migrations that run later on a file do not find what earlier
/// ones left on their connection.
fn reconnect(conn: &Connection, options: &Options) -> Result<Connection> {
    let mut fresh = open::in_memory_like(options)?;
    Backup::new(conn, &mut fresh)?.step(-1)?;
    Ok(fresh)
}

/// Tries the migrations on copies of a few small files that are not empty.
///
/// # Errors
/// [`ErrorKind::Config`] if they fail on all of them: once they have run for a new user, they cannot be changed.
fn try_on_copies(schema: &Schema, options: &Options, past: &Past) -> Result<()> {
    let until = Instant::now() + TRIED_FOR;
    let mut failed: Vec<(&TenantId, Error)> = Vec::new();
    for (id, max_bytes) in &past.behind {
        let left = until.saturating_duration_since(Instant::now());
        if failed.len() == TRIED || left.is_zero() {
            break;
        }
        let copy = past.layout.temporary();
        let options = Options { max_bytes: *max_bytes, ..options.clone() };
        let tried = try_one(schema, &options, past, (id, &copy), left);
        files::discard(&copy)?;
        match tried {
            // It works for a tenant, or may.
            Ok(Tried::Ran) => return Ok(()),
            Ok(Tried::Failed(error)) => failed.push((id, error)),
            // Empty, or a fault of the file or the disk.
            Ok(Tried::Skipped) | Err(_) => {}
        }
    }
    let Some((_, first)) = failed.first() else { return Ok(()) };
    let ids: Vec<&str> = failed.iter().map(|(id, _)| id.as_str()).collect();
    Err(Error::config(format!(
        "the tenant migrations fail on all files with data that they were tried on (copies of those of {}): {}. Change \
         them, which is possible as long as they have run on no file; or start without them and repair the data. \
         Nothing was changed",
        ids.join(", "),
        first.message()
    )))
}

enum Tried {
    /// It ended, or reached its time limit.
    Ran,
    /// In a migration that has not run yet.
    Failed(Error),
    /// The file is empty, too large, or needs no migration.
    Skipped,
}

fn try_one(
    schema: &Schema,
    options: &Options,
    past: &Past,
    (id, copy): (&TenantId, &Path),
    limit: Duration,
) -> Result<Tried> {
    let path = past.layout.tenant(id);
    let header = header::read(&path, APPLICATION_ID)?;
    let bytes = files::length(&path)?.unwrap_or(0) + header.wal_bytes;
    if bytes > TRIED_BYTES {
        return Ok(Tried::Skipped);
    }
    copy_of(&path, copy)?;
    let deadline = Deadline::none();
    let options = Options { locking: Locking::Exclusive, application_ids: &[APPLICATION_ID], ..options.clone() };
    let mut conn = open::open(copy, &options, &deadline)?;
    deadline.set(Some(limit));
    let tried = version_to_migrate(&conn, schema, id).and_then(|version| {
        let Some(version) = version else { return Ok(Tried::Skipped) };
        match template::upgrade(&mut conn, schema) {
            Ok(_) => Ok(Tried::Ran),
            Err(error) => match error.kind() {
                ErrorKind::Timeout => Ok(Tried::Ran),
                ErrorKind::Quarantined if past.is_of_a_new_one(&error, version, &schema.steps()) => {
                    Ok(Tried::Failed(error))
                }
                _ => Err(error),
            },
        }
    });
    open::abandon(conn);
    tried
}

/// The version of the file, if it is this tenant's, has data, and has an older version of this schema.
fn version_to_migrate(conn: &Connection, schema: &Schema, id: &TenantId) -> Result<Option<i32>> {
    let history = migrate::history(conn)?;
    let is_theirs = template::meta(conn)?.tenant == id.as_str();
    if !is_theirs || schema.continues(&history).is_err() || template::has_no_rows(conn)? {
        return Ok(None);
    }
    Ok(history.last().map(|step| step.version).filter(|version| *version < schema.version()))
}

impl Store {
    /// Up to `each` tenants of each version older than the newest, for a dry run.
    pub async fn sample_behind(&self, each: u32) -> Result<Vec<TenantId>> {
        let version = self.schema().version();
        self.catalog().query(move |conn| migrations::sample_behind(conn, version, each)).await
    }

    /// Runs [`migrate`](Self::migrate) on a copy of a tenant's file, which is then removed. Needs disk space for one
    /// copy in the data folder.
    ///
    /// # Errors
    /// Those of the migration.
    pub async fn try_migration(&self, id: &TenantId) -> Result<Option<i32>> {
        let lock = self.inner.slots.lock(id).await;
        self.blocking(move |store| {
            store.take_files(&lock)?;
            let id = lock.id();
            let options = store.options_of(&store.undeleted_row(id)?);
            let (path, copy) = (store.layout().tenant(id), store.layout().temporary());
            let params = OpenParams { path: &copy, ..store.open_params(id, &path, &options, true) };
            let tried = copy_of(&path, &copy).and_then(|()| database::open_file(&params)?.close());
            let discarded = files::discard(&copy);
            let migrated_from = tried?;
            discarded.map(|()| migrated_from)
        })
        .await
    }
}

/// Copies a database that nobody has open, with its write-ahead log.
fn copy_of(from: &Path, to: &Path) -> Result<()> {
    for (from, to) in [(wal_of(from), wal_of(to)), (from.to_owned(), to.to_owned())] {
        match std::fs::copy(&from, to) {
            // There may be no log; opening the copy gives the better error for a missing database.
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(from.display(), e)),
            _ => {}
        }
    }
    Ok(())
}
