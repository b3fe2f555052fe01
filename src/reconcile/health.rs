//! Whether deliveries arrive, and catalog and provider agree. Cheap enough to be polled.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::run::live;
use crate::{
    catalog::{
        model::Counts,
        queries::{self, deliveries, runs},
    },
    clock::millis,
    error::Result,
    identity::provider::Provider,
    telemetry::metrics,
    tenants::store::Store,
};

/// How long the provider's count is cached.
const FRESH: Duration = Duration::from_secs(60);

/// The timeout of asking for it.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Failed deliveries older than this do not count.
const RECENT: Duration = Duration::from_secs(3600);

/// Compares catalog and provider.
pub struct Health {
    store: Store,
    provider: Option<Arc<dyn Provider>>,
    warn: u64,
    silence: Duration,
    /// Whether deliveries are expected.
    expects: bool,
    since: Instant,
    /// Locked while the provider is asked: concurrent requests share the answer.
    counted: tokio::sync::Mutex<Option<Counted>>,
}

#[derive(Clone)]
struct Counted {
    at: Instant,
    users: Result<u64, String>,
}

/// The health of the synchronization.
#[derive(Debug, Serialize)]
pub struct Seen {
    /// `healthy` or `warning`.
    pub status: &'static str,
    /// The reasons of a warning.
    pub warnings: Vec<Warning>,
    /// The number of users at the provider, if known.
    pub provider_count: Option<u64>,
    /// The age of that number, in seconds.
    pub provider_count_age: Option<u64>,
    /// Tenants that are not deleted.
    pub local_count: u64,
    /// Tenants by state.
    pub local: Counts,
    /// The difference of both numbers.
    pub discrepancy: Option<u64>,
    /// The age of the newest delivery, in seconds.
    pub last_delivery_age: Option<u64>,
    /// Deliveries that failed within the last hour and have not succeeded since.
    pub failing_deliveries: u64,
    /// The report of the last reconcile.
    pub last_run: Option<Value>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Catalog and provider differ.
    Drift,
    /// The provider could not be asked.
    Provider,
    /// No delivery has come for too long.
    Silence,
    /// Deliveries fail.
    Deliveries,
    /// The last reconcile stopped.
    Reconcile,
}

/// The reason of a warning. In JSON it is its text.
#[derive(Debug, Clone)]
pub struct Warning {
    /// What is wrong.
    pub cause: Cause,
    /// The same in words, and what to do.
    pub text: String,
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Health {
    /// Warns of a difference of more than `warn` users, and of no delivery for longer than `silence`
    /// (zero: never), or of none at all where they are expected.
    pub fn new(store: Store, provider: Option<Arc<dyn Provider>>, warn: u64, silence: Duration, expects: bool) -> Self {
        let counted = tokio::sync::Mutex::default();
        Self { store, provider, warn, silence, expects, since: Instant::now(), counted }
    }

    /// The cached count of the provider, and whether it is time to refresh it. Does not wait.
    pub fn known(&self) -> (Option<u64>, bool) {
        if self.provider.is_none() {
            return (None, false);
        }
        // Locked: the provider is being asked.
        let Ok(counted) = self.counted.try_lock() else { return (None, false) };
        let users = counted.as_ref().and_then(|counted| counted.users.clone().ok());
        (users, counted.as_ref().is_none_or(|counted| counted.at.elapsed() >= FRESH))
    }

    /// Refreshes the cached count if it is old.
    pub async fn refresh(&self) {
        self.count().await;
    }

    /// The health now. Asks the provider at most once a minute.
    pub async fn look(&self) -> Result<Seen> {
        let now = self.store.clock().now();
        let since = now.saturating_sub(millis(RECENT));
        let looked = self.store.catalog().query(move |conn| {
            let (newest, failing) = (deliveries::newest(conn)?, deliveries::failing(conn, since)?);
            Ok((queries::counts(conn)?, newest, failing, runs::last(conn)?))
        });
        let (local, newest, failing_deliveries, last) = looked.await?;
        let counted = self.count().await;
        let local_count = live(local);
        let provider_count = counted.as_ref().and_then(|counted| counted.users.clone().ok());
        let discrepancy = provider_count.map(|there| there.abs_diff(local_count));
        if let Some(discrepancy) = discrepancy {
            metrics::discrepancy(discrepancy);
        }
        let last_delivery_age = newest.map(|at| u64::try_from((now - at) / 1000).unwrap_or(0));
        let last_run: Option<Value> = last.and_then(|text| serde_json::from_str(&text).ok());

        let mut warnings = Vec::new();
        let mut warn = |cause, text: String| warnings.push(Warning { cause, text });
        if let Some(discrepancy) = discrepancy.filter(|n| *n > self.warn) {
            let text = format!("catalog and Clerk differ by {discrepancy} users; `cubby sync --dry-run` says who");
            warn(Cause::Drift, text);
        }
        if let Some(Err(error)) = counted.as_ref().map(|counted| &counted.users) {
            warn(Cause::Provider, format!("Clerk could not be asked: {error}"));
        }
        let silence = self.silence.as_secs();
        match last_delivery_age {
            _ if silence == 0 => {}
            Some(age) if age > silence => {
                warn(Cause::Silence, "no delivery for too long; look at the endpoint in Clerk's dashboard".to_owned());
            }
            None if self.expects && self.since.elapsed() > self.silence => {
                warn(Cause::Silence, "no delivery has ever come; look at the endpoint in Clerk's dashboard".to_owned());
            }
            _ => {}
        }
        if failing_deliveries > 0 {
            let text = format!("{failing_deliveries} deliveries fail; `cubby deliveries list --outcome failed`");
            warn(Cause::Deliveries, text);
        }
        if last_run.as_ref().is_some_and(|report| report["outcome"] == "failed") {
            warn(Cause::Reconcile, "the last reconcile stopped before it was done".to_owned());
        }
        Ok(Seen {
            status: if warnings.is_empty() { "healthy" } else { "warning" },
            warnings,
            provider_count,
            provider_count_age: counted.map(|counted| counted.at.elapsed().as_secs()),
            local_count,
            local,
            discrepancy,
            last_delivery_age,
            failing_deliveries,
            last_run,
        })
    }

    async fn count(&self) -> Option<Counted> {
        let provider = self.provider.as_ref()?;
        let mut counted = self.counted.lock().await;
        if let Some(known) = counted.as_ref().filter(|known| known.at.elapsed() < FRESH) {
            return Some(known.clone());
        }
        let answer = tokio::time::timeout(TIMEOUT, provider.count()).await;
        let users = match answer {
            Ok(answer) => answer.map_err(|error| error.message().to_owned()),
            Err(_) => Err("it did not answer in time".to_owned()),
        };
        *counted = Some(Counted { at: Instant::now(), users });
        counted.clone()
    }
}
