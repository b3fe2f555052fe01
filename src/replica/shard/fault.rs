//! What an error of a shard means for whoever uses it.

use std::time::Duration;

use slatedb::{CloseReason, Db, ErrorKind as Cause};

use crate::{
    error::{Error, ErrorKind},
    replica::remote::explain,
};

/// Why something with a shard failed.
#[derive(Debug)]
pub enum Fault {
    /// Somebody else has opened the shard since, perhaps this very server, whose answer was lost. What was written is not
    /// there, unless it was confirmed.
    Fenced,
    /// It could not be done now; whether it was done is not known. The shard may have to be opened again.
    Away(Error),
    /// What is there cannot be read.
    Damaged(Error),
}

impl Fault {
    /// What an error of SlateDB means. Damage is what does not pass its checksums, and what is not there and should be.
    pub(super) fn of(error: slatedb::Error) -> Self {
        let behind = explain::behind(&error);
        match (error.kind(), behind) {
            (Cause::Closed(CloseReason::Fenced), _) => Self::Fenced,
            // The whole bucket is gone, or somebody may not read it: the shard is as it was.
            (Cause::Unavailable, Some(behind)) => Self::Away(behind.with_source(error)),
            (Cause::Data, Some(behind)) if behind.kind() == ErrorKind::Config => Self::Away(behind.with_source(error)),
            // It has no kind of its own, and is no reason to begin anew.
            (Cause::Data, _) if error.to_string().contains("format version") => Self::Away(
                Error::config("a shard in the bucket was written by another version of cubby: use that version")
                    .with_source(error),
            ),
            (Cause::Data, _) => Self::Damaged(
                Error::new(
                    ErrorKind::Damaged,
                    "a shard in the bucket is damaged: `cubby replica verify` shows what can be restored",
                )
                .with_source(error),
            ),
            (Cause::Unavailable, None) => Self::Away(
                Error::new(
                    ErrorKind::Unavailable,
                    "the bucket cannot be used now: look at the network, the credentials and the bucket's own status",
                )
                .with_source(error),
            ),
            (Cause::Closed(_), _) => Self::Away(
                Error::new(ErrorKind::Unavailable, "a shard was closed; it is opened again at the next try")
                    .with_source(error),
            ),
            _ => Self::Away(Error::internal("SlateDB has failed; it is tried again").with_source(error)),
        }
    }

    /// The same for a shard that is open: a task of SlateDB may have found the fence before the call that has failed since.
    pub(super) fn of_open(db: &Db, error: slatedb::Error) -> Self {
        if db.status().close_reason == Some(CloseReason::Fenced) { Self::Fenced } else { Self::of(error) }
    }

    /// There was no answer in time.
    pub(super) fn late(limit: Duration) -> Self {
        Self::Away(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the bucket has not answered for {} s: look at the network and the bucket's own status",
                limit.as_secs()
            ),
        ))
    }

    /// What an error of what was read means.
    pub(super) fn of_content(error: Error) -> Self {
        if error.kind() == ErrorKind::Damaged { Self::Damaged(error) } else { Self::Away(error) }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Fenced => Self::new(
                ErrorKind::Conflict,
                "another server has taken over what is in the bucket: stop one of the two, or give it a prefix of its own",
            ),
            Fault::Away(error) | Fault::Damaged(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_what_is_to_be_done() {
        let fenced = slatedb::Error::closed(String::new(), CloseReason::Fenced);
        assert!(matches!(Fault::of(fenced), Fault::Fenced));
        assert!(matches!(Fault::of(slatedb::Error::data(String::new())), Fault::Damaged(_)));
        let other = "unsupported manifest format version. supported_versions=`[1]`, actual_version=`9`";
        for error in [
            slatedb::Error::data(other.to_owned()),
            slatedb::Error::unavailable(String::new()),
            slatedb::Error::closed(String::new(), CloseReason::Clean),
            slatedb::Error::closed(String::new(), CloseReason::Panic),
            slatedb::Error::internal(String::new()),
        ] {
            assert!(matches!(Fault::of(error), Fault::Away(_)));
        }
        assert!(matches!(Fault::of_content(Error::config("newer")), Fault::Away(_)));
        assert_eq!(Error::from(Fault::Fenced).kind(), ErrorKind::Conflict);
        assert_eq!(Error::from(Fault::late(Duration::from_secs(7))).kind(), ErrorKind::Unavailable);
    }
}
