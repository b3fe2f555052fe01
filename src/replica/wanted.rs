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
    /// How many were taken and are not done.
    under_way: usize,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
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
        state.tenants.len() + state.under_way + usize::from(state.look_at_all)
    }

    /// What was taken by [`next`](Self::next) is done.
    pub fn done(&self) {
        self.state.lock().under_way -= 1;
    }

    /// Takes the next, which is under way until [`done`](Self::done) is called.
    pub async fn next(&self) -> Next {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(tenant) = state.tenants.pop_first() {
                    state.under_way += 1;
                    return Next::Tenant(tenant);
                }
                if std::mem::take(&mut state.look_at_all) {
                    state.under_way += 1;
                    return Next::All;
                }
            }
            self.changed.notified().await;
        }
    }
}
