//! Compares the catalog with the provider's list, and the files with the catalog. Blocks.

use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::{
    paged::rows,
    plan::{self, Step},
    provider_list::ProviderList,
    report::Entries,
};
use crate::{
    catalog::model::Millis,
    error::Result,
    tenants::{disk::path, store::Store},
};

/// Sends the steps, and returns how many users need none, and the files of no tenant.
pub(super) fn compare(
    store: &Store,
    list: &ProviderList,
    since: Millis,
    steps: &mpsc::Sender<Step>,
) -> Result<(u64, Entries)> {
    // Eight bytes a tenant, to find the files of no tenant.
    let mut known: Vec<u64> = Vec::new();
    let mut unchanged = 0;
    let here = rows(store).inspect(|row| known.extend(row.iter().map(|row| path::fingerprint(&row.id))));
    for step in plan::diff(here, list.users(), since, &mut unchanged) {
        // The receiver is gone when the run has stopped.
        if steps.blocking_send(step?).is_err() {
            return Ok((0, Entries::default()));
        }
    }
    known.sort_unstable();
    let since = UNIX_EPOCH + Duration::from_millis(u64::try_from(since).unwrap_or(0));
    let mut orphans = Entries::default();
    for shard in store.layout().shards() {
        for file in path::databases(&shard)? {
            let unknown = path::fingerprint_of(&file).is_none_or(|print| known.binary_search(&print).is_err());
            // A file made since then belongs to a user who was created meanwhile.
            if unknown && file.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at < since) {
                orphans.add(&file.file_name().unwrap_or_default().to_string_lossy());
            }
        }
    }
    Ok((unchanged, orphans))
}
