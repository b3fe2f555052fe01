//! No traces: everything here is nothing when compiled.

use super::Incoming;
#[cfg(feature = "server")]
use crate::{config::traces::Target, error::Result};

/// The span of a request.
pub struct RequestSpan;

/// Begins a request's span.
pub fn request<'a>(_: impl FnOnce() -> Incoming<'a>) -> RequestSpan {
    RequestSpan
}

impl RequestSpan {
    /// Runs the request within its span.
    pub fn around<F: Future>(&self, request: F) -> F {
        request
    }

    /// Tells of its answer.
    pub fn answered(&self, _: u16) {}
}

/// Runs `work` within a span of its own.
pub fn during<F: Future>(_: &'static str, work: F) -> F {
    work
}

/// [`during`] for what is no future.
pub fn within<T>(_: &'static str, work: impl FnOnce() -> T) -> T {
    work()
}

/// Runs `work` within the span of a new trace.
pub fn root<F: Future>(_: &'static str, work: F) -> F {
    work
}

/// Says whose database the current span is about.
pub fn of_tenant(_: &str) {}

/// Wraps `work`, which runs on another thread, so that its spans are of the current trace.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    work
}

/// [`carried`] for a future that runs as another task.
pub fn carried_async<F: Future>(work: F) -> F {
    work
}

/// Spans of one thing that is done in stages, perhaps on several threads.
pub struct Stages;

impl Stages {
    /// Begins with the stage `name`.
    pub fn at(_: &'static str) -> Self {
        Self
    }

    /// Goes on to the stage `name`.
    pub fn next(&mut self, _: &'static str) {}

    /// Ends the last stage.
    pub fn end(self) {}
}

/// Where traces are sent to, for operators to read.
pub fn target() -> Option<String> {
    None
}

/// Says it if the environment says where to export traces to.
///
/// # Errors
/// None: settings of what there is not are not wrong.
#[cfg(feature = "server")]
pub fn start() -> Result<()> {
    if !matches!(Target::from_environment(), Ok(None)) {
        tracing::warn!("no traces are exported: this program was built without them (cargo's feature otel)");
    }
    Ok(())
}

/// Exports what is left.
#[cfg(feature = "server")]
pub async fn stop() {}
