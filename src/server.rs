//! The accept loop, its deadlines, and the way out.

use std::{future::Future, sync::Arc};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};

use tower::Service;

use crate::{app::App, error::Result, http::peer::Peer, router};

/// Bytes that a request's header may have. It may have a hundred fields, hyper's default; setting
/// even that explicitly makes hyper initialise a buffer for them with each request.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Serves on `listener` until `shutdown` resolves, then drains: `/readyz` turns red, nothing more
/// is accepted, requests in flight are finished to a deadline, and all tenants are closed with
/// their write-ahead logs emptied.
///
/// # Errors
/// If the routes cannot be built; never for what a client does.
pub async fn serve(app: App, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
    let routes = router::router(app.clone())?;
    let slots = Arc::new(Semaphore::new(app.config().max_connections as usize));
    let (drain, draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);

    loop {
        // A permit first: with all taken, new connections wait in the kernel's queue.
        let accepted = async {
            let permit = slots.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (permit, accepted) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let served = connection(app.clone(), routes.clone(), stream, Peer(peer), draining.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: some will be closed in a moment.
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
        }
    }

    app.start_draining();
    drop(listener);
    let until = Instant::now() + app.config().drain_timeout;
    tracing::info!(connections = connections.len(), "shutting down: finishing what is in flight");
    // Nobody listens only if no connection is open.
    let _ = drain.send(true);
    let drained = tokio::time::timeout_at(until, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "deadline reached: cutting connections");
        connections.shutdown().await;
    }
    // A little longer than the deadline, so that a client that dawdles does not cost a checkpoint.
    let left = app.close(until.max(Instant::now() + std::time::Duration::from_secs(2))).await;
    tracing::info!(left_open = left, "closed");
    Ok(())
}

async fn connection(app: App, routes: Router, stream: TcpStream, peer: Peer, mut draining: watch::Receiver<bool>) {
    // Small answers must not wait for more to come. A socket that refuses is merely slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        // Only where somebody asks for it: it is an allocation.
        if request.uri().path().starts_with("/api/") {
            request.extensions_mut().insert(peer);
        }
        routes.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config().header_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        // A client that has sent its request and closed its side still wants the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let drain = async { drop(draining.wait_for(|drain| *drain).await) };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain => {
            // Answers the request it has, then closes; at once if it has none.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "connection ended");
    }
}
