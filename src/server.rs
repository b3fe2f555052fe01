//! The accept loop, its deadlines, and the shutdown.

mod connections;
mod socket;
mod write_deadline;

use std::{collections::HashMap, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, header},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tower::Service;

use crate::{
    app::App,
    error::{Error, Result},
    http::{
        door::Door,
        limits::{Audience, Listener, Refused},
        middleware::enclose,
        peer::{Peer, block},
    },
    router,
};

use connections::{Close, ConnectionGuard, Connections};
use socket::Socket;

/// How long to wait for an evicted connection before another is evicted.
const EVICTION_WAIT: Duration = Duration::from_millis(100);

/// How long the tenants have to be closed, even after the deadline of the drain: a slow client must not cost
/// a checkpoint.
const CHECKPOINTS: Duration = Duration::from_secs(2);

/// Serves on `listener` until `shutdown` resolves, then drains: `/readyz` turns red, nothing more
/// is accepted, requests in flight are finished to a deadline, and all tenants are closed with
/// their write-ahead logs emptied. `operators` is a listener for operators alone.
///
/// # Errors
/// If the routes cannot be built; never for what a client does.
pub async fn serve(
    app: App,
    listener: TcpListener,
    operators: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let routes = router::router(&app)?;
    let operators = operators.map(|listener| (listener, router::operators(&app)));
    let shutdown = async {
        shutdown.await;
        // Not after the drain: it would go on migrating until then.
        app.rollouts().interrupt();
    };
    let until = serve_routes(app.door(), (listener, routes), operators, shutdown).await;
    let left = app.close(until.max(Instant::now() + CHECKPOINTS)).await;
    tracing::info!(left_open = left, "closed");
    Ok(())
}

/// Serves routes of one's own behind a door as [`serve`] does, with errors in one shape, and closes the store.
/// What no route answers is 404 or 405.
///
/// # Errors
/// If the listener has no address.
pub async fn serve_api(
    door: &Door,
    routes: Router,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let listen = listener.local_addr().map_err(|e| Error::internal("the listener has no address").with_source(e))?;
    let until = serve_routes(door, (listener, enclose(routes, door, listen)), None, shutdown).await;
    door.store.close(until.max(Instant::now() + CHECKPOINTS)).await;
    Ok(())
}

/// A listener, and the routes that it serves.
pub type Routes = (TcpListener, Router);

/// Serves routes with the deadlines, limits and shutdown of [`serve`], and nothing around them. The store is left
/// open. Gives the deadline of the drain.
pub async fn serve_routes(
    door: &Door,
    (listener, routes): Routes,
    operators: Option<Routes>,
    shutdown: impl Future<Output = ()>,
) -> Instant {
    let most = door.config.max_connections as usize;
    let slots = Arc::new(Semaphore::new(most));
    let (drain, draining) = watch::channel(false);
    let public = accept(door, listener, routes, (Listener::Public, slots.clone()), draining.clone());
    let operators = async {
        if let Some((listener, routes)) = operators {
            let slots = Arc::new(Semaphore::new(door.config.limits.admin_connections as usize));
            accept(door, listener, routes, (Listener::Operators, slots), draining.clone()).await;
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

    door.start_draining();
    let until = Instant::now() + door.config.drain_timeout;
    tracing::info!(connections = most - slots.available_permits(), "shutting down: finishing what is in flight");
    // There is no receiver if no connection is open.
    let _ = drain.send(true);
    if tokio::time::timeout_at(until, served.as_mut()).await.is_err() {
        tracing::warn!(connections = most - slots.available_permits(), "deadline reached: cutting connections");
    }
    // Before the tenants are closed: what a connection still does would keep one open.
    drop(served);
    until
}

/// Accepts until told to drain, then waits for the open connections. Dropped, it cuts them.
async fn accept(
    door: &Door,
    socket: TcpListener,
    routes: Router,
    (listener, slots): (Listener, Arc<Semaphore>),
    mut draining: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let most = slots.available_permits();
    let mut from = AddressCounts { most, of: HashMap::new() };
    let connections = Connections::new(listener, most);
    let share = (most / 4).max(1);
    loop {
        tokio::select! {
            biased;
            () = async { drop(draining.wait_for(|drain| *drain).await) } => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => {
                    let address = block(peer.ip());
                    let most = match listener {
                        Listener::Public => door.limits.connections_of(peer.ip()),
                        // Operators are not refused because of other connections of their address.
                        Listener::Operators => None,
                    };
                    let Some(counted) = from.count(address, most.unwrap_or(u32::MAX)) else {
                        tracing::debug!(%peer, "a connection too many from one address");
                        continue;
                    };
                    if listener == Listener::Operators && door.limits.shares_operators(peer.ip()) {
                        connections.evict_of(address, share);
                    }
                    let slot = tokio::select! {
                        biased;
                        () = async { drop(draining.wait_for(|drain| *drain).await) } => break,
                        permit = slot(&slots, &connections) => permit,
                    };
                    let guard = connections.add(address);
                    let served = connection(door.clone(), routes.clone(), stream, (listener, peer), guard);
                    tasks.spawn(async move {
                        served.await;
                        drop((counted, slot));
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: some will be closed in a moment.
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(socket);
    connections.finish();
    while tasks.join_next().await.is_some() {}
}

/// A slot for one more connection. With all in use, an idle connection is closed for it; while none is idle,
/// the new one waits, the first one here and the others in the kernel's queue.
async fn slot(slots: &Arc<Semaphore>, connections: &Connections) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(permit) = slots.clone().try_acquire_owned() {
            return Some(permit);
        }
        connections.evict();
        if let Ok(permit) = tokio::time::timeout(EVICTION_WAIT, slots.clone().acquire_owned()).await {
            return permit.ok();
        }
    }
}

/// How many connections each address has.
struct AddressCounts {
    /// Connections in all: with twice as many addresses, those without one are forgotten.
    most: usize,
    /// Each connection has a copy of its address's.
    of: HashMap<u128, Arc<()>>,
}

impl AddressCounts {
    /// Counts a connection until the answer is dropped; none if the address has `most` already.
    fn count(&mut self, address: u128, most: u32) -> Option<Arc<()>> {
        if self.of.len() >= 2 * self.most {
            self.of.retain(|_, of| Arc::strong_count(of) > 1);
        }
        let of = self.of.entry(address).or_default();
        (Arc::strong_count(of) <= most as usize).then(|| of.clone())
    }
}

async fn connection(
    door: Door,
    routes: Router,
    stream: TcpStream,
    (listener, peer): (Listener, SocketAddr),
    guard: ConnectionGuard,
) {
    // Small answers are sent at once. A socket that refuses this is merely slower.
    let _ = stream.set_nodelay(true);
    // The kernel hears nothing of a client that is gone.
    let limits = &door.config.limits;
    let stalled = u32::try_from(limits.answer_timeout.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, stalled);
    let open = &guard.0;
    let in_flight = &open.connection;
    let socket = Socket::new(stream, in_flight.clone(), limits.answer_timeout, limits.answer_rate.0);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let (limits, mut routes, open) = (&door.limits, routes.clone(), &**open);
        async move {
            in_flight.wait_for_writes().await;
            let path = request.uri().path();
            let entered = limits.enter(listener, peer.ip(), path, request.headers());
            // Only where it is needed: it is an allocation.
            if limits.audience(path) == Audience::Operators || !limits.proxies.is_empty() {
                request.extensions_mut().insert(Peer(peer));
            }
            let entered = entered.unwrap_or_else(|problem| {
                request.extensions_mut().insert(Refused(problem));
                limits.nothing()
            });
            let large = has_large_body(request.headers());
            let proven = entered.is_operators();
            open.used(proven);
            let mut answer = in_flight.answer(entered, routes.call(request)).await?;
            let refused = answer.status().is_client_error() || answer.status().is_server_error();
            if (listener == Listener::Operators && !proven) || (large && refused) {
                // Without the key no connection is kept. And one on which a large body was refused before all
                // of it was read is closed: the client is told, or it would send its next request there.
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(door.config.header_timeout)
        // A header may have a hundred fields, hyper's default: setting even that explicitly makes hyper
        // initialise a buffer for them with each request.
        .max_buf_size(usize::try_from(door.config.max_header_bytes.0).unwrap_or(64 << 10))
        // A client that has sent its request and closed its side still wants the answer.
        .half_close(true)
        .serve_connection(socket, service);
    tokio::pin!(connection);
    let result = loop {
        tokio::select! {
            // A request that has come is answered before its connection may be evicted.
            biased;
            result = connection.as_mut() => break result,
            close = open.told_to_close() => {
                if close == Close::Now && open.is_evictable(listener) {
                    tracing::debug!(%peer, "an idle connection was closed for a new one");
                    return;
                }
                // Answers the request in flight, then closes; at once if there is none.
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "connection ended");
    }
}

/// The longest body that is read to its end after its request was refused, in bytes: one piece, which has
/// most likely arrived.
const DRAINED: u64 = 8 << 10;

fn has_large_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|bytes| bytes > DRAINED)
}
