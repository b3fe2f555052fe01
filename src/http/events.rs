//! Answers of server-sent events (the HTML standard, 9.2), which last as long as their clients like.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{Stream, stream};
use serde_json::json;

use super::{connection, limits::in_flight::InFlight};

/// How long a browser waits before it listens again.
const RETRY: Duration = Duration::from_secs(1);

/// What comes next.
pub enum Next {
    /// An event.
    Event(Event),
    /// Nothing yet: the client hears that it is still listened to.
    Nothing,
    /// The end, and why.
    End(&'static str),
}

/// What one client hears.
pub trait Feed: Send + 'static {
    /// Waits for what comes next, but no longer than a client, or a proxy on the way, waits for it.
    fn next(&mut self) -> impl Future<Output = Next> + Send;
}

/// Answers with a feed. The request is not in flight from now on: feeds need bounds of their own.
pub fn answer(feed: impl Feed) -> Response {
    connection::in_flight(InFlight::leave);
    let mut response = Sse::new(events(feed)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep the events until it has a buffer full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// How far a feed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begins,
    Lasts,
    Ended,
}

fn events(feed: impl Feed) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold((feed, Stage::Begins), |(mut feed, stage)| async move {
        let (event, stage) = match stage {
            // Sent at once, so that the client, and a proxy on the way, know that it is answered.
            Stage::Begins => (Event::default().retry(RETRY).comment("listening"), Stage::Lasts),
            Stage::Lasts => match feed.next().await {
                Next::Event(event) => (event, Stage::Lasts),
                Next::Nothing => (Event::default().comment("still here"), Stage::Lasts),
                Next::End(why) => (Event::default().event("end").data(json!({"why": why}).to_string()), Stage::Ended),
            },
            Stage::Ended => return None,
        };
        Some((Ok(event), (feed, stage)))
    })
}
