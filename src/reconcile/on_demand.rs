//! The first request that beats the webhook: an unknown user is asked for at the provider.
//!
//! Asked once however many requests come for one id, not again for a while once the answer was no,
//! and only so often a minute for all ids together: a scan over made-up ids must not use up what
//! Clerk allows.
//!
//! When the provider is down, nobody queues for it. A look-up has a few seconds; so many are under
//! way at once and no more; and after a few failures in a row a circuit opens, behind which requests
//! for the unknown are refused at once. Known tenants never come here.

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

/// How long the provider's no is believed: a webhook makes the user known at once all the same.
const NO_FOR: Duration = Duration::from_secs(60);

/// Ids of which the no is remembered; the least used are forgotten first.
const NOES: u64 = 100_000;

/// How long a look-up may take, its retries included: somebody waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Look-ups under way at once, of different ids.
const AT_ONCE: usize = 64;

/// Failures in a row after which the provider is left alone, and for how long. What is refused
/// meanwhile is told to come back after as long (`Retry-After` in `http/problem.rs`).
const FAILURES: u32 = 3;
const REST: Duration = Duration::from_secs(5);

type Flight = Shared<BoxFuture<'static, Result<bool>>>;

/// Asks the provider for users who are not known here.
pub struct OnDemand {
    store: Store,
    provider: Option<Arc<dyn Provider>>,
    absent: Cache<TenantId, ()>,
    flights: Mutex<HashMap<TenantId, Flight>>,
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
            absent: Cache::builder().max_capacity(NOES).time_to_live(NO_FOR).build(),
            flights: Mutex::default(),
            limit: RateLimiter::direct(quota),
            circuit: Circuit::resting(FAILURES, REST),
        })
    }

    /// Makes a tenant of an unknown id if the provider knows the user; says whether it lives now.
    ///
    /// # Errors
    /// [`ErrorKind::Provider`] if the provider does not answer as it should, [`ErrorKind::Busy`] if
    /// it is asked too much; both say nothing of the user.
    pub async fn ensure(self: &Arc<Self>, id: &TenantId) -> Result<bool> {
        let Some(provider) = &self.provider else { return Ok(false) };
        if !provider.may_have(id) || self.absent.contains_key(id) {
            return Ok(false);
        }
        // Deleted, most likely: then the provider has no say, and no place among the look-ups is taken.
        if let Some(row) = self.store.find(id).await? {
            return Ok(row.state != State::Deleted);
        }
        let flight = {
            let mut flights = self.flights.lock();
            match flights.get(id) {
                Some(flight) => flight.clone(),
                None if flights.len() >= AT_ONCE => return Err(busy()),
                None => {
                    let flight = self.clone().look(id.clone()).boxed().shared();
                    flights.insert(id.clone(), flight.clone());
                    // Driven to its end whoever goes away, and then made room for the next.
                    let (this, id, driven) = (self.clone(), id.clone(), flight.clone());
                    tokio::spawn(async move {
                        let _ = driven.await;
                        this.flights.lock().remove(&id);
                    });
                    flight
                }
            }
        };
        flight.await
    }

    async fn look(self: Arc<Self>, id: TenantId) -> Result<bool> {
        // Known after all: another look-up or a webhook was faster.
        if let Some(row) = self.store.find(&id).await? {
            return Ok(row.state != State::Deleted);
        }
        let Some(provider) = &self.provider else { return Ok(false) };
        // What happens here from now on is newer than the answer.
        let since = self.store.clock().now();
        let mut asked = false;
        let question = async {
            if self.limit.check().is_err() {
                return Err(busy());
            }
            asked = true;
            let late = || Error::new(ErrorKind::Provider, "Clerk did not answer in time");
            tokio::time::timeout(PATIENCE, provider.get(&id)).await.unwrap_or_else(|_| Err(late()))
        };
        let answer = self.circuit.ask(question).await;
        match answer {
            Ok(Some(user)) => {
                if changes::create(&self.store, user, since).await? {
                    tracing::info!(tenant = %id, "created on its first request: the provider knows the user");
                    metrics::on_demand("created");
                    return Ok(true);
                }
                // A webhook was faster, be it with the creation or with the deletion.
                Ok(self.store.find(&id).await?.is_some_and(|row| row.state != State::Deleted))
            }
            Ok(None) => {
                metrics::on_demand("unknown");
                self.absent.insert(id, ());
                Ok(false)
            }
            // The circuit is open, and it was logged when it opened.
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
