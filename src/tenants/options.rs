//! The settings of a store, and the schema that it has if none is given.

use std::{path::PathBuf, time::Duration};

use super::open::{descriptors::MAX_LONG_READS, feeds::FeedLimits, fetch::Fetcher};
use crate::{
    catalog::quota::ReadQuota,
    clock::Clock,
    error::Result,
    log,
    sqlite::{combine::Limits, migrate::Schema, open::Options},
};

/// The settings of a [`Store`](crate::Store). [`new`](Self::new) has the defaults; no environment variable
/// is read.
///
/// ```
/// use std::time::Duration;
/// use cubby::StoreOptions;
///
/// let options = StoreOptions {
///     quota: 100 << 20,
///     idle: Duration::from_secs(60),
///     ..StoreOptions::new("/var/lib/todo")
/// };
/// assert_eq!(options.retention, Duration::from_secs(30 * 86_400));
/// ```
///
/// # What this changes in your process
/// With [`change_process`](Self::change_process), the default, a store changes what the whole process shares:
/// - It raises the soft limit on file descriptors (`RLIMIT_NOFILE`) to 40,000, or to what `max_open` needs if that
///   is more, as far as the hard limit allows.
/// - It turns SQLite's memory statistics off, and on Linux wraps the `open` system call of SQLite's VFSes; see
///   [`Globals`](crate::sqlite::process::Globals).
///
/// Without it, neither is changed. `max_open` then derives from the soft limit as it is (342 tenants for the usual
/// 1,024), and SQLite locks files its own way, which makes an open slower the more files are open.
///
/// A process decides this about SQLite once: a later store with the other choice fails to open.
///
/// Either way a store
/// - runs one task on the tokio runtime that it was opened in, which ends with it, and slow work on the
///   runtime's blocking threads;
/// - starts a thread for the catalog and two for the log, and up to `long_reads` threads, on Linux of niceness 10;
/// - logs through [`tracing`] and counts through [`metrics`], and installs no receiver for either;
/// - writes the program's name, and its first argument if that is a plain word, into `cubby.lock` of the data
///   folder, for the message to a second process.
///
/// ```standalone_crate
/// # use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
/// # let folder = tempfile::tempdir().unwrap();
/// # let data = folder.path();
/// # setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..getrlimit(Resource::Nofile) }).unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use cubby::{Store, StoreOptions};
///
/// let store = Store::open(StoreOptions { change_process: false, ..StoreOptions::new(data) })?;
/// assert_eq!(store.capacity(), 54, "of 256 descriptors");
/// # let (tenant, _) = store.lease_or_create(&"ada".parse().unwrap()).await?;
/// # tenant.write(|tx| Ok(tx.execute("INSERT INTO notes VALUES ('a', 'b', 1, 1)", [])?)).await?;
/// # let sql = "SELECT count(*) FROM notes";
/// # let notes: i64 = tenant.read(|conn| Ok(conn.query_row(sql, [], |row| row.get(0))?)).await?;
/// # assert_eq!(notes, 1);
/// # assert_eq!(getrlimit(Resource::Nofile).current, Some(256));
/// # use cubby::sqlite::process::{Globals, init};
/// # assert!(init(Globals::Adjust).is_err());
/// # Ok::<_, cubby::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The data folder. Made if it is not there.
    pub data: PathBuf,
    /// The tenants' schema; none for the notes that ship with this crate.
    pub schema: Option<Schema>,
    /// Whether the process may be changed; see [above](Self#what-this-changes-in-your-process).
    pub change_process: bool,
    /// How many tenants may be open at once; none derives it from the limit on descriptors.
    pub max_open: Option<usize>,
    /// A tenant that nobody used for this long is closed.
    pub idle: Duration,
    /// The largest a tenant's file may grow, in bytes; 0 for no bound.
    pub quota: u64,
    /// How a tenant's own quota is read from its provider's public metadata; none if it is not. What an operator has set
    /// counts more.
    pub metadata_quota: Option<ReadQuota>,
    /// The longest string, blob or row of a tenant, in bytes.
    pub max_value_bytes: u64,
    /// The page cache of one open tenant, in KiB.
    pub cache_kib: u32,
    /// How long a request waits for a tenant that is being opened, closed or moved, or for capacity.
    pub wait: Duration,
    /// How long a deleted tenant's file is kept.
    pub retention: Duration,
    /// Long reads at once, all tenants together; 16 at most. Each takes a thread of low priority.
    pub long_reads: usize,
    /// Bounds of one tenant's queue.
    pub limits: Limits,
    /// Bounds of those who listen to [changes](crate::Tenant::changes).
    pub feeds: FeedLimits,
    /// The log of the data folder.
    pub log: log::Options,
    /// Who fetches files that are not there, if the data folder is still being restored.
    pub fetcher: Option<Fetcher>,
    /// The time of day.
    pub clock: Clock,
}

impl StoreOptions {
    /// The defaults, on a data folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            schema: None,
            change_process: true,
            max_open: None,
            idle: Duration::from_secs(300),
            quota: 0,
            metadata_quota: None,
            max_value_bytes: Options::default().max_value_bytes,
            cache_kib: 1024,
            wait: Duration::from_secs(5),
            retention: Duration::from_secs(30 * 86_400),
            long_reads: MAX_LONG_READS,
            limits: Limits::default(),
            feeds: FeedLimits::default(),
            log: log::Options::default(),
            fetcher: None,
            clock: Clock::system(),
        }
    }

    /// How each tenant's connection is opened.
    pub(super) fn sqlite(&self) -> Options {
        Options {
            max_bytes: self.quota,
            max_value_bytes: self.max_value_bytes,
            cache_kib: self.cache_kib,
            ..Options::default()
        }
    }
}

mod embedded {
    refinery::embed_migrations!("migrations/tenant");
}

/// The schema of the notes that ship with this crate.
pub fn shipped_schema() -> Result<Schema> {
    Schema::new(embedded::migrations::runner().get_migrations().clone())
}
