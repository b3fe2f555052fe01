//! What the app and its background tasks share.

use std::sync::{Arc, Weak};

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::replicate::Replication;
use crate::{
    bulk::run::Bulks,
    catalog::queries::{self, keys},
    http::door::Door,
    reconcile::{health::Health, run::Reconciler},
    rollout::run::Rollouts,
    telemetry::{
        disk,
        recent::{Reading, Recent},
    },
};

/// The parts of an app.
pub struct Shared {
    pub door: Door,
    pub reconciler: Arc<Reconciler>,
    pub rollouts: Arc<Rollouts>,
    pub bulks: Arc<Bulks>,
    pub health: Health,
    pub replica: Replication,
    #[cfg(feature = "replicate")]
    pub backups: Arc<crate::backup::run::Backups>,
    pub recent: Recent,
    /// Held by a background task while it works; the close waits for all.
    pub upkeep: Arc<RwLock<()>>,
}

/// A background task's hold on an app that must not close meanwhile.
pub type Pass = OwnedRwLockReadGuard<()>;

impl Shared {
    /// The app for one pass of a background task, unless it is closed or shutting down. Bind the pair in this
    /// order, so that the app is dropped first.
    pub async fn pass(app: &Weak<Self>) -> Option<(Pass, Arc<Self>)> {
        let upkeep = app.upgrade()?.upkeep.clone();
        let pass = upkeep.read_owned().await;
        let app = app.upgrade().filter(|app| !app.door.is_draining())?;
        Some((pass, app))
    }

    /// Takes a sample of the metrics. May block.
    pub fn sample(&self) {
        let store = &self.door.store;
        let counts = store.catalog().read(queries::counts);
        self.recent.add(Reading {
            at: self.door.clock().now(),
            open: u64::try_from(store.open_count()).unwrap_or(u64::MAX),
            users: counts.ok().map(|counts| counts.active + counts.suspended + counts.deleted + counts.quarantined),
            disk: disk::space(store.layout().root()),
        });
    }

    /// Records when API keys were last used.
    pub fn save_uses(&self, all: bool) {
        let uses = self.door.identity.keys().uses(all);
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.door.store.catalog().write_blocking(move |tx| keys::record_uses(tx, &uses)) {
            tracing::warn!(error = %error, "when API keys were last used could not be recorded");
        }
    }
}
