//! The life of an open tenant, as a state machine without I/O.
//!
//! ```text
//!            acquire                complete
//!   absent ──────────▶ opening ───────────────▶ open ◀──── acquire: one lease more
//!     ▲  ▲                │ failed               │ │ ▲
//!     │  └────────────────┘              evict   │ │ │ given up
//!     │                                          │ │ │
//!     │     closed                               │ ▼ │
//!     ├──────────────────────── closing ◀────────┘ draining
//!     │                            (no leases)      │ no leases left
//!     │     released                                ▼
//!     └─────────────────────────────────────────── held
//! ```
//!
//! Each transition but those between the leases happens under the lock of the tenant's shard, so
//! two callers never see one tenant in two states. What takes time (opening, closing, moving
//! files) happens outside the lock, by whoever holds the ticket of the state: [`Opening`],
//! [`Eviction`] or [`TenantLock`]. Every ticket puts the slot right when dropped, so a panic or a caller
//! that went away leaves nobody waiting.
//!
//! # Invariants
//! - **Single flight.** At most one ticket exists for a tenant. Else a file would be opened twice
//!   in exclusive mode, or moved while open.
//! - **A leased database is never closed.** [`Eviction`] and [`TenantLock`] exist only after the lease
//!   count was seen at zero under the shard's lock, in a state in which nobody can take a lease.
//! - **No lost wake-up.** A waiter registers before it lets go of the shard's lock, and whoever
//!   leaves a waiting state wakes all.
//! - **Least recently used first.** The order is exact among databases without a lease. Recency is
//!   a number on the entry; the heap is put right only when something must go, so a lease costs
//!   one atomic store.

use std::{
    collections::{BinaryHeap, HashMap, hash_map::Entry as MapEntry},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak, atomic::Ordering},
};

use super::primitives::{AtomicU64, AtomicUsize, Mutex, Notify, OwnedNotified, TenantId};

/// A moment on the caller's own monotonic clock. Only its order matters here.
pub type Tick = u64;

const SHARDS: usize = 64;

/// All tenants that are not absent. `T` is what is open: a database, or a stand-in in tests.
pub struct Slots<T> {
    shards: Box<[Mutex<HashMap<TenantId, Slot<T>>>]>,
    hasher: RandomState,
    /// Every open entry once, by the tick it had when it was put here; the oldest on top.
    recency: Mutex<BinaryHeap<Aged<T>>>,
    /// Woken when a database is closed or one without a lease appears, while somebody is starved.
    capacity: Arc<Notify>,
    capacity_waiters: AtomicUsize,
}

enum Slot<T> {
    Opening(Arc<Notify>),
    Open(Arc<Entry<T>>),
    Draining(Arc<Notify>),
    /// Held by a lifecycle operation, or closing.
    Locked(Arc<Notify>),
}

/// Something open, and how many use it.
struct Entry<T> {
    id: TenantId,
    value: T,
    leases: AtomicUsize,
    last_used: AtomicU64,
    /// Woken when the last lease goes.
    idle: Notify,
}

struct Aged<T> {
    tick: Tick,
    entry: Weak<Entry<T>>,
}

impl<T> PartialEq for Aged<T> {
    fn eq(&self, other: &Self) -> bool {
        self.tick == other.tick
    }
}
impl<T> Eq for Aged<T> {}
impl<T> PartialOrd for Aged<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Aged<T> {
    /// Reversed: `BinaryHeap` gives its greatest, and the oldest is wanted.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.tick.cmp(&self.tick)
    }
}

/// The answer to [`Slots::acquire`].
pub enum Acquired<T> {
    /// It is open: here is a lease.
    Leased(Lease<T>),
    /// It is absent: the caller opens it.
    Absent(Opening<T>),
    /// Somebody is opening, closing or holding it: ask again after this.
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

    /// A lease, the task of opening, or something to wait for.
    pub fn acquire(self: &Arc<Self>, id: &TenantId, now: Tick) -> Acquired<T> {
        let mut shard = self.shard(id).lock();
        // The hot path first, without making a key.
        match shard.get(id) {
            Some(Slot::Open(entry)) => {
                entry.leases.fetch_add(1, Ordering::AcqRel);
                entry.last_used.store(now, Ordering::Relaxed);
                Acquired::Leased(Lease { entry: entry.clone(), slots: self.clone() })
            }
            Some(Slot::Opening(gate) | Slot::Draining(gate) | Slot::Locked(gate)) => {
                Acquired::Wait(gate.clone().notified_owned())
            }
            None => {
                let gate = Arc::<Notify>::default();
                shard.insert(id.clone(), Slot::Opening(gate.clone()));
                Acquired::Absent(Opening { slots: self.clone(), id: id.clone(), gate, done: false })
            }
        }
    }

    /// Takes a tenant out of use, for an operation on its files: new leases wait, and this returns
    /// when the last lease is gone. What was open is handed over to be closed. Dropping the future
    /// before that puts everything back.
    pub async fn lock(self: &Arc<Self>, id: &TenantId) -> TenantLock<T> {
        loop {
            match self.try_lock(id) {
                TryLock::Locked(lock) => return lock,
                TryLock::Wait(changed) => changed.await,
                TryLock::Draining(mut draining) => return draining.drained().await,
            }
        }
    }

    fn try_lock(self: &Arc<Self>, id: &TenantId) -> TryLock<T> {
        let mut shard = self.shard(id).lock();
        let fresh = Arc::<Notify>::default();
        match shard.entry(id.clone()) {
            MapEntry::Vacant(vacant) => {
                vacant.insert(Slot::Locked(fresh.clone()));
                TryLock::Locked(self.locked(id, fresh, None))
            }
            MapEntry::Occupied(mut occupied) => match occupied.get() {
                Slot::Opening(gate) | Slot::Draining(gate) | Slot::Locked(gate) => {
                    TryLock::Wait(gate.clone().notified_owned())
                }
                Slot::Open(entry) => {
                    let entry = Some(entry.clone());
                    occupied.insert(Slot::Draining(fresh.clone()));
                    TryLock::Draining(Draining { slots: self.clone(), entry, gate: fresh })
                }
            },
        }
    }

    fn locked(self: &Arc<Self>, id: &TenantId, gate: Arc<Notify>, open: Option<Arc<Entry<T>>>) -> TenantLock<T> {
        TenantLock { slots: self.clone(), id: id.clone(), gate, open, passed_on: false }
    }

    /// Takes the least recently used database that nobody leases, if it was last used at or before
    /// `until`. The caller closes it and then drops the ticket.
    pub fn evict(self: &Arc<Self>, now: Tick, until: Tick) -> Option<Eviction<T>> {
        let mut recency = self.recency.lock();
        // Each entry is looked at once: if all are leased, the answer is no.
        for _ in 0..recency.len() {
            if recency.peek()?.tick > until {
                return None;
            }
            let aged = recency.pop()?;
            let Some(entry) = aged.entry.upgrade() else { continue };
            let mut shard = self.shard(&entry.id).lock();
            match shard.get(&entry.id) {
                Some(Slot::Open(current)) if Arc::ptr_eq(current, &entry) => {}
                Some(Slot::Draining(_)) => {
                    // It may come back if its holder gives up.
                    recency.push(Aged { tick: now, entry: aged.entry });
                    continue;
                }
                _ => continue,
            }
            let last_used = entry.last_used.load(Ordering::Relaxed);
            if entry.leases.load(Ordering::SeqCst) > 0 {
                recency.push(Aged { tick: now.max(last_used), entry: aged.entry });
            } else if last_used > aged.tick {
                recency.push(Aged { tick: last_used, entry: aged.entry });
            } else {
                let gate = Arc::<Notify>::default();
                shard.insert(entry.id.clone(), Slot::Locked(gate.clone()));
                drop(shard);
                return Some(Eviction(self.locked(&entry.id.clone(), gate, Some(entry))));
            }
        }
        None
    }

    /// Something to wait for when nothing can be evicted. Make it first, then try once more, then
    /// await it: otherwise the wake-up may come in between.
    pub fn wait_for_capacity(self: &Arc<Self>) -> CapacityWait<T> {
        self.capacity_waiters.fetch_add(1, Ordering::SeqCst);
        CapacityWait { slots: self.clone(), capacity: Box::pin(self.capacity.clone().notified_owned()) }
    }

    /// How many are open or between states.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// The ids of all that are open or between states.
    pub fn ids(&self) -> Vec<TenantId> {
        self.shards.iter().flat_map(|shard| shard.lock().keys().cloned().collect::<Vec<_>>()).collect()
    }

    fn wake_capacity_waiters(&self) {
        if self.capacity_waiters.load(Ordering::SeqCst) > 0 {
            self.capacity.notify_waiters();
        }
    }

    fn set_open(self: &Arc<Self>, entry: Arc<Entry<T>>, gate: &Notify) {
        self.shard(&entry.id).lock().insert(entry.id.clone(), Slot::Open(entry));
        gate.notify_waiters();
    }

    fn remove(&self, id: &TenantId, gate: &Notify) {
        self.shard(id).lock().remove(id);
        gate.notify_waiters();
    }
}

/// A wait for room; see [`Slots::wait_for_capacity`].
pub struct CapacityWait<T> {
    slots: Arc<Slots<T>>,
    capacity: std::pin::Pin<Box<OwnedNotified>>,
}

impl<T> CapacityWait<T> {
    /// Returns when something was closed or may be closed.
    pub async fn wait(mut self) {
        self.capacity.as_mut().await;
    }
}

impl<T> Drop for CapacityWait<T> {
    fn drop(&mut self) {
        self.slots.capacity_waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A lock on something open: it stays open as long as any clone of this lives.
pub struct Lease<T> {
    entry: Arc<Entry<T>>,
    slots: Arc<Slots<T>>,
}

impl<T> Lease<T> {
    /// Whose it is.
    pub fn id(&self) -> &TenantId {
        &self.entry.id
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
        // In one order with the count of the starved: they add themselves, then look for an entry
        // without a lease; here a lease goes, then the starved are looked for. One sees the other.
        if self.entry.leases.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.entry.idle.notify_waiters();
            self.slots.wake_capacity_waiters();
        }
    }
}

/// The task of opening an absent tenant. Dropped without [`complete`](Self::complete), the tenant
/// is absent again and the next who waits may try.
pub struct Opening<T> {
    slots: Arc<Slots<T>>,
    id: TenantId,
    gate: Arc<Notify>,
    done: bool,
}

impl<T> Opening<T> {
    /// Whose it is.
    pub fn id(&self) -> &TenantId {
        &self.id
    }

    /// It is open: lets all who wait in and gives the first lease.
    pub fn complete(mut self, value: T, now: Tick) -> Lease<T> {
        self.done = true;
        let entry = Arc::new(Entry {
            id: self.id.clone(),
            value,
            leases: AtomicUsize::new(1),
            last_used: AtomicU64::new(now),
            idle: Notify::new(),
        });
        let lease = Lease { entry: entry.clone(), slots: self.slots.clone() };
        self.slots.set_open(entry.clone(), &self.gate);
        self.slots.recency.lock().push(Aged { tick: now, entry: Arc::downgrade(&entry) });
        lease
    }
}

impl<T> Opening<T> {
    /// Gives the task up before anything was set aside for it: wakes those who wait for this
    /// tenant, and not those who wait for room. A starved caller that woke the starved would wake
    /// itself, and never wait.
    pub fn withdraw(mut self) {
        self.done = true;
        self.slots.remove(&self.id, &self.gate);
    }
}

impl<T> Drop for Opening<T> {
    fn drop(&mut self) {
        if !self.done {
            self.slots.remove(&self.id, &self.gate);
            // What was set aside for it is free again.
            self.slots.wake_capacity_waiters();
        }
    }
}

enum TryLock<T> {
    Locked(TenantLock<T>),
    Wait(OwnedNotified),
    Draining(Draining<T>),
}

/// Waiting for the leases of one entry to go.
struct Draining<T> {
    slots: Arc<Slots<T>>,
    entry: Option<Arc<Entry<T>>>,
    gate: Arc<Notify>,
}

impl<T> Draining<T> {
    async fn drained(&mut self) -> TenantLock<T> {
        while let Some(entry) = self.entry.clone() {
            let idle = entry.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            // Leases can only go now: in this state none is given.
            if entry.leases.load(Ordering::Acquire) == 0 {
                self.entry = None;
                self.slots.shard(&entry.id).lock().insert(entry.id.clone(), Slot::Locked(self.gate.clone()));
                return self.slots.locked(&entry.id.clone(), self.gate.clone(), Some(entry.clone()));
            }
            idle.await;
        }
        // Not reached: the entry is there until the return above.
        std::future::pending().await
    }
}

impl<T> Drop for Draining<T> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.slots.set_open(entry, &self.gate);
            // It may be evicted again.
            self.slots.wake_capacity_waiters();
        }
    }
}

/// The sole use of a tenant, for an operation on its files. Dropped, the tenant is absent.
pub struct TenantLock<T> {
    slots: Arc<Slots<T>>,
    id: TenantId,
    gate: Arc<Notify>,
    open: Option<Arc<Entry<T>>>,
    passed_on: bool,
}

impl<T> TenantLock<T> {
    /// What was open and must be closed first.
    pub fn open(&self) -> Option<&T> {
        self.open.as_deref().map(|entry| &entry.value)
    }

    /// Whose it is.
    pub fn id(&self) -> &TenantId {
        &self.id
    }

    /// Goes on to open the tenant, without letting anybody in between.
    pub fn reopen(mut self) -> Opening<T> {
        self.open = None;
        self.slots.shard(&self.id).lock().insert(self.id.clone(), Slot::Opening(self.gate.clone()));
        self.passed_on = true;
        Opening { slots: self.slots.clone(), id: self.id.clone(), gate: self.gate.clone(), done: false }
    }
}

impl<T> Drop for TenantLock<T> {
    fn drop(&mut self) {
        self.open = None;
        if !self.passed_on {
            self.slots.remove(&self.id, &self.gate);
        }
        self.slots.wake_capacity_waiters();
    }
}

/// A database to be closed to make room.
pub struct Eviction<T>(TenantLock<T>);

impl<T> std::ops::Deref for Eviction<T> {
    type Target = TenantLock<T>;

    fn deref(&self) -> &TenantLock<T> {
        &self.0
    }
}
