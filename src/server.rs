//! The accept loop, its deadlines, and the way out.

mod crowd;
mod patience;
mod socket;

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, header},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tower::Service;

use crate::{
    app::App,
    error::Result,
    http::{
        limits::{Door, Refused, block, is_operators},
        peer::Peer,
    },
    router,
};

use crowd::{Crowd, Membership, Wish};
use socket::Socket;

/// How long one that was asked to give way is waited for before another is asked.
const GIVE_WAY: Duration = Duration::from_millis(100);

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

type Way = (TcpListener, Router);

async fn run(app: App, (listener, routes): Way, operators: Option<Way>, shutdown: impl Future<Output = ()>) {
    let most = app.config().max_connections as usize;
    let slots = Arc::new(Semaphore::new(most));
    let (drain, draining) = watch::channel(false);
    let public = accept(app.clone(), listener, routes, (Door::Public, slots.clone()), draining.clone());
    let operators = async {
        if let Some((listener, routes)) = operators {
            let slots = Arc::new(Semaphore::new(app.config().limits.admin_connections as usize));
            accept(app.clone(), listener, routes, (Door::Operators, slots), draining.clone()).await;
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
    (door, slots): (Door, Arc<Semaphore>),
    mut draining: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let from = AddressCounts::default();
    let crowd = Crowd::new(door, slots.available_permits());
    let share = (slots.available_permits() / 4).max(1);
    loop {
        tokio::select! {
            biased;
            () = async { drop(draining.wait_for(|drain| *drain).await) } => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let counted = match door {
                        Door::Public => from.count(&app, peer.ip()),
                        // Whoever comes to operate is not turned away because of others at that address.
                        Door::Operators => Ok(None),
                    };
                    let Ok(counted) = counted else {
                        tracing::debug!(%peer, "a connection too many from one address");
                        continue;
                    };
                    if door == Door::Operators && app.limits().shares_operators(peer.ip()) {
                        crowd.make_room_of(block(peer.ip()), share);
                    }
                    let room = tokio::select! {
                        biased;
                        () = async { drop(draining.wait_for(|drain| *drain).await) } => break,
                        permit = room(&slots, &crowd) => permit,
                    };
                    let member = crowd.join(block(peer.ip()));
                    let served = connection(app.clone(), routes.clone(), stream, (door, peer), member);
                    connections.spawn(async move {
                        served.await;
                        drop((counted, room));
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
    drop(listener);
    crowd.finish();
    while connections.join_next().await.is_some() {}
}

/// Room for one more. With all in use, those that do nothing give way to whoever comes; while all do
/// something, whoever comes waits, the first one here and the others in the kernel's queue.
async fn room(slots: &Arc<Semaphore>, crowd: &Crowd) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(permit) = slots.clone().try_acquire_owned() {
            return Some(permit);
        }
        crowd.make_room();
        if let Ok(permit) = tokio::time::timeout(GIVE_WAY, slots.clone().acquire_owned()).await {
            return permit.ok();
        }
    }
}

/// How many connections each address has. As large as there are connections.
#[derive(Default)]
struct AddressCounts(Arc<Mutex<HashMap<u128, u32>>>);

struct TooMany;

/// One connection, counted until dropped.
struct Counted {
    of: Arc<Mutex<HashMap<u128, u32>>>,
    key: u128,
}

impl AddressCounts {
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

async fn connection(
    app: App,
    routes: Router,
    stream: TcpStream,
    (door, peer): (Door, SocketAddr),
    membership: Membership,
) {
    let limits = &app.config().limits;
    // Small answers must not wait for more to come. A socket that refuses is merely slower.
    let _ = stream.set_nodelay(true);
    // Of a client that is gone the kernel hears nothing at all.
    let stalled = u32::try_from(limits.answer_timeout.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, stalled);
    let member = &membership.0;
    let in_flight = &member.connection;
    let socket = Socket::new(stream, in_flight.clone(), limits.answer_timeout, limits.answer_rate.0);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let (app, mut routes, member) = (&app, routes.clone(), &**member);
        async move {
            in_flight.room().await;
            let path = request.uri().path();
            let entered = app.limits().enter(door, peer.ip(), path, request.headers());
            // Only where somebody asks for it: it is an allocation.
            if is_operators(path) || app.limits().trusts_proxies() {
                request.extensions_mut().insert(Peer(peer));
            }
            let entered = entered.unwrap_or_else(|problem| {
                request.extensions_mut().insert(Refused(problem));
                app.limits().nothing()
            });
            let large = has_large_body(request.headers());
            let proven = entered.is_operators();
            member.uses(proven);
            let mut answer = in_flight.answer(entered, routes.call(request)).await?;
            let refused = answer.status().is_client_error() || answer.status().is_server_error();
            if (door == Door::Operators && !proven) || (large && refused) {
                // Whoever has not shown the key keeps no connection. And one on which a large body was
                // refused before all of it was read is closed: the client is told, or it would send its
                // next request there.
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config().header_timeout)
        // A header may have a hundred fields, hyper's default: setting even that explicitly makes hyper
        // initialise a buffer for them with each request.
        .max_buf_size(usize::try_from(app.config().max_header_bytes.0).unwrap_or(64 << 10))
        // A client that has sent its request and closed its side still wants the answer.
        .half_close(true)
        .serve_connection(socket, service);
    tokio::pin!(connection);
    let result = loop {
        tokio::select! {
            // A request that has come is answered before its connection may give way.
            biased;
            result = connection.as_mut() => break result,
            wish = member.wish() => {
                if wish == Wish::GiveWay && member.may_go(door) {
                    tracing::debug!(%peer, "an idle connection gave way to another");
                    return;
                }
                // Answers the request it has, then closes; at once if it has none.
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "connection ended");
    }
}

/// The longest body that is read to its end after its request was refused, in bytes: one piece, which has
/// most likely come by then.
const DRAINED: u64 = 8 << 10;

fn has_large_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|bytes| bytes > DRAINED)
}
