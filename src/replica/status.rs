//! How the replication is doing, for an operator.

use std::{
    sync::atomic::Ordering,
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{capture::millis_of, fence, hold::behind, meters, running::Replica, traffic::Requests};
use crate::error::Result;

/// How the replication is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReplicaStatus)]
pub struct Status {
    /// Where copies go.
    pub bucket: String,
    /// When answers are sent: `async`, `sync`, or a bound such as `bounded:1s`.
    pub mode: String,
    /// How long the past is kept, in seconds.
    pub window_seconds: u64,
    /// The key that encrypts what leaves the machine; none if nothing is encrypted.
    pub encrypted_with: Option<String>,
    /// Whether another server has taken over, and nothing is accepted here any more.
    pub taken_over: bool,
    /// Which one, if it is known.
    pub taken_over_by: Option<String>,
    /// The age of the oldest commit that the bucket does not have, in milliseconds; 0 if it has all.
    pub behind_ms: u64,
    /// What of the log waits for the bucket, in bytes.
    pub log_bytes: u64,
    /// The most that may, in bytes: of more, users get new whole copies later.
    pub backlog_bytes: u64,
    /// Users who are known to need a whole copy.
    pub bases_wanted: u64,
    /// Users who fell out of that bound, since the start.
    pub fallen_out: u64,
    /// Batches of commits that the bucket has taken since the start.
    pub batches: u64,
    /// How often it has not taken one.
    pub failed_batches: u64,
    /// What was asked of the bucket in about the last minute.
    pub last_minute: Requests,
    /// The same since the start.
    pub since_start: Requests,
    /// The parts in which users are copied.
    pub shards: Vec<ShardStatus>,
}

/// How a part of the users is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardStatus {
    /// Its number.
    pub number: u8,
    /// How often it was begun anew since the bucket is used.
    pub generation: u64,
    /// Users with commits that wait.
    pub users: u64,
    /// What waits in memory, in bytes.
    pub bytes: u64,
    /// The age of the oldest commit that waits, in milliseconds; 0 if none does.
    pub behind_ms: u64,
    /// Whether the bucket does not take what is written to it.
    pub stuck: bool,
}

impl Status {
    /// Whether an operator should look after it.
    pub fn is_bad(&self) -> bool {
        self.taken_over || self.shards.iter().any(|shard| shard.stuck)
    }
}

/// How a replica is doing.
///
/// # Errors
/// Never for what the bucket does.
pub async fn status(replica: &Replica) -> Result<Status> {
    let (shared, meter, counts) = (replica.shared(), replica.remote().meter(), meters::counts());
    let now = millis_of(SystemTime::now());
    let shards = (0..).zip(&shared.slots).map(|(number, slot)| {
        let pending = slot.pending.lock();
        let (users, bytes, oldest) = (pending.tenants() as u64, pending.bytes() as u64, pending.oldest());
        drop(pending);
        Ok(ShardStatus {
            number,
            generation: replica.shards().get(number)?.generation(),
            users,
            bytes,
            behind_ms: oldest.map_or(0, |oldest| age(now.saturating_sub(oldest))),
            stuck: slot.is_stuck.load(Ordering::Acquire),
        })
    });
    let shards = shards.collect::<Result<Vec<_>>>()?;
    Ok(Status {
        bucket: replica.remote().url().to_owned(),
        mode: replica.mode().to_string(),
        window_seconds: replica.window().as_secs(),
        encrypted_with: replica.seal().key_id(),
        taken_over: replica.is_taken_over(),
        taken_over_by: owner(replica).await,
        behind_ms: age(behind(shared)),
        log_bytes: shared.tail.waiting(),
        backlog_bytes: shared.backlog,
        bases_wanted: shared.wanted.count() as u64,
        fallen_out: shared.overflowed.load(Ordering::Relaxed),
        batches: counts.batches,
        failed_batches: counts.failures,
        last_minute: replica.traffic().minute(Instant::now(), &meter),
        since_start: Requests::of(&meter),
        shards,
    })
}

fn age(millis: i64) -> u64 {
    u64::try_from(millis).unwrap_or(0)
}

/// The server that has taken over, as the bucket says.
async fn owner(replica: &Replica) -> Option<String> {
    if !replica.is_taken_over() {
        return None;
    }
    let remote = replica.remote().clone();
    let owner = replica.run(async move { fence::read(&remote).await }).await.ok().flatten()?;
    Some(format!("the server on {} of {}", owner.machine, owner.since))
}
