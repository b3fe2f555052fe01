//! Shipping: a task for each shard writes what waits to the bucket.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{
    batch::{self, Encoded},
    capture::{Shared, Slot, answer},
    fence::Fence,
    meters,
    remote::Remote,
    seal::Seal,
    shard::Fault,
    shards::{Handle, Shards},
};
use crate::error::{Error, ErrorKind, Result};

/// How often what waits is written, if nobody waits for it.
pub const TICK: Duration = Duration::from_secs(1);

/// Pauses between tries while the bucket is away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A tail is long if it is more than this, in bytes, and more than half of the file.
const LONG_TAIL: u64 = 1 << 20;

/// How old a base may get while its tenant is written to, in milliseconds.
const OLD_BASE: i64 = 86_400_000;

/// Heads that are compared together.
const PAGE: usize = 1000;

/// Another server has taken over, or everybody is to stop.
struct Stop;

/// Ships one shard.
pub struct Shipper {
    /// Its number.
    pub number: u8,
    /// What is shared.
    pub shared: Arc<Shared>,
    /// The bucket.
    pub remote: Remote,
    /// The key.
    pub seal: Arc<Seal>,
    /// Who stops everybody when another server has taken over.
    pub fence: Arc<Fence>,
    /// The shards of the bucket.
    pub shards: Arc<Shards>,
}

impl Shipper {
    fn slot(&self) -> &Slot {
        &self.shared.slots[usize::from(self.number)]
    }

    /// Ships until the log has ended and everything is there, or until everybody is stopped.
    pub async fn run(self) {
        let (mut last, mut is_compared) = (None::<Instant>, false);
        while !self.shared.is_stopped.load(Ordering::Acquire) {
            if !self.slot().pending.lock().has_work() {
                if self.shared.is_complete.load(Ordering::Acquire) {
                    break;
                }
                self.slot().changed.notified().await;
                continue;
            }
            if !is_compared {
                match self.compare_all().await {
                    Ok(()) => is_compared = true,
                    Err(Stop) => break,
                }
                continue;
            }
            self.wait_for_tick(last).await;
            last = Some(Instant::now());
            let batch = self.slot().pending.lock().take();
            let encoded = match batch::encode(batch, &self.seal) {
                Ok(encoded) => encoded,
                Err(error) => {
                    tracing::error!(shard = self.number, %error, "what was written cannot be encoded: these users get a new base");
                    self.give_up();
                    continue;
                }
            };
            match self.write(&encoded).await {
                Ok(true) => self.shipped(encoded),
                Ok(false) => {}
                Err(Stop) => break,
            }
        }
        if let Ok(handle) = self.handle() {
            handle.close().await;
        }
    }

    fn handle(&self) -> Result<&Handle> {
        self.shards.get(self.number)
    }

    /// Lets what comes within a tick be one batch, unless somebody waits for it.
    async fn wait_for_tick(&self, last: Option<Instant>) {
        let Some(mut left) = last.and_then(|last| TICK.checked_sub(last.elapsed())) else { return };
        let until = Instant::now() + left;
        while !self.slot().pending.lock().is_awaited() && !self.shared.is_complete.load(Ordering::Acquire) {
            if timeout(left, self.slot().changed.notified()).await.is_err()
                || self.shared.is_stopped.load(Ordering::Acquire)
            {
                return;
            }
            left = until.saturating_duration_since(Instant::now());
        }
    }

    /// Writes a batch until the bucket has it. False if the shard has begun anew instead, and it is not there.
    async fn write(&self, encoded: &Encoded) -> Result<bool, Stop> {
        let (mut pause, began) = (FIRST_PAUSE, Instant::now());
        loop {
            match self.try_write(encoded).await {
                Ok(()) => {
                    if self.slot().is_stuck.swap(false, Ordering::AcqRel) {
                        tracing::info!(shard = self.number, "the bucket takes what is written again");
                    }
                    meters::shipped(encoded.bytes(), began.elapsed());
                    return Ok(true);
                }
                Err(fault) => {
                    if self.has_begun_anew(fault, &mut pause).await? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Sees whether the bucket has of each tenant what is known here: chains of which it has something else end.
    async fn compare_all(&self) -> Result<(), Stop> {
        let mut pause = FIRST_PAUSE;
        while let Err(fault) = self.try_compare().await {
            if self.has_begun_anew(fault, &mut pause).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn try_compare(&self) -> Result<(), Fault> {
        let (state, mut after) = (&self.shared.state, None::<String>);
        loop {
            let source = self.handle().map_err(Fault::Away)?.get().await?.source();
            let heads = source.tenants(after.as_deref(), PAGE).await?;
            let Some((last, _)) = heads.last() else { break };
            after = Some(last.clone());
            let mut pending = self.slot().pending.lock();
            for (tenant, theirs) in &heads {
                let is_known = state.head(tenant).map_err(Fault::Away)?.is_some() || pending.has_chain(tenant);
                if state.compare(tenant, theirs).map_err(Fault::Away)? && is_known {
                    pending.drop_chain(tenant);
                    self.shared.wanted.add(tenant);
                }
            }
        }
        Ok(())
    }

    /// What is done after a fault, before it is tried again; whether the shard has begun anew.
    async fn has_begun_anew(&self, fault: Fault, pause: &mut Duration) -> Result<bool, Stop> {
        if self.shared.is_stopped.load(Ordering::Acquire) {
            return Err(Stop);
        }
        let handle = self.handle().map_err(|_| Stop)?;
        match fault {
            Fault::Fenced => {
                handle.close().await;
                // An answer that was lost can fence a server by itself.
                if let Ok(false) = self.fence.is_ours(&self.remote).await {
                    self.fence.taken_over(&self.remote).await;
                    return Err(Stop);
                }
            }
            // What is damaged stays while users' files are in it.
            Fault::Damaged(error) if !self.shared.is_restoring.load(Ordering::Acquire) => {
                let why = "the shard in the bucket is damaged: it begins anew, and its users get new bases";
                tracing::error!(shard = self.number, %error, "{why}");
                handle.begin_anew().await;
                self.end_all();
                return Ok(true);
            }
            Fault::Away(error) | Fault::Damaged(error) => {
                if !self.slot().is_stuck.swap(true, Ordering::AcqRel) {
                    tracing::warn!(shard = self.number, %error, "the bucket does not take what is written; it is tried again");
                }
                meters::failed();
                handle.close_if_broken().await;
            }
        }
        sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        Ok(false)
    }

    async fn try_write(&self, encoded: &Encoded) -> Result<(), Fault> {
        for (path, bytes) in &encoded.objects {
            self.remote.put(path, bytes.clone()).await.map_err(Fault::Away)?;
        }
        let shard = self.handle().map_err(Fault::Away)?.get().await?;
        shard.write(encoded.puts.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()).await
    }

    fn shipped(&self, encoded: Encoded) {
        let state = &self.shared.state;
        for (tenant, head) in &encoded.heads {
            let is_long = head.tail_bytes > LONG_TAIL.max(u64::from(head.size_pages) * 4096 / 2);
            let is_old = head.tail_bytes > 0 && head.time - head.base_time > OLD_BASE;
            if !head.ended && (is_long || is_old) {
                self.shared.wanted.add(tenant);
            }
        }
        let slot = self.slot();
        let mut pending = slot.pending.lock();
        let answers = pending.shipped(encoded.through, encoded.heads, state);
        // After the heads: a base without its head would be taken for one that the bucket has.
        encoded.bases.into_iter().for_each(|(tenant, base)| state.add_base(&tenant, base));
        drop(pending);
        slot.shipped.notify_all();
        answer(answers, None);
    }

    /// Ends every chain of the shard: its users need new bases.
    fn give_up(&self) {
        let slot = self.slot();
        let mut pending = slot.pending.lock();
        let fallen = pending.overflow(&self.shared.state);
        let nothing = pending.shipped((0, 0), Vec::new(), &self.shared.state);
        drop(pending);
        fallen.iter().for_each(|tenant| self.shared.wanted.add(tenant));
        answer(nothing, None);
        slot.shipped.notify_all();
    }

    /// Ends every chain of the shard, whose generation has nothing yet.
    fn end_all(&self) {
        let number = self.number;
        self.slot().pending.lock().end_all(&self.shared.state);
        if let Err(error) = self.shared.state.end_all(|tenant| super::format::shard_of(tenant) == number) {
            tracing::error!(%error, "replica.db cannot be written");
        }
        self.give_up();
        self.shared.wanted.look_at_all();
    }
}

/// The error for whoever waited too long for the bucket.
pub fn not_there() -> Error {
    let why = "this write is durable on this machine, and the bucket has not confirmed it in time; it is sent when the bucket \
               answers again";
    Error::new(ErrorKind::Unavailable, why)
}
