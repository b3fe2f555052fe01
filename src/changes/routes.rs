//! The change feed over HTTP: server-sent events (the HTML standard, 9.2).

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{Stream, stream};
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    http::{admission::Admission, auth::Caller, connection, door::Door, problem::Problem, segment::UserPath},
    tenants::changes::{Change, Changes, End, Why},
};

/// The routes, to be mounted where a user's id is the first segment.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(listen))
}

/// After which event a client goes on that was cut off.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How long a browser waits before it listens again.
const RETRY: Duration = Duration::from_secs(1);

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
    // It lasts as long as the client likes; listeners have bounds of their own.
    connection::in_flight(super::super::http::limits::in_flight::InFlight::leave);
    let feed = Feed {
        door: app.door().clone(),
        caller: admission.caller,
        heartbeat: app.config().changes.changes_heartbeat,
        changes,
        begun: false,
        ended: false,
    };
    let mut response = Sse::new(feed.events()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep the events until it has a buffer full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// What one client hears.
struct Feed {
    door: Door,
    /// Who listens, where one must show who it is.
    caller: Option<Caller>,
    changes: Changes,
    heartbeat: Duration,
    begun: bool,
    ended: bool,
}

impl Feed {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        stream::unfold(self, |mut feed| async move {
            let event = feed.next().await?;
            Some((Ok(event), feed))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        if !std::mem::replace(&mut self.begun, true) {
            // Sent at once, so that the client, and a proxy on the way, know that it is answered.
            return Some(Event::default().retry(RETRY).comment("listening"));
        }
        let waited = tokio::time::timeout(self.wait(), self.changes.next()).await;
        if self.caller.as_ref().is_some_and(|caller| !caller.is_valid(&self.door)) {
            return Some(self.end("authorization"));
        }
        let Ok(change) = waited else { return Some(Event::default().comment("still here")) };
        Some(match change {
            Change::Commit { seq, tables } => self.event("change", seq, &json!({"seq": seq, "tables": tables})),
            Change::Reset { seq, why } => {
                let why = match why {
                    Why::Start => "start",
                    Why::Missed => "missed",
                    Why::Unknown => "unknown",
                };
                self.event("reset", seq, &json!({"seq": seq, "why": why}))
            }
            Change::End(End::Database) => self.end("database"),
            Change::End(End::Shutdown) => self.end("shutdown"),
        })
    }

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

    fn event(&self, name: &str, seq: u64, data: &serde_json::Value) -> Event {
        Event::default().id(self.changes.id(seq)).event(name).data(data.to_string())
    }

    /// The last event.
    fn end(&mut self, why: &str) -> Event {
        self.ended = true;
        Event::default().event("end").data(json!({"why": why}).to_string())
    }
}
