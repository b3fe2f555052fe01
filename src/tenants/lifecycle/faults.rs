//! Faults of tenants' files and of the disk, reported to operators: each is a line in the log and a count in the
//! metrics, and `cubby tenants show` has the newest of a tenant.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{
    clock::Millis,
    error::{Error, ErrorKind},
    tenants::id::TenantId,
};

/// Faults since the start, by `kind`.
pub const FAULTS_TOTAL: &str = "cubby_faults_total";

/// Tenants whose newest fault waits to be written to the catalog. Beyond that, as when the whole disk fails, a
/// fault is only in the log.
const MAX_WAITING: usize = 10_000;

/// The newest fault of each tenant that had one, until it is written to the catalog.
#[derive(Debug, Default)]
pub struct Faults(Mutex<HashMap<TenantId, Fault>>);

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it happened.
    pub at: Millis,
    /// The error, in full.
    pub what: String,
}

impl Faults {
    /// Records an error, unless it is the caller's.
    pub fn record(&self, id: &TenantId, at: Millis, error: &Error) {
        let Some(kind) = kind(error) else { return };
        metrics::counter!(FAULTS_TOTAL, "kind" => kind).increment(1);
        tracing::error!(tenant = %id, fault = kind, error = %error, "a fault");
        let mut newest = self.0.lock();
        if newest.len() < MAX_WAITING || newest.contains_key(id) {
            newest.insert(id.clone(), Fault { at, what: error.detail() });
        }
    }

    /// Forgets the fault of a tenant.
    pub fn forget(&self, id: &TenantId) {
        self.0.lock().remove(id);
    }

    /// Takes the faults that are to be written to the catalog.
    pub fn take(&self) -> Vec<(TenantId, Fault)> {
        self.0.lock().drain().collect()
    }
}

fn kind(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::Damaged => Some("damaged"),
        ErrorKind::Quarantined => Some("migration"),
        ErrorKind::Unavailable => Some("storage"),
        ErrorKind::DiskFull => Some("disk_full"),
        ErrorKind::Timeout => Some("timeout"),
        ErrorKind::Internal => Some("internal"),
        ErrorKind::UnknownTenant
        | ErrorKind::NotFound
        | ErrorKind::Suspended
        | ErrorKind::Malformed
        | ErrorKind::Invalid
        | ErrorKind::Conflict
        | ErrorKind::TooLarge
        | ErrorKind::QuotaExceeded
        | ErrorKind::Busy
        | ErrorKind::TooMany
        | ErrorKind::Provider
        | ErrorKind::Config
        | ErrorKind::FolderLocked => None,
    }
}
