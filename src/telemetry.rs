//! Logs and metrics, and the id of the request in each log line.
//!
//! The request's id is a task-local value that is read when a line is written. A
//! `tracing` span for each request would format its fields even if no line is
//! written: an eighth of the time to read a note. Spans for a collector of traces are in `trace`, for the feature `otel`.

#[cfg(feature = "server")]
pub mod disk;
#[cfg(feature = "server")]
pub mod log;
pub mod measures;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod recent;
#[cfg(feature = "replicate")]
pub mod replication;
#[cfg(feature = "server")]
pub mod routes;
pub mod trace;

use std::sync::Arc;

tokio::task_local! {
    static REQUEST: Arc<str>;
}

/// Runs a request's future; log lines written by it have `id`.
pub async fn in_request<F: Future>(id: Arc<str>, request: F) -> F::Output {
    REQUEST.scope(id, request).await
}

/// Wraps `work`, which runs on another thread, so that its log lines have the current request's id.
pub fn with_request_id<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let id = REQUEST.try_with(Clone::clone).ok();
    let work = trace::carried(work);
    move || match id {
        Some(id) => REQUEST.sync_scope(id, work),
        None => work(),
    }
}

/// [`with_request_id`] for a future that runs as another task.
pub fn with_request_id_async<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let id = REQUEST.try_with(Clone::clone).ok();
    let work = trace::carried_async(work);
    async move {
        match id {
            Some(id) => REQUEST.scope(id, work).await,
            None => work.await,
        }
    }
}
