//! The overview: what is wrong comes first, each with where to go; then numbers and the last hour, kept up to date by events.

use std::{pin::pin, time::Duration};

use askama::Template;
use axum::{
    http::StatusCode,
    response::{Response, sse::Event},
};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    audit,
    charts::{self, Chart, HEIGHT, WIDTH},
    operator::{Operator, Watcher},
    page::{Frame, html},
    troubles::{Trouble, troubles},
    view,
};
use crate::{
    admin::{about::About, audit::Trail, first_run::FirstRun, migrations::Overview as Migrations},
    error::Error,
    http::{
        events::{self, Next},
        limits::in_flight::overloaded,
        problem::Problem,
    },
    reconcile::health::Seen,
};

/// Lines of the audit trail that are shown.
const RECENT: u32 = 10;

/// How long a browser waits at most to hear that it is still listened to, should no sample be taken.
const QUIET: Duration = Duration::from_secs(15);

/// A number and its page.
struct Figure {
    label: &'static str,
    value: String,
    href: &'static str,
}

/// What of the page is kept up to date.
struct Live {
    /// What there is yet to do before users have databases.
    first_run: Option<&'static str>,
    troubles: Vec<Trouble>,
    figures: Vec<Figure>,
    charts: Vec<Chart>,
    /// The time that the charts cover; none as long as there is no sample.
    covered: Option<String>,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    live: Live,
    audit: Vec<audit::Line>,
}

/// The part of the page that is live, by itself.
#[derive(Template)]
#[template(path = "overview_live.html")]
struct Part {
    live: Live,
}

/// `GET /admin`.
pub(super) async fn page(operator: Operator) -> Result<Response, Problem> {
    let live = Live::of(&operator).await?;
    let trail: Trail = operator.get(&format!("/api/admin/audit?limit={RECENT}")).await?;
    let frame = operator.frame("Overview", "/admin");
    Ok(html(StatusCode::OK, &Page { frame, live, audit: trail.audit.iter().map(audit::line).collect() }))
}

impl Live {
    async fn of(operator: &Operator) -> Result<Self, Problem> {
        let seen = operator.seat.app.health().look().await?;
        let about: About = operator.get("/api/admin/about").await?;
        let migrations: Migrations = operator.get("/api/admin/migrations").await?;
        let found: FirstRun = operator.get("/api/admin/first-run").await?;
        let samples = operator.seat.app.recent().samples();
        let troubles = troubles(&seen, &about, &migrations);
        #[cfg(feature = "replicate")]
        let troubles = troubles.into_iter().chain(super::replica::troubles(operator).await).collect();
        Ok(Self {
            first_run: match (found.needed, found.webhook_secret) {
                (false, _) => None,
                (true, false) => Some("Clerk is not connected: there is no webhook secret."),
                (true, true) => Some("There are no tenants yet."),
            },
            troubles,
            figures: figures(&seen, &about),
            charts: charts::charts(&samples),
            covered: (!samples.is_empty()).then(|| charts::covered(&samples)),
        })
    }
}

fn figures(seen: &Seen, about: &About) -> Vec<Figure> {
    let figure = |label, value, href| Figure { label, value, href };
    let mut all = vec![
        figure("active", view::number(seen.local.active), "/admin/tenants?state=active"),
        figure("suspended", view::number(seen.local.suspended), "/admin/tenants?state=suspended"),
        figure("quarantined", view::number(seen.local.quarantined), "/admin/tenants?state=quarantined"),
        figure("deleted", view::number(seen.local.deleted), "/admin/tenants?state=deleted"),
        figure("open databases", view::number(about.open), "/admin/about"),
    ];
    let age = seen.last_delivery_age.map_or("never".to_owned(), |age| format!("{} ago", view::span(age)));
    all.push(figure("newest delivery", age, "/admin/deliveries"));
    if let Some(free) = about.disk_free {
        all.push(figure("free on the disk", view::size(free), "/admin/about"));
    }
    if let Some(count) = seen.provider_count {
        all.push(figure("users at the provider", view::number(count), "/admin/sync"));
    }
    all
}

/// What a page that is open hears.
struct Feed {
    operator: Operator,
    samples: watch::Receiver<()>,
    _slot: OwnedSemaphorePermit,
}

/// `GET /admin/events`: the live part of the overview, now and with each sample, until the session ends.
pub(super) async fn listen(Watcher(operator): Watcher) -> Result<Response, Problem> {
    let slot = operator.seat.streams.clone().try_acquire_owned();
    let slot = slot.map_err(|_| overloaded("more pages of the dashboard are open than are kept up to date"))?;
    let mut samples = operator.seat.app.recent().listen();
    // One that listens again may have missed some.
    samples.mark_changed();
    Ok(events::answer(Feed { operator, samples, _slot: slot }))
}

impl events::Feed for Feed {
    async fn next(&mut self) -> Next {
        let seat = self.operator.seat.clone();
        let mut one_ends = pin!(seat.sessions.one_ends());
        // From now on, so that none is missed between the look at the session and the wait.
        one_ends.as_mut().enable();
        if !self.operator.is_signed_in() {
            return Next::End("session");
        }
        let live = async {
            // The sender is in the app, which lasts as long as this.
            let _ = self.samples.changed().await;
            if !self.operator.is_signed_in() {
                return Next::End("session");
            }
            let live = Live::of(&self.operator).await;
            Next::Event(match live.and_then(render) {
                Ok(text) => Event::default().event("live").data(json!({"html": text}).to_string()),
                Err(problem) => Event::default().event("failed").data(json!({"why": problem.detail}).to_string()),
            })
        };
        tokio::select! {
            biased;
            () = seat.app.door().until_draining() => Next::End("shutdown"),
            // Perhaps another one: the next look tells.
            () = one_ends => Next::Nothing,
            next = live => next,
            () = tokio::time::sleep(QUIET) => Next::Nothing,
        }
    }
}

fn render(live: Live) -> Result<String, Problem> {
    let text = Part { live }.render();
    Ok(text.map_err(|e| Error::internal(format!("a page cannot be rendered: {e}")))?)
}
