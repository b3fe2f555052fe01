//! The settings of a store, and the schema that it has if none is given.

use std::{path::PathBuf, time::Duration};

use super::open::descriptors::MAX_LONG_READS;
use crate::{
    clock::Clock,
    error::Result,
    sqlite::{combine::Limits, migrate::Schema, open::Options},
};

/// The settings of a [`Store`](super::store::Store).
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The data folder. Made if it is not there.
    pub data: PathBuf,
    /// The tenants' schema; none for the notes that ship with this crate.
    pub schema: Option<Schema>,
    /// How many tenants may be open at once; none derives it from the limit on descriptors.
    pub max_open: Option<usize>,
    /// A tenant that nobody used for this long is closed.
    pub idle: Duration,
    /// The largest a tenant's file may grow, in bytes; 0 for no bound.
    pub quota: u64,
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
    /// The time of day.
    pub clock: Clock,
}

impl StoreOptions {
    /// The defaults, on a data folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            schema: None,
            max_open: None,
            idle: Duration::from_secs(300),
            quota: 0,
            max_value_bytes: Options::default().max_value_bytes,
            cache_kib: 1024,
            wait: Duration::from_secs(5),
            retention: Duration::from_secs(30 * 86_400),
            long_reads: MAX_LONG_READS,
            limits: Limits::default(),
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
