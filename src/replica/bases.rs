//! Bases: whole copies of tenants' databases in the bucket, for those whose chain begins anew, or has grown long.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::Semaphore, time::sleep};

use super::{
    capture::Shared,
    entry::BaseRef,
    erasure,
    format::{CATALOG, Place, base_prefix, big_prefix, parse_base_path, shard_of},
    object,
    queries::BaseRow,
    remote::Remote,
    seal::Seal,
    shards::Shards,
    wanted::Next,
};
use crate::{
    clock::{Millis, millis},
    error::{Error, ErrorKind, Result},
    tenants::{copy::Copy, id::TenantId, store::Store},
};

/// Copies made at once.
const AT_ONCE: usize = 4;

/// How long one copy may take.
const LIMIT: Duration = Duration::from_secs(600);

/// How long a copy waits for what the log has to be read.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How long after a failure a tenant is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How soon one is tried again whose state has just changed.
const SOON: Duration = Duration::from_millis(200);

/// How often all tenants are looked at: for one that has no chain, or that was purged.
const LOOK: Duration = Duration::from_secs(3600);

/// Tenants looked at together.
const PAGE: u32 = 1000;

/// What was taken of those that are wanted, until it is done or has panicked.
struct Turn(Arc<Shared>, Next);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.wanted.done(&self.1);
    }
}

/// Makes bases.
pub struct Bases {
    /// What is shared.
    pub shared: Arc<Shared>,
    /// The tenants.
    pub store: Store,
    /// The bucket.
    pub remote: Remote,
    /// Its shards.
    pub shards: Arc<Shards>,
    /// The key.
    pub seal: Arc<Seal>,
    /// How long the past is kept.
    pub window: Duration,
}

impl Bases {
    /// Makes those that are wanted, until everybody is stopped.
    pub async fn run(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let looks = tokio::spawn(look_again(self.shared.clone()));
        loop {
            let next = self.shared.wanted.next().await;
            if self.shared.is_stopped.load(Ordering::Acquire) {
                looks.abort();
                return;
            }
            let Ok(permit) = slots.clone().acquire_owned().await else { return };
            let own = self.clone();
            tokio::spawn(async move {
                let turn = Turn(own.shared.clone(), next);
                match &turn.1 {
                    Next::All => own.look_at_all().await,
                    Next::Tenant(tenant) => own.make_or_retry(tenant).await,
                }
                drop((turn, permit));
            });
        }
    }

    async fn make_or_retry(&self, tenant: &str) {
        let Err(error) = self.make(tenant).await else { return };
        if self.shared.is_stopped.load(Ordering::Acquire) {
            return;
        }
        match error.kind() {
            // Its file cannot be copied. The next look at all tenants finds it again.
            ErrorKind::Conflict | ErrorKind::Quarantined | ErrorKind::Damaged => {
                tracing::debug!(tenant, %error, "no base can be made");
            }
            // Its state has changed between two looks.
            ErrorKind::UnknownTenant | ErrorKind::Suspended => {
                sleep(SOON).await;
                self.shared.wanted.add(tenant);
            }
            _ => {
                tracing::warn!(tenant, %error, "a base could not be made; it is tried again");
                // With the place among those at once: if the bucket is away, nobody else has more success.
                sleep(RETRY).await;
                self.shared.wanted.add(tenant);
            }
        }
    }

    /// Makes a base of a tenant, or removes what the bucket has of one that was purged.
    async fn make(&self, tenant: &str) -> Result<()> {
        let id = match tenant {
            CATALOG => None,
            id => {
                Some(id.parse::<TenantId>().map_err(|e| Error::internal("a name in the log is no id").with_source(e))?)
            }
        };
        if let Some(id) = &id {
            let row = self.store.find(id).await?;
            if row.is_none_or(|row| row.purged.is_some()) {
                return match self.shared.state.head(tenant)? {
                    Some(_) => self.erase(tenant).await,
                    None => Ok(()),
                };
            }
            // Its chain may go on when its file is there. Who fetches that asks for a base, if it needs one.
            if self.store.awaits_file(id)? {
                return Ok(());
            }
        }
        let (shared, name, clock) = (self.shared.clone(), tenant.to_owned(), self.store.clock().clone());
        let (send, begun) = std::sync::mpsc::channel();
        let begin = move || {
            shared.catch_up(CATCH_UP)?;
            let begun = shared.slot(&name).pending.lock().begin_base(&name, clock.now(), &shared.state)?;
            // What was read until here, such as that its files were closed for this, is in the copy.
            shared.wanted.remove(&name);
            let _ = send.send(begun);
            Ok(())
        };
        let copy = match &id {
            None => self.store.snapshot_catalog(LIMIT, begin).await?,
            Some(id) => self.store.snapshot(id, LIMIT, begin).await?,
        };
        let begun = begun.try_recv().map_err(|_| Error::internal("a copy was not begun"))?;
        // What the copy has is in the log by now.
        let newest = self.shared.tail.newest();
        let Copy { file, bytes, sha256 } = copy;
        let place = Place { tenant, epoch: begun.epoch, seq: begun.after };
        let path = place.base_path(&sha256, self.seal.is_on());
        object::upload(&self.remote, &self.seal, &path, file, sha256).await?;
        self.wait_for(newest).await;
        let base = BaseRef { object: path.clone(), bytes, sha256, after: begun.after };
        let size_pages = u32::try_from(bytes / crate::sqlite::PAGE_SIZE).unwrap_or(u32::MAX);
        let at = (size_pages, self.store.clock().now());
        let slot = self.shared.slot(tenant);
        let is_entered = slot.pending.lock().end_base(tenant, begun, base, at, &self.shared.state)?;
        slot.changed.notify_one();
        if !is_entered {
            // The chain has ended meanwhile, and needs another one.
            self.remote.delete(&path).await?;
            self.shared.wanted.add(tenant);
            return Ok(());
        }
        self.prune(tenant).await
    }

    /// Waits until the log was read up to a group.
    async fn wait_for(&self, group: u64) {
        loop {
            let has_read = self.shared.has_read.notified();
            if self.shared.read() >= group || self.shared.is_stopped.load(Ordering::Acquire) {
                return;
            }
            has_read.await;
        }
    }

    /// Removes what is older than the window: everything before the newest base that is older.
    async fn prune(&self, tenant: &str) -> Result<()> {
        let before = self.store.clock().now().saturating_sub(millis(self.window));
        let bases = self.shared.state.bases(tenant)?;
        let Some(keep) = kept_from(&bases, before) else { return Ok(()) };
        let kept = &bases[keep];
        self.shared.state.compact_after(shard_of(tenant), self.store.clock().now(), erasure::AFTER_PRUNE)?;
        let shard = self.shards.of(tenant)?.get().await.map_err(Error::from)?;
        // Entries first: a base that is named and gone would be a broken chain.
        let big = shard.delete_entries(tenant, (kept.epoch, kept.after)).await.map_err(Error::from)?;
        drop(shard);
        self.remote.delete_all(&big).await?;
        // Also those that this machine does not remember.
        let is_older =
            |path: &str| parse_base_path(path).is_some_and(|base| (base.epoch, base.seq) < (kept.epoch, kept.after));
        let objects = self.remote.list(&base_prefix(tenant)).await?;
        let gone: Vec<String> = objects.into_iter().map(|object| object.path).filter(|path| is_older(path)).collect();
        self.remote.delete_all(&gone).await?;
        self.shared.state.remove_bases_before(tenant, kept)
    }

    /// Removes everything that the bucket has of a tenant.
    async fn erase(&self, tenant: &str) -> Result<()> {
        let slot = self.shared.slot(tenant);
        slot.pending.lock().forget(tenant);
        // What is on its way would be there after the deletion.
        while slot.pending.lock().is_flying(tenant) && !self.shared.is_stopped.load(Ordering::Acquire) {
            sleep(SOON).await;
        }
        // Before: it is not to be forgotten once something was deleted.
        self.shared.state.compact_after(shard_of(tenant), self.store.clock().now(), erasure::AFTER_PURGE)?;
        let shard = self.shards.of(tenant)?.get().await.map_err(Error::from)?;
        shard.delete_tenant(tenant).await.map_err(Error::from)?;
        drop(shard);
        for prefix in [base_prefix(tenant), big_prefix(tenant)] {
            for object in self.remote.list(&prefix).await? {
                self.remote.delete(&object.path).await?;
            }
        }
        self.shared.state.forget(tenant)?;
        // Somebody who came back meanwhile begins anew.
        slot.pending.lock().end(tenant, "it was erased", &self.shared.state)?;
        self.shared.wanted.add(tenant);
        tracing::info!(tenant, "erased in the bucket");
        Ok(())
    }

    /// Looks for tenants without a chain, and for chains whose tenants were purged.
    async fn look_at_all(&self) {
        if let Err(error) = self.try_look_at_all().await {
            tracing::warn!(%error, "it could not be seen which users need a base; it is tried again");
            sleep(RETRY).await;
            self.shared.wanted.look_at_all();
        }
    }

    async fn try_look_at_all(&self) -> Result<()> {
        let mut after = None;
        loop {
            let rows = self.store.list(None, after.take(), PAGE).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.id.clone());
            let ids = rows.into_iter().filter(|row| row.purged.is_none()).map(|row| row.id).collect();
            // Before their chains: one that is there has its head.
            let (ids, _) = self.store.part_awaited(ids).await?;
            for tenant in self.shared.state.without_chain(ids.iter().map(ToString::to_string).collect())? {
                self.shared.wanted.add(&tenant);
            }
        }
        let mut after = String::new();
        loop {
            let heads = self.shared.state.heads(&after, PAGE)?;
            let Some((last, _)) = heads.last() else { return Ok(()) };
            after.clone_from(last);
            for (tenant, _) in heads {
                let Ok(id) = tenant.parse::<TenantId>() else { continue };
                if self.store.find(&id).await?.is_none_or(|row| row.purged.is_some()) {
                    self.shared.wanted.add(&tenant);
                }
            }
        }
    }
}

async fn look_again(shared: Arc<Shared>) {
    loop {
        sleep(LOOK).await;
        shared.wanted.look_at_all();
    }
}

/// Which of these bases, oldest first, is the first that is kept: the newest of before the window. None if nothing is to go.
fn kept_from(bases: &[BaseRow], before: Millis) -> Option<usize> {
    bases.iter().rposition(|base| base.time <= before).filter(|at| *at > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_base_of_before_the_window_is_kept() {
        let bases: Vec<BaseRow> =
            [10, 20, 30].map(|time| BaseRow { epoch: 1, seq: 1, after: 0, time, object: None }).to_vec();
        assert_eq!(
            [5, 10, 19, 20, 25, 30, 99].map(|before| kept_from(&bases, before)),
            [None, None, None, Some(1), Some(1), Some(2), Some(2)]
        );
    }
}
