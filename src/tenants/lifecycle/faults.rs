//! Faults of tenants' files and of the disk under them, as an operator sees them: each is a line in
//! the log, a count in the metrics, and the newest of a tenant is in `cubby tenants show`.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{
    clock::Millis,
    error::{Error, ErrorKind},
    tenants::id::TenantId,
};

/// Faults since the start, by `kind`.
pub const FAULTS_TOTAL: &str = "cubby_faults_total";

/// Tenants whose newest fault waits to be written to the catalog; when the whole disk fails, that
/// of others is only in the log.
const KEPT: usize = 10_000;

/// The newest fault of each tenant that had one, until it is written to the catalog.
#[derive(Debug, Default)]
pub struct Faults(Mutex<HashMap<TenantId, Fault>>);

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub at: Millis,
    /// What.
    pub what: String,
}

impl Faults {
    /// Takes note of what went wrong, if it is a fault and not the caller's.
    pub fn note(&self, id: &TenantId, at: Millis, error: &Error) {
        let Some(kind) = kind(error) else { return };
        metrics::counter!(FAULTS_TOTAL, "kind" => kind).increment(1);
        tracing::error!(tenant = %id, fault = kind, error = %error, "a fault");
        let mut newest = self.0.lock();
        if newest.len() < KEPT || newest.contains_key(id) {
            newest.insert(id.clone(), Fault { at, what: error.detail() });
        }
    }

    /// Forgets the fault of a tenant.
    pub fn forget(&self, id: &TenantId) {
        self.0.lock().remove(id);
    }

    /// What is to be written to the catalog.
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
