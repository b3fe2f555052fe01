//! Being asked to stop.

use std::pin::pin;

use futures_util::future::{Either, select};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};

/// Waits for Ctrl-C or SIGTERM, of which none is lost from this call on.
pub fn interrupted() -> Result<impl Future<Output = ()>> {
    let handle = |kind| signal(kind).map_err(|e| Error::io("waiting for signals", e));
    let (mut terminate, mut interrupt) = (handle(SignalKind::terminate())?, handle(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The result of `work`; none if Ctrl-C or SIGTERM comes first.
pub async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    match select(pin!(work), pin!(interrupted()?)).await {
        Either::Left((done, _)) => done.map(Some),
        Either::Right(_) => Ok(None),
    }
}
