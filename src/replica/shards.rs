//! The shards of a replica, each opened when it is first needed, and again after a failure.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{RwLock, RwLockReadGuard};

use super::{
    format::{parse_shard_path, shard_of, shard_path},
    remote::Remote,
    shard::{Fault, Shard},
};
use crate::error::{Error, Result};

/// One shard that this server writes.
pub struct Handle {
    number: u8,
    generation: AtomicU64,
    remote: Remote,
    open: RwLock<Option<Shard>>,
}

/// An open shard.
pub type Open<'h> = RwLockReadGuard<'h, Shard>;

impl Handle {
    /// The shard, opened if need be, which fences the server that had it before.
    pub async fn get(&self) -> Result<Open<'_>, Fault> {
        loop {
            if let Ok(open) = RwLockReadGuard::try_map(self.open.read().await, Option::as_ref) {
                return Ok(open);
            }
            let mut place = self.open.write().await;
            if place.is_none() {
                *place = Some(Shard::open(&self.remote, self.number, self.generation.load(Ordering::Acquire)).await?);
            }
        }
    }

    /// Closes it. It is opened again when it is needed.
    pub async fn close(&self) {
        if let Some(shard) = self.open.write().await.take() {
            shard.close().await;
        }
    }

    /// Closes it if it cannot be used any more.
    pub async fn close_if_broken(&self) {
        let is_broken = self.open.read().await.as_ref().is_some_and(|shard| !shard.is_usable());
        if is_broken {
            self.close().await;
        }
    }

    /// Goes on in a new generation.
    pub async fn begin_anew(&self) {
        self.close().await;
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The generation.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// All shards of a replica.
pub struct Shards(Vec<Handle>);

impl Shards {
    /// The newest generation of each, by what the bucket has.
    pub async fn find(remote: &Remote) -> Result<Self> {
        let generations = newest_generations(remote).await?;
        let handles = (0..).zip(generations).map(|(number, generation)| Handle {
            number,
            generation: AtomicU64::new(generation),
            remote: remote.clone(),
            open: RwLock::new(None),
        });
        Ok(Self(handles.collect()))
    }

    /// Begins a new generation of every shard that the bucket has.
    pub async fn begin_all_anew(remote: &Remote) -> Result<()> {
        let path = |number, generation| format!("{}/begun", shard_path(number, generation));
        for (number, generation) in (0..).zip(newest_generations(remote).await?) {
            remote.put(&path(number, generation + 1), bytes::Bytes::from_static(b"begun anew")).await?;
        }
        Ok(())
    }

    /// The shard of this number.
    pub fn get(&self, number: u8) -> Result<&Handle> {
        self.0.get(usize::from(number)).ok_or_else(|| Error::internal("there is no such shard"))
    }

    /// The shard of a tenant.
    pub fn of(&self, tenant: &str) -> Result<&Handle> {
        self.get(shard_of(tenant))
    }

    /// Closes all.
    pub async fn close(&self) {
        for handle in &self.0 {
            handle.close().await;
        }
    }
}

/// The newest generation of each shard; 0 for one that the bucket does not have.
pub async fn newest_generations(remote: &Remote) -> Result<Vec<u64>> {
    let mut newest = vec![0; usize::from(super::format::SHARDS)];
    for folder in remote.folders("shard/").await? {
        if let Some((number, generation)) = parse_shard_path(&folder) {
            let place = &mut newest[usize::from(number)];
            *place = generation.max(*place);
        }
    }
    Ok(newest)
}
