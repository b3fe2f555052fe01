//! Where a command's requests go: to the operators' routes over the data folder, in this process, or over
//! HTTP to the server that holds the folder.

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

use super::{
    remote::{Remote, refusal},
    shared::{open_or_create_store, open_store, with_store},
};
use crate::{
    admin::guard::InProcess,
    app::App,
    catalog::audit::Author,
    config::{DataConfig, ServeConfig, door::RemoteConfig, provider::ProviderConfig},
    error::{Error, ErrorKind, Result},
    http::problem::Problem,
    router,
    tenants::store::Store,
};

/// The two that a command's requests can go to.
pub enum Target {
    /// The routes over the data folder, in this process.
    Folder(Router),
    /// The server that holds the data folder.
    Server(Remote),
}

/// Whether a command may create the data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// It creates something, so it may be the first command on a folder.
    MayBeNew,
    /// It looks for something that a new folder does not have.
    MustExist,
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
        return command(&Target::Server(Remote::new(remote, &why)?)).await;
    }
    let opened = match folder {
        Folder::MustExist => open_store(data),
        Folder::MayBeNew => open_or_create_store(data),
    };
    match opened {
        Ok(store) => with_store(store, async |store| command(&Target::over(store, provider)?).await).await,
        Err(error) if error.kind() == ErrorKind::FolderLocked => {
            command(&Target::Server(Remote::new(remote, error.message())?)).await
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

    /// Makes a request and reads the answer.
    pub async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T> {
        match self {
            Self::Folder(routes) => in_process(routes, method, path, body).await,
            Self::Server(server) => server.call(method, path, body).await,
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

/// Text as one segment of a path, or as a value in a query.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
