//! The log as one database sees it: its creation, its commits, and when its file is on the disk.

use std::{path::Path, sync::Arc};

use super::{
    handle::Log,
    record::{Change, MAX_PAYLOAD, Record},
    state::{Creation, Done, Seq},
};
use crate::error::{Error, Result};

/// The log, as the databases of one name write to it.
#[derive(Clone)]
pub struct DatabaseLog {
    log: Log,
    name: Arc<str>,
}

impl DatabaseLog {
    /// The log for the database `name`: a tenant's id, or empty for the catalog.
    pub fn new(log: Log, name: &str) -> Self {
        Self { log, name: name.into() }
    }

    /// The log itself.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Adds the creation of the database with this content, whose file is written and need not be flushed. `false` if
    /// it is too long for a record, and nothing was added.
    pub fn create(&self, image: &[u8]) -> bool {
        if image.len() > MAX_PAYLOAD {
            return false;
        }
        let flushes = self.log.flushes();
        let seq = self.append(Change::Create(image.into()), 0, None);
        self.log.shared().created.lock().insert(self.name.clone(), Creation { seq, flushes });
        true
    }

    /// Whether a redo would make the database's file, and will until a flush that nobody has asked for yet. Its write-ahead
    /// log was never emptied then.
    pub fn is_new(&self) -> bool {
        self.created().is_some_and(|creation| creation.flushes == self.log.flushes())
    }

    fn created(&self) -> Option<Creation> {
        self.log.shared().created.lock().get(&self.name).copied()
    }

    /// Waits until the creation of the database is durable, and adds it once more if it could not be written. To be
    /// called before its file is first opened. May block.
    ///
    /// # Errors
    /// It could not be written again.
    pub fn confirm_creation(&self, file: &Path) -> Result<()> {
        if self.created().is_none_or(|created| self.log.wait_blocking(created.seq).is_ok()) {
            return Ok(());
        }
        let image = std::fs::read(file).map_err(|e| Error::io(file.display(), e))?;
        self.create(&image);
        self.created().map_or(Ok(()), |created| self.log.wait_blocking(created.seq))
    }

    /// Brings the file of a database that was created a short while ago to the disk, so that a redo does not create it
    /// again. To be called before its write-ahead log restarts, or anybody but SQLite changes the file. May block.
    pub fn place(&self) -> Result<()> {
        if self.created().is_some() { self.log.flush_databases().map(drop) } else { Ok(()) }
    }

    /// Calls `done` when everything of this database up to a record is durable, and may be answered.
    pub fn answer(&self, seq: Seq, done: Done) {
        let Some(hold) = self.log.holder() else { return self.log.after(seq, done) };
        // What an earlier opening of the database committed counts, too.
        let (name, all) = (self.name.clone(), seq.max(self.log.decided()));
        let held = move |result| match result {
            Ok(()) => hold.hold(&name, all, done),
            failed => done(failed),
        };
        self.log.after(seq, Box::new(held));
    }

    /// Adds a change of the database; see [`Log::append`].
    pub fn append(&self, change: Change<'_>, continues: Seq, done: Option<Done>) -> Seq {
        self.log.append(&self.name, &Record { name: (&*self.name).into(), change }, continues, done)
    }
}
