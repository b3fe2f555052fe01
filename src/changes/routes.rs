//! The change feed over HTTP: server-sent events.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
    response::{Response, sse::Event},
};
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    http::{
        admission::Admission,
        auth::Caller,
        door::Door,
        events::{self, Next},
        problem::Problem,
        segment::UserPath,
    },
    tenants::changes::{Change, Changes, End, Why},
};

/// The routes, to be mounted where a user's id is the first segment.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(listen))
}

/// After which event a client goes on that was cut off.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[utoipa::path(
    get, path = "/{user_id}/changes", tag = "changes",
    description = "The tables that commits write to, as server-sent events, until one side ends it",
    params(UserPath, ("Last-Event-ID" = Option<String>, Header, description = "Goes on after the event of this id")),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream")),
)]
async fn listen(State(app): State<App>, admission: Admission, headers: HeaderMap) -> Result<Response, Problem> {
    if app.config().changes_listeners() == 0 {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "changes_off",
            "the change feed is off here: CUBBY_CHANGES_LISTENERS is 0",
        ));
    }
    // One that is not text is of no event of ours.
    let after = headers.get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or_default());
    let tenant = admission.lease(app.door()).await?;
    let changes = tenant.changes(after.filter(|id| !id.is_empty()))?;
    // The database may be closed while somebody listens.
    drop(tenant);
    Ok(events::answer(Feed {
        door: app.door().clone(),
        caller: admission.caller,
        heartbeat: app.config().changes.changes_heartbeat,
        changes,
    }))
}

/// What one client hears.
struct Feed {
    door: Door,
    /// Who listens, where one must show who it is.
    caller: Option<Caller>,
    changes: Changes,
    heartbeat: Duration,
}

impl events::Feed for Feed {
    async fn next(&mut self) -> Next {
        let waited = tokio::time::timeout(self.wait(), self.changes.next()).await;
        if self.caller.as_ref().is_some_and(|caller| !caller.is_valid(&self.door)) {
            return Next::End("authorization");
        }
        let Ok(change) = waited else { return Next::Nothing };
        match change {
            Change::Commit { seq, tables } => self.event("change", seq, &json!({"seq": seq, "tables": tables})),
            Change::Reset { seq, why } => {
                let why = match why {
                    Why::Start => "start",
                    Why::Missed => "missed",
                    Why::Unknown => "unknown",
                };
                self.event("reset", seq, &json!({"seq": seq, "why": why}))
            }
            Change::End(End::Database) => Next::End("database"),
            Change::End(End::Shutdown) => Next::End("shutdown"),
        }
    }
}

impl Feed {
    /// How long the next event may take before the client is to hear that it is still listened to, or is not.
    fn wait(&self) -> Duration {
        match self.caller.as_ref().and_then(Caller::expires) {
            Some(at) => {
                let left = at.saturating_sub(self.door.clock().now());
                Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(self.heartbeat)
            }
            None => self.heartbeat,
        }
    }

    fn event(&self, name: &str, seq: u64, data: &serde_json::Value) -> Next {
        Next::Event(Event::default().id(self.changes.id(seq)).event(name).data(data.to_string()))
    }
}
