//! Being asked to stop.

use std::{
    pin::pin,
    process::exit,
    thread,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::error::{Error, Result};

/// Signals within this time are one: a program that has started this one may pass on what both have got.
const ONE: Duration = Duration::from_millis(500);

/// Waits for Ctrl-C or SIGTERM, of which none is lost from this call on. A second one ends the process at once, whatever
/// it waits for.
pub fn interrupted() -> Result<impl Future<Output = ()>> {
    let failed = |e| Error::io("waiting for signals", e);
    // Of their own: the command's runtime may be what does not come to its end.
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let signals = {
        let _within = runtime.enter();
        signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)))
    };
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            // Dropped, it would wait, which no thread of the command's runtime may.
            runtime.shutdown_background();
            return Err(failed(error));
        }
    };
    let (asked, is_asked) = oneshot::channel();
    thread::spawn(move || {
        runtime.block_on(async move {
            select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
            // The command may be past what this would have ended.
            let _ = asked.send(());
            let first = Instant::now();
            while first.elapsed() < ONE {
                select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
            }
        });
        exit(130);
    });
    Ok(async move {
        let _ = is_asked.await;
    })
}

/// The result of `work`; none if Ctrl-C or SIGTERM comes first.
pub async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    match select(pin!(work), pin!(interrupted()?)).await {
        Either::Left((done, _)) => done.map(Some),
        Either::Right(_) => Ok(None),
    }
}
