//! The control database: who exists, in what state, at which schema; webhook deliveries; audit.
//!
//! A request to an open tenant does not use it. It is opened in shared mode, with one writer and a few readers. Its
//! combiner has a thread of its own: blocking threads wait for its commits, and could otherwise be all of the pool
//! that it runs on.

pub mod audit;
pub mod model;
pub mod queries;
pub mod quota;
pub mod usage;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{
    error::{Error, ErrorKind, Result},
    log::{DatabaseLog, Log},
    sqlite::{
        combine::{Combiner, Limits},
        deadline::Deadline,
        flush, header,
        migrate::{Schema, Step, user_version},
        named::NamedFiles,
        open::{self, Locking, Options},
        pool::{self, Pool},
        wal,
    },
};

mod embedded {
    refinery::embed_migrations!("migrations/catalog");
}

/// Marks a file as a Cubby catalog (`application_id`, <https://sqlite.org/fileformat2.html>): "CuBd". It was "CuBc"
/// before commits were durable by the log of the data folder. A program of that time leaves the file and its
/// write-ahead log as they are; by its version alone it would refuse the catalog too late, with a checkpoint as it
/// closes it.
const APPLICATION_ID: i32 = 0x4375_4264;

const APPLICATION_ID_BEFORE_THE_LOG: i32 = 0x4375_4263;

/// The marks of a catalog of this program or an older one.
pub const APPLICATION_IDS: [i32; 2] = [APPLICATION_ID, APPLICATION_ID_BEFORE_THE_LOG];

const READERS: u32 = 4;
const WAIT: Duration = Duration::from_secs(5);

/// How long the result of a write test is reused: anybody may ask whether the server is ready, and each test is a
/// commit.
const TESTED_FOR: Duration = Duration::from_millis(500);

/// The open catalog. Cloning shares it.
#[derive(Clone)]
pub struct Catalog {
    writer: Arc<Combiner>,
    readers: Pool,
    /// The time and result of the last write test.
    write_test: Arc<tokio::sync::Mutex<Option<(Instant, Result<()>)>>>,
    files: Files,
}

/// The files of the first connection. Later connections must have the same.
#[derive(Clone, Default)]
struct Files(Arc<OnceLock<NamedFiles>>);

impl Files {
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the catalog, its WAL or its shared memory was removed, moved or replaced.
    fn check(&self) -> Result<()> {
        let Some(named) = self.0.get() else { return Ok(()) };
        named.check().map_err(|error| {
            let why = "the catalog was removed, moved or replaced while it was in use; stop the server, then put back \
                       what was there or run `cubby doctor --rebuild-catalog`";
            Error::new(ErrorKind::Unavailable, why).with_source(error)
        })
    }
}

impl Catalog {
    /// Opens the catalog at `path`, creating and migrating it as needed. Its commits are durable by `log`; without one,
    /// each flushes the WAL. May block.
    pub fn open(path: &Path, log: Option<Log>) -> Result<Self> {
        match path.symlink_metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path)?,
            // A file that cannot be examined is not missing.
            Err(error) => return Err(Error::io(path.display(), error)),
        }
        let options = Options {
            locking: Locking::Shared,
            cache_kib: 8192,
            application_ids: &APPLICATION_IDS,
            ..Options::default()
        };
        let schema = Schema::new(embedded::migrations::runner().get_migrations().clone())?;
        let deadline = Deadline::none();
        let mut conn = open::open(path, &options, &deadline).map_err(|e| {
            Error::config(format!(
                "the catalog {} cannot be opened; point --data at another folder, restore the whole folder from a backup, or make it \
                 anew from the users' files with `cubby doctor --rebuild-catalog`",
                path.display()
            ))
            .with_source(e)
        })?;
        let found = user_version(&conn).map_err(explain_damage)?;
        if found > schema.version() {
            open::abandon(conn);
            return Err(Error::config(format!(
                "the catalog {} is version {found}, made by a newer program than this one, which knows version {}: \
                 start the newer one, or restore a backup from before. Nothing was changed",
                path.display(),
                schema.version()
            )));
        }
        if found < schema.version() {
            let mark = |tx: &Transaction| Ok(tx.pragma_update(None, "application_id", APPLICATION_ID)?);
            schema.apply(&mut conn, mark).map_err(explain_damage)?;
            tracing::info!(from = found, to = schema.version(), "catalog migrated");
        }
        drop(conn);
        // Closed, it is complete in its file, whose mark says that it has a log.
        if found < schema.version() && is_before_the_log(path)? {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the catalog was migrated and could not be checkpointed; start again",
            ));
        }

        let (threads, runs) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::Builder::new()
            .name("catalog".into())
            .spawn(move || runs.into_iter().for_each(|run| run()))
            .map_err(|e| Error::io("starting the catalog's thread", e))?;
        let (file, settings) = (path.to_owned(), Options { logged: log.is_some(), ..options.clone() });
        let files = Files::default();
        let (opened, checked, read) = (files.clone(), files.clone(), files.clone());
        let writer = Combiner::new(
            Limits { queue: 100_000, batch: 512, ..Limits::default() },
            // The channel closes only with the combiner itself.
            Box::new(move |run| drop(threads.send(run))),
            Box::new(move |_, deadline| {
                let conn = open::open(&file, &settings, deadline)?;
                if let Err(error) = opened.check() {
                    open::abandon(conn);
                    return Err(error);
                }
                // An erased user's data must not stay in the file's free pages.
                conn.pragma_update(None, "secure_delete", true)?;
                Ok(conn)
            }),
        );
        let writer = writer.checked_by(Arc::new(move || checked.check()));
        let writer = match log {
            Some(log) => writer.logged_by(DatabaseLog::new(log, "")),
            None => writer,
        };
        writer.reopen_as(Locking::Shared);
        // The writer's connection has created all three.
        let named = writer.with(|_| NamedFiles::record(path))?;
        let _ = files.0.set(named);
        Ok(Self {
            writer: Arc::new(writer),
            readers: pool::readers(path.to_owned(), options, READERS, WAIT, move || read.check()),
            write_test: Arc::default(),
            files,
        })
    }

    /// Runs a short query on this thread. May block: not for an async worker.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let conn = pool::take(&self.readers)?;
        let found = work(&conn)?;
        // Others need it while this waits.
        drop(conn);
        self.writer.wait_for_read();
        Ok(found)
    }

    /// Runs a query from async code, on a thread that may block.
    pub async fn query<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.read(work))
            .await
            .map_err(|e| Error::internal("a catalog query did not finish").with_source(e))?
    }

    /// Runs a write and returns after its commit, which it may share with others.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.writer.write(|| (), move |tx| Ok(work(tx)?)).await
    }

    /// Tests that the catalog can be written, by a commit; the result is reused for half a second. Concurrent callers
    /// share one test. The files' names are checked each time.
    pub async fn check_writable(&self) -> Result<()> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || files.check())
            .await
            .map_err(|e| Error::internal("a check of the catalog's files did not finish").with_source(e))?
            .inspect_err(|e| tracing::error!(error = %e, "the catalog cannot be written"))?;
        let mut last = self.write_test.lock().await;
        if let Some((at, result)) = &*last
            && at.elapsed() < TESTED_FOR
        {
            return result.clone();
        }
        *last = None;
        let result = self.write(queries::test_write).await;
        if let Err(e) = &result {
            tracing::error!(error = %e, "the catalog cannot be written");
        }
        *last = Some((Instant::now(), result.clone()));
        result
    }

    /// [`write`](Self::write) for a thread that may block.
    pub fn write_blocking<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.writer.write_blocking(move |tx| Ok(work(tx)?))
    }

    /// The problems that SQLite's `quick_check` finds in the file. May block for a while.
    pub fn check(&self) -> Result<Vec<String>> {
        self.read(queries::salvage::problems)
    }

    /// Records which migrations the tenants should have; see [`queries::set_current_schema`]. Blocks as
    /// [`note_applied`](Self::note_applied) does.
    pub fn set_current_schema(&self, digest: i64) -> Result<()> {
        self.write_at_start(move |tx| queries::set_current_schema(tx, digest)).map_err(explain_damage)
    }

    /// Records which migrations have run on tenants' files; see [`queries::migrations::add_applied`]. At start-up it
    /// may be called on an async worker, which it blocks for a moment.
    pub fn note_applied(&self, steps: &[Step]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        let steps = steps.to_vec();
        self.write_at_start(move |tx| queries::migrations::add_applied(tx, &steps))
    }

    /// [`write_blocking`](Self::write_blocking) on a new thread, since it must not be called on an async worker. The
    /// combiner refuses the write if the file has lost its name.
    pub fn write_at_start<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Transaction) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let this = self.clone();
        let waits = std::thread::Builder::new().name("catalog start".into()).spawn(move || this.write_blocking(work));
        let waits = waits.map_err(|e| Error::io("starting a thread for the catalog", e))?;
        waits.join().map_err(|_| Error::internal("a write to the catalog did not finish"))?
    }

    /// Runs a write of any length on this thread, for a new catalog in `tmp/`, which has no other users. Blocks.
    pub fn write_on_this_thread<T>(&self, work: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        self.writer.with(|conn| {
            let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
            let value = work(&tx)?;
            tx.commit()?;
            wal::confirm(conn)?;
            Ok(value)
        })
    }

    /// Checkpoints and closes the writer. May block.
    pub fn close(&self) -> Result<()> {
        self.writer.close()
    }
}

/// Adds to the error of a damaged catalog what the operator can do. Other errors are returned as they are.
pub fn explain_damage(error: Error) -> Error {
    if error.kind() != ErrorKind::Damaged {
        return error;
    }
    let why = "the catalog is damaged; restore the whole folder from a backup, or make it anew with `cubby doctor --rebuild-catalog`";
    Error::new(ErrorKind::Damaged, why).with_source(error)
}

/// Creates an empty catalog, marked as ours, under another name and renames it: a crash leaves
/// either no catalog or a whole one.
/// Whether a file is a catalog of a program without a log. Not for one that is open: see [`header::read`].
pub fn is_before_the_log(path: &Path) -> Result<bool> {
    Ok(header::application_id(path)? == Some(APPLICATION_ID_BEFORE_THE_LOG))
}

fn create(path: &Path) -> Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = std::path::PathBuf::from(fresh);
    let image = {
        let conn = open::in_memory()?;
        conn.pragma_update(None, "application_id", APPLICATION_ID)?;
        conn.execute_batch("VACUUM")?;
        conn.serialize(rusqlite::MAIN_DB)?.to_vec()
    };
    if let Err(error) = flush::write_new(&fresh, &image).and_then(|()| flush::rename_new(&fresh, path)) {
        // Report the first error; the next start replaces the file.
        let _ = std::fs::remove_file(&fresh);
        return Err(error);
    }
    flush::sync_folder(path.parent().unwrap_or(path))
}
