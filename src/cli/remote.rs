//! A running server's operators' routes, over HTTP.

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    config::{Secret, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
};

/// A server, and the operator's key for it.
pub struct Remote {
    http: reqwest::Client,
    base: String,
    key: Secret,
}

impl Remote {
    /// From the settings; `why` says why the command cannot use the data folder itself.
    pub fn new(config: &RemoteConfig, why: &str) -> Result<Self> {
        let key = config.admin_api_key.clone().ok_or_else(|| {
            Error::config(format!(
                "{why}. Set ADMIN_API_KEY to the key the server was started with, and this command will ask the server"
            ))
        })?;
        let endpoint = config.endpoint()?;
        let http = endpoint
            .client()
            .timeout(std::time::Duration::from_secs(60))
            .build()
            .map_err(|e| Error::internal("no HTTP client can be made").with_source(e))?;
        Ok(Self { http, base: endpoint.base().to_owned(), key })
    }

    /// Makes a request and reads the answer.
    pub async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T> {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(self.key.reveal().trim());
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let unreachable = |e: reqwest::Error| {
            Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the data folder is in use, and no server answers at {}; if it listens elsewhere, say where with \
                     --url (CUBBY_URL)",
                    self.base
                ),
            )
            .with_source(e.without_url())
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|e| {
                let what = format!("what answers at {} is not a Cubby of this version", self.base);
                Error::new(ErrorKind::Conflict, what).with_source(e)
            });
        }
        let problem: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
        let error = refusal(text("code"), text("detail").to_owned());
        let refused = |detail: &str| format!("the server at {} refused: {status}: {detail}", self.base);
        Err(match (error.kind(), error.message()) {
            (ErrorKind::UnknownTenant | ErrorKind::NotFound, _) => error,
            (kind, "") => Error::new(kind, refused("no reason was given")),
            (kind, detail) => Error::new(kind, refused(detail)),
        })
    }
}

/// The error that an answer's `code` stands for.
pub fn refusal(code: &str, detail: String) -> Error {
    let kind = match code {
        "unknown_user" => ErrorKind::UnknownTenant,
        "not_found" => ErrorKind::NotFound,
        "provider_not_configured" => ErrorKind::Config,
        _ => ErrorKind::Conflict,
    };
    Error::new(kind, detail)
}
