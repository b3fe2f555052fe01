//! The states of a tenant that may be open, without I/O.
//!
//! They are drawn in `docs/ARCHITECTURE.md`, "A tenant's states".
//!
//! Every transition is made under the mutex of the tenant's shard, so two callers never see one
//! tenant in two states. Slow work (opening, closing, moving files) is done outside the mutex by the
//! caller that has the guard of the state: [`Opening`] or [`TenantLock`]. Dropping a guard ends
//! its state, so a panic or a cancelled future leaves nobody waiting.
//!
//! # Invariants
//! - **Single flight.** A tenant has at most one guard. Else a file would be opened twice in
//!   exclusive mode, or moved while open.
//! - **A leased database is never closed.** A [`TenantLock`] is made only after the lease count was read as
//!   zero under the shard's mutex, in a state that gives no leases.
//! - **No lost wake-up.** A waiter registers before it releases the shard's mutex, and every exit from a
//!   waiting state wakes all waiters.
//! - **Least recently used first.** The order is exact among databases without a lease. A lease stores
//!   its time in the entry, one atomic store; the order is mended only by an eviction.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry as MapEntry},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak, atomic::Ordering},
};

pub use super::entry::{LeaseWatch, Tick};
use super::{
    entry::Entry,
    primitives::{AtomicU64, AtomicUsize, Mutex, Notify, OwnedNotified, TenantId},
};

const SHARDS: usize = 64;

/// All tenants that are not absent. `T` is what is open: a database, or a stand-in in tests.
pub struct Slots<T> {
    shards: Box<[Mutex<HashMap<TenantId, Slot<T>>>]>,
    hasher: RandomState,
    /// Every open entry once, by its tick when it was added, and by its address for entries of one tick.
    recency: Mutex<BTreeMap<(Tick, usize), Weak<Entry<T>>>>,
    /// Woken when a database is closed or loses its last lease, while somebody waits for capacity.
    capacity: Arc<Notify>,
    capacity_waiters: AtomicUsize,
}

enum Slot<T> {
    Opening(Arc<Notify>),
    Open(Arc<Entry<T>>),
    Draining(Arc<Notify>),
    /// Locked for an operation on its files, or being closed.
    Locked(Arc<Notify>),
}

/// The answer to [`Slots::acquire`].
pub enum Acquired<T> {
    /// It is open.
    Leased(Lease<T>),
    /// It is absent, and the caller must open it.
    Absent(Opening<T>),
    /// It is being opened or closed, or is locked: acquire again after this.
    Wait(OwnedNotified),
}

impl<T> Slots<T> {
    /// Nothing open.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            recency: Mutex::default(),
            capacity: Arc::default(),
            capacity_waiters: AtomicUsize::new(0),
        })
    }

    fn shard(&self, id: &TenantId) -> &Mutex<HashMap<TenantId, Slot<T>>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
        let index = self.hasher.hash_one(id) as usize % SHARDS;
        &self.shards[index]
    }

    /// A lease, the right to open, or something to wait for.
    pub fn acquire(self: &Arc<Self>, id: &TenantId, now: Tick) -> Acquired<T> {
        let mut shard = self.shard(id).lock();
        // The hot path does not clone the key.
        match shard.get(id) {
            Some(Slot::Open(entry)) => {
                entry.leases.fetch_add(1, Ordering::AcqRel);
                entry.last_used.store(now, Ordering::Relaxed);
                Acquired::Leased(Lease { entry: entry.clone(), slots: self.clone() })
            }
            Some(Slot::Opening(changed) | Slot::Draining(changed) | Slot::Locked(changed)) => {
                Acquired::Wait(changed.clone().notified_owned())
            }
            None => {
                let changed = Arc::<Notify>::default();
                shard.insert(id.clone(), Slot::Opening(changed.clone()));
                Acquired::Absent(Opening { slots: self.clone(), id: id.clone(), changed, done: false })
            }
        }
    }

    /// Locks a tenant for an operation on its files: new leases wait, and this returns when the last
    /// lease is dropped. The caller closes the database that was open. Dropping the future before that
    /// puts everything back.
    pub async fn lock(self: &Arc<Self>, id: &TenantId) -> TenantLock<T> {
        loop {
            match self.try_lock(id) {
                TryLock::Locked(lock) => return lock,
                TryLock::Wait(changed) => changed.await,
                TryLock::Draining(draining) => return draining.drained().await,
            }
        }
    }

    fn try_lock(self: &Arc<Self>, id: &TenantId) -> TryLock<T> {
        let mut shard = self.shard(id).lock();
        let changed = Arc::<Notify>::default();
        match shard.entry(id.clone()) {
            MapEntry::Vacant(vacant) => {
                vacant.insert(Slot::Locked(changed.clone()));
                TryLock::Locked(self.locked(id, changed, None))
            }
            MapEntry::Occupied(mut occupied) => match occupied.get() {
                Slot::Opening(changed) | Slot::Draining(changed) | Slot::Locked(changed) => {
                    TryLock::Wait(changed.clone().notified_owned())
                }
                Slot::Open(entry) => {
                    let entry = entry.clone();
                    occupied.insert(Slot::Draining(changed.clone()));
                    entry.wanted.store(1, Ordering::SeqCst);
                    entry.becomes_wanted.notify_waiters();
                    TryLock::Draining(Draining { slots: self.clone(), entry, changed, done: false })
                }
            },
        }
    }

    fn locked(self: &Arc<Self>, id: &TenantId, changed: Arc<Notify>, open: Option<Arc<Entry<T>>>) -> TenantLock<T> {
        TenantLock { slots: self.clone(), id: id.clone(), changed, open }
    }

    /// Takes the least recently used database that nobody leases, if it was last used at or before
    /// `until`. The caller closes it and then drops the lock.
    pub fn evict(self: &Arc<Self>, now: Tick, until: Tick) -> Option<TenantLock<T>> {
        let mut recency = self.recency.lock();
        // Each entry is checked once: if all are leased, there is none.
        for _ in 0..recency.len() {
            let oldest = recency.first_entry().filter(|oldest| oldest.key().0 <= until)?;
            let ((tick, address), weak) = oldest.remove_entry();
            let Some(entry) = weak.upgrade() else { continue };
            let mut shard = self.shard(&entry.id).lock();
            match shard.get(&entry.id) {
                Some(Slot::Open(current)) if Arc::ptr_eq(current, &entry) => {}
                Some(Slot::Draining(_)) => {
                    // Open again if the lock is cancelled.
                    recency.insert((now, address), weak);
                    continue;
                }
                _ => continue,
            }
            let last_used = entry.last_used.load(Ordering::Relaxed);
            if entry.leases.load(Ordering::SeqCst) > 0 {
                recency.insert((now.max(last_used), address), weak);
            } else if last_used > tick {
                recency.insert((last_used, address), weak);
            } else {
                let changed = Arc::<Notify>::default();
                shard.insert(entry.id.clone(), Slot::Locked(changed.clone()));
                drop(shard);
                return Some(self.locked(&entry.id.clone(), changed, Some(entry)));
            }
        }
        None
    }

    /// A wait for capacity, when nothing can be evicted. Make it, then try once more, then await it:
    /// otherwise a wake-up in between is lost.
    pub fn wait_for_capacity(self: &Arc<Self>) -> CapacityWait<T> {
        self.capacity_waiters.fetch_add(1, Ordering::SeqCst);
        CapacityWait { slots: self.clone(), capacity: Box::pin(self.capacity.clone().notified_owned()) }
    }

    /// The ids of all that are open or between states.
    pub fn ids(&self) -> Vec<TenantId> {
        self.shards.iter().flat_map(|shard| shard.lock().keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// What a tenant has open, without a lease: to look is no use of it.
    pub fn peek(&self, id: &TenantId) -> Peeked<T> {
        match self.shard(id).lock().get(id) {
            None => Peeked::Absent,
            Some(Slot::Open(entry)) => Peeked::Open(LeaseWatch(entry.clone())),
            Some(Slot::Opening(_) | Slot::Draining(_) | Slot::Locked(_)) => Peeked::Between,
        }
    }

    /// Shows all that is open, without leases. Something may be closed while it is looked at.
    pub fn visit(&self, mut look: impl FnMut(LeaseWatch<T>)) {
        for shard in &self.shards {
            let open =
                |slot: &Slot<T>| if let Slot::Open(entry) = slot { Some(LeaseWatch(entry.clone())) } else { None };
            // Looked at outside of the mutex, for which requests wait.
            let open: Vec<LeaseWatch<T>> = shard.lock().values().filter_map(open).collect();
            open.into_iter().for_each(&mut look);
        }
    }

    fn wake_capacity_waiters(&self) {
        if self.capacity_waiters.load(Ordering::SeqCst) > 0 {
            self.capacity.notify_waiters();
        }
    }

    fn set_open(self: &Arc<Self>, entry: Arc<Entry<T>>, changed: &Notify) {
        self.shard(&entry.id).lock().insert(entry.id.clone(), Slot::Open(entry));
        changed.notify_waiters();
    }

    fn remove(&self, id: &TenantId, changed: &Notify) {
        self.shard(id).lock().remove(id);
        changed.notify_waiters();
    }
}

/// The answer to [`Slots::peek`].
pub enum Peeked<T> {
    /// It is not open.
    Absent,
    /// It is being opened, closed or moved.
    Between,
    /// It is open.
    Open(LeaseWatch<T>),
}

/// A wait for capacity; see [`Slots::wait_for_capacity`].
pub struct CapacityWait<T> {
    slots: Arc<Slots<T>>,
    capacity: std::pin::Pin<Box<OwnedNotified>>,
}

impl<T> CapacityWait<T> {
    /// Returns when a database was closed or may be evicted.
    pub async fn wait(mut self) {
        self.capacity.as_mut().await;
    }
}

impl<T> Drop for CapacityWait<T> {
    fn drop(&mut self) {
        self.slots.capacity_waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Keeps a database open as long as any clone of this lives.
pub struct Lease<T> {
    entry: Arc<Entry<T>>,
    slots: Arc<Slots<T>>,
}

impl<T> Lease<T> {
    /// Whose it is.
    pub fn id(&self) -> &TenantId {
        &self.entry.id
    }

    /// Tells when somebody wants to lock it, without keeping it open.
    pub fn watch(&self) -> LeaseWatch<T> {
        LeaseWatch(self.entry.clone())
    }
}

impl<T> std::ops::Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.entry.value
    }
}

impl<T> Clone for Lease<T> {
    fn clone(&self) -> Self {
        // This lease keeps the count above zero, so no shard lock is needed.
        self.entry.leases.fetch_add(1, Ordering::AcqRel);
        Self { entry: self.entry.clone(), slots: self.slots.clone() }
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        // SeqCst with the count of capacity waiters: they add themselves, then look for an entry without a
        // lease; this drops a lease, then looks for waiters. One of the two sees the other.
        if self.entry.leases.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.entry.idle.notify_waiters();
            self.slots.wake_capacity_waiters();
        }
    }
}

/// The right to open an absent tenant. Dropped without [`complete`](Self::complete), the tenant is
/// absent again and the next waiter may open it.
pub struct Opening<T> {
    slots: Arc<Slots<T>>,
    id: TenantId,
    changed: Arc<Notify>,
    done: bool,
}

impl<T> Opening<T> {
    /// Whose it is.
    pub fn id(&self) -> &TenantId {
        &self.id
    }

    /// The tenant is open: wakes all waiters and gives the first lease.
    pub fn complete(mut self, value: T, now: Tick) -> Lease<T> {
        self.done = true;
        let entry = Arc::new(Entry {
            id: self.id.clone(),
            value,
            leases: AtomicUsize::new(1),
            last_used: AtomicU64::new(now),
            idle: Notify::new(),
            wanted: AtomicU64::new(0),
            becomes_wanted: Notify::new(),
        });
        let lease = Lease { entry: entry.clone(), slots: self.slots.clone() };
        self.slots.set_open(entry.clone(), &self.changed);
        self.slots.recency.lock().insert((now, Arc::as_ptr(&entry).addr()), Arc::downgrade(&entry));
        lease
    }

    /// Cancels the opening before it has taken capacity: wakes the waiters for this tenant, and not those
    /// for capacity. A caller that waits for capacity would wake itself, and never wait.
    pub fn cancel(mut self) {
        self.done = true;
        self.slots.remove(&self.id, &self.changed);
    }
}

impl<T> Drop for Opening<T> {
    fn drop(&mut self) {
        if !self.done {
            self.slots.remove(&self.id, &self.changed);
            // The capacity taken for it is free again.
            self.slots.wake_capacity_waiters();
        }
    }
}

enum TryLock<T> {
    Locked(TenantLock<T>),
    Wait(OwnedNotified),
    Draining(Draining<T>),
}

/// Waits for the leases of one entry to be dropped.
struct Draining<T> {
    slots: Arc<Slots<T>>,
    entry: Arc<Entry<T>>,
    changed: Arc<Notify>,
    done: bool,
}

impl<T> Draining<T> {
    async fn drained(mut self) -> TenantLock<T> {
        let entry = self.entry.clone();
        loop {
            let idle = entry.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            // A draining tenant gives no leases, so the count only falls.
            if entry.leases.load(Ordering::Acquire) == 0 {
                break;
            }
            idle.await;
        }
        self.done = true;
        self.slots.shard(&entry.id).lock().insert(entry.id.clone(), Slot::Locked(self.changed.clone()));
        self.slots.locked(&entry.id.clone(), self.changed.clone(), Some(entry))
    }
}

impl<T> Drop for Draining<T> {
    fn drop(&mut self) {
        if !self.done {
            self.entry.wanted.store(0, Ordering::SeqCst);
            self.slots.set_open(self.entry.clone(), &self.changed);
            // It may be evicted again.
            self.slots.wake_capacity_waiters();
        }
    }
}

/// An exclusive lock on a tenant, to close it or for an operation on its files. Dropped, the tenant is absent.
pub struct TenantLock<T> {
    slots: Arc<Slots<T>>,
    id: TenantId,
    changed: Arc<Notify>,
    open: Option<Arc<Entry<T>>>,
}

impl<T> TenantLock<T> {
    /// The database that was open, which must be closed first.
    pub fn open(&self) -> Option<&T> {
        self.open.as_deref().map(|entry| &entry.value)
    }

    /// Whose it is.
    pub fn id(&self) -> &TenantId {
        &self.id
    }
}

impl<T> Drop for TenantLock<T> {
    fn drop(&mut self) {
        self.open = None;
        self.slots.remove(&self.id, &self.changed);
        self.slots.wake_capacity_waiters();
    }
}
