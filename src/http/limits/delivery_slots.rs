//! A bounded number of slots for deliveries whose signature is not verified yet: the oldest of them loses its
//! slot to a new one.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The slots.
pub struct DeliverySlots {
    free: Arc<Semaphore>,
    unverified: Arc<Unverified>,
}

/// Those that may lose their slot, oldest first.
type Unverified = Mutex<VecDeque<(Arc<Notify>, OwnedSemaphorePermit)>>;

/// A slot, kept until dropped.
pub struct DeliverySlot {
    unverified: Arc<Unverified>,
    lost: Arc<Notify>,
    settled: Option<OwnedSemaphorePermit>,
}

impl DeliverySlots {
    /// With `most` slots.
    pub fn of(most: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(most as usize)), unverified: Arc::default() }
    }

    /// A slot: a free one, or that of the oldest delivery that has not settled. None if all have settled.
    pub fn take(&self) -> Option<DeliverySlot> {
        let mut unverified = self.unverified.lock();
        let permit = match self.free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let (loser, permit) = unverified.pop_front()?;
                loser.notify_one();
                permit
            }
        };
        let lost = Arc::new(Notify::new());
        unverified.push_back((lost.clone(), permit));
        Some(DeliverySlot { unverified: self.unverified.clone(), lost, settled: None })
    }
}

impl DeliverySlot {
    /// Waits until another delivery has the slot.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Keeps the slot from now on. False if it was lost.
    pub fn settle(&mut self) -> bool {
        self.settled = self.withdraw();
        self.settled.is_some()
    }

    /// Takes the slot from those that may be lost; none if it was lost or has settled.
    fn withdraw(&self) -> Option<OwnedSemaphorePermit> {
        let mut unverified = self.unverified.lock();
        let at = unverified.iter().position(|(other, _)| Arc::ptr_eq(other, &self.lost))?;
        unverified.remove(at).map(|(_, permit)| permit)
    }
}

impl Drop for DeliverySlot {
    fn drop(&mut self) {
        drop(self.withdraw());
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
        assert_eq!((slots.free.available_permits(), slots.unverified.lock().len()), (2, 0));
    }
}
