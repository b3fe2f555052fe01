//! Bringing back all that nobody asks for, and the end of a restore.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::Restoring;
use crate::{
    catalog::{model::State, queries::placement},
    error::{Error, ErrorKind, Result},
    replica::format::{CATALOG, SHARDS},
    tenants::{disk::marker::Marker, id::TenantId, open::fetch::Fetched, store::Store},
};

/// Files brought back at once: fewer than may be, so that requests find room.
const AT_ONCE: usize = 8;

/// Users read of the catalog at once.
const PAGE: u32 = 1000;

/// Tenants read of a shard at once.
const HEADS: usize = 1000;

/// Pauses between tries, while the bucket is away.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often the log says how far it is.
const TOLD: Duration = Duration::from_secs(10);

/// How often it is seen whether an operator has decided about those who cannot be brought back.
const DECIDED: Duration = Duration::from_secs(2);

/// Users who are named at once.
const NAMED: usize = 20;

impl Restoring {
    /// Brings back what is awaited, and ends the restore when nothing is.
    pub async fn run(self: Arc<Self>, store: Store) {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.bring_all(&store).await {
            tracing::warn!(%error, "the restore cannot go on; it is tried again");
            if self.is_stopped_within(pause).await {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.tell_of_failed();
        loop {
            if *self.stopped.borrow() {
                return;
            }
            match self.end_if_complete(&store).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the restore cannot be ended; it is tried again"),
            }
            if self.is_stopped_within(DECIDED).await {
                return;
            }
        }
    }

    async fn bring_all(self: &Arc<Self>, store: &Store) -> Result<()> {
        let (users, bytes) = store.catalog().query(placement::totals).await?;
        {
            let mut progress = self.progress.lock();
            (progress.users, progress.done) = (users, 0);
        }
        tracing::info!(users, bytes, "restoring users' files while they are served");
        let (mut after, mut told) = (None::<TenantId>, Instant::now());
        loop {
            let from = after.take();
            let page = store.catalog().query(move |conn| placement::with_files(conn, from.as_ref(), PAGE)).await?;
            let ids: Vec<TenantId> = page.into_iter().map(|found| found.id).collect();
            let Some(last) = ids.last() else { return Ok(()) };
            after = Some(last.clone());
            let (there, awaited) = store.part_awaited(ids).await?;
            self.count(there.len());
            let mut awaited = awaited.into_iter();
            let mut running: FuturesUnordered<_> =
                awaited.by_ref().take(AT_ONCE).map(|id| self.clone().bring(store.clone(), id)).collect();
            while running.next().await.is_some() {
                if *self.stopped.borrow() {
                    return Ok(());
                }
                self.count(1);
                if told.elapsed() >= TOLD {
                    told = Instant::now();
                    let progress = self.progress();
                    tracing::info!(done = progress.done, users, bytes = progress.bytes, "restoring");
                }
                running.extend(awaited.next().map(|id| self.clone().bring(store.clone(), id)));
            }
        }
    }

    fn count(&self, done: usize) {
        self.progress.lock().done += done as u64;
    }

    /// Brings back the file of a tenant, or notes why that cannot be.
    async fn bring(self: Arc<Self>, store: Store, id: TenantId) {
        let mut pause = FIRST_PAUSE;
        loop {
            match store.fetch_file(&id).await {
                Ok(Fetched::There | Fetched::New(_)) => return,
                Ok(Fetched::Nothing) => {
                    let why = "the bucket has nothing of this user: they were new when the server was lost";
                    return self.note_failed(id, &Error::new(ErrorKind::NotFound, why));
                }
                Err(error) if is_worth_a_try(&error) => {
                    tracing::warn!(tenant = %id, %error, "not restored yet; it is tried again");
                }
                Err(error) => return self.note_failed(id, &error),
            }
            if self.is_stopped_within(pause).await {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn note_failed(&self, id: TenantId, error: &Error) {
        tracing::error!(tenant = %id, %error, "cannot be restored, and is refused");
        self.progress.lock().failed.insert(id, error.detail());
    }

    fn tell_of_failed(&self) {
        let failed = self.progress().failed;
        if failed.is_empty() {
            return;
        }
        let names: Vec<&str> = failed.keys().take(NAMED).map(TenantId::as_str).collect();
        tracing::error!(
            users = failed.len(),
            first = names.join(" "),
            "these users cannot be restored as they were last, and are refused. Decide about each: `cubby tenants history` and \
             `cubby tenants rewind` put one back to an earlier moment, `cubby tenants import` gives one the rows of a file, and \
             `cubby tenants purge` gives one up. The restore ends when nobody is left"
        );
    }

    /// Ends the restore if nobody is awaited who is not deleted.
    async fn end_if_complete(&self, store: &Store) -> Result<bool> {
        let failed: Vec<TenantId> = self.progress.lock().failed.keys().cloned().collect();
        let (there, awaited) = store.part_awaited(failed).await?;
        {
            let mut progress = self.progress.lock();
            for id in &there {
                progress.failed.remove(id);
            }
        }
        for id in &awaited {
            if store.find(id).await?.is_some_and(|row| row.state != State::Deleted) {
                return Ok(false);
            }
        }
        match self.note_left(store).await {
            Err(error) if is_worth_a_try(&error) => return Err(error),
            Err(error) => tracing::error!(%error, "what the bucket still has of purged users may not be erased"),
            Ok(()) => {}
        }
        let root = store.layout().root().to_owned();
        let removed = tokio::task::spawn_blocking(move || Marker::remove(&root)).await;
        removed.map_err(|e| Error::internal("the marker of a restore was not removed").with_source(e))??;
        store.end_fetching();
        self.shared.is_restoring.store(false, Ordering::Release);
        // Some may have no chain.
        self.shared.wanted.look_at_all();
        let progress = self.progress();
        tracing::info!(
            users = progress.users,
            bytes = progress.bytes,
            failed = progress.failed.len(),
            "everything that could be restored is there"
        );
        Ok(true)
    }

    /// Notes the chains of those whose files were not fetched, so that they are erased in the bucket with their users: now of
    /// those who were purged before.
    async fn note_left(&self, store: &Store) -> Result<()> {
        for number in 0..SHARDS {
            let shard = self.shards.get(number)?.get().await.map_err(Error::from)?.source();
            let mut after = None::<String>;
            loop {
                let heads = shard.tenants(after.as_deref(), HEADS).await.map_err(Error::from)?;
                let Some((last, _)) = heads.last() else { break };
                after = Some(last.clone());
                for (tenant, head) in heads {
                    if tenant == CATALOG || self.shared.state.head(&tenant)?.is_some() {
                        continue;
                    }
                    let Ok(id) = tenant.parse::<TenantId>() else { continue };
                    // What nobody knows is left as it is.
                    let Some(row) = store.find(&id).await? else { continue };
                    self.shared.state.end(&tenant, head);
                    if row.purged.is_some() {
                        self.shared.wanted.add(&tenant);
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits, and says whether this server ends meanwhile.
    async fn is_stopped_within(&self, pause: Duration) -> bool {
        let mut stopped = self.stopped.subscribe();
        let ended = async {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        tokio::time::timeout(pause, ended).await.is_ok()
    }
}

/// Whether an error is not of what the bucket has of one tenant.
fn is_worth_a_try(error: &Error) -> bool {
    use ErrorKind::{Busy, Conflict, DiskFull, Timeout, Unavailable};
    matches!(error.kind(), Busy | Conflict | DiskFull | Timeout | Unavailable)
}
