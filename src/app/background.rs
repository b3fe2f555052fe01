//! What an app does by itself. Each task holds the app weakly: a server that is gone needs none.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Weak,
    time::Duration,
};

use rusqlite::Transaction;

use super::Inner;
use crate::{
    catalog::{
        audit::Author,
        queries::{audit, deliveries},
    },
    clock::{Millis, millis},
    reconcile::run::Options,
    telemetry::metrics,
};

/// How often the last uses of API keys are written down.
const SAVE_USES: Duration = Duration::from_secs(2);

/// How often what has reached the end of its retention is looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Deliveries, and lines of the audit trail, forgotten in one commit.
const FORGET: u32 = 1000;

/// Writes down when API keys were last used.
pub(super) async fn save_uses(app: Weak<Inner>) {
    let mut ticks = tokio::time::interval(SAVE_USES);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some((_pass, app)) = Inner::pass(&app).await else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || app.save_uses(false)).await {
            tracing::error!(error = %error, "recording the last uses of API keys did not finish");
        }
    }
}

/// Purges tenants and deliveries whose retention has ended, by a time of day that is steady, and what there is
/// more of than may be.
pub(super) async fn sweep(app: Weak<Inner>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some((_pass, app)) = Inner::pass(&app).await else { return };
        metrics::upkeep();
        if app.store.clock_is_steady(app.store.retention())
            && let Err(error) = app.store.purge_due().await
        {
            tracing::error!(error = %error, "users whose retention has ended could not be purged");
        }
        let kept_for = app.config.sync.delivery_retention;
        let retention = match app.store.clock_is_steady(kept_for) {
            true => app.store.clock().now().saturating_sub(millis(kept_for)),
            false => Millis::MIN,
        };
        let most = app.config.limits.delivery_limit;
        let beyond = app.store.catalog().query(move |conn| deliveries::beyond(conn, most)).await;
        let before = beyond.ok().flatten().map_or(retention, |beyond| beyond.max(retention));
        forget(&app, "old deliveries", move |tx| deliveries::forget(tx, before, FORGET)).await;
        let most = app.config.limits.audit_limit;
        forget(&app, "old lines of the audit trail", move |tx| audit::forget(tx, most, FORGET)).await;
    }
}

/// Removes some at a time until there are none: others write in between.
async fn forget(
    app: &Inner,
    what: &str,
    some: impl Fn(&Transaction) -> rusqlite::Result<usize> + Copy + Send + 'static,
) {
    loop {
        match app.store.catalog().write(some).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return tracing::error!(error = %error, "{what} could not be removed"),
        }
    }
}

/// Reconciles every so often, a little earlier or later each time: servers that were started
/// together must not ask together.
pub(super) async fn reconcile(app: Weak<Inner>, every: Duration) {
    loop {
        let share = RandomState::new().hash_one(0) % 200;
        // 90 to 110 per cent.
        let wait = every.mul_f64(0.9 + f64::from(u32::try_from(share).unwrap_or(100)) / 1000.0);
        tokio::time::sleep(wait).await;
        let Some((pass, app)) = Inner::pass(&app).await else { return };
        match app.reconciler.start(Options::default(), Author::program("schedule")) {
            Ok(started) => {
                drop((app, pass));
                // It reports itself, to the log and to the catalog.
                let _ = started.report.await;
            }
            Err(error) => tracing::info!(error = %error, "the scheduled reconcile did not start"),
        }
    }
}
