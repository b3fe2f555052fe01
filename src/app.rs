//! The long-lived parts of a server, built from its configuration.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    clock::Clock,
    config::{DataConfig, Provisioning, ServeConfig},
    error::Result,
    tenants::store::Store,
};

/// How often idle tenants are looked for.
const MAINTENANCE: Duration = Duration::from_secs(2);

/// Everything a request may need. Cloning shares it.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    config: ServeConfig,
    store: Store,
    draining: AtomicBool,
}

impl App {
    /// Opens the data folder and starts what runs in the background.
    pub fn start(data: &DataConfig, config: ServeConfig) -> Result<Self> {
        let store = Store::open(config.store(data)?)?;
        Ok(Self::over(store, config))
    }

    /// The same over a store that is open already.
    pub fn over(store: Store, config: ServeConfig) -> Self {
        let app = Self { inner: Arc::new(Inner { config, store, draining: AtomicBool::new(false) }) };
        tokio::spawn(maintain(Arc::downgrade(&app.inner)));
        app
    }

    /// The tenants.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The settings.
    pub fn config(&self) -> &ServeConfig {
        &self.inner.config
    }

    /// The time of day.
    pub fn clock(&self) -> &Clock {
        self.inner.store.clock()
    }

    /// Whether a first write may create its tenant.
    pub fn writes_create(&self) -> bool {
        self.inner.config.provisioning == Provisioning::Open
    }

    /// Whether the server is on its way out.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Turns `/readyz` red, so that a balancer sends nothing more.
    pub fn start_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// Closes all tenants and the catalog, in the reverse order of opening.
    pub async fn close(&self, until: Instant) -> usize {
        self.inner.store.close(until).await
    }
}

/// Holds the app weakly: a server that is gone needs no maintenance.
async fn maintain(app: std::sync::Weak<Inner>) {
    let mut ticks = tokio::time::interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(app) = app.upgrade() else { return };
        if app.draining.load(Ordering::Acquire) {
            return;
        }
        let done = tokio::task::spawn_blocking(move || app.store.maintain()).await;
        if let Err(error) = done {
            tracing::error!(error = %error, "maintenance did not finish");
        }
    }
}
