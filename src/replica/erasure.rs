//! Erasure: when something was deleted in a shard, its bytes leave the bucket within a known time.
//!
//! To delete is to write a deletion; the bytes stay in the tables until these are compacted. A shard is noted in
//! `replica.db` before something is deleted in it, and is compacted as a whole when that is due. What is deleted within an
//! hour after a purge costs one compaction, so a shard is written anew once an hour at most.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{capture::Shared, fence::Fence, remote::Remote, shards::Shards};
use crate::{
    clock::Clock,
    error::{Error, Result},
};

/// How long after a purge a shard is compacted. It is promised.
pub const AFTER_PURGE: Duration = Duration::from_secs(3600);

/// How long after something older than the window was deleted. Of this, nothing is promised: it only saves room.
pub const AFTER_PRUNE: Duration = Duration::from_secs(86_400);

/// How often it is looked which shards are to be compacted.
const LOOK: Duration = Duration::from_secs(300);

/// Compacts the shards in which something was deleted.
pub struct Erasure {
    /// What is shared.
    pub shared: Arc<Shared>,
    /// The bucket.
    pub remote: Remote,
    /// Its shards.
    pub shards: Arc<Shards>,
    /// Whose bucket it is.
    pub fence: Arc<Fence>,
    /// The time of day.
    pub clock: Clock,
}

impl Erasure {
    /// Does so until everybody is stopped.
    pub async fn run(self) {
        loop {
            sleep(LOOK).await;
            let due = match self.shared.state.compactions(self.clock.now()) {
                Ok(due) => due,
                Err(error) => {
                    tracing::error!(%error, "replica.db cannot be read: what was purged stays in the bucket for longer");
                    continue;
                }
            };
            // One after the other: each of them may rewrite a lot.
            for number in due {
                if self.is_stopped() {
                    return;
                }
                if let Err(error) = self.compact(number).await
                    && !self.is_stopped()
                {
                    tracing::warn!(shard = number, %error, "what was deleted is in the bucket still; it is tried again");
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.is_stopped.load(Ordering::Acquire)
    }

    async fn compact(&self, number: u8) -> Result<()> {
        let state = &self.shared.state;
        // Else a server that was replaced while it was stopped might open the shard and fence the new one.
        if !self.fence.is_ours(&self.remote).await? {
            return Ok(());
        }
        // It is not kept open for this: closing does not wait.
        let compaction = self.shards.get(number)?.get().await.map_err(Error::from)?.compaction();
        state.begin_compaction(number)?;
        let began = Instant::now();
        compaction.run().await.map_err(Error::from)?;
        state.end_compaction(number)?;
        tracing::info!(shard = number, took = ?began.elapsed(), "compacted: what was deleted leaves the bucket");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{format::SHARDS, state::State};

    #[test]
    fn a_shard_is_compacted_when_it_is_due_and_until_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let open = |identity| State::open(&folder.path().join("replica.db"), identity).unwrap();
        let (now, hour) = (1_700_000_000_000, 3_600_000);
        let state = open("one");
        // What an earlier file had is not known.
        assert_eq!(state.compactions(now).unwrap(), (0..SHARDS).collect::<Vec<_>>());
        for shard in 0..SHARDS {
            state.begin_compaction(shard).unwrap();
            state.end_compaction(shard).unwrap();
        }
        assert!(state.compactions(now).unwrap().is_empty());

        // The earlier time holds, and is not forgotten over a restart.
        state.compact_after(3, now, AFTER_PRUNE).unwrap();
        state.compact_after(3, now, AFTER_PURGE).unwrap();
        state.compact_after(3, now + 1, AFTER_PURGE).unwrap();
        state.compact_after(4, now, AFTER_PRUNE).unwrap();
        drop(state);
        let state = open("one");
        assert!(state.compactions(now + hour - 1).unwrap().is_empty());
        assert_eq!(state.compactions(now + hour).unwrap(), [3]);

        // Nor is one that was begun, nor what is deleted meanwhile.
        state.begin_compaction(3).unwrap();
        assert_eq!(state.compactions(now).unwrap(), [3]);
        state.compact_after(3, now + hour, AFTER_PURGE).unwrap();
        state.end_compaction(3).unwrap();
        assert!(state.compactions(now + hour).unwrap().is_empty());
        assert_eq!(state.compactions(now + 2 * hour).unwrap(), [3]);
        assert_eq!(state.compactions(now + 24 * hour).unwrap(), [3, 4]);

        // With a clock that was set back, it is compacted rather early.
        assert_eq!(state.compactions(now - 24 * hour).unwrap(), [3, 4]);
        drop(state);
        assert_eq!(open("another").compactions(now).unwrap().len(), usize::from(SHARDS));
    }
}
