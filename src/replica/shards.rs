//! The shards of a replica, each opened when it is first needed, and again after a failure.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::future::BoxFuture;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard};

use super::{
    format::{SHARDS, parse_shard_path, shard_of, shard_path},
    remote::Remote,
    shard::{Fault, Shard},
};
use crate::error::{Error, Result};

/// What is done once, before the first shard is opened: the bucket is claimed for this server.
pub type Claim = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Whether the bucket is still this server's.
pub type Ours = Box<dyn Fn() -> BoxFuture<'static, Result<bool>> + Send + Sync>;

/// What the shards of a replica share.
struct Bucket {
    remote: Remote,
    claim: Claim,
    ours: Ours,
    /// The newest generations, once the bucket is claimed.
    generations: OnceCell<Vec<u64>>,
}

impl Bucket {
    async fn generation(&self, number: u8) -> Result<u64> {
        let find = || async {
            (self.claim)().await?;
            newest_generations(&self.remote).await
        };
        let found = self.generations.get_or_try_init(find).await?;
        Ok(found.get(usize::from(number)).copied().unwrap_or_default())
    }
}

/// One shard that this server writes.
pub struct Handle {
    number: u8,
    bucket: Arc<Bucket>,
    /// How often it was begun anew by this server.
    begun_anew: AtomicU64,
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
                let found = self.bucket.generation(self.number).await.map_err(Fault::Away)?;
                // To open it fences whoever has it: never without knowing that nobody has taken over.
                if !(self.bucket.ours)().await.map_err(Fault::Away)? {
                    return Err(Fault::Fenced);
                }
                let generation = found + self.begun_anew.load(Ordering::Acquire);
                *place = Some(Shard::open(&self.bucket.remote, self.number, generation).await?);
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
        self.begun_anew.fetch_add(1, Ordering::AcqRel);
    }

    /// The generation; 0 while the bucket was not reached.
    pub fn generation(&self) -> u64 {
        let found = self.bucket.generations.get().and_then(|found| found.get(usize::from(self.number)));
        found.copied().unwrap_or_default() + self.begun_anew.load(Ordering::Acquire)
    }
}

/// All shards of a replica.
pub struct Shards(Vec<Handle>);

impl Shards {
    /// Those in a bucket. `claim` is done before the first one is opened, until it succeeds; `ours` is asked before each.
    pub fn new(remote: &Remote, claim: Claim, ours: Ours) -> Self {
        let bucket = Arc::new(Bucket { remote: remote.clone(), claim, ours, generations: OnceCell::new() });
        let handle =
            |number| Handle { number, bucket: bucket.clone(), begun_anew: AtomicU64::new(0), open: RwLock::new(None) };
        Self((0..SHARDS).map(handle).collect())
    }

    /// Opens all: from then on the server before this one can write nothing.
    ///
    /// # Errors
    /// Of the first that could not be opened, unless it is damaged: it begins anew when it is next written to.
    pub async fn open_all(&self) -> Result<()> {
        let opened = futures_util::future::join_all(self.0.iter().map(Handle::get)).await;
        let failed = |fault: Fault| if let Fault::Damaged(_) = fault { None } else { Some(Error::from(fault)) };
        opened.into_iter().filter_map(Result::err).find_map(failed).map_or(Ok(()), Err)
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
    let mut newest = vec![0; usize::from(SHARDS)];
    for folder in remote.folders("shard/").await? {
        if let Some((number, generation)) = parse_shard_path(&folder) {
            let place = &mut newest[usize::from(number)];
            *place = generation.max(*place);
        }
    }
    Ok(newest)
}
