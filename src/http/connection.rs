//! Counts requests in flight until the last byte of their answer is written.
//!
//! hyper takes an answer's body long before the client has received it: a body of one piece goes to hyper's
//! buffer at once. So a request leaves the count when the connection's buffer has drained after the end of
//! the body, which the socket reports ([`Connection::written`]).

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use super::{limits::in_flight::InFlight, problem::Problem};

/// Unwritten answers of one connection before its next request waits: the answers to a client that sends
/// requests and reads nothing must not pile up in memory.
const UNWRITTEN: u32 = 16;

tokio::task_local! {
    /// And which of its requests.
    static CONNECTION: (Arc<Connection>, u64);
}

/// The requests in flight of one connection.
#[derive(Default)]
pub struct Connection {
    /// Requests that are being answered or whose answers are not written.
    under_way: AtomicU32,
    unwritten: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The request that is being answered: HTTP/1.1 answers one after the other.
    current: Option<InFlight>,
    /// Its number.
    number: u64,
    /// Those whose answers hyper has and the socket has not.
    unwritten: Vec<InFlight>,
    waiting: Option<Waker>,
    closed: bool,
}

/// Runs `look` on the request that this task is answering. None outside of a request.
pub fn in_flight<T>(look: impl FnOnce(&mut InFlight) -> T) -> Option<T> {
    let look = |(connection, number): &(Arc<Connection>, u64)| {
        let mut state = connection.state.lock();
        // A task may go on after its request.
        if state.number == *number { state.current.as_mut().map(look) } else { None }
    };
    CONNECTION.try_with(look).ok().flatten()
}

/// Wraps a future that runs as another task, so that what it takes is counted for this task's request.
pub fn counted<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let connection = CONNECTION.try_with(Clone::clone).ok();
    async move {
        match connection {
            Some(connection) => CONNECTION.scope(connection, work).await,
            None => work.await,
        }
    }
}

/// Counts an answer of so many bytes, if the limits allow it.
pub fn hold_answer(bytes: u64, answers_change: bool) -> Result<(), Problem> {
    in_flight(|in_flight| in_flight.answer(bytes, answers_change)).unwrap_or(Ok(()))
}

/// Counts so many bytes of a body as far as it has come, or of an answer that is yet to be made.
pub fn hold(bytes: u64) -> Result<(), Problem> {
    in_flight(|in_flight| in_flight.body(bytes)).unwrap_or(Ok(()))
}

impl Connection {
    /// Whether no request is being answered and all answers are written.
    pub fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }

    /// Waits until so many answers are written that the next request may be answered.
    pub async fn wait_for_writes(&self) {
        if self.unwritten.load(Ordering::Relaxed) < UNWRITTEN {
            return;
        }
        poll_fn(|context| {
            let mut state = self.state.lock();
            if self.unwritten.load(Ordering::Relaxed) < UNWRITTEN {
                return Poll::Ready(());
            }
            state.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Answers a request, and counts it until the answer is written; one whose user is not known only until
    /// the answer is made.
    pub async fn answer<E>(
        self: &Arc<Self>,
        in_flight: InFlight,
        answer: impl Future<Output = Result<Response, E>>,
    ) -> Result<Response<Answer>, E> {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        let number = {
            let mut state = self.state.lock();
            (state.current, state.number) = (Some(in_flight), state.number + 1);
            state.number
        };
        let answered = CONNECTION.scope((self.clone(), number), answer).await;
        let mut in_flight = self.state.lock().current.take();
        if let Some(in_flight) = &mut in_flight {
            in_flight.is_answered();
        }
        Ok(answered?.map(|body| Answer { body, in_flight, of: self.clone() }))
    }

    /// hyper's buffer is with the kernel.
    pub fn written(&self) {
        if self.unwritten.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.state.lock();
        let count = self.unwritten.swap(0, Ordering::Relaxed);
        self.under_way.fetch_sub(count, Ordering::AcqRel);
        state.unwritten.clear();
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
    }

    /// Stops counting all requests: the connection is gone.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.current = None;
        state.unwritten = Vec::new();
    }
}

/// The body of an answer, and its request in flight.
pub struct Answer {
    body: Body,
    in_flight: Option<InFlight>,
    of: Arc<Connection>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Drop for Answer {
    /// hyper has all of the body; it is yet to be written.
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        match self.in_flight.take() {
            Some(in_flight) if !state.closed => {
                state.unwritten.push(in_flight);
                self.of.unwritten.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}
