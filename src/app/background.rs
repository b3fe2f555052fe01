//! Background tasks. Each holds the app weakly, and ends when the app is dropped.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Weak,
    time::{Duration, Instant},
};

use rusqlite::Transaction;

use super::shared::Shared;
use crate::{
    catalog::{
        audit::Author,
        queries::{audit, deliveries, search_merge, usage},
        usage::KEPT_DAYS,
    },
    clock::{Millis, day::Day, millis},
    error::Result,
    rate::pause_after,
    reconcile::run::Options,
    telemetry::{metrics, recent},
};

/// How often the last uses of API keys are recorded.
const SAVE_USES: Duration = Duration::from_secs(2);

/// How often users, deliveries and audit rows beyond their retention are removed.
const SWEEP: Duration = Duration::from_secs(60);

/// How long usage is kept, as a retention that needs a steady clock.
const USAGE_KEPT: Duration = Duration::from_secs(366 * 86_400);

/// Deliveries or audit rows removed in one commit.
const FORGET: u32 = 1000;

/// Records when API keys were last used.
pub(super) async fn save_uses(app: Weak<Shared>) {
    let mut ticks = tokio::time::interval(SAVE_USES);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some((_pass, app)) = Shared::pass(&app).await else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || app.save_uses(false)).await {
            tracing::error!(error = %error, "recording the last uses of API keys did not finish");
        }
    }
}

/// Takes the samples of the last hour.
pub(super) async fn sample(app: Weak<Shared>) {
    let mut ticks = tokio::time::interval(recent::EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some((_pass, app)) = Shared::pass(&app).await else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || app.sample()).await {
            tracing::error!(error = %error, "a sample of the metrics was not taken");
        }
    }
}

/// Removes tenants and deliveries whose retention has ended, once the time of day is steady, and deliveries,
/// audit rows and usage beyond their limits.
pub(super) async fn sweep(app: Weak<Shared>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some((_pass, app)) = Shared::pass(&app).await else { return };
        metrics::upkeep();
        if app.door.store.clock_is_steady(app.door.store.retention())
            && let Err(error) = app.door.store.purge_due().await
        {
            tracing::error!(error = %error, "users whose retention has ended could not be purged");
        }
        if app.door.store.clock_is_steady(app.door.store.retention()) {
            let store = app.door.store.clone();
            let removed = tokio::task::spawn_blocking(move || store.remove_replaced()).await;
            if let Ok(Err(error)) = removed {
                tracing::error!(error = %error, "files that imports replaced could not be removed");
            }
        }
        let kept_for = app.door.config.sync.delivery_retention;
        let retention = match app.door.store.clock_is_steady(kept_for) {
            true => app.door.store.clock().now().saturating_sub(millis(kept_for)),
            false => Millis::MIN,
        };
        let most = app.door.config.limits.delivery_limit;
        let beyond = app.door.store.catalog().query(move |conn| deliveries::beyond(conn, most)).await;
        let before = beyond.ok().flatten().map_or(retention, |beyond| beyond.max(retention));
        forget(&app, "old deliveries", move |tx| deliveries::delete_before(tx, before, FORGET)).await;
        let most = app.door.config.limits.audit_limit;
        forget(&app, "old lines of the audit trail", move |tx| audit::forget(tx, most, FORGET)).await;
        if app.door.store.clock_is_steady(USAGE_KEPT) {
            let first = Day::of(app.door.store.clock().now()).before(KEPT_DAYS);
            forget(&app, "usage of more than a year ago", move |tx| usage::forget(tx, first, FORGET)).await;
        }
    }
}

/// Merges the index of searches if texts were removed from it, so that it does not keep what was in them.
pub(super) async fn merge_search(app: Weak<Shared>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut steps = 0_u32;
        let merged: Result<()> = async {
            let Some((pass, shared)) = Shared::pass(&app).await else { return Ok(()) };
            let now = shared.door.store.clock().now();
            let due = shared.door.store.catalog().query(move |conn| search_merge::due(conn, now)).await?;
            drop((shared, pass));
            let Some(removed) = due else { return Ok(()) };
            loop {
                let Some((pass, shared)) = Shared::pass(&app).await else { return Ok(()) };
                let catalog = shared.door.store.catalog();
                let begun = Instant::now();
                let first = steps == 0;
                if !catalog.write(move |tx| search_merge::step(tx, first)).await? {
                    tracing::info!(removed, steps, "the index of searches was merged");
                    return catalog.write(move |tx| search_merge::finish(tx, removed, now)).await;
                }
                steps += 1;
                drop((shared, pass));
                tokio::time::sleep(pause_after(begun.elapsed())).await;
            }
        }
        .await;
        match (merged, app.strong_count()) {
            (_, 0) => return,
            (Err(error), _) => tracing::error!(%error, "the index of searches could not be merged"),
            _ => {}
        }
    }
}

/// Removes some at a time until there are none, so that others can write in between.
async fn forget(
    app: &Shared,
    what: &str,
    some: impl Fn(&Transaction) -> rusqlite::Result<usize> + Copy + Send + 'static,
) {
    loop {
        match app.door.store.catalog().write(some).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return tracing::error!(error = %error, "{what} could not be removed"),
        }
    }
}

/// Makes backups on schedule.
#[cfg(feature = "replicate")]
pub(super) async fn back_up(app: Weak<Shared>, every: Duration) {
    loop {
        let wait = {
            let Some((_pass, app)) = Shared::pass(&app).await else { return };
            app.backups.due_in(every).await
        };
        tokio::time::sleep(wait).await;
        let Some((pass, app)) = Shared::pass(&app).await else { return };
        let over = app.backups.start_scheduled().await;
        drop((app, pass));
        if let Some(mut over) = over {
            // Closed at the end: nothing is ever sent.
            let _ = over.changed().await;
        }
    }
}

/// Reconciles on schedule, a little earlier or later each time: servers that were started together must not
/// ask the provider together.
pub(super) async fn reconcile(app: Weak<Shared>, every: Duration) {
    loop {
        let share = RandomState::new().hash_one(0) % 200;
        // 90 to 110 per cent.
        let wait = every.mul_f64(0.9 + f64::from(u32::try_from(share).unwrap_or(100)) / 1000.0);
        tokio::time::sleep(wait).await;
        let Some((pass, app)) = Shared::pass(&app).await else { return };
        match app.reconciler.start(Options::default(), Author::program("schedule")) {
            Ok(started) => {
                drop((app, pass));
                // The run reports to the log and to the catalog.
                let _ = started.report.await;
            }
            Err(error) => tracing::info!(error = %error, "the scheduled reconcile did not start"),
        }
    }
}
