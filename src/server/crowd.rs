//! The connections of one listener, and which of them gives way when one more comes than there may be.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::http::{connection::Connection, limits::Door};

/// One connection.
pub struct Member {
    /// What its requests hold.
    pub connection: Arc<Connection>,
    /// What counts as its address.
    address: u128,
    /// Whether the operator's key was shown on it.
    proven: AtomicBool,
    /// Whether it came, or had a request, since it was last looked at.
    used: AtomicBool,
    gone: AtomicBool,
    wish: AtomicU8,
    wished: Notify,
}

/// What is wanted of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To end when what it has begun is done: the server shuts down.
    Finish = 1,
    /// To end at once, for another's sake.
    GiveWay = 2,
}

impl Member {
    /// A request has come; with the operator's key or without.
    pub fn uses(&self, proven: bool) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        if proven && !self.proven.load(Ordering::Relaxed) {
            self.proven.store(true, Ordering::Relaxed);
        }
    }

    fn ask(&self, wish: Wish) {
        self.wish.fetch_max(wish as u8, Ordering::AcqRel);
        self.wished.notify_one();
    }

    /// Waits until something is wanted.
    pub async fn wish(&self) -> Wish {
        self.wished.notified().await;
        match self.wish.load(Ordering::Acquire) == Wish::GiveWay as u8 {
            true => Wish::GiveWay,
            false => Wish::Finish,
        }
    }

    /// Whether it may be cut without anything being lost that anybody is owed.
    pub fn may_go(&self, door: Door) -> bool {
        self.connection.is_idle() || (door == Door::Operators && !self.proven.load(Ordering::Relaxed))
    }
}

/// Ends the membership when the connection does, however it does.
pub struct Membership(pub Arc<Member>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
        self.0.connection.close();
    }
}

/// All connections of a listener.
pub struct Crowd {
    door: Door,
    /// From how many on those that are gone are looked for.
    tidy: usize,
    /// Oldest first, but for those that were looked at and stay.
    members: Mutex<VecDeque<Arc<Member>>>,
}

impl Crowd {
    /// Of a listener that has `most` connections.
    pub fn new(door: Door, most: usize) -> Self {
        Self { door, tidy: 2 * most + 16, members: Mutex::default() }
    }

    /// One more.
    pub fn join(&self, address: u128) -> Membership {
        let member = Arc::new(Member {
            connection: Arc::default(),
            address,
            proven: AtomicBool::new(false),
            used: AtomicBool::new(true),
            gone: AtomicBool::new(false),
            wish: AtomicU8::new(0),
            wished: Notify::new(),
        });
        let mut members = self.members.lock();
        if members.len() >= self.tidy {
            members.retain(|member| !member.gone.load(Ordering::Acquire));
        }
        members.push_back(member.clone());
        Membership(member)
    }

    /// Asks one to give way: the one that has done nothing for longest and has shown no key, one that has
    /// if there is no other. None that is answering a request, where everybody may have one.
    pub fn make_room(&self) {
        let mut members = self.members.lock();
        let mut second = None;
        for _ in 0..members.len() {
            let Some(member) = members.pop_front() else { break };
            if member.gone.load(Ordering::Acquire) {
                continue;
            }
            if member.wish.load(Ordering::Acquire) == 0 && member.may_go(self.door) {
                let proven = member.proven.load(Ordering::Relaxed);
                if !proven && !member.used.swap(false, Ordering::Relaxed) {
                    return member.ask(Wish::GiveWay);
                }
                // Among these the first; one without the key before one with it.
                match &second {
                    Some((_, true)) if !proven => second = Some((member.clone(), proven)),
                    None => second = Some((member.clone(), proven)),
                    _ => {}
                }
            }
            members.push_back(member);
        }
        if let Some((member, _)) = second {
            member.ask(Wish::GiveWay);
        }
    }

    /// Has the oldest of an address without the key give way if it has `most` of them already.
    pub fn make_room_of(&self, address: u128, most: usize) {
        let members = self.members.lock();
        let unproven = |member: &&Arc<Member>| {
            member.address == address
                && !member.gone.load(Ordering::Acquire)
                && !member.proven.load(Ordering::Relaxed)
                && member.wish.load(Ordering::Acquire) == 0
        };
        let mut of = members.iter().filter(unproven);
        let oldest = of.next();
        if let Some(oldest) = oldest
            && of.count() + 1 >= most
        {
            oldest.ask(Wish::GiveWay);
        }
    }

    /// Asks all to end.
    pub fn finish(&self) {
        for member in self.members.lock().iter() {
            member.ask(Wish::Finish);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(members: &[Membership]) -> Vec<usize> {
        let asked = |member: &Membership| member.0.wish.load(Ordering::Acquire) == Wish::GiveWay as u8;
        members.iter().enumerate().filter(|(_, member)| asked(member)).map(|(n, _)| n).collect()
    }

    #[test]
    fn the_oldest_without_a_request_gives_way_then_the_oldest_with_one_and_last_who_showed_the_key() {
        let crowd = Crowd::new(Door::Public, 4);
        let members: Vec<_> = (0..4).map(|_| crowd.join(0)).collect();
        // They were looked at once since they came.
        members.iter().for_each(|member| member.0.used.store(false, Ordering::Relaxed));
        members[0].0.uses(true);
        members[1].0.uses(false);
        for wanted in [&[2][..], &[2, 3], &[1, 2, 3], &[0, 1, 2, 3]] {
            crowd.make_room();
            assert_eq!(asked(&members), wanted);
        }
    }

    #[test]
    fn who_has_just_come_does_not_give_way_before_those_who_came_earlier() {
        let crowd = Crowd::new(Door::Public, 4);
        let mut members: Vec<_> = (0..3).map(|_| crowd.join(0)).collect();
        members.iter().for_each(|member| member.0.uses(false));
        members.push(crowd.join(0));
        crowd.make_room();
        assert_eq!(asked(&members), [0]);
        members[1].0.uses(false);
        crowd.make_room();
        assert_eq!(asked(&members), [0, 2], "of those that were looked at, the one without a request since");
    }

    #[test]
    fn an_address_that_has_its_share_makes_room_for_itself() {
        let crowd = Crowd::new(Door::Operators, 8);
        let members: Vec<_> = [1, 2, 2, 1].into_iter().map(|address| crowd.join(address)).collect();
        members[1].0.uses(true);
        crowd.make_room_of(2, 2);
        assert_eq!(asked(&members), [0; 0], "the one with the key does not count");
        crowd.make_room_of(1, 2);
        assert_eq!(asked(&members), [0]);
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let crowd = Crowd::new(Door::Public, 1);
        for _ in 0..1000 {
            drop(crowd.join(0));
        }
        assert!(crowd.members.lock().len() <= 18);
    }
}
