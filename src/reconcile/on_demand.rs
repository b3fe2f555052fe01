//! `--provisioning on-demand`: the first request of an unknown user asks the provider for them.
//!
//! Concurrent requests for one id share a look-up, a negative answer is cached, and a rate limit for all ids together
//! protects the provider's own limit from a scan over invented ids. When the provider is down, requests do not queue.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use parking_lot::Mutex;

use super::changes;
use crate::{
    catalog::model::State,
    error::{Error, ErrorKind, Result},
    identity::{circuit::Circuit, provider::Provider},
    telemetry::metrics,
    tenants::{id::TenantId, store::Store},
};

/// How long a negative answer is cached. A webhook creates the user at once all the same.
const ABSENT_FOR: Duration = Duration::from_secs(60);

/// The most negative answers in the cache.
const ABSENT: u64 = 100_000;

/// The timeout of a look-up, its retries included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Look-ups of different ids at once.
const MAX_IN_FLIGHT: usize = 64;

type LookUp = Shared<BoxFuture<'static, Result<bool>>>;

/// Looks up unknown users at the provider.
pub struct OnDemand {
    store: Store,
    provider: Option<Arc<dyn Provider>>,
    absent: Cache<TenantId, ()>,
    in_flight: Mutex<HashMap<TenantId, LookUp>>,
    limit: DefaultDirectRateLimiter,
    circuit: Circuit,
}

impl OnDemand {
    /// Asks at most `a_minute` times a minute.
    pub fn new(store: Store, provider: Option<Arc<dyn Provider>>, a_minute: u32) -> Arc<Self> {
        let quota = Quota::per_minute(NonZeroU32::new(a_minute).unwrap_or(NonZeroU32::MIN));
        Arc::new(Self {
            store,
            provider,
            absent: Cache::builder().max_capacity(ABSENT).time_to_live(ABSENT_FOR).build(),
            in_flight: Mutex::default(),
            limit: RateLimiter::direct(quota),
            circuit: Circuit::default(),
        })
    }

    /// Creates the tenant of an unknown id if the provider knows the user. Returns whether the tenant exists now and
    /// is not deleted.
    ///
    /// # Errors
    /// [`ErrorKind::Provider`] if the provider does not answer as it should, [`ErrorKind::Busy`] if
    /// the limits are reached. Neither tells whether the user exists.
    pub async fn ensure(self: &Arc<Self>, id: &TenantId) -> Result<bool> {
        let Some(provider) = &self.provider else { return Ok(false) };
        if !provider.may_have(id) || self.absent.contains_key(id) {
            return Ok(false);
        }
        // A deleted tenant stays deleted, and needs no look-up.
        if let Some(row) = self.store.find(id).await? {
            return Ok(row.state != State::Deleted);
        }
        let look_up = {
            let mut in_flight = self.in_flight.lock();
            match in_flight.get(id) {
                Some(look_up) => look_up.clone(),
                None if in_flight.len() >= MAX_IN_FLIGHT => return Err(busy()),
                None => {
                    let look_up = self.clone().ask(id.clone()).boxed().shared();
                    in_flight.insert(id.clone(), look_up.clone());
                    // A task of its own: the look-up ends, and is removed, also when the request is dropped.
                    let (this, id, driven) = (self.clone(), id.clone(), look_up.clone());
                    tokio::spawn(async move {
                        let _ = driven.await;
                        this.in_flight.lock().remove(&id);
                    });
                    look_up
                }
            }
        };
        look_up.await
    }

    async fn ask(self: Arc<Self>, id: TenantId) -> Result<bool> {
        // Another look-up or a webhook may have created the tenant meanwhile.
        if let Some(row) = self.store.find(&id).await? {
            return Ok(row.state != State::Deleted);
        }
        let Some(provider) = &self.provider else { return Ok(false) };
        // A change in the catalog from now on is newer than the answer.
        let since = self.store.clock().now();
        let mut asked = false;
        let request = async {
            if self.limit.check().is_err() {
                return Err(busy());
            }
            asked = true;
            let late = || Error::new(ErrorKind::Provider, "Clerk did not answer in time");
            tokio::time::timeout(TIMEOUT, provider.get(&id)).await.unwrap_or_else(|_| Err(late()))
        };
        let answer = self.circuit.call(request).await;
        match answer {
            Ok(Some(user)) => {
                if changes::create(&self.store, user, since).await? {
                    tracing::info!(tenant = %id, "created on its first request: the provider knows the user");
                    metrics::on_demand("created");
                    return Ok(true);
                }
                // A webhook created or deleted the tenant meanwhile.
                Ok(self.store.find(&id).await?.is_some_and(|row| row.state != State::Deleted))
            }
            Ok(None) => {
                metrics::on_demand("unknown");
                self.absent.insert(id, ());
                Ok(false)
            }
            // Refused by the open circuit, which logged when it opened.
            Err(error) if !asked => {
                if error.kind() == ErrorKind::Provider {
                    metrics::on_demand("refused");
                }
                Err(error)
            }
            Err(error) => {
                tracing::warn!(tenant = %id, error = %error, "an unknown user could not be looked up");
                metrics::on_demand("failed");
                Err(error)
            }
        }
    }
}

fn busy() -> Error {
    metrics::on_demand("limited");
    Error::new(ErrorKind::Busy, "too many unknown users are being looked up; try again in a moment")
}
