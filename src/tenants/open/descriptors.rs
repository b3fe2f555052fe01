//! How many descriptors the tenants may have, and who has them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::error::{Error, Result};

/// Descriptors of a tenant in exclusive mode: the file and its WAL.
pub const DESCRIPTORS: usize = 2;

/// Descriptors that a reader in shared mode adds: the file, its WAL and the shared memory.
const READER_DESCRIPTORS: usize = 3;

/// Readers apart at once, all tenants together: an export or a long read each.
pub(in crate::tenants) const MAX_LONG_READS: usize = 16;

/// Descriptors left for sockets, logs, the catalog, and files open for a moment.
const RESERVED: usize = 64;

/// Of the limit on descriptors, the share that tenants may have; the rest is for connections.
const SHARE: (usize, usize) = (3, 4);

/// The tenants' descriptors: what was asked for, or else their share of what there is.
pub(in crate::tenants) fn descriptors_for(max_open: Option<usize>) -> Result<usize> {
    /// Beyond this, more open tenants win nothing and cost memory.
    const ENOUGH: usize = 40_000;
    let reserved = RESERVED + MAX_LONG_READS * READER_DESCRIPTORS;
    let Some(tenants) = max_open else {
        let limit = raise_limit(ENOUGH).min(ENOUGH);
        return Ok((limit.saturating_sub(reserved) * SHARE.0 / SHARE.1).max(DESCRIPTORS));
    };
    let tenants = tenants.max(1);
    let (wanted, needed) = (tenants * DESCRIPTORS, tenants * DESCRIPTORS + reserved);
    match raise_limit(needed.max(ENOUGH)) {
        limit if limit >= needed => Ok(wanted),
        // Started all the same, it would fail under load, and not say why.
        limit => Err(Error::config(format!(
            "{tenants} open databases need {needed} descriptors, and this process may have {limit}: raise the limit \
             (ulimit -n {needed}, LimitNOFILE={needed}), or lower --max-open",
        ))),
    }
}

/// Raises the soft limit on descriptors towards `wanted`, as far as the hard one lets it; tells
/// what it is then.
fn raise_limit(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let Some(soft) = limit.current else { return usize::MAX };
    let target = (wanted as u64).min(limit.maximum.unwrap_or(u64::MAX));
    let raised = soft < target && setrlimit(Resource::Nofile, Rlimit { current: Some(target), ..limit }).is_ok();
    usize::try_from(if raised { target } else { soft }).unwrap_or(usize::MAX)
}

/// How many descriptors all open tenants may have together.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// Descriptors taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    count: usize,
}

impl Budget {
    /// A budget of `limit` descriptors, all free.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Takes `count`, or none at all.
    pub fn take(self: &Arc<Self>, count: usize) -> Option<Permit> {
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(count).filter(|used| *used <= self.limit)
            })
            .ok()
            .map(|_| Permit { budget: self.clone(), count })
    }

    /// How many are taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.count, Ordering::AcqRel);
    }
}
