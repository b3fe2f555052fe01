//! Where a command's requests go: to the operators' routes over the data folder, in this process, or over
//! HTTP to the server that holds the folder.

use std::time::Duration;

use axum::{
    Router,
    body::{self, Body},
    extract::Request,
    http::{Method, header},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt;

use super::shared::{Folder, open_store, with_store};
use crate::{
    admin::guard::InProcess,
    app::App,
    catalog::audit::Author,
    config::{DataConfig, Secret, ServeConfig, door::RemoteConfig, provider::ProviderConfig},
    error::{Error, ErrorKind, Result},
    http::problem::Problem,
    router,
    tenants::store::Store,
};

/// The two that a command's requests can go to.
pub enum Target {
    /// The routes over the data folder, in this process.
    Folder(Router),
    /// The server that holds the data folder, and the operator's key for it.
    Server { http: reqwest::Client, base: String, key: Secret },
}

/// Runs a command on the data folder, or on the server that holds it, and closes the folder. Of `provider`
/// it knows as much as the command does.
pub async fn with_target<T>(
    data: &DataConfig,
    remote: &RemoteConfig,
    folder: Folder,
    provider: Option<&ProviderConfig>,
    command: impl AsyncFnOnce(&Target) -> Result<T>,
) -> Result<T> {
    // Where a server is named, a missing folder is not created.
    if remote.url.is_some() && !data.data.join("catalog.db").exists() {
        let why = format!("there is no data folder {}", data.data.display());
        return command(&Target::server(remote, &why)?).await;
    }
    match open_store(data, folder) {
        Ok(store) => with_store(store, async |store| command(&Target::over(store, provider)?).await).await,
        Err(error) if error.kind() == ErrorKind::FolderLocked => {
            command(&Target::server(remote, error.message())?).await
        }
        Err(error) => Err(error),
    }
}

impl Target {
    /// The routes over an open store. Nothing runs in the background.
    pub fn over(store: &Store, provider: Option<&ProviderConfig>) -> Result<Self> {
        let mut config = ServeConfig::defaults()?;
        if let Some(provider) = provider {
            config.sync.provider = provider.clone();
        }
        Ok(Self::Folder(router::in_process(&App::new(store.clone(), config)?)))
    }

    /// A server; `why` says why the command cannot use the data folder itself.
    fn server(config: &RemoteConfig, why: &str) -> Result<Self> {
        let key = config.admin_api_key.clone().ok_or_else(|| {
            Error::config(format!(
                "{why}. Set ADMIN_API_KEY to the key the server was started with, and this command will ask the server"
            ))
        })?;
        let endpoint = config.endpoint()?;
        let http = endpoint.client().timeout(Duration::from_secs(60)).build();
        let http = http.map_err(|e| Error::internal("no HTTP client can be made").with_source(e))?;
        Ok(Self::Server { http, base: endpoint.base().to_owned(), key })
    }

    /// Makes a request and reads the answer.
    pub async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T> {
        match self {
            Self::Folder(routes) => in_process(routes, method, path, body).await,
            Self::Server { http, base, key } => {
                let request = http.request(method, format!("{base}{path}")).bearer_auth(key.reveal().trim());
                let request = match &body {
                    Some(body) => request.json(body),
                    None => request,
                };
                over_http(base, request).await
            }
        }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: Option<Value>) -> Result<T> {
        self.call(Method::POST, path, body).await
    }
}

async fn in_process<T: DeserializeOwned>(
    routes: &Router,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<T> {
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let mut request = request.body(body).map_err(|e| Error::internal("a request").with_source(e))?;
    request.extensions_mut().insert(InProcess(Author::command_line()));
    let Ok(mut response) = routes.clone().oneshot(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Err(problem.error.unwrap_or_else(|| refusal(problem.code, problem.detail)));
    }
    let bytes = body::to_bytes(response.into_body(), usize::MAX).await;
    let bytes = bytes.map_err(|e| Error::internal("an answer").with_source(e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::internal("an answer").with_source(e))
}

async fn over_http<T: DeserializeOwned>(base: &str, request: reqwest::RequestBuilder) -> Result<T> {
    let unreachable = |e: reqwest::Error| {
        let why = format!(
            "the data folder is in use, and no server answers at {base}; if it listens elsewhere, say where with --url \
             (CUBBY_URL)"
        );
        Error::new(ErrorKind::Unavailable, why).with_source(e.without_url())
    };
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let bytes = response.bytes().await.map_err(unreachable)?;
    if status.is_success() {
        let other = format!("what answers at {base} is not a Cubby of this version");
        return serde_json::from_slice(&bytes).map_err(|e| Error::new(ErrorKind::Conflict, other).with_source(e));
    }
    let problem: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let text = |name: &str| problem[name].as_str().unwrap_or_default();
    let error = refusal(text("code"), text("detail").to_owned());
    if matches!(error.kind(), ErrorKind::UnknownTenant | ErrorKind::NotFound) {
        return Err(error);
    }
    let detail = if error.message().is_empty() { "no reason was given" } else { error.message() };
    Err(Error::new(error.kind(), format!("the server at {base} refused: {status}: {detail}")))
}

/// The error that an answer's `code` stands for.
fn refusal(code: &str, detail: String) -> Error {
    let kind = match code {
        "unknown_user" => ErrorKind::UnknownTenant,
        "not_found" => ErrorKind::NotFound,
        "provider_not_configured" => ErrorKind::Config,
        _ => ErrorKind::Conflict,
    };
    Error::new(kind, detail)
}

/// Text as one segment of a path, or as a value in a query.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
