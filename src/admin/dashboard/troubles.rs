//! What is wrong, each with where it is mended.

use super::view;
use crate::{
    admin::{about::About, migrations::Overview as Migrations},
    reconcile::health::{Cause, Seen},
    rollout::report::Status,
};

/// One thing that is wrong.
pub(super) struct Trouble {
    pub(super) what: String,
    pub(super) href: &'static str,
    pub(super) action: &'static str,
}

/// Everything that is wrong.
pub(super) fn troubles(seen: &Seen, about: &About, migrations: &Migrations) -> Vec<Trouble> {
    let mut all = Vec::new();
    let mut add = |what: String, href, action| all.push(Trouble { what, href, action });
    if seen.local.quarantined > 0 {
        let what = format!("{} quarantined: their files could not be opened", view::number(seen.local.quarantined));
        add(what, "/admin/tenants?state=quarantined", "Show them");
    }
    if let Some(what) = of_migrations(migrations) {
        add(what, "/admin/migrations", "Show the migration");
    }
    if let (Some(free), Some(disk)) = (about.disk_free, about.disk)
        && free < disk / 10
    {
        let what = format!("The disk is nearly full: {} of {} are free", view::size(free), view::size(disk));
        add(what, "/admin/tenants?sort=size", "Show the largest");
    }
    if let (Some(open), Some(limit)) = (about.descriptors, about.descriptors_limit)
        && open > limit / 10 * 9
    {
        let what = format!("{} of {} descriptors are in use", view::number(open), view::number(limit));
        add(what, "/admin/about", "Show the process");
    }
    for warning in &seen.warnings {
        let (href, action) = match warning.cause {
            Cause::Drift => ("/admin/sync", "Compare"),
            Cause::Reconcile => ("/admin/sync", "Show the run"),
            Cause::Provider => ("/admin/settings", "Show settings"),
            Cause::Silence => ("/admin/deliveries", "Show deliveries"),
            Cause::Deliveries => ("/admin/deliveries?outcome=failed", "Show those that failed"),
        };
        add(view::long(&warning.text), href, action);
    }
    all
}

/// What is wrong with the newest run, while it is about this server's schema.
fn of_migrations(migrations: &Migrations) -> Option<String> {
    let run = migrations.run.as_ref().filter(|run| run.schema == migrations.schema)?;
    let quarantined = migrations.schemas.iter().any(|share| share.quarantined > 0);
    let reason = run.reason.as_deref().unwrap_or_default();
    match run.status {
        Status::Stopped => Some(format!("The migration to schema {} has stopped: {}", run.schema, view::cell(reason))),
        Status::Interrupted => {
            Some(format!("The migration to schema {} was interrupted by the end of the server", run.schema))
        }
        // Those that failed are quarantined until somebody mends them.
        Status::Done | Status::Paused | Status::Running | Status::Pausing => (run.failed > 0 && quarantined)
            .then(|| format!("{} of the migration to schema {} failed", view::number(run.failed), run.schema)),
    }
}
