//! The door of a server: what the toolkit needs to know who is calling, to let requests in and to reach a
//! user's database. Any state that has one, and gives it with [`AsRef`], can use the toolkit's extractors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{
    limits::{Audience, Limits},
    readiness::Readiness,
};
use crate::{
    catalog::keys::{self, KeyRow},
    clock::Clock,
    config::{Provisioning, ServeConfig},
    error::Result,
    identity::{
        Identity,
        jwt::Verifier,
        keys::{Key, KeyHash},
    },
    reconcile::on_demand::OnDemand,
    tenants::{open::opening::Counter, store::Store},
};

/// What a server's routes share. Cloning shares it.
///
/// When an API key was last used is known in memory; only the server that ships writes it to the catalog.
#[derive(Clone)]
pub struct Door {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    identity: Identity,
    limits: Limits,
    provisioning: Provisioning,
    on_demand: Option<Arc<OnDemand>>,
    request_timeout: Duration,
    body_timeout: Duration,
    session_cookie: String,
    /// Origins whose pages may use the session cookie, besides the server's own.
    origins: Vec<String>,
    readiness: Readiness,
    draining: AtomicBool,
}

impl Door {
    /// The door to a store. Must be made inside a tokio runtime.
    ///
    /// # Errors
    /// If the settings of authentication cannot be used.
    pub fn new(store: Store, config: &ServeConfig) -> Result<Self> {
        Self::with(store, config, Audience::of, None)
    }

    /// The same for a server with paths that are not for users, and with the identity provider, which is
    /// asked for unknown users where provisioning is on demand.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(
        store: Store,
        config: &ServeConfig,
        audience: fn(&str) -> Audience,
        on_demand: Option<Arc<OnDemand>>,
    ) -> Result<Self> {
        let identity = Identity::new(&config.door, store.clock())?;
        if identity.takes_keys() {
            let now = store.clock().now();
            for (row, hash) in store.catalog().read(|conn| keys::queries::valid(conn, now))? {
                identity.keys().add(good_key(&row, hash));
            }
        }
        if let Some(jwks) = identity.sessions().and_then(Verifier::jwks).cloned() {
            tokio::spawn(async move { jwks.prefetch().await });
        }
        let (parties, pages) = (&config.door.authorized_parties.0, &config.limits.cors_origins.0);
        Ok(Self {
            inner: Arc::new(Inner {
                limits: Limits::new(config, audience)?,
                store,
                identity,
                provisioning: config.provisioning,
                on_demand: on_demand.filter(|_| config.provisioning == Provisioning::OnDemand),
                request_timeout: config.request_timeout,
                body_timeout: config.limits.body_timeout,
                session_cookie: config.door.session_cookie.clone(),
                origins: parties.iter().chain(pages).cloned().collect(),
                readiness: Readiness::default(),
                draining: AtomicBool::new(false),
            }),
        })
    }

    /// The tenants.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The time of day.
    pub fn clock(&self) -> &Clock {
        self.inner.store.clock()
    }

    /// Verifies callers' session tokens and API keys.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The limits on callers.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Who creates tenants.
    pub fn provisioning(&self) -> Provisioning {
        self.inner.provisioning
    }

    /// Asks the provider for unknown users, where provisioning is on demand.
    pub fn on_demand(&self) -> Option<&Arc<OnDemand>> {
        self.inner.on_demand.as_ref()
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        self.inner.request_timeout
    }

    /// How long a body may take to arrive.
    pub fn body_timeout(&self) -> Duration {
        self.inner.body_timeout
    }

    /// The name of the cookie with the session token.
    pub fn session_cookie(&self) -> &str {
        &self.inner.session_cookie
    }

    /// Whether an origin is in the settings.
    pub fn knows_origin(&self, origin: &str) -> bool {
        self.inner.origins.iter().any(|known| known == origin)
    }

    /// Whether the server can do its work.
    pub fn readiness(&self) -> &Readiness {
        &self.inner.readiness
    }

    /// Whether the server is shutting down.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Turns `/readyz` red, so that a balancer sends no more requests.
    pub fn start_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
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

impl Counter for Door {
    fn count(&self) -> Result<()> {
        self.limits().creation()
    }

    fn uncount(&self) {
        self.limits().uncount_creation();
    }
}

/// A key of the catalog, in the form that requests' keys are compared with.
pub fn good_key(row: &KeyRow, hash: KeyHash) -> Key {
    Key::new(row.id.clone(), hash, row.tenant.clone(), row.read_only, row.expires, row.last_used)
}
