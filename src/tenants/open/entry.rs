//! What is open of a tenant, as [`slots`](super::slots) counts its leases.

use std::sync::{Arc, atomic::Ordering};

use super::primitives::{AtomicU64, AtomicUsize, Notify, TenantId};

/// A time on the caller's monotonic clock. Only its order matters here.
pub type Tick = u64;

/// Something open, and how many use it.
pub(super) struct Entry<T> {
    pub(super) id: TenantId,
    pub(super) value: T,
    pub(super) leases: AtomicUsize,
    pub(super) last_used: AtomicU64,
    /// Woken when the last lease goes.
    pub(super) idle: Notify,
    /// 1 while somebody waits to lock it, whom long leases should not keep waiting.
    pub(super) wanted: AtomicU64,
    /// Woken when it becomes wanted.
    pub(super) becomes_wanted: Notify,
}

/// Something open, without a lease. Tells those who keep a lease for long that somebody waits for them.
pub struct LeaseWatch<T>(pub(super) Arc<Entry<T>>);

impl<T> LeaseWatch<T> {
    /// Whose it is.
    pub fn id(&self) -> &TenantId {
        &self.0.id
    }

    /// What is open, its leases, and when it was last leased.
    pub fn look(&self) -> (&T, usize, Tick) {
        (&self.0.value, self.0.leases.load(Ordering::Relaxed), self.0.last_used.load(Ordering::Relaxed))
    }

    /// Returns when somebody wants to lock it, at once if somebody does.
    pub async fn wanted(&self) {
        loop {
            let wanted = self.0.becomes_wanted.notified();
            tokio::pin!(wanted);
            wanted.as_mut().enable();
            if self.0.wanted.load(Ordering::SeqCst) == 1 {
                return;
            }
            wanted.await;
        }
    }
}
