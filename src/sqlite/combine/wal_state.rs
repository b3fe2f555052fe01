//! What the combiner knows of its connection's write-ahead log, and when to checkpoint it.

use crate::{
    error::Result,
    sqlite::{open::Locking, wal::Logged},
};

/// What the WAL has of a database that was [closed without a flush](super::Combiner::close_unflushed).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WalLeft {
    pub(super) logged: Logged,
    pub(super) pages: u32,
}

/// Lengths are in pages.
pub struct WalState {
    /// The length at which to checkpoint.
    checkpoint_every: u32,
    /// The length at which readers are cancelled so that the WAL can be emptied.
    max_pages: u32,
    pages: u32,
    /// The length at which to checkpoint next; more than `checkpoint_every` after a checkpoint that was held up.
    checkpoint_at: u32,
    /// Its file is empty.
    empty: bool,
    /// It must be emptied before the next write.
    needs_checkpoint: bool,
    /// Its content may not be on the disk, nor in the data folder's log.
    in_doubt: bool,
}

/// A checkpoint that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// Copies what no reader needs, and keeps the file's length: a page that is overwritten needs no new block, and its
    /// flush takes half the time of an appended one's.
    Passive,
    /// Empties the WAL, for which its readers are cancelled.
    Truncate,
}

impl WalState {
    /// The state of a WAL that restarts with the next commit.
    pub fn new(checkpoint_every: u32, max_pages: u32) -> Self {
        Self {
            checkpoint_every,
            max_pages,
            pages: 0,
            checkpoint_at: checkpoint_every,
            empty: false,
            needs_checkpoint: false,
            in_doubt: false,
        }
    }

    /// Whether the WAL must be emptied before the next write.
    pub fn needs_checkpoint(&self) -> bool {
        self.needs_checkpoint
    }

    /// Whether its content may not be on the disk, nor in the data folder's log.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// The length.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Whether the WAL's file is empty.
    pub fn is_empty(&self) -> bool {
        self.empty && !self.needs_checkpoint
    }

    /// Whether the next commit only appends: nothing has to be checkpointed, and the WAL does not restart, for which
    /// SQLite flushes its header.
    pub fn is_steady(&self) -> bool {
        !self.needs_checkpoint && self.pages > 0 && self.pages < self.checkpoint_at
    }

    /// The WAL's content is in doubt: after a fault or an unclean stop.
    pub fn distrust(&mut self) {
        (self.needs_checkpoint, self.in_doubt) = (true, true);
        self.empty = false;
    }

    /// A commit left the WAL at `pages`.
    pub fn committed(&mut self, pages: u32) {
        if pages < self.pages {
            // It restarted, and SQLite truncated the file.
            self.checkpoint_at = self.checkpoint_every;
        }
        self.pages = pages;
        self.empty = false;
    }

    /// The WAL was emptied and truncated.
    pub fn emptied(&mut self) {
        *self = Self { empty: true, ..Self::new(self.checkpoint_every, self.max_pages) };
    }

    /// The checkpoint that is due, if any.
    pub fn due(&mut self, locking: Locking) -> Option<Checkpoint> {
        if self.pages < self.checkpoint_at {
            return None;
        }
        if locking == Locking::Shared && self.too_long() {
            return Some(Checkpoint::Truncate);
        }
        Some(Checkpoint::Passive)
    }

    /// The checkpoint that was due ended with `result`; not for an error that breaks the connection.
    pub fn checkpointed(&mut self, locking: Locking, result: &Result<()>) {
        match result {
            Err(_) if self.too_long() => self.needs_checkpoint = true,
            // No reader can hold a page back in exclusive mode, nor has after a truncation.
            Ok(()) if locking == Locking::Exclusive || self.too_long() => {
                (self.pages, self.checkpoint_at) = (0, self.checkpoint_every);
            }
            // A reader or the disk holds it up: tried again after as many pages more.
            Ok(()) | Err(_) => self.checkpoint_at = self.pages.saturating_add(self.checkpoint_every),
        }
    }

    fn too_long(&self) -> bool {
        self.pages >= self.max_pages
    }
}
