//! The accept loop, its deadlines, and the way out.

use std::{collections::HashMap, future::Future, net::IpAddr, sync::Arc};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tower::Service;

use crate::{
    app::App,
    error::Result,
    http::{limits::block, peer::Peer},
    router,
};

/// Connections of operators at once, on a listener of their own.
const OPERATORS: usize = 64;

/// A client that takes nothing of its answer for so long is gone.
const STALLED: u32 = 30_000;

/// Serves on `listener` until `shutdown` resolves, then drains: `/readyz` turns red, nothing more
/// is accepted, requests in flight are finished to a deadline, and all tenants are closed with
/// their write-ahead logs emptied.
///
/// # Errors
/// If the routes cannot be built; never for what a client does.
pub async fn serve(app: App, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
    serve_both(app, listener, None, shutdown).await
}

/// The same with a listener for operators alone.
///
/// # Errors
/// As [`serve`].
pub async fn serve_both(
    app: App,
    listener: TcpListener,
    operators: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let routes = router::router(&app)?;
    let operators = operators.map(|listener| (listener, router::operators(&app)));
    run(app, (listener, routes), operators, shutdown).await;
    Ok(())
}

/// As [`serve`], for routes of one's own, or more than Cubby's.
pub async fn serve_routes(app: App, routes: Router, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    run(app, (listener, routes), None, shutdown).await;
}

type Door = (TcpListener, Router);

async fn run(app: App, (listener, routes): Door, operators: Option<Door>, shutdown: impl Future<Output = ()>) {
    let most = app.config().max_connections as usize;
    let slots = Arc::new(Semaphore::new(most));
    let (drain, draining) = watch::channel(false);
    let public = accept(app.clone(), listener, routes, slots.clone(), draining.clone());
    let operators = async {
        if let Some((listener, routes)) = operators {
            accept(app.clone(), listener, routes, Arc::new(Semaphore::new(OPERATORS)), draining.clone()).await;
        }
    };
    // Ends when all connections have, which is not before the drain.
    let mut served = Box::pin(futures_util::future::join(public, operators));
    tokio::pin!(shutdown);
    tokio::select! {
        biased;
        () = &mut shutdown => {}
        _ = &mut served => {}
    }

    app.start_draining();
    let until = Instant::now() + app.config().drain_timeout;
    tracing::info!(connections = most - slots.available_permits(), "shutting down: finishing what is in flight");
    // Nobody listens only if no connection is open.
    let _ = drain.send(true);
    if tokio::time::timeout_at(until, served.as_mut()).await.is_err() {
        tracing::warn!(connections = most - slots.available_permits(), "deadline reached: cutting connections");
    }
    // Cut before the tenants are closed: what a connection still does would hold one open.
    drop(served);
    // A little longer than the deadline, so that a client that dawdles does not cost a checkpoint.
    let left = app.close(until.max(Instant::now() + std::time::Duration::from_secs(2))).await;
    tracing::info!(left_open = left, "closed");
}

/// Accepts until told to drain, then waits for the connections it has. Dropped, it cuts them.
async fn accept(
    app: App,
    listener: TcpListener,
    routes: Router,
    slots: Arc<Semaphore>,
    mut draining: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let from = Origins::default();
    let each = draining.clone();
    loop {
        // A permit first: with all taken, new connections wait in the kernel's queue.
        let accepted = async {
            let permit = slots.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = async { drop(draining.wait_for(|drain| *drain).await) } => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (permit, accepted) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let Ok(counted) = from.count(&app, peer.ip()) else {
                        tracing::debug!(%peer, "a connection too many from one address");
                        continue;
                    };
                    let served = connection(app.clone(), routes.clone(), stream, Peer(peer), each.clone());
                    connections.spawn(async move {
                        served.await;
                        drop((counted, permit));
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
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// How many connections each address has. As large as there are connections.
#[derive(Default)]
struct Origins(Arc<Mutex<HashMap<u128, u32>>>);

struct TooMany;

/// One connection, counted until dropped.
struct Counted {
    of: Arc<Mutex<HashMap<u128, u32>>>,
    key: u128,
}

impl Origins {
    fn count(&self, app: &App, address: IpAddr) -> Result<Option<Counted>, TooMany> {
        let Some(most) = app.limits().connections_of(address) else { return Ok(None) };
        let key = block(address);
        let mut counts = self.0.lock();
        let count = counts.entry(key).or_default();
        if *count >= most {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Some(Counted { of: self.0.clone(), key }))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.of.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

async fn connection(app: App, routes: Router, stream: TcpStream, peer: Peer, mut draining: watch::Receiver<bool>) {
    // Small answers must not wait for more to come. A socket that refuses is merely slower.
    let _ = stream.set_nodelay(true);
    // hyper has no deadline for writing: without this one, an answer that nobody takes is kept.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, STALLED);
    let counts_addresses = app.limits().count_addresses();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        // Only where somebody asks for it: it is an allocation.
        if counts_addresses || request.uri().path().starts_with("/api/") {
            request.extensions_mut().insert(peer);
        }
        routes.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config().header_timeout)
        // A header may have a hundred fields, hyper's default: setting even that explicitly makes hyper
        // initialise a buffer for them with each request.
        .max_buf_size(usize::try_from(app.config().max_header_bytes.0).unwrap_or(64 << 10))
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
