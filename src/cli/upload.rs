//! A file as the body of a request, read in pieces.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// The length of a piece, in bytes.
const PIECE: u64 = 256 << 10;

/// A file that is being sent.
pub struct Upload {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl Upload {
    /// Reads a file on a thread of its own.
    pub fn of(path: &Path) -> Result<Self> {
        let failed = |e: io::Error| Error::config(format!("{} cannot be read: {e}", path.display()));
        // Before it is opened: a named pipe would be waited for.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::config(format!("{} is no plain file", path.display())));
        }
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let (sender, pieces) = mpsc::channel(2);
        std::thread::spawn(move || {
            loop {
                let mut piece = Vec::new();
                let read = (&file).take(PIECE).read_to_end(&mut piece);
                let ends = !matches!(read, Ok(1..));
                if matches!(read, Ok(0)) || sender.blocking_send(read.map(|_| piece.into())).is_err() || ends {
                    return;
                }
            }
        });
        Ok(Self { pieces, left: found.len() })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.pieces.poll_recv(cx).map(|piece| {
            let piece = piece?;
            let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            self.left = self.left.saturating_sub(length);
            Some(piece.map(Frame::data))
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
