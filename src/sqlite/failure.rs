//! What a failed closure or statement means for its connection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind, Result};

/// Runs a caller's closure. A panic becomes that caller's error.
pub(super) fn catch_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Err(Error::internal(format!("panic in a database closure: {text}")))
    })
}

/// Whether the connection that gave this error may not be used again.
pub(super) fn breaks_connection(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Damaged)
}

/// The answer to a job whose outcome is unknown.
pub(super) fn outcome_unknown() -> Error {
    Error::new(ErrorKind::Unavailable, "the database was closed before it answered; the outcome is unknown")
}
