//! Closing the combiner's connection.

use std::sync::atomic::Ordering;

use super::{Combiner, WalLeft, Writer};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{
        open::{self, Locking},
        wal::{self, Logged},
    },
};

impl Combiner {
    /// Closes the connection; its next use opens it in another locking mode. Waits for
    /// the job that runs. May block.
    pub fn reopen_as(&self, locking: Locking) {
        let mut writer = self.writer.lock();
        // What could not be emptied is recovered from at the next open.
        if let Err(error) = self.close_connection(&mut writer) {
            tracing::warn!(error = %error, "reopened with its write-ahead log");
        }
        writer.locking = locking;
    }

    /// Closes the connection and leaves the file and its WAL as they are. The combiner may not be used
    /// meanwhile or after. May block.
    pub fn abandon(&self) {
        let mut writer = self.writer.lock();
        writer.closed = true;
        if let Some(conn) = writer.conn.take() {
            open::abandon(conn);
        }
    }

    /// Closes the connection without a flush if that is safe, and returns what is left in the WAL; else, and with none,
    /// like [`close`](Self::close). May block.
    pub fn close_unflushed(&self) -> Result<Option<WalLeft>> {
        let mut writer = self.writer.lock();
        match std::mem::replace(&mut writer.closed, true) {
            true => Ok(None),
            false => self.close_connection_unflushed(&mut writer),
        }
    }

    /// Empties the WAL and closes the connection. The combiner may not be used meanwhile or after, which
    /// the caller's lock on the tenant ensures. May block.
    pub fn close(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        match std::mem::replace(&mut writer.closed, true) {
            true => Ok(()),
            false => self.close_connection(&mut writer),
        }
    }

    /// Closes the connection with its WAL: a checkpoint of it is not flushed, so it stays as it is. Closes it for good if
    /// that costs no more, or if the WAL is in doubt.
    fn close_connection_unflushed(&self, writer: &mut Writer) -> Result<Option<WalLeft>> {
        let sound = !writer.wal.needs_checkpoint() && !self.log_failed.load(Ordering::Acquire);
        let exclusive = writer.locking == Locking::Exclusive;
        if self.log.is_none() || !exclusive || !sound || writer.wal.pages() == 0 {
            return self.close_connection(writer).map(|()| None);
        }
        let Some(conn) = writer.conn.take() else { return Ok(None) };
        self.deadline.set(None);
        let wrote = self.last() > 0;
        let checkpointed =
            if wrote { self.wait_for_log().and_then(|()| wal::checkpoint_unflushed(&conn)) } else { Ok(()) };
        open::abandon(conn);
        checkpointed.inspect_err(|_| writer.wal.distrust())?;
        Ok(Some(WalLeft { logged: writer.logged, pages: writer.wal.pages() }))
    }

    /// Closes the connection. Closing checkpoints the WAL and truncates its file, which is kept; if the log lacks a
    /// commit, and cannot be given it, the WAL is left as it is.
    fn close_connection(&self, writer: &mut Writer) -> Result<()> {
        if self.log_failed.swap(false, Ordering::AcqRel) {
            writer.wal.distrust();
        }
        let Some(conn) = writer.conn.take() else {
            return match writer.wal.is_in_doubt() {
                true => Err(Error::new(ErrorKind::Unavailable, "the write-ahead log may not be on the disk")),
                false => Ok(()),
            };
        };
        self.deadline.set(None);
        if self.log.is_some() && writer.wal.is_empty() {
            // Nothing was written.
            return Ok(conn.close().map_err(|(_, error)| error)?);
        }
        // Without a record of it, a redo would put what the log has of the WAL over what the checkpoint copied.
        let logged = if writer.wal.is_in_doubt() { self.log_whole_wal(&conn) } else { Ok(()) };
        match logged.and_then(|()| self.prepare_checkpoint()) {
            Ok(()) => {
                open::close(conn).inspect_err(|_| writer.wal.distrust())?;
                writer.wal.emptied();
                writer.logged = Logged::default();
                Ok(())
            }
            Err(error) => {
                open::abandon(conn);
                writer.wal.distrust();
                Err(error)
            }
        }
    }
}
