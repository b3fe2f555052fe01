//! A connection's socket: it reports when all is written, and cuts off a client that does not read its answer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::write_deadline::WriteDeadline;
use crate::http::connection::Connection;

/// The socket of a connection.
pub struct Socket {
    stream: TokioIo<TcpStream>,
    of: Arc<Connection>,
    deadline: WriteDeadline,
    /// Made when something cannot be written for the first time, which is seldom.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// A client that reads nothing is cut off after `timeout`, one that reads less than `rate` bytes a second
    /// some time later.
    pub fn new(stream: TcpStream, of: Arc<Connection>, timeout: Duration, rate: u64) -> Self {
        Self { stream: TokioIo::new(stream), of, deadline: WriteDeadline::new(timeout, rate), alarm: None }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TokioIo<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match write(Pin::new(&mut self.stream), cx) {
            Poll::Ready(Ok(count)) => {
                if !self.deadline.is_whole() && !self.deadline.wrote(count as u64, Instant::now()) {
                    return Poll::Ready(Err(self.cut_off()));
                }
                Poll::Ready(Ok(count))
            }
            Poll::Pending => {
                let end = self.deadline.blocked(Instant::now());
                let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
                if alarm.deadline() != end {
                    alarm.as_mut().reset(end);
                }
                std::task::ready!(alarm.as_mut().poll(cx));
                Poll::Ready(Err(self.cut_off()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn cut_off(&self) -> io::Error {
        // Reset rather than closed: otherwise the kernel would keep what it has yet to send for as long as the
        // client likes.
        let _ = rustix::net::sockopt::set_socket_linger(self.stream.inner(), Some(Duration::ZERO));
        io::Error::new(io::ErrorKind::TimedOut, "the client read its answer too slowly")
    }
}

impl Read for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.of.written();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
