//! What requests hold of the server, from when they are let in until the last byte of their answer is
//! written.
//!
//! hyper asks for an answer's body long before the other side has taken it: a body that is one piece is
//! handed over at once and waits in hyper's buffer. So what a request holds is given back when the
//! connection's buffer has drained after the end of the body, of which the socket tells
//! ([`Connection::written`]).

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
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use super::{limits::InFlight, problem::Problem};

/// Answers of one connection that may wait to be written before its next request is looked at: one who
/// sends requests and reads nothing must not have them all answered into memory.
const UNWRITTEN: u32 = 16;

tokio::task_local! {
    static CONNECTION: Arc<Connection>;
}

/// A connection, as far as its requests hold something.
#[derive(Default)]
pub struct Connection {
    /// Requests that are being answered or whose answers are not written.
    under_way: AtomicU32,
    unwritten: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the request holds that is being answered: HTTP/1.1 answers one after the other.
    current: Option<InFlight>,
    /// What those hold whose bodies hyper has and the socket has not.
    unwritten: Vec<InFlight>,
    waiting: Option<Waker>,
    closed: bool,
}

/// Looks at what the request holds that this task is answering. None outside of a request.
pub fn in_flight<T>(look: impl FnOnce(&mut InFlight) -> T) -> Option<T> {
    CONNECTION.try_with(|connection| connection.state.lock().current.as_mut().map(look)).ok().flatten()
}

/// Counts an answer of so many bytes.
///
/// # Errors
/// If there is no room for it.
pub fn hold_answer(bytes: u64, is_told_anyway: bool) -> Result<(), Problem> {
    in_flight(|in_flight| in_flight.answer(bytes, is_told_anyway)).unwrap_or(Ok(()))
}

/// Counts so many bytes of a body as far as it has come, or of an answer that is yet to be made.
///
/// # Errors
/// As [`hold_answer`].
pub fn hold(bytes: u64) -> Result<(), Problem> {
    in_flight(|in_flight| in_flight.body(bytes)).unwrap_or(Ok(()))
}

impl Connection {
    /// Whether no request is being answered and all answers are written.
    pub fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }

    /// Waits until so much has been written that another request may be looked at.
    pub async fn room(&self) {
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

    /// Answers a request that holds this much, and goes on holding it until the answer is written: all but
    /// the turn of one who has proven nothing.
    pub async fn answer<E>(
        self: &Arc<Self>,
        in_flight: InFlight,
        answer: impl Future<Output = Result<Response, E>>,
    ) -> Result<Response<Answer>, E> {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        self.state.lock().current = Some(in_flight);
        let answered = CONNECTION.scope(self.clone(), answer).await;
        let mut in_flight = self.state.lock().current.take();
        if let Some(in_flight) = &mut in_flight {
            in_flight.is_answered();
        }
        Ok(answered?.map(|body| Answer { body, in_flight, of: self.clone() }))
    }

    /// All that hyper was handed is with the kernel.
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

    /// Gives everything back: the connection is gone.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.current = None;
        state.unwritten = Vec::new();
    }
}

/// The body of an answer, and what its request holds.
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
    /// hyper has all of it: what is left is to write it.
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

/// The next piece of a body.
pub(super) async fn next_piece(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    loop {
        match body.frame().await? {
            Ok(frame) => {
                // Trailers mean nothing here.
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}
