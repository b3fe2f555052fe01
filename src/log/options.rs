//! The settings of a log.

use std::path::PathBuf;

use super::tail::Tail;

/// Settings of a log.
#[derive(Debug, Clone)]
pub struct Options {
    /// The length of a segment, in bytes. Redo reads at most four of them.
    pub segment_bytes: u64,
    /// Who reads the log while it is written; none if nobody does.
    pub tail: Option<Tail>,
    /// A file that is removed before the first record is written: it says how far the log was read, and nobody reads it now.
    pub unread: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, tail: None, unread: None }
    }
}
