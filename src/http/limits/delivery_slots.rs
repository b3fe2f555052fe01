//! A bounded number of places for those who have proven nothing yet: whoever has kept one for longest makes
//! room for whoever comes.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The places.
pub struct DeliverySlots {
    most: usize,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    taken: usize,
    /// Those who may be asked to go, oldest first.
    waiting: VecDeque<Arc<Notify>>,
}

/// A place, kept until dropped.
pub struct DeliverySlot {
    shared: Arc<Mutex<Shared>>,
    asked: Arc<Notify>,
    settled: bool,
}

impl DeliverySlots {
    /// So many.
    pub fn of(most: u32) -> Self {
        Self { most: most as usize, shared: Arc::default() }
    }

    /// A place: a free one, or that of whoever has kept one for longest without settling. None if all
    /// have settled.
    pub fn take(&self) -> Option<DeliverySlot> {
        let mut shared = self.shared.lock();
        if shared.taken >= self.most {
            // Its place is free from now on; whoever had it only has to notice.
            shared.waiting.pop_front()?.notify_one();
        } else {
            shared.taken += 1;
        }
        let asked = Arc::new(Notify::new());
        shared.waiting.push_back(asked.clone());
        Some(DeliverySlot { shared: self.shared.clone(), asked, settled: false })
    }
}

impl DeliverySlot {
    /// Ends when the place is somebody else's.
    pub async fn lost(&self) {
        self.asked.notified().await;
    }

    /// From now on it is not taken away. False if it was.
    pub fn settle(&mut self) -> bool {
        let mut shared = self.shared.lock();
        self.settled = leave_waiting(&mut shared, &self.asked);
        self.settled
    }
}

fn leave_waiting(shared: &mut Shared, who: &Arc<Notify>) -> bool {
    let at = shared.waiting.iter().position(|waiting| Arc::ptr_eq(waiting, who));
    at.is_some_and(|at| shared.waiting.remove(at).is_some())
}

impl Drop for DeliverySlot {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        // One that was taken away is counted as the other's.
        if self.settled || leave_waiting(&mut shared, &self.asked) {
            shared.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_has_not_settled_makes_room() {
        let places = DeliverySlots::of(2);
        let (mut settled, oldest) = (places.take().unwrap(), places.take().unwrap());
        assert!(settled.settle());
        let next = places.take().unwrap();
        oldest.lost().await;
        let mut last = places.take().unwrap();
        next.lost().await;
        drop((oldest, next));
        assert!(last.settle());
        assert!(places.take().is_none(), "all have settled");
        drop(settled);
        let mut one_more = places.take().unwrap();
        drop(places.take());
        assert!(!one_more.settle());
        drop((last, one_more));
        let shared = places.shared.lock();
        assert_eq!((shared.taken, shared.waiting.len()), (0, 0));
    }

    #[test]
    fn one_who_lost_the_place_cannot_settle() {
        let places = DeliverySlots::of(1);
        let mut a = places.take().unwrap();
        let b = places.take().unwrap();
        assert!(!a.settle());
        drop((a, b));
        assert_eq!(places.shared.lock().taken, 0);
    }
}
