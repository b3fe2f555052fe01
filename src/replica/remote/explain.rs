//! What an error of object storage means, and what to do about it.

use std::{error::Error as StdError, fmt::Write as _, io, sync::Arc};

use object_store::{
    Error as StoreError,
    client::{HttpError, HttpErrorKind},
};

use crate::error::{Error, ErrorKind};

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    NoBucket,
    BucketName,
    Region,
    Expired,
    Credentials,
    NoCredentials,
    ClockSkew,
    Refused,
    FolderRefused,
    FolderLost,
    Full,
    Unsupported,
    Overloaded,
    Fault,
    Timeout,
    Unresolved,
    Certificate,
    PlainHttp,
    Unreachable,
    Missing,
    Conflict,
    Unknown,
}

/// The codes in the bodies of answers: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>,
/// <https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>.
const CODES: &[(&str, Cause)] = &[
    ("NoSuchBucket", Cause::NoBucket),
    ("ContainerNotFound", Cause::NoBucket),
    ("ContainerBeingDeleted", Cause::NoBucket),
    ("InvalidBucketName", Cause::BucketName),
    ("InvalidResourceName", Cause::BucketName),
    ("AuthorizationHeaderMalformed", Cause::Region),
    ("PermanentRedirect", Cause::Region),
    ("TemporaryRedirect", Cause::Region),
    ("IllegalLocationConstraintException", Cause::Region),
    ("InvalidRegion", Cause::Region),
    ("ExpiredToken", Cause::Expired),
    ("ExpiredTokenException", Cause::Expired),
    ("TokenRefreshRequired", Cause::Expired),
    ("InvalidAccessKeyId", Cause::Credentials),
    ("InvalidClientTokenId", Cause::Credentials),
    ("InvalidToken", Cause::Credentials),
    ("InvalidSecurity", Cause::Credentials),
    ("SignatureDoesNotMatch", Cause::Credentials),
    ("AuthenticationFailed", Cause::Credentials),
    ("RequestTimeTooSkewed", Cause::ClockSkew),
    ("RequestExpired", Cause::ClockSkew),
    ("AccessDenied", Cause::Refused),
    ("AllAccessDisabled", Cause::Refused),
    ("AccountIsDisabled", Cause::Refused),
    ("AuthorizationFailure", Cause::Refused),
    ("AuthorizationPermissionMismatch", Cause::Refused),
    ("QuotaExceeded", Cause::Full),
    ("XMinioStorageFull", Cause::Full),
    ("XMinioAdminBucketQuotaExceeded", Cause::Full),
    ("NotImplemented", Cause::Unsupported),
    ("SlowDown", Cause::Overloaded),
    ("ServerBusy", Cause::Overloaded),
];

/// Where a machine in a cloud asks for its role's credentials.
const METADATA: &[&str] =
    &["http://169.254.169.254", "http://169.254.170.2", "http://metadata.google.internal", "http://metadata/"];

/// The error with words for an operator.
pub fn explain(error: StoreError) -> Error {
    behind(&error).unwrap_or_else(|| told(Cause::Unknown, "")).with_source(error)
}

/// The same for an error of something over object storage, without its source; none if object storage is not behind it.
pub fn behind(error: &(dyn StdError + 'static)) -> Option<Error> {
    let seen = Seen::of(error)?;
    Some(told(seen.cause(), &seen.text))
}

/// Whether it says that an object is not there, and not that the bucket is missing.
pub fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. })
        && Seen::of(error).is_none_or(|seen| seen.code() != Some(Cause::NoBucket))
}

/// What a chain of errors has.
struct Seen {
    text: String,
    /// What the object store's own error says without a look at its sources.
    kind: Cause,
    transport: Option<HttpErrorKind>,
    /// What a file system says.
    file: Option<Cause>,
}

impl Seen {
    fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut kind = None;
        let (mut text, mut transport, mut file) = (String::new(), None, None);
        let mut next = Some(error);
        while let Some(error) = next {
            // SlateDB shares the errors that it keeps.
            let own = error.downcast_ref::<StoreError>();
            if let Some(own) = own.or_else(|| error.downcast_ref::<Arc<StoreError>>().map(|shared| &**shared)) {
                kind = kind.or_else(|| Some(kind_of(own)));
            }
            // A String takes everything.
            let _ = writeln!(text, "{error}");
            if let Some(http) = error.downcast_ref::<HttpError>() {
                transport = transport.or_else(|| Some(http.kind()));
            }
            next = match error.downcast_ref::<io::Error>() {
                Some(io) => {
                    file = file.or_else(|| of_file(io.kind()));
                    // Its source would be that of the error within, and not that error.
                    io.get_ref().map(|inner| inner as &(dyn StdError + 'static))
                }
                None => error.source(),
            };
        }
        Some(Self { text, kind: kind?, transport, file })
    }

    /// The code in the answer's body, or in that of an answer to many deletions.
    fn code(&self) -> Option<Cause> {
        let has = |code: &str| {
            self.text.contains(&format!("<Code>{code}</Code>")) || self.text.contains(&format!("(code: {code})"))
        };
        CODES.iter().find(|(code, _)| has(code)).map(|(_, cause)| *cause)
    }

    /// The status of the answer. The type that has it is not public.
    fn status(&self) -> Option<u16> {
        let (_, rest) = self.text.split_once("non-2xx status code: ")?;
        rest.get(..3)?.parse().ok()
    }

    fn cause(&self) -> Cause {
        let status = self.status();
        if METADATA.iter().any(|url| self.text.contains(url)) && status.is_none_or(|status| status < 500) {
            return Cause::NoCredentials;
        }
        if let Some(cause) = self.code().or_else(|| status.and_then(by_status)) {
            return cause;
        }
        if self.text.contains("redirect without LOCATION") {
            return Cause::Region;
        }
        if let Some(kind) = self.transport {
            return self.of_transport(kind);
        }
        self.file.unwrap_or(self.kind)
    }

    fn of_transport(&self, kind: HttpErrorKind) -> Cause {
        let text = self.text.to_ascii_lowercase();
        if text.contains("scheme is not allowed") {
            return Cause::PlainHttp;
        }
        if text.contains("certificate") {
            return Cause::Certificate;
        }
        if text.contains("dns error") || text.contains("failed to lookup address") {
            return Cause::Unresolved;
        }
        match kind {
            HttpErrorKind::Timeout => Cause::Timeout,
            _ => Cause::Unreachable,
        }
    }
}

fn kind_of(error: &StoreError) -> Cause {
    match error {
        StoreError::NotFound { .. } => Cause::Missing,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => Cause::Conflict,
        StoreError::PermissionDenied { .. } => Cause::Refused,
        StoreError::Unauthenticated { .. } => Cause::Credentials,
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => Cause::Unsupported,
        _ => Cause::Unknown,
    }
}

fn by_status(status: u16) -> Option<Cause> {
    match status {
        301 | 307 | 308 => Some(Cause::Region),
        401 => Some(Cause::Credentials),
        403 => Some(Cause::Refused),
        404 => Some(Cause::Missing),
        408 | 504 => Some(Cause::Timeout),
        409 | 412 => Some(Cause::Conflict),
        429 | 503 => Some(Cause::Overloaded),
        501 => Some(Cause::Unsupported),
        507 => Some(Cause::Full),
        500..=599 => Some(Cause::Fault),
        _ => None,
    }
}

fn of_file(kind: io::ErrorKind) -> Option<Cause> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Cause::Full),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some(Cause::FolderRefused),
        io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::NotADirectory => Some(Cause::FolderLost),
        _ => None,
    }
}

/// What is said of each cause. Config is what never gets better by itself.
const WORDS: &[(Cause, ErrorKind, &str)] = &[
    (Cause::NoBucket, ErrorKind::Config, "there is no such bucket: create it, or correct the URL"),
    (Cause::BucketName, ErrorKind::Config, "the store does not accept the bucket's name: correct the URL"),
    (
        Cause::Region,
        ErrorKind::Config,
        "the bucket is in another region: set AWS_REGION to the region of the bucket, or correct AWS_ENDPOINT_URL",
    ),
    (
        Cause::Expired,
        ErrorKind::Config,
        "the credentials for the bucket have expired: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and \
         AWS_SESSION_TOKEN to new ones and start again, or give this machine a role, whose credentials are renewed",
    ),
    (
        Cause::Credentials,
        ErrorKind::Config,
        "the store does not accept the credentials: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and \
         AWS_SESSION_TOKEN, or GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and \
         AZURE_STORAGE_ACCOUNT_KEY, and that AWS_ENDPOINT_URL names the store that they are for",
    ),
    (
        Cause::NoCredentials,
        ErrorKind::Config,
        "there are no credentials for the bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or give this \
         machine a role that may use it. Profiles in ~/.aws are not read",
    ),
    (
        Cause::ClockSkew,
        ErrorKind::Unavailable,
        "the store refuses this machine's requests because of their time: set the clock, and keep it by NTP",
    ),
    (
        Cause::Refused,
        ErrorKind::Config,
        "access to the bucket was refused (403): its policy must let these credentials list it, and get, put and \
         delete objects under the prefix. If it does, check this machine's clock and the credentials",
    ),
    (
        Cause::FolderRefused,
        ErrorKind::Config,
        "the folder for copies cannot be read or written: check its owner, its permissions, and that its disk is \
         mounted for writing",
    ),
    (
        Cause::FolderLost,
        ErrorKind::Unavailable,
        "the folder for copies is not there any more: check that its disk is mounted",
    ),
    (
        Cause::Full,
        ErrorKind::Unavailable,
        "the place for copies is full, or its quota is reached: make space there, or raise the quota",
    ),
    (
        Cause::Unsupported,
        ErrorKind::Config,
        "the store does not know a request that is needed, such as a conditional write: use one that does, as AWS S3, \
         Google Cloud Storage, Azure Blob Storage and Cloudflare R2 do",
    ),
    (
        Cause::Overloaded,
        ErrorKind::Unavailable,
        "the store asks for fewer requests, or is overloaded: it is asked again; if it lasts, look at its limits",
    ),
    (
        Cause::Fault,
        ErrorKind::Unavailable,
        "the store has a fault of its own: it is asked again; if it lasts, look at its operator's status page",
    ),
    (
        Cause::Timeout,
        ErrorKind::Unavailable,
        "the store did not answer in time: it is asked again; check the network between it and this machine",
    ),
    (
        Cause::Unresolved,
        ErrorKind::Unavailable,
        "the store's name cannot be resolved: check AWS_ENDPOINT_URL, AWS_REGION and this machine's name servers",
    ),
    (
        Cause::Certificate,
        ErrorKind::Unavailable,
        "the store's certificate is not trusted: check AWS_ENDPOINT_URL, and that the certificate's authority is among \
         those of this machine",
    ),
    (Cause::PlainHttp, ErrorKind::Config, PLAIN_HTTP),
    (
        Cause::Unreachable,
        ErrorKind::Unavailable,
        "the store cannot be reached: it is asked again; check AWS_ENDPOINT_URL, the network and its firewalls",
    ),
    (
        Cause::Missing,
        ErrorKind::NotFound,
        "an object is not in the bucket: if it was deleted there, bring back the version before, and let nobody delete \
         there",
    ),
    (
        Cause::Conflict,
        ErrorKind::Conflict,
        "another writer was first with an object: check that no other server uses this bucket and prefix",
    ),
];

/// What is wrong with an endpoint that anybody in between could listen to.
pub const PLAIN_HTTP: &str =
    "AWS_ENDPOINT_URL is plain http: use https, or set AWS_ALLOW_HTTP=true if nobody can listen in between";

const UNKNOWN: &str = "the place for copies did not do what it was asked: it is asked again; the cause follows";

/// `text` is what the answer said, for the region in it.
fn told(cause: Cause, text: &str) -> Error {
    let (kind, words) = WORDS
        .iter()
        .find(|(known, ..)| *known == cause)
        .map_or((ErrorKind::Unavailable, UNKNOWN), |(_, kind, words)| (*kind, *words));
    match region(text) {
        Some(name) if cause == Cause::Region => {
            Error::new(kind, format!("the bucket is in another region: set AWS_REGION={name}"))
        }
        _ => Error::new(kind, words),
    }
}

/// The region that an answer names as the right one.
fn region(text: &str) -> Option<&str> {
    let (name, _) = text.split_once("<Region>")?.1.split_once("</Region>")?;
    let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (legal && (1..64).contains(&name.len())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the client words it.
    fn answered(status: &str, body: &str) -> StoreError {
        let text = format!(
            "Error performing PUT https://s3.eu-west-1.amazonaws.com/b/x in 3ms - Server returned non-2xx status \
             code: {status}: {body}"
        );
        StoreError::Generic { store: "S3", source: text.into() }
    }

    fn code(name: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{name}</Code><Region>eu-north-1</Region></Error>")
    }

    #[test]
    fn answers_are_told_with_what_to_do() {
        for (status, body, kind, word) in [
            ("404 Not Found", code("NoSuchBucket"), ErrorKind::Config, "no such bucket"),
            ("400 Bad Request", code("AuthorizationHeaderMalformed"), ErrorKind::Config, "AWS_REGION=eu-north-1"),
            ("400 Bad Request", code("ExpiredToken"), ErrorKind::Config, "expired"),
            ("403 Forbidden", code("InvalidAccessKeyId"), ErrorKind::Config, "does not accept the credentials"),
            ("403 Forbidden", code("RequestTimeTooSkewed"), ErrorKind::Unavailable, "clock"),
            ("403 Forbidden", String::new(), ErrorKind::Config, "policy"),
            ("301 Moved Permanently", String::new(), ErrorKind::Config, "region"),
            ("507 Insufficient Storage", String::new(), ErrorKind::Unavailable, "full"),
            ("503 Service Unavailable", code("SlowDown"), ErrorKind::Unavailable, "fewer requests"),
            ("501 Not Implemented", String::new(), ErrorKind::Config, "conditional write"),
            ("418 I'm a teapot", String::new(), ErrorKind::Unavailable, "did not do"),
        ] {
            let error = explain(answered(status, &body));
            assert_eq!(error.kind(), kind, "{status} {body}");
            assert!(error.message().contains(word), "{status} {body}: {}", error.message());
        }
    }

    #[test]
    fn a_missing_bucket_is_no_missing_object() {
        let not_found = |body: String| StoreError::NotFound { path: "x".to_owned(), source: body.into() };
        assert!(is_missing(&not_found(code("NoSuchKey"))));
        assert!(!is_missing(&not_found(code("NoSuchBucket"))));
        // A tenant may be called so.
        assert!(is_missing(&not_found("https://host/b/base/NoSuchBucket/1".to_owned())));
        assert!(!is_missing(&answered("404", "")));
    }

    #[test]
    fn what_never_reached_the_store_is_told_apart() {
        let failed = |kind, text: &'static str| StoreError::Generic {
            store: "S3",
            source: Box::new(HttpError::new(kind, io::Error::other(text))),
        };
        let told = |kind, text| explain(failed(kind, text)).message().to_owned();
        assert!(told(HttpErrorKind::Timeout, "operation timed out").contains("in time"));
        assert!(told(HttpErrorKind::Connect, "connection refused").contains("cannot be reached"));
        assert!(told(HttpErrorKind::Connect, "dns error").contains("resolved"));
        assert!(told(HttpErrorKind::Connect, "invalid peer certificate: UnknownIssuer").contains("certificate"));
        let nobody = "Error performing PUT http://169.254.169.254/latest/api/token in 1s";
        assert!(explain(StoreError::Generic { store: "S3", source: nobody.into() }).message().contains("Profiles"));
    }

    #[test]
    fn a_cause_is_found_behind_what_others_wrap_around_it() {
        let full = || StoreError::Generic { store: "x", source: io::Error::from(io::ErrorKind::StorageFull).into() };
        assert!(explain(full()).message().contains("full"));
        assert!(behind(&io::Error::other(full())).is_some_and(|error| error.message().contains("full")));
        let shared: Box<dyn StdError + Send + Sync> = Box::new(Arc::new(full()));
        assert!(behind(&io::Error::other(shared)).is_some_and(|error| error.message().contains("full")));
        assert!(behind(&io::Error::other("nothing to do with it")).is_none());
    }
}
