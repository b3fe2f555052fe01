//! The compaction of a whole shard, so that what was deleted leaves the bucket.
//!
//! A deletion hides what it deletes, until both are in one compaction whose result is the last run. Usual compactions
//! may not come to that for long; this one has all tables. SlateDB's collector removes the ones of before when they are
//! old enough, and only what is older than the newest compaction and than the newest table that was not compacted. Of the
//! log it keeps the newest object that is in the tables. So something is written after the compaction, too.

use std::{future::Future, sync::Arc, time::Duration};

use slatedb::{
    Db, VersionedManifest,
    admin::Admin,
    compactor::{Compaction as Submitted, CompactionSpec, CompactionStatus, SourceId},
    config::{FlushOptions, FlushType},
};
use tokio::time::{sleep, timeout};

use super::fault::Fault;
use crate::{
    error::{Error, ErrorKind},
    replica::remote::Remote,
};

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Objects are told apart by the millisecond in which they were begun.
const APART: Duration = Duration::from_millis(2);

/// What is written so that there is something newer: no entry and no head.
const KEY: &str = "m/compacted";

/// Compacts a shard. Cheap to clone.
#[derive(Clone)]
pub struct Compaction {
    db: Db,
    admin: Arc<Admin>,
    look_every: Duration,
}

impl Compaction {
    pub(super) fn new(db: Db, path: &str, remote: &Remote, look_every: Duration) -> Self {
        let admin = Arc::new(Admin::builder(path.to_owned(), remote.store()).build());
        Self { db, admin, look_every }
    }

    /// Compacts all that the shard has now. When it is done, no table that is needed has anything of what was deleted
    /// before, and the ones that have it are removed as soon as they are old enough.
    ///
    /// # Errors
    /// It was not done, or that is not known. To do it again is right.
    pub async fn run(&self) -> Result<(), Fault> {
        let late = |_| {
            let why = "a shard was not compacted in time; it is tried again";
            Fault::Away(Error::new(ErrorKind::Unavailable, why))
        };
        timeout(LIMIT, Box::pin(self.compact())).await.map_err(late)?
    }

    async fn compact(&self) -> Result<(), Fault> {
        // With this one, there is always something left.
        self.write_table().await?;
        loop {
            sleep(APART).await;
            self.tried(self.db.refresh_manifest()).await?;
            let all = everything(&self.db.manifest());
            let submitted = self.tried(self.admin.submit_compaction(all)).await?;
            if self.is_done(&submitted).await? {
                break;
            }
            // Another compaction had some of the tables, and has made others of them.
            tracing::debug!("the compaction of a whole shard is begun again");
        }
        self.write_table().await
    }

    /// Writes a table that is newer than all others, and an object of the log.
    async fn write_table(&self) -> Result<(), Fault> {
        self.tried(self.db.put(KEY, "1")).await?;
        self.tried(self.db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable })).await
    }

    /// Waits for the end of a compaction. Whether it is sure that it was done.
    async fn is_done(&self, submitted: &Submitted) -> Result<bool, Fault> {
        loop {
            sleep(self.look_every).await;
            // Of those that have ended, only the newest is listed.
            match self.tried(self.admin.read_compaction(submitted.id(), None)).await? {
                Some(found) if found.active() => {}
                found => return Ok(found.is_some_and(|found| found.status() == CompactionStatus::Completed)),
            }
        }
    }

    /// Nobody is to wait for a shard that was closed meanwhile.
    async fn tried<T>(&self, step: impl Future<Output = Result<T, slatedb::Error>>) -> Result<T, Fault> {
        if let Some(reason) = self.db.status().close_reason {
            return Err(Fault::of(slatedb::Error::closed(String::new(), reason)));
        }
        step.await.map_err(|error| Fault::of_open(&self.db, error))
    }
}

/// All tables into the last run, in the order in which they are: the newest first.
fn everything(manifest: &VersionedManifest) -> CompactionSpec {
    let runs = manifest.compacted();
    let young = manifest.l0().iter().map(|view| SourceId::SstView(view.id));
    let sources = young.chain(runs.iter().map(|run| SourceId::SortedRun(run.id))).collect();
    CompactionSpec::new(sources, runs.last().map_or(0, |run| run.id))
}
