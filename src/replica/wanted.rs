//! The tenants that need a base.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// More are not kept: then all tenants are looked at.
const MOST: usize = 100_000;

/// Names of tenants that need a base.
#[derive(Default)]
pub struct Wanted {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    tenants: BTreeSet<String>,
    look_at_all: bool,
    /// Those that were taken and are not done: two bases of one tenant at once would end each other's chains.
    under_way: BTreeSet<String>,
    /// Whether all are being looked at.
    is_looking: bool,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This tenant needs a base.
    Tenant(String),
    /// Any tenant may need one.
    All,
}

impl Wanted {
    /// A tenant needs a base.
    pub fn add(&self, tenant: &str) {
        let mut state = self.state.lock();
        if state.tenants.contains(tenant) {
            return;
        }
        match state.tenants.len() < MOST {
            true => drop(state.tenants.insert(tenant.to_owned())),
            false => state.look_at_all = true,
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A base of this tenant is being made.
    pub fn remove(&self, tenant: &str) {
        self.state.lock().tenants.remove(tenant);
    }

    /// Any tenant may need one.
    pub fn look_at_all(&self) {
        self.state.lock().look_at_all = true;
        self.changed.notify_one();
    }

    /// How many are known to need one, with those that are being made.
    pub fn count(&self) -> usize {
        let state = self.state.lock();
        let looks = usize::from(state.look_at_all) + usize::from(state.is_looking);
        state.tenants.union(&state.under_way).count() + looks
    }

    /// What was taken by [`next`](Self::next) is done.
    pub fn done(&self, what: &Next) {
        let mut state = self.state.lock();
        match what {
            Next::Tenant(tenant) => drop(state.under_way.remove(tenant)),
            Next::All => state.is_looking = false,
        }
        drop(state);
        // It may be wanted again.
        self.changed.notify_one();
    }

    /// Takes the next, which is under way until [`done`](Self::done) is called.
    pub async fn next(&self) -> Next {
        loop {
            {
                let mut state = self.state.lock();
                let free = state.tenants.iter().find(|tenant| !state.under_way.contains(*tenant)).cloned();
                if let Some(tenant) = free {
                    state.tenants.remove(&tenant);
                    state.under_way.insert(tenant.clone());
                    return Next::Tenant(tenant);
                }
                if state.look_at_all && !state.is_looking {
                    (state.look_at_all, state.is_looking) = (false, true);
                    return Next::All;
                }
            }
            self.changed.notified().await;
        }
    }
}
