//! The one error type of the library.
//!
//! Inner layers do not know about HTTP: an [`Error`] has a kind by what the caller can do about it
//! ([`ErrorKind`]), a message that may be shown to anyone ([`Error::message`]), and a source for the log.
//! `http/problem.rs` is the only place that turns a kind into a status code.

use std::{borrow::Cow, fmt, sync::Arc};

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller should do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such tenant, or none that the caller may access. Do not retry.
    UnknownTenant,
    /// The tenant exists; the thing asked for does not. Do not retry.
    NotFound,
    /// An operator has suspended the tenant. Ask the operator.
    Suspended,
    /// The tenant's file could not be migrated or is damaged; it is kept as found, and tried again by itself, ever
    /// less often. Retry later; others are unaffected.
    Quarantined,
    /// The request cannot be read at all. Change it.
    Malformed,
    /// The request was read and is not valid. Change it.
    Invalid,
    /// The state of the thing does not allow the operation (it exists already, it is in use, …).
    Conflict,
    /// Another process holds the data folder. Stop it, or ask it.
    FolderLocked,
    /// More was sent than a limit allows. Send less.
    TooLarge,
    /// The tenant has reached its quota. Delete something or raise the quota.
    QuotaExceeded,
    /// The disk is full. Reads go on; retry writes when there is space.
    DiskFull,
    /// Too many requests at once. Retry after a moment.
    Busy,
    /// The caller's rate limit is reached. Retry after a while.
    TooMany,
    /// The operation exceeded its time limit and was interrupted.
    Timeout,
    /// Storage failed. The outcome of a write is unknown; retry.
    Unavailable,
    /// A database file is not what SQLite expects. The outcome of a write is unknown; after
    /// repeats the tenant is quarantined.
    Damaged,
    /// The identity provider failed or gave an unexpected answer, which was not used. Retry later.
    Provider,
    /// A setting is wrong. Fix it and start again.
    Config,
    /// A bug in this program.
    Internal,
}

/// Why an operation failed. Cheap to clone: one failed commit answers a whole batch.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a message for the caller.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), field: None, source: None }
    }

    /// The same error for unknown, forbidden and deleted tenants, so that ids cannot be probed.
    pub fn unknown_tenant() -> Self {
        Self::new(ErrorKind::UnknownTenant, "no such user")
    }

    /// Input that is not valid, and which part of it.
    pub fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorKind::Invalid, message) }
    }

    /// Input that cannot be read at all, and which part of it.
    pub fn malformed(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorKind::Malformed, message) }
    }

    /// A bug in this program. `message` is for the log; callers do not see it.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A setting that cannot be used.
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// A failed file operation, and on what.
    pub fn io(what: impl fmt::Display, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
            _ => ErrorKind::Unavailable,
        };
        let message = match kind {
            ErrorKind::DiskFull => "the disk is full",
            _ => "storage is not available",
        };
        Self { source: Some(Arc::new(Io { what: what.to_string(), error })), ..Self::new(kind, message) }
    }

    /// The same error with its cause, for the log.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A sentence for the caller, without paths, SQL and data.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The part of the input at fault, for [`ErrorKind::Invalid`].
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The whole chain in one line, for logs and operators.
    pub fn detail(&self) -> String {
        let mut text = self.message.to_string();
        let mut next: Option<&(dyn std::error::Error + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(error) = next {
            let part = error.to_string();
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            next = error.source();
        }
        text
    }

    /// The SQLite error that caused it, if one did.
    pub fn sqlite(&self) -> Option<&rusqlite::Error> {
        self.source.as_deref().and_then(|e| e.downcast_ref())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail())
    }
}

impl std::error::Error for Error {}

#[derive(Debug)]
struct Io {
    what: String,
    error: std::io::Error,
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.error)
    }
}

impl std::error::Error for Io {}

/// The kind and message for SQLite's result codes (<https://sqlite.org/rescode.html>).
pub fn classify(error: &rusqlite::Error) -> (ErrorKind, &'static str) {
    use rusqlite::ErrorCode as Code;
    match error.sqlite_error_code() {
        Some(Code::DiskFull) => (ErrorKind::DiskFull, "the disk is full"),
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => (ErrorKind::Busy, "the database is busy"),
        Some(Code::OperationInterrupted) => (ErrorKind::Timeout, "the query took too long and was stopped"),
        Some(Code::TooBig) => (ErrorKind::TooLarge, "a value is larger than the database accepts"),
        Some(
            Code::SystemIoFailure
            | Code::CannotOpen
            | Code::ReadOnly
            | Code::PermissionDenied
            | Code::OutOfMemory
            | Code::FileLockingProtocolFailed
            | Code::NoLargeFileSupport,
        ) => (ErrorKind::Unavailable, "storage is not available"),
        Some(Code::DatabaseCorrupt | Code::NotADatabase) => (ErrorKind::Damaged, "the database file is damaged"),
        _ => (ErrorKind::Internal, "a database operation failed"),
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let (kind, message) = classify(&error);
        Self::new(kind, message).with_source(error)
    }
}
