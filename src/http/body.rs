//! Reading a JSON body: its size, its content type, and which field is wrong.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;

use super::{
    connection,
    problem::{Problem, brief},
};
use crate::error::{Error, ErrorKind};

/// Reads a body of at most `limit` bytes, which must arrive `within` a time: a client that sends a byte a
/// second must not keep a connection. The bytes of a large one are counted as they arrive.
pub async fn read(body: Body, limit: usize, within: Duration) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(within, receive(body, limit)).await.unwrap_or_else(|_| {
        Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!("the body did not arrive within {}", humantime::format_duration(within)),
        ))
    });
    // The rest of the body is not a request.
    read.map_err(|problem| problem.with_header(header::CONNECTION, HeaderValue::from_static("close")))
}

async fn receive(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || Error::new(ErrorKind::TooLarge, format!("the body is larger than {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large().into());
    }
    let broken = |error| Error::malformed("body", format!("the body did not arrive whole: {error}"));
    let mut body = body.into_data_stream();
    let Some(first) = body.next().await.transpose().map_err(broken)? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(too_large().into());
    }
    if body.is_end_stream() {
        // The usual case: nothing is copied.
        return Ok(first);
    }
    let mut whole = Vec::from(first);
    while let Some(piece) = body.next().await.transpose().map_err(broken)? {
        let length = whole.len() + piece.len();
        if length > limit {
            return Err(too_large().into());
        }
        connection::hold(length as u64)?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// Refuses a body whose content type is not JSON.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or(value).trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the body as JSON, with Content-Type: application/json",
        )),
    }
}

/// How much of a body an error quotes, in bytes.
const ECHO: usize = 1024;

/// Parses JSON. What is not JSON is 400; JSON that is not what was asked for is 422 and names the
/// field.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // To know where a field is takes several times as long as the parsing, so it is looked for only if one is wrong.
    serde_json::from_slice(body).or_else(|_| parse_with_paths(body))
}

fn parse_with_paths<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        // A wrong field may be met before the place where the text stops being JSON at all.
        let whole = serde_json::from_slice::<serde::de::IgnoredAny>(body);
        match (inner.classify(), whole) {
            (_, Err(error)) => Error::malformed("body", format!("the body is not JSON: {error}")),
            (serde_json::error::Category::Data, Ok(_)) => {
                let message = inner.to_string();
                let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text);
                // A name may be as long as the body, so it is shortened here.
                let field = field_of(&path, message);
                Error::invalid(brief(&field, ECHO).into_owned(), brief(message, ECHO).into_owned())
            }
            _ => Error::malformed("body", format!("the body is not JSON: {inner}")),
        }
    })?;
    json.end().map_err(|error| Error::malformed("body", format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// serde gives the path of a wrong value, but a missing or an unknown field only in its message,
/// between backticks.
fn field_of(path: &str, message: &str) -> String {
    let quoted = message.split('`').nth(1);
    let is_named = message.starts_with("missing field") || message.starts_with("duplicate field");
    match (quoted.filter(|_| is_named), path) {
        (Some(name), ".") => name.to_owned(),
        (Some(name), _) => format!("{path}.{name}"),
        (None, ".") => "body".to_owned(),
        (None, _) => path.to_owned(),
    }
}
