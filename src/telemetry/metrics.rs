//! What is counted, by the names that `docs/OPERATIONS.md` explains.

use std::time::Duration;

use metrics::{counter, histogram};

/// Counts a delivery and how long it took. Types that nothing is done for share one label: they
/// come from outside, and each label is a series for good.
pub fn delivery(kind: &str, outcome: &'static str, took: Duration) {
    const KNOWN: [&str; 3] = ["user.created", "user.updated", "user.deleted"];
    let kind = KNOWN.into_iter().find(|known| *known == kind).unwrap_or("other");
    counter!("cubby_deliveries_total", "type" => kind, "outcome" => outcome).increment(1);
    histogram!("cubby_delivery_duration_seconds").record(took.as_secs_f64());
}

/// Counts a reconcile and how long it took.
pub fn sync_run(outcome: &'static str, took: Duration) {
    counter!("cubby_sync_runs_total", "outcome" => outcome).increment(1);
    histogram!("cubby_sync_duration_seconds").record(took.as_secs_f64());
}
