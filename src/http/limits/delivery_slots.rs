//! A bounded number of slots for deliveries whose signature is not verified yet: the oldest of them loses its
//! slot to a new one.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The slots.
pub struct DeliverySlots {
    most: usize,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    taken: usize,
    /// Those that may lose their slot, oldest first.
    unverified: VecDeque<Arc<Notify>>,
}

/// A slot, kept until dropped.
pub struct DeliverySlot {
    shared: Arc<Mutex<Shared>>,
    lost: Arc<Notify>,
    settled: bool,
}

impl DeliverySlots {
    /// With `most` slots.
    pub fn of(most: u32) -> Self {
        Self { most: most as usize, shared: Arc::default() }
    }

    /// A slot: a free one, or that of the oldest delivery that has not settled. None if all have settled.
    pub fn take(&self) -> Option<DeliverySlot> {
        let mut shared = self.shared.lock();
        if shared.taken >= self.most {
            // Its slot is free from now on.
            shared.unverified.pop_front()?.notify_one();
        } else {
            shared.taken += 1;
        }
        let lost = Arc::new(Notify::new());
        shared.unverified.push_back(lost.clone());
        Some(DeliverySlot { shared: self.shared.clone(), lost, settled: false })
    }
}

impl DeliverySlot {
    /// Waits until another delivery has the slot.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Keeps the slot from now on. False if it was lost.
    pub fn settle(&mut self) -> bool {
        let mut shared = self.shared.lock();
        self.settled = remove_unverified(&mut shared, &self.lost);
        self.settled
    }
}

fn remove_unverified(shared: &mut Shared, lost: &Arc<Notify>) -> bool {
    let at = shared.unverified.iter().position(|other| Arc::ptr_eq(other, lost));
    at.is_some_and(|at| shared.unverified.remove(at).is_some())
}

impl Drop for DeliverySlot {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        // A slot that was lost is counted as the other's.
        if self.settled || remove_unverified(&mut shared, &self.lost) {
            shared.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_has_not_settled_loses_its_slot() {
        let slots = DeliverySlots::of(2);
        let (mut settled, oldest) = (slots.take().unwrap(), slots.take().unwrap());
        assert!(settled.settle());
        let next = slots.take().unwrap();
        oldest.lost().await;
        let mut last = slots.take().unwrap();
        next.lost().await;
        drop((oldest, next));
        assert!(last.settle());
        assert!(slots.take().is_none(), "all have settled");
        drop(settled);
        let mut one_more = slots.take().unwrap();
        drop(slots.take());
        assert!(!one_more.settle());
        drop((last, one_more));
        let shared = slots.shared.lock();
        assert_eq!((shared.taken, shared.unverified.len()), (0, 0));
    }

    #[test]
    fn a_delivery_that_lost_its_slot_cannot_settle() {
        let slots = DeliverySlots::of(1);
        let mut a = slots.take().unwrap();
        let b = slots.take().unwrap();
        assert!(!a.settle());
        drop((a, b));
        assert_eq!(slots.shared.lock().taken, 0);
    }
}
