//! The door of a server: what the toolkit needs to know who is calling, to let requests in and to reach a
//! user's database. A door is an axum state; so is any state that gives its door with [`AsRef`].

use std::{ops::Deref, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};
use tokio::sync::watch;

use super::{
    limits::{Audience, Limits},
    readiness::Readiness,
};
use crate::{
    catalog::queries,
    clock::Clock,
    config::{Provisioning, ServeConfig},
    error::Result,
    identity::{Identity, jwt::Verifier, keys::Key},
    reconcile::on_demand::OnDemand,
    tenants::store::Store,
};

/// The largest body of a [`Payload`](super::extract::Payload) that names no limit of its own, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// What a server's routes share. Cloning shares it.
///
/// When an API key was last used is known in memory; only the server that ships writes it to the catalog.
#[derive(Clone)]
pub struct Door {
    inner: Arc<Inner>,
    /// The largest body of a payload that names no limit of its own, in bytes.
    pub body_limit: usize,
}

/// The parts of a door.
pub struct Inner {
    /// The tenants.
    pub store: Store,
    /// The settings.
    pub config: ServeConfig,
    /// Verifies callers' session tokens and API keys.
    pub identity: Identity,
    /// The limits on callers.
    pub limits: Limits,
    /// Asks the provider for unknown users, where provisioning is on demand.
    pub on_demand: Option<Arc<OnDemand>>,
    /// Whether the server can do its work.
    pub readiness: Readiness,
    /// Whether errors of a path are in the form of [`Problem::render_plain`](super::problem::Problem::render_plain).
    pub plain_problems: fn(&str) -> bool,
    /// Whether a route, by its pattern, sends or takes a whole database, within `--transfer-timeout`.
    pub is_transfer: fn(&str) -> bool,
    draining: watch::Sender<bool>,
}

/// What differs by path: for whom it is, and whether its errors are in another form; and by a route's pattern, whether it is
/// a transfer.
pub type Paths = (fn(&str) -> Audience, fn(&str) -> bool, fn(&str) -> bool);

impl Door {
    /// The door to a store. Must be made inside a tokio runtime.
    ///
    /// # Errors
    /// If the settings of authentication cannot be used.
    pub fn new(store: Store, config: &ServeConfig) -> Result<Self> {
        Self::with(store, config.clone(), (Audience::of, |_| false, |_| false), None)
    }

    /// The same for a server with paths that differ from others, and with the identity provider, which is asked for unknown
    /// users where provisioning is on demand.
    pub fn with(
        store: Store,
        config: ServeConfig,
        (audience, plain_problems, is_transfer): Paths,
        on_demand: Option<Arc<OnDemand>>,
    ) -> Result<Self> {
        let identity = Identity::new(&config.door, store.clock())?;
        if identity.takes_keys() {
            let now = store.clock().now();
            for (row, hash) in store.catalog().read(|conn| queries::keys::valid(conn, now))? {
                identity.keys().add(Key::new(row, hash));
            }
        }
        if let Some(jwks) = identity.sessions().and_then(Verifier::jwks).cloned() {
            tokio::spawn(async move { jwks.prefetch().await });
        }
        let inner = Inner {
            limits: Limits::new(&config, audience)?,
            on_demand: on_demand.filter(|_| config.provisioning == Provisioning::OnDemand),
            store,
            config,
            identity,
            readiness: Readiness::default(),
            plain_problems,
            is_transfer,
            draining: watch::Sender::new(false),
        };
        Ok(Self { inner: Arc::new(inner), body_limit: BODY_LIMIT })
    }
}

impl Inner {
    /// The time of day.
    pub fn clock(&self) -> &Clock {
        self.store.clock()
    }

    /// Whether the server is shutting down.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until the server is shutting down.
    pub async fn until_draining(&self) {
        // The sender is in here.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// Turns `/readyz` red, so that a balancer sends no more requests, and ends the answers that last as long as their
    /// clients like.
    pub fn start_draining(&self) {
        self.draining.send_replace(true);
        self.store.end_changes();
    }
}

impl Deref for Door {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl AsRef<Self> for Door {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<S: AsRef<Self> + Sync> FromRequestParts<S> for Door {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(_: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        Ok(state.as_ref().clone())
    }
}
