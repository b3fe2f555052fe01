//! Traces of requests, for the cargo feature `otel`. Without it each function here gives back what it was given, and nothing of
//! OpenTelemetry is linked.
//!
//! A request that is sampled has a span, which is the parent of those that are begun while it is worked on; of one that is
//! not, none is made. What is current goes the way of the request's id: by a task-local value, and with `carried` to another
//! thread. Spans are named by what is done, and never by a tenant or anything else that a caller chooses.

#[cfg(feature = "otel")]
mod export;
#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod on;

#[cfg(feature = "otel")]
pub use self::{
    export::{start, stop, target},
    on::{RequestSpan, Stages, carried, carried_async, during, of_tenant, request, root, within},
};
#[cfg(not(feature = "otel"))]
pub use off::{RequestSpan, Stages, carried, carried_async, during, of_tenant, request, root, target, within};
#[cfg(all(not(feature = "otel"), feature = "server"))]
pub use off::{start, stop};

/// What of a request its span tells.
pub struct Incoming<'a> {
    /// Its method.
    pub method: &'a str,
    /// The pattern of its route; none for a path that no route has.
    pub route: Option<&'a str>,
    /// Its id.
    pub id: &'a str,
    /// Whether it came to a trusted proxy by https.
    pub encrypted: bool,
    /// The header `Host`.
    pub host: Option<&'a str>,
    /// The header `traceparent`, if there is one.
    pub traceparent: Option<&'a str>,
    /// The header `tracestate`, if there is one.
    pub tracestate: Option<&'a str>,
}
