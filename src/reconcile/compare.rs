//! Compares the catalog with the provider's list, and the files with the catalog. Blocks.

use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::{
    paged::paged,
    plan::{Diff, Step},
    provider_list::ProviderList,
    report::Entries,
};
use crate::{
    catalog::{
        model::{Millis, Row},
        queries,
    },
    error::Result,
    tenants::{disk::path, store::Store},
};

/// Rows of the catalog a page.
const PAGE: u32 = 500;

/// A comparison.
pub(super) struct Compare {
    pub store: Store,
    pub list: ProviderList,
    pub since: Millis,
}

/// What a comparison finds besides the steps that it sends.
#[derive(Default)]
pub(super) struct Compared {
    pub unchanged: u64,
    pub orphans: Entries,
}

impl Compare {
    pub(super) fn run(&self, steps: &mpsc::Sender<Step>) -> Result<Compared> {
        // Eight bytes a tenant, to find the files of no tenant.
        let mut known: Vec<u64> = Vec::new();
        let here = self.rows().inspect(|row| known.extend(row.iter().map(|row| path::fingerprint(&row.id))));
        let mut diff = Diff::new(here, self.list.users(), self.since);
        for step in diff.by_ref() {
            // The receiver is gone when the run has stopped.
            if steps.blocking_send(step?).is_err() {
                return Ok(Compared::default());
            }
        }
        let unchanged = diff.unchanged();
        drop(diff);
        known.sort_unstable();
        Ok(Compared { unchanged, orphans: self.orphans(&known)? })
    }

    fn rows(&self) -> impl Iterator<Item = Result<Row>> + use<> {
        let store = self.store.clone();
        paged(move |after: Option<&Row>| {
            let after = after.map(|row| row.id.as_str());
            store.catalog().read(|conn| queries::list(conn, None, after, PAGE))
        })
    }

    fn orphans(&self, known: &[u64]) -> Result<Entries> {
        let since = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.since).unwrap_or(0));
        let mut orphans = Entries::default();
        self.store.layout().each_live(|file| {
            let unknown = path::fingerprint_of(&file).is_none_or(|print| known.binary_search(&print).is_err());
            // A file made since then belongs to a user who was created meanwhile.
            if unknown && file.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at < since) {
                orphans.add(&file.file_name().unwrap_or_default().to_string_lossy());
            }
        })?;
        Ok(orphans)
    }
}
