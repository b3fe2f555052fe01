//! Clerk's Backend API (its OpenAPI document of 2026-05-12).
//!
//! - A page has at most 500 users: a larger limit silently gives 10.
//! - Pages go by `starting_after` and creation time, since a large offset times out. A page that is not full is the
//!   last. Clerk does not document its answer to a cursor whose user was deleted: any 4xx that refuses the query counts.
//! - 1000 requests in 10 s in production, 100 in development; beyond, 429 with `Retry-After` in
//!   seconds.
//! - Errors are `{"errors":[{"message","long_message","code"}],"clerk_trace_id"}`.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures_util::future::BoxFuture;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, header};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    provider::{AMONG, Page, Provider},
    user::{User, WireUser},
};
use crate::{
    config::{Secret, provider::ProviderConfig},
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

/// The version of the API, sent with each request.
const API_VERSION: &str = "2026-05-12";

/// Users a page.
const PAGE: usize = 500;

/// The largest response, in bytes: three times a page of users with all the metadata that Clerk allows.
const MAX_ANSWER: usize = 64 << 20;

/// The longest `Retry-After` that is followed while a request waits.
const MAX_WAIT_HURRIED: Duration = Duration::from_secs(1);

/// The longest `Retry-After` that is followed.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A client of the API. Cloning shares its connections.
#[derive(Clone)]
pub struct Clerk {
    http: Client,
    base: String,
    key: Secret,
    retries: usize,
}

impl Clerk {
    /// A client with these settings; none without a secret key.
    pub fn new(config: &ProviderConfig) -> Result<Option<Self>> {
        let Some(key) = config.clerk_secret_key.clone() else { return Ok(None) };
        let endpoint = config.endpoint()?;
        let http = endpoint
            .client()
            .timeout(config.provider_timeout)
            .user_agent(concat!("cubby/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::config("no TLS client can be made").with_source(e))?;
        Ok(Some(Self { http, base: endpoint.base().to_owned(), key, retries: usize::from(config.provider_retries) }))
    }

    /// Sends a request, with up to `retries` retries.
    async fn ask<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)], retries: usize) -> Result<T, Failure> {
        let hurried = retries < self.retries;
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(20))
            .with_max_times(retries)
            .with_jitter();
        (|| self.ask_once(path, query))
            .retry(backoff)
            .when(|failure| failure.transient && !(hurried && failure.retry_after.is_some_and(|wait| wait > MAX_WAIT_HURRIED)))
            .adjust(|failure, wait| wait.map(|wait| failure.retry_after.map_or(wait, |asked| asked.min(MAX_WAIT).max(wait))))
            .notify(|failure, wait| tracing::debug!(error = %failure.error, again_in = ?wait, "Clerk did not answer as it should"))
            .await
    }

    async fn ask_once<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Failure> {
        let mut url = format!("{}{path}", self.base);
        for (at, (name, value)) in query.iter().enumerate() {
            // A plus sign would be read as a space.
            url.push(if at == 0 { '?' } else { '&' });
            url.extend([*name, "="]);
            url.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        let request = self.http.get(url).bearer_auth(self.key.reveal()).header("clerk-api-version", API_VERSION);
        let mut response = request.send().await.map_err(|e| Failure::transient("Clerk cannot be reached", e))?;
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|e| Failure::transient("Clerk's answer did not arrive whole", e))?
        {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(Failure::lasting(format!("Clerk's answer is larger than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if status == 200 {
            return serde_json::from_slice(&body)
                .map_err(|e| Failure::lasting("Clerk's answer has an unexpected form").with_source(e));
        }
        Err(Failure { retry_after: retry_after.map(Duration::from_secs), ..Failure::refused(status, &body) })
    }

    async fn users(&self, query: &[(&str, &str)], retries: usize) -> Result<Vec<WireUser>, Failure> {
        self.ask("/users", query, retries).await
    }

    /// The users after the first cursor that Clerk knows, and the index of that cursor. A cursor is a user id, and the
    /// user may be deleted before the next page is requested.
    async fn first_page_after(&self, cursors: &[String]) -> Result<(Option<usize>, Vec<WireUser>)> {
        let limit = PAGE.to_string();
        let query = [("limit", limit.as_str()), ("order_by", "+created_at")];
        for (at, cursor) in cursors.iter().enumerate() {
            let query = [query[0], query[1], ("starting_after", cursor.as_str())];
            match self.users(&query, self.retries).await {
                // The end of the list, or a cursor that does not exist: an earlier cursor decides.
                Ok(users) if users.is_empty() && at == 0 && cursors.len() > 1 => {}
                Ok(users) => return Ok((Some(at), users)),
                Err(failure) if failure.cursor_refused => {
                    tracing::debug!(cursor, error = %failure.error, "a cursor is gone; an earlier one is tried");
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        // From the start: the caller gets users again.
        Ok((None, self.users(&query, self.retries).await?))
    }
}

/// The cursors of the page after one with these users: its last user, earlier ones in growing steps in case that user is
/// deleted, and the cursors of the page itself.
fn cursors(ids: &[String], before: &[String]) -> Vec<String> {
    let steps =
        std::iter::successors(Some(1), |back: &usize| back.checked_mul(2)).take_while(|back| *back <= ids.len());
    let of_this = steps.filter_map(|back| ids.get(ids.len() - back).cloned());
    of_this.chain(before.iter().take(CURSORS_BEFORE).cloned()).collect()
}

/// The most cursors that are kept of the page before.
const CURSORS_BEFORE: usize = 4;

/// Retries while a request waits for the answer.
const HURRIED: usize = 2;

impl Provider for Clerk {
    fn may_have(&self, id: &TenantId) -> bool {
        // All of Clerk's have this prefix. What scanners ask a server for does not.
        id.as_str().starts_with("user_")
    }

    fn get<'a>(&'a self, id: &'a TenantId) -> BoxFuture<'a, Result<Option<User>>> {
        Box::pin(async move {
            if !self.may_have(id) {
                return Ok(None);
            }
            let path = format!("/users/{}", utf8_percent_encode(id.as_str(), NON_ALPHANUMERIC));
            match self.ask::<WireUser>(&path, &[], HURRIED.min(self.retries)).await {
                Ok(user) => match user.into_user(None) {
                    Ok(user) if user.id == *id => Ok(Some(user)),
                    _ => Err(provider("Clerk answered with another user than was asked for")),
                },
                Err(Failure { missing: true, .. }) => Ok(None),
                Err(failure) => Err(failure.into()),
            }
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let total: TotalCount = self.ask("/users/count", &[], self.retries).await?;
            Ok(total.total_count)
        })
    }

    fn page<'a>(&'a self, after: &'a [String]) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            let (at, users) = self.first_page_after(after).await?;
            let full = users.len() >= PAGE;
            let mut page = Page::default();
            let mut ids = Vec::with_capacity(users.len());
            for user in users {
                let Some(raw) = user.raw_id().map(str::to_owned) else {
                    return Err(provider("Clerk listed a user without an id"));
                };
                ids.push(raw.clone());
                match user.into_user(None) {
                    Ok(user) => page.users.push(user),
                    Err(_) => page.unusable.push(raw),
                }
            }
            if !full {
                return Ok(page);
            }
            page.next = cursors(&ids, at.map_or(&[], |at| &after[at..]));
            Ok(page)
        })
    }

    fn among<'a>(&'a self, ids: &'a [TenantId]) -> BoxFuture<'a, Result<Vec<User>>> {
        Box::pin(async move {
            let mut found = Vec::new();
            // Clerk reads a leading + or - as include or exclude.
            let plain: Vec<&str> = ids.iter().map(TenantId::as_str).filter(|id| !id.starts_with(['+', '-'])).collect();
            for ids in plain.chunks(AMONG) {
                let limit = PAGE.to_string();
                let mut query = vec![("limit", limit.as_str())];
                query.extend(ids.iter().map(|id| ("user_id", *id)));
                let users = self.users(&query, self.retries).await?;
                found.extend(users.into_iter().filter_map(|user| user.into_user(None).ok()));
            }
            Ok(found)
        })
    }
}

#[derive(Deserialize)]
struct TotalCount {
    total_count: u64,
}

/// A failed request.
struct Failure {
    error: Error,
    transient: bool,
    /// Clerk says that the object does not exist. A 404 of a proxy does not count.
    missing: bool,
    /// Clerk refuses the query. For a page it means that the cursor does not exist, since nothing else in the query
    /// changes.
    cursor_refused: bool,
    retry_after: Option<Duration>,
}

#[derive(Deserialize)]
struct Refusals {
    errors: Vec<Refusal>,
    clerk_trace_id: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
    long_message: Option<String>,
    code: String,
}

impl Failure {
    fn transient(message: &'static str, source: reqwest::Error) -> Self {
        // Without the URL, since a caller may see the text.
        Self { transient: true, ..Self::lasting(message).with_source(source.without_url()) }
    }

    fn lasting(message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { error: provider(message), transient: false, missing: false, cursor_refused: false, retry_after: None }
    }

    fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.error = self.error.with_source(source);
        self
    }

    fn refused(status: u16, body: &[u8]) -> Self {
        let transient = status == 429 || status >= 500;
        let Some((first, trace)) = serde_json::from_slice::<Refusals>(body)
            .ok()
            .and_then(|refusals| Some((refusals.errors.into_iter().next()?, refusals.clerk_trace_id)))
        else {
            return Self { transient, ..Self::lasting(format!("Clerk answered {status}")) };
        };
        let said = first.long_message.filter(|text| !text.is_empty()).unwrap_or(first.message);
        let trace = trace.map(|trace| format!(", trace {trace}")).unwrap_or_default();
        let hint = match status {
            401 | 403 => "; look at CLERK_SECRET_KEY",
            _ => "",
        };
        let message = format!("Clerk answered {status}: {said} ({}{trace}){hint}", first.code);
        let missing = status == 404 && first.code == "resource_not_found";
        let cursor_refused = missing || status == 400 || status == 422;
        Self { transient, missing, cursor_refused, ..Self::lasting(message) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

fn provider(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Provider, message)
}
