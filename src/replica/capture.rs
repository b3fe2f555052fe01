//! Reading the log while it is written: a thread that gives each record to the shard of its tenant.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::{
    format::{SHARDS, shard_of},
    pending::Pending,
    state::{State, tenant_of},
    wanted::Wanted,
};
use crate::{
    clock::Millis,
    error::{Error, ErrorKind, Result},
    log::{Done, Tail},
};

/// How many bytes of the log are read at once.
const READ: usize = 4 << 20;

/// The most page images of one shard that wait in memory, in bytes, before reading stops.
const MOST_WAITING: usize = 6 << 20;

/// How often a reader that is held up looks whether the log's bound was reached.
const LOOK: Duration = Duration::from_millis(100);

/// One shard, as who reads the log and who ships see it.
#[derive(Default)]
pub struct Slot {
    /// What waits.
    pub pending: Mutex<Pending>,
    /// There is something to ship, or somebody waits for it.
    pub changed: Notify,
    /// Something was shipped.
    pub shipped: Condvar,
    /// The bucket refuses, or does not answer.
    pub is_stuck: AtomicBool,
}

/// What the parts of a replica share.
pub struct Shared {
    /// The log.
    pub tail: Tail,
    /// The shards.
    pub slots: Vec<Slot>,
    /// The heads of the chains.
    pub state: Arc<State>,
    /// Tenants that need a base.
    pub wanted: Wanted,
    /// The most of the log that is kept while the bucket is away, in bytes.
    pub backlog: u64,
    /// The newest group that was read.
    read: Mutex<u64>,
    read_more: Condvar,
    /// More was read.
    pub has_read: Notify,
    /// The newest group that is in the bucket, with all before it.
    released: AtomicU64,
    /// That has changed.
    pub has_released: Notify,
    /// The log has ended, and all of it was read.
    pub is_complete: AtomicBool,
    /// Users' files are still fetched from the bucket: nothing of it is given up.
    pub is_restoring: AtomicBool,
    /// Everybody is to stop, whatever waits.
    pub is_stopped: AtomicBool,
    /// How far the bucket is behind, in milliseconds, as of a moment ago.
    pub behind: AtomicI64,
    /// How many tenants fell out of the log's bound.
    pub overflowed: AtomicU64,
}

impl Shared {
    /// Of a log that nobody has read yet.
    pub fn new(tail: Tail, state: Arc<State>, backlog: u64) -> Arc<Self> {
        Arc::new(Self {
            tail,
            slots: (0..SHARDS).map(|_| Slot::default()).collect(),
            state,
            wanted: Wanted::default(),
            backlog,
            read: Mutex::new(0),
            read_more: Condvar::new(),
            has_read: Notify::new(),
            released: AtomicU64::new(0),
            has_released: Notify::new(),
            is_complete: AtomicBool::new(false),
            is_restoring: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            behind: AtomicI64::new(0),
            overflowed: AtomicU64::new(0),
        })
    }

    /// The slot of a tenant's shard.
    pub fn slot(&self, tenant: &str) -> &Slot {
        &self.slots[usize::from(shard_of(tenant))]
    }

    /// Waits until everything was read that the log has now. May block.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if that takes longer than `limit`.
    pub fn catch_up(&self, limit: Duration) -> Result<()> {
        let (newest, until) = (self.tail.newest(), Instant::now() + limit);
        let mut read = self.read.lock();
        while *read < newest {
            if self.read_more.wait_until(&mut read, until).timed_out() && *read < newest {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "what waits for the bucket keeps the log from being read; try again later",
                ));
            }
        }
        Ok(())
    }

    /// When the oldest group was flushed that was not read yet.
    pub fn oldest_unread(&self) -> Option<Millis> {
        self.tail.flushed_after(self.read()).map(millis_of)
    }

    /// Writes the heads of what the bucket has to the disk, and releases the log up to there. May block.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn release(&self) -> Result<()> {
        let through = self.slots.iter().map(|slot| slot.pending.lock().released()).min().unwrap_or(0);
        if self.state.persist()? || through > self.released() {
            self.tail.release(through);
            self.released.store(through, Ordering::Release);
            self.has_released.notify_waiters();
        }
        Ok(())
    }

    /// The newest group that is in the bucket, with all before it.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Acquire)
    }

    /// Reads the log until it ends. May block.
    pub fn run(&self) {
        let mut after = 0;
        loop {
            let groups = self.tail.next(after, READ);
            if groups.is_empty() || self.is_stopped.load(Ordering::Acquire) {
                break;
            }
            let mut newest = None;
            for group in &groups {
                let at = millis_of(group.at);
                let read = group.read(
                    |_| true,
                    |name, change| {
                        let tenant = tenant_of(name);
                        let needs_base = self.slot(tenant).pending.lock().record(name, &change, at, &self.state)?;
                        if needs_base {
                            self.wanted.add(tenant);
                        }
                        Ok(())
                    },
                );
                if let Err(error) = read {
                    tracing::error!(%error, "a part of the log could not be read: every user gets a new base in the bucket");
                    self.end_all();
                }
                after = group.number;
                newest = Some((group.last, group.number, at));
                if self.slots.iter().any(|slot| slot.pending.lock().is_full(MOST_WAITING)) {
                    self.read_through(newest);
                    self.wait_for_room();
                }
            }
            self.read_through(newest);
            self.keep_bound();
        }
        self.is_complete.store(true, Ordering::Release);
        self.has_read.notify_waiters();
        self.slots.iter().for_each(|slot| slot.changed.notify_one());
    }

    fn read_through(&self, newest: Option<(u64, u64, Millis)>) {
        let Some((seq, group, at)) = newest else { return };
        for slot in &self.slots {
            let mut pending = slot.pending.lock();
            let answers = pending.read_through(seq, group, at);
            let has_work = pending.has_work();
            drop(pending);
            answer(answers, None);
            if has_work {
                slot.changed.notify_one();
            }
        }
        *self.read.lock() = group;
        self.read_more.notify_all();
        self.has_read.notify_waiters();
    }

    /// The newest group that was read.
    pub fn read(&self) -> u64 {
        *self.read.lock()
    }

    /// Waits until no shard has too much. If the log's bound is reached meanwhile, or a shard is stuck alone, its tenants fall
    /// out.
    fn wait_for_room(&self) {
        for slot in &self.slots {
            let mut pending = slot.pending.lock();
            while pending.is_full(MOST_WAITING) && !self.is_stopped.load(Ordering::Acquire) {
                let alone = slot.is_stuck.load(Ordering::Acquire)
                    && self.slots.iter().any(|slot| !slot.is_stuck.load(Ordering::Acquire));
                if alone || self.is_over_bound() {
                    self.give_up(&mut pending);
                    break;
                }
                slot.shipped.wait_for(&mut pending, LOOK);
            }
        }
    }

    fn is_over_bound(&self) -> bool {
        self.tail.waiting() > self.backlog
    }

    /// Lets the log go on without what the bucket does not take.
    fn keep_bound(&self) {
        if !self.is_over_bound() {
            return;
        }
        for slot in &self.slots {
            let mut pending = slot.pending.lock();
            if slot.is_stuck.load(Ordering::Acquire) && pending.released() < pending.read_group() {
                self.give_up(&mut pending);
            }
        }
    }

    fn give_up(&self, pending: &mut Pending) {
        let fallen = pending.overflow(&self.state);
        tracing::warn!(
            users = fallen.len(),
            "the bucket does not take what is written: these users get a new base when it does"
        );
        self.overflowed.fetch_add(fallen.len() as u64, Ordering::Relaxed);
        fallen.iter().for_each(|tenant| self.wanted.add(tenant));
    }

    /// Ends every chain: what was read of the log has a gap.
    fn end_all(&self) {
        for slot in &self.slots {
            slot.pending.lock().end_all(&self.state);
        }
        if let Err(error) = self.state.end_all(|_| true) {
            tracing::error!(%error, "replica.db cannot be written");
        }
        self.wanted.look_at_all();
    }
}

/// Milliseconds since 1970.
pub fn millis_of(at: SystemTime) -> Millis {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX))
}

/// Answers those who waited.
pub fn answer(dones: Vec<Done>, error: Option<&Error>) {
    for done in dones {
        done(error.map_or(Ok(()), |error| Err(error.clone())));
    }
}
