//! What the combiner knows of its connection's write-ahead log, and when to checkpoint it.

use crate::{
    error::Result,
    sqlite::{open::Locking, wal},
};

/// Lengths are in pages.
pub struct WalState {
    /// The length at which to checkpoint.
    checkpoint_every: u32,
    /// The length at which readers are cancelled so that the WAL can be emptied.
    max_pages: u32,
    pages: u32,
    /// The length up to which the WAL file is known to be allocated on the disk: overwriting these pages changes
    /// only their content, so a commit within it needs no confirmation (decision 0008).
    placed: u32,
    /// The length at which to checkpoint next; more than `checkpoint_every` after a checkpoint that was held up.
    checkpoint_at: u32,
    /// The WAL's content may not be on the disk: it must be emptied before the next write.
    needs_checkpoint: bool,
}

/// A checkpoint that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// Copies what no reader needs, and keeps the file's length: syncing an overwritten page takes half the time of
    /// an appended one.
    Passive,
    /// Empties the WAL, for which its readers are cancelled.
    Truncate,
}

impl WalState {
    /// The state of an empty WAL.
    pub fn new(checkpoint_every: u32, max_pages: u32) -> Self {
        let (pages, placed, checkpoint_at) = (0, 0, checkpoint_every);
        Self { checkpoint_every, max_pages, pages, placed, checkpoint_at, needs_checkpoint: false }
    }

    /// Whether the WAL must be emptied before the next write.
    pub fn needs_checkpoint(&self) -> bool {
        self.needs_checkpoint
    }

    /// The WAL's content is in doubt: after a fault or an unclean stop.
    pub fn distrust(&mut self) {
        self.needs_checkpoint = true;
    }

    /// The length up to which a commit needs no confirmation.
    pub fn placed(&self) -> u32 {
        self.placed
    }

    /// A connection was opened.
    pub fn opened(&mut self) {
        self.placed = 0;
    }

    /// A commit left the WAL at `pages`.
    pub fn committed(&mut self, pages: u32) {
        if pages < self.pages {
            // It restarted, and SQLite truncated the file.
            self.checkpoint_at = self.checkpoint_every;
            self.placed = self.placed.min(wal::KEPT_PAGES);
        }
        self.pages = pages;
        self.placed = self.placed.max(pages);
    }

    /// The WAL was emptied and truncated.
    pub fn emptied(&mut self) {
        *self = Self::new(self.checkpoint_every, self.max_pages);
    }

    /// The checkpoint that is due, if any.
    pub fn due(&mut self, locking: Locking) -> Option<Checkpoint> {
        if self.pages < self.checkpoint_at {
            return None;
        }
        // SQLite truncates the file to this when the WAL restarts.
        self.placed = self.placed.min(wal::KEPT_PAGES);
        if locking == Locking::Shared && self.too_long() {
            self.placed = 0;
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
