//! The comparison of both lists, on a thread of its own.

use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::{
    plan::{Diff, Step},
    report::Tally,
    run::CHUNK,
    spool::{Spool, chunks},
};
use crate::{
    catalog::{
        model::{Millis, Row},
        queries,
    },
    error::Result,
    tenants::{disk::path, store::Store},
};

/// What is compared.
pub(super) struct Merge {
    pub store: Store,
    pub spool: Spool,
    pub since: Millis,
}

/// What there is besides steps.
#[derive(Default)]
pub(super) struct Merged {
    pub unchanged: u64,
    pub orphans: Tally,
}

impl Merge {
    pub(super) fn run(&self, steps: &mpsc::Sender<Step>) -> Result<Merged> {
        // Eight bytes a tenant, to know later which files are of none.
        let mut known: Vec<u64> = Vec::new();
        let here = self.rows().inspect(|row| known.extend(row.iter().map(|row| path::fingerprint(&row.id))));
        let mut diff = Diff::new(here, self.spool.users(), self.since);
        for step in diff.by_ref() {
            // Nobody listens when the run has stopped.
            if steps.blocking_send(step?).is_err() {
                return Ok(Merged::default());
            }
        }
        let unchanged = diff.unchanged();
        drop(diff);
        known.sort_unstable();
        Ok(Merged { unchanged, orphans: self.orphans(&known)? })
    }

    fn rows(&self) -> impl Iterator<Item = Result<Row>> + use<> {
        let store = self.store.clone();
        chunks(move |after: Option<&Row>| {
            let after = after.map(|row| row.id.as_str());
            store.catalog().read(|conn| queries::list(conn, None, after, u32::try_from(CHUNK).unwrap_or(1)))
        })
    }

    fn orphans(&self, known: &[u64]) -> Result<Tally> {
        let since = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.since).unwrap_or(0));
        let mut orphans = Tally::default();
        self.store.layout().each_live(|file| {
            let unknown = path::fingerprint_of(&file).is_none_or(|print| known.binary_search(&print).is_err());
            // One made since then is of a user who came meanwhile.
            if unknown && file.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at < since) {
                orphans.add(&file.file_name().unwrap_or_default().to_string_lossy());
            }
        })?;
        Ok(orphans)
    }
}
