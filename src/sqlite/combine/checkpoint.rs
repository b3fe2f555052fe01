//! Checkpoints of the combiner's connection, and what is done before one so that a redo of the log stays right.

use std::{fs::File, os::unix::fs::FileExt, path::Path, sync::atomic::Ordering};

use rusqlite::Connection;

use super::{Combiner, Writer, wal_state::Checkpoint};
use crate::{
    error::{Error, ErrorKind, Result},
    log::{Boot, DatabaseLog},
    sqlite::{
        failure::breaks_connection,
        flush,
        wal::{self, Logged},
    },
};

impl Combiner {
    /// Makes a checkpoint harmless to a redo: it copies only what the log has, and into a file that is on the disk.
    pub(super) fn prepare_checkpoint(&self) -> Result<()> {
        self.wait_for_log()?;
        self.log.as_ref().map_or(Ok(()), DatabaseLog::place)
    }

    /// Brings the database to a known state if the WAL's content is in doubt: logs the WAL as a whole and empties it.
    pub(super) fn empty_distrusted_wal(&self, writer: &mut Writer) -> Result<()> {
        if self.log_failed.swap(false, Ordering::AcqRel) {
            writer.wal.distrust();
        }
        if !writer.wal.needs_checkpoint() {
            return Ok(());
        }
        self.deadline.set(None);
        let in_doubt = writer.wal.is_in_doubt();
        let emptied = self.connection(writer).and_then(|conn| {
            if in_doubt {
                self.log_whole_wal(conn)?;
            }
            self.prepare_checkpoint()?;
            wal::checkpoint(conn)
        });
        match emptied {
            Ok(()) => {
                writer.wal.emptied();
                writer.logged = Logged::default();
                self.last.store(0, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                if error.kind() == ErrorKind::Busy {
                    self.cancel.trigger();
                }
                if breaks_connection(&error) {
                    self.break_connection(writer, &error);
                }
                Err(error)
            }
        }
    }

    /// Adds the whole WAL to the log: a part of it may not be there, and what was written of it may not be on the disk.
    pub(super) fn log_whole_wal(&self, conn: &Connection) -> Result<()> {
        let path = conn.path().filter(|path| !path.is_empty());
        let Some((log, path)) = self.log.as_ref().zip(path) else { return Ok(()) };
        let path = wal::wal_of(Path::new(path));
        let failed = |e| Error::io(path.display(), e);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        let Some(mut part) = wal::whole(&file).map_err(failed)? else { return Ok(()) };
        part.began = flush::opened(&file, &path).ok().and_then(|()| Boot::current());
        self.append(log, &part, |into, at| file.read_exact_at(into, at).map_err(failed), &mut None)
    }

    /// Runs after the batch is answered, so no caller waits for it.
    pub(super) fn checkpoint_if_due(&self, writer: &mut Writer) {
        if writer.lent {
            return;
        }
        let Some(conn) = writer.conn.as_ref() else { return };
        let Some(checkpoint) = writer.wal.due(writer.locking) else { return };
        self.deadline.set(None);
        if self.prepare_checkpoint().is_err() {
            // The next write brings the database to a known state.
            return;
        }
        let result = match checkpoint {
            Checkpoint::Passive => wal::checkpoint_passive(conn),
            Checkpoint::Truncate => {
                self.cancel.trigger();
                wal::checkpoint(conn)
            }
        };
        match result {
            Err(error) if breaks_connection(&error) => self.break_connection(writer, &error),
            result => writer.wal.checkpointed(writer.locking, &result),
        }
    }
}
