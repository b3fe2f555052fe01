//! When a commit that is durable on this machine is answered.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    capture::{Shared, answer, millis_of},
    fence::Fence,
    ship::not_there,
    state::tenant_of,
};
use crate::{
    clock::millis,
    config::replicate::Mode,
    error::{Error, ErrorKind},
    log::{Done, Hold, Seq},
};

/// How long an answer waits for the bucket, before the caller is told that it is not there yet.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is seen how far the bucket is behind.
const LOOK: Duration = Duration::from_millis(50);

/// Holds answers as the mode asks.
pub struct Holder {
    /// What is shared.
    pub shared: Arc<Shared>,
    /// Whether another server has taken over.
    pub fence: Arc<Fence>,
    /// When answers are sent.
    pub mode: Mode,
}

/// How far the bucket is behind, in milliseconds: the age of the oldest commit that it does not have.
pub fn behind(shared: &Shared) -> i64 {
    let now = millis_of(std::time::SystemTime::now());
    let waits = shared.slots.iter().filter_map(|slot| slot.pending.lock().oldest()).min();
    let unread = shared.oldest_unread();
    waits.into_iter().chain(unread).min().map_or(0, |oldest| (now - oldest).max(0))
}

impl Hold for Holder {
    fn hold(&self, name: &str, seq: Seq, done: Done) {
        let waits = match self.mode {
            Mode::Async => false,
            Mode::Sync => true,
            Mode::Bounded(bound) => {
                let tenant = tenant_of(name);
                self.shared.behind.load(Ordering::Relaxed) > millis(bound)
                    || self.shared.slot(tenant).pending.lock().lacks_base(tenant)
            }
        };
        if self.fence.is_taken() {
            let why = "another server has taken over the data: this write is on this machine alone, and is lost there";
            return done(Err(Error::new(ErrorKind::Unavailable, why)));
        }
        if !waits {
            return done(Ok(()));
        }
        let slot = self.shared.slot(tenant_of(name));
        let answers = slot.pending.lock().wait(name, seq, done);
        slot.changed.notify_one();
        answer(answers, None);
    }
}

/// Keeps [`Shared::behind`], and answers those who have waited too long.
pub async fn watch(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK).await;
        shared.behind.store(behind(&shared), Ordering::Relaxed);
        for slot in &shared.slots {
            let expired = slot.pending.lock().expired(PATIENCE);
            answer(expired, Some(&not_there()));
        }
    }
}
