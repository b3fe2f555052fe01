//! Being asked to stop.

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
