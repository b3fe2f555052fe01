//! Prometheus metrics, by the names in `docs/OPERATIONS.md`.
//!
//! What a request updates is in `measures` and `routes`: atomics of fixed number. The recorder here is for what is rare,
//! deliveries, on-demand creations and reconciles, since it keeps every sample of a histogram until it is asked; and for
//! gauges, which are set when `/metrics` is read.

#![expect(clippy::cast_precision_loss, reason = "a gauge is a float; a number of users is exact in one")]

use std::{sync::OnceLock, time::Duration};

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::{
    measures::{self, Counter},
    routes,
};
use crate::error::{Error, Result};

const DELIVERY_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const SYNC_SECONDS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

/// Types of deliveries that are handled; all others are counted as `OTHER`.
const KNOWN: [&str; 3] = ["user.created", "user.updated", "user.deleted"];
const OTHER: &str = "other";

/// Deliveries, repeats left out, and those of them that failed or were rejected.
pub static DELIVERIES: Counter = Counter::zero();
/// See [`DELIVERIES`].
pub static FAILED_DELIVERIES: Counter = Counter::zero();

static PAGE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder, once a process. An embedder's recorder that was installed before is left in place; then the
/// page has no metrics of this crate.
pub fn install() -> Result<()> {
    if PAGE.get().is_some() {
        return Ok(());
    }
    let wrong = |e| Error::internal("the histograms' buckets").with_source(e);
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("cubby_delivery_duration_seconds".into()), DELIVERY_SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full("cubby_sync_duration_seconds".into()), SYNC_SECONDS)
        })
        .map_err(wrong)?
        .build_recorder();
    let handle = recorder.handle();
    if PAGE.set(handle).is_ok() && metrics::set_global_recorder(recorder).is_err() {
        tracing::info!("another recorder of metrics is installed; it gets the metrics, and /metrics is empty");
    }
    describe();
    #[cfg(feature = "replicate")]
    super::replication::describe();
    // A series that starts at 0 has a rate before its first event, and the first event counts in it.
    for kind in KNOWN.into_iter().chain([OTHER]) {
        for outcome in ["created", "exists", "updated", "deleted", "ignored", "rejected", "failed"] {
            counter!("cubby_deliveries_total", "type" => kind, "outcome" => outcome).increment(0);
        }
    }
    for outcome in ["created", "unknown", "limited", "failed", "refused"] {
        counter!("cubby_on_demand_total", "result" => outcome).increment(0);
    }
    for outcome in ["done", "held", "changed", "failed"] {
        counter!("cubby_sync_runs_total", "outcome" => outcome).increment(0);
    }
    Ok(())
}

fn describe() {
    describe_counter!("cubby_deliveries_total", "Webhook deliveries by type and outcome, repeats left out.");
    describe_histogram!("cubby_delivery_duration_seconds", "From a verified delivery to its commit.");
    describe_gauge!("cubby_delivery_age_seconds", "How long ago the newest delivery came.");
    describe_counter!("cubby_on_demand_total", "Unknown users looked up at the provider, by result.");
    describe_counter!("cubby_sync_runs_total", "Reconciles by outcome.");
    describe_histogram!("cubby_sync_duration_seconds", "How long a reconcile took.");
    describe_gauge!("cubby_sync_discrepancy", "By how many users catalog and provider differ, when last counted.");
    describe_gauge!("cubby_tenants", "Users' databases by state.");
    describe_gauge!("cubby_open_tenants", "Databases that are open.");
    describe_gauge!("cubby_open_tenants_limit", "Databases that may be open at once.");
    describe_gauge!("cubby_disk_bytes", "The size of the data folder's file system.");
    describe_gauge!("cubby_disk_free_bytes", "What of it is free for the server.");
}

/// The metrics in Prometheus' text format.
pub fn render() -> String {
    let mut page = PAGE.get().map(PrometheusHandle::render).unwrap_or_default();
    // Text takes all that is written to it.
    let _ = measures::write(&mut page).and_then(|()| routes::write(&mut page));
    page
}

/// Drops old samples of histograms. Must be called periodically, or they grow without bound.
pub fn upkeep() {
    if let Some(page) = PAGE.get() {
        page.run_upkeep();
    }
}

/// Counts a delivery and how long it took. Types that are not handled share one label: the
/// sender chooses them, and each label is a new series.
pub fn delivery(kind: &str, outcome: &'static str, took: Duration) {
    let kind = KNOWN.into_iter().find(|known| *known == kind).unwrap_or(OTHER);
    DELIVERIES.increment();
    if matches!(outcome, "failed" | "rejected") {
        FAILED_DELIVERIES.increment();
    }
    counter!("cubby_deliveries_total", "type" => kind, "outcome" => outcome).increment(1);
    histogram!("cubby_delivery_duration_seconds").record(took.as_secs_f64());
}

/// Counts an unknown user looked up at the provider.
pub fn on_demand(result: &'static str) {
    counter!("cubby_on_demand_total", "result" => result).increment(1);
}

/// Counts a reconcile and how long it took.
pub fn sync_run(outcome: &'static str, took: Duration) {
    counter!("cubby_sync_runs_total", "outcome" => outcome).increment(1);
    histogram!("cubby_sync_duration_seconds").record(took.as_secs_f64());
}

/// By how many users catalog and provider differ.
pub fn discrepancy(users: u64) {
    gauge!("cubby_sync_discrepancy").set(users as f64);
}

/// How long ago the newest delivery came.
pub fn delivery_age(age_ms: i64) {
    gauge!("cubby_delivery_age_seconds").set(age_ms.max(0) as f64 / 1000.0);
}

/// The size of the data folder's file system, and what of it is free, in bytes.
pub fn disk(size: u64, free: u64) {
    gauge!("cubby_disk_bytes").set(size as f64);
    gauge!("cubby_disk_free_bytes").set(free as f64);
}

/// How many tenants there are, by state, and how many of them are open.
pub fn tenants(states: [(&'static str, u64); 4], open: usize, limit: usize) {
    for (state, count) in states {
        gauge!("cubby_tenants", "state" => state).set(count as f64);
    }
    gauge!("cubby_open_tenants").set(open as f64);
    gauge!("cubby_open_tenants_limit").set(limit as f64);
}
