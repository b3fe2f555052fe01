//! How many tenants may be open at once, by the file descriptors that they need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Error, Result};

/// Descriptors of a tenant in exclusive mode: the file and its WAL.
const DESCRIPTORS: usize = 2;

/// Descriptors that a reader in shared mode adds: the file, its WAL and the shared memory.
const READER_DESCRIPTORS: usize = 3;

/// Pooled readers at once, all tenants together: one for each export or long read.
pub(in crate::tenants) const MAX_LONG_READS: usize = 16;

/// Descriptors left for sockets, logs, the catalog, and files open for a moment.
const RESERVED: usize = 64;

/// The tenants' share of the limit on descriptors; the rest is for network connections.
const SHARE: (usize, usize) = (3, 4);

/// Beyond this many descriptors, more open tenants win nothing and cost memory.
const ENOUGH: usize = 40_000;

/// How many tenants may be open: `max_open`, or else as many as have enough in their share of the limit on
/// descriptors. The limit is raised first if that is allowed.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) if the limit is too low for `max_open`.
pub(in crate::tenants) fn capacity(max_open: Option<usize>, may_raise: bool) -> Result<usize> {
    let limit_for = |wanted| if may_raise { raise_limit(wanted) } else { soft_limit() };
    let reserved = RESERVED + MAX_LONG_READS * READER_DESCRIPTORS;
    let Some(tenants) = max_open else {
        let limit = limit_for(ENOUGH).min(ENOUGH);
        return Ok((limit.saturating_sub(reserved) * SHARE.0 / SHARE.1 / DESCRIPTORS).max(1));
    };
    let tenants = tenants.max(1);
    let needed = tenants * DESCRIPTORS + reserved;
    match limit_for(needed.max(ENOUGH)) {
        limit if limit >= needed => Ok(tenants),
        // A store opened all the same would fail under load.
        limit => Err(Error::config(format!(
            "{tenants} open databases need {needed} descriptors, and this process may have {limit}: raise the limit \
             (ulimit -n {needed}, LimitNOFILE={needed}), or lower --max-open",
        ))),
    }
}

/// The soft limit on this process's descriptors.
fn soft_limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |soft| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// Raises the soft limit towards `wanted`, as far as the hard limit allows; returns the new one.
fn raise_limit(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let target = (wanted as u64).min(limit.maximum.unwrap_or(u64::MAX));
    if limit.current.is_some_and(|soft| soft < target) {
        // Refused, the limit stays, and the caller reads it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(target), ..limit });
    }
    soft_limit()
}
