//! Settings of the notes API.

use clap::Args;

use super::Size;
use crate::error::{Error, Result};

/// How large notes and pages of them may be.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Notes")]
pub struct NotesConfig {
    /// The longest text of a note
    #[arg(long, env = "CUBBY_MAX_NOTE_BYTES", default_value = "1MiB", value_name = "SIZE")]
    pub max_note_bytes: Size,

    /// The most notes on a page
    #[arg(long, env = "CUBBY_MAX_PAGE", default_value_t = 500, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_page: u32,
}

impl NotesConfig {
    pub(super) fn validate(&self) -> Result<()> {
        match self.max_note_bytes.0 > 256 << 20 {
            true => Err(Error::config("--max-note-bytes: at most 256MiB")),
            false => Ok(()),
        }
    }
}
