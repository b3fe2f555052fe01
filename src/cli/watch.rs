//! Watching a run of the server, which may take longer than a request may.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// The longest wait between two looks at a run.
pub const LOOK: Duration = Duration::from_millis(500);

/// How long a server that does not answer is asked again: the run goes on without being watched.
const ABSENCE: Duration = Duration::from_secs(30);

/// Whether an error means no more than that the server does not answer for a while; it last did at `answered`.
pub fn is_absent(error: &Error, answered: Instant) -> bool {
    error.kind() == ErrorKind::Unavailable && answered.elapsed() < ABSENCE
}
