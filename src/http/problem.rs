//! Errors as `application/problem+json` (RFC 9457), and the only place that knows status codes.

use std::borrow::Cow;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Error, ErrorKind};

/// An error as a client gets it. The middleware renders it, since only it knows the request's id.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The status of the response.
    pub status: StatusCode,
    /// A word for programs, stable.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: String,
    /// The part of the request at fault.
    pub field: Option<String>,
    /// Additional headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The error itself with its source, for callers in this process. Never sent.
    pub error: Option<Error>,
}

/// An error (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Wire<'a> {
    /// `urn:cubby:problem:` and the code.
    r#type: String,
    /// The status, in words.
    title: &'a str,
    /// The status.
    status: u16,
    /// A sentence for people.
    detail: &'a str,
    /// A word for programs, stable.
    code: &'a str,
    /// The part of the request at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<Cow<'a, str>>,
    /// The id that is in the log too.
    request_id: &'a str,
}

impl Problem {
    /// A problem that is not an [`Error`] of the library, but of the protocol.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), field: None, headers: Vec::new(), error: None }
    }

    /// The same with another header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The response in a form that clients of a protocol of its own read, `{"message":…,"code":…,"error":…}`.
    pub fn render_plain(&self) -> Response {
        let detail = brief(&self.detail, DETAIL);
        let wire = serde_json::json!({"message": detail, "code": self.code, "error": detail});
        let mut response = (self.status, wire.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.headers.iter().cloned());
        response
    }

    /// No route has this path. Its code is that of an unknown user, since most paths begin with a user's id.
    pub fn no_route() -> Self {
        Error::new(ErrorKind::UnknownTenant, "nothing is served at this path").into()
    }

    /// The route has other methods; axum adds `Allow`.
    pub fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path has other methods, see Allow")
    }

    /// The response, with the id that is in the log too. Long texts from the request are shortened.
    pub fn render(&self, request_id: &str) -> Response {
        let wire = Wire {
            r#type: format!("urn:cubby:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: &brief(&self.detail, DETAIL),
            code: self.code,
            field: self.field.as_deref().map(|field| brief(field, FIELD)),
            request_id,
        };
        let body = serde_json::to_vec(&wire).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        response
    }
}

/// The longest detail and field name of a problem, in bytes: they may quote the request.
const DETAIL: usize = 1024;
const FIELD: usize = 128;

/// A text of at most `most` bytes and an ellipsis where it was cut.
pub fn brief(text: &str, most: usize) -> Cow<'_, str> {
    match text.len() <= most {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(most)])),
    }
}

impl IntoResponse for Problem {
    /// Leaves the problem for the middleware to render.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, code) = match error.kind() {
            ErrorKind::UnknownTenant => (StatusCode::NOT_FOUND, "unknown_user"),
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            ErrorKind::Suspended => (StatusCode::FORBIDDEN, "suspended"),
            ErrorKind::Quarantined => (StatusCode::SERVICE_UNAVAILABLE, "quarantined"),
            ErrorKind::Malformed => (StatusCode::BAD_REQUEST, "malformed_request"),
            ErrorKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_field"),
            ErrorKind::Conflict | ErrorKind::FolderLocked => (StatusCode::CONFLICT, "conflict"),
            ErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            ErrorKind::QuotaExceeded => (StatusCode::INSUFFICIENT_STORAGE, "quota_exceeded"),
            ErrorKind::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            ErrorKind::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            ErrorKind::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too_many_creations"),
            ErrorKind::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "query_timeout"),
            ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable"),
            ErrorKind::Damaged => (StatusCode::SERVICE_UNAVAILABLE, "database_damaged"),
            ErrorKind::Provider => (StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable"),
            ErrorKind::Config | ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        };
        let detail = match error.kind() {
            // The cause is in the log, under the request's id.
            ErrorKind::Config | ErrorKind::Internal => {
                tracing::error!(error = %error, "internal error");
                "something went wrong here; the log has it under this request_id".to_owned()
            }
            _ => error.message().to_owned(),
        };
        let mut problem = Self::new(status, code, detail);
        problem.field = error.field().map(str::to_owned);
        problem.error = Some(error.clone());
        let seconds = match error.kind() {
            ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Damaged => "1",
            ErrorKind::Provider => "5",
            ErrorKind::TooMany => "60",
            ErrorKind::Quarantined => "30",
            _ => return problem,
        };
        problem.with_header(header::RETRY_AFTER, HeaderValue::from_static(seconds))
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
