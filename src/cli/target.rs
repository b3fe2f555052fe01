//! Where a command's requests go: to the operators' routes over the data folder, in this process, or over
//! HTTP to the server that holds the folder.

use std::{path::Path, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderName, Method, response},
    response::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use crate::http::segment::encode as segment;

use super::{
    shared::{Folder, open_store, with_store},
    upload::Upload,
};
use crate::{
    admin::in_process,
    app::App,
    catalog::audit::Author,
    config::{DataConfig, Secret, ServeConfig, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
    router,
    tenants::store::Store,
};

/// How long a request may take.
const TIME: Duration = Duration::from_secs(60);

/// The same of one whose answer is read as it comes: as long as its reader takes.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// The two that a command's requests can go to.
pub enum Target {
    /// The routes over the data folder, in this process.
    Folder(Router),
    /// The server that holds the data folder, and the operator's key for it.
    Server { http: reqwest::Client, base: String, key: Secret },
}

/// Who does what a command asks for.
pub enum Place {
    /// This process, on the data folder, which it has.
    Folder(Store),
    /// The server that holds the data folder.
    Server(Target),
}

/// Takes the data folder, or finds the server that holds it.
pub fn place(data: &DataConfig, remote: &RemoteConfig, folder: Folder) -> Result<Place> {
    // Where a server is named, a missing folder is not created.
    if remote.url.is_some() && !data.data.join("catalog.db").exists() {
        let why = format!("there is no data folder {}", data.data.display());
        return Ok(Place::Server(Target::server(remote, &why)?));
    }
    match open_store(data, folder) {
        Ok(store) => Ok(Place::Folder(store)),
        Err(error) if error.kind() == ErrorKind::FolderLocked => {
            Ok(Place::Server(Target::server(remote, error.message())?))
        }
        Err(error) => Err(error),
    }
}

/// Runs a command on the data folder, or on the server that holds it, and closes the folder. The routes over
/// the folder have the settings of a server that is given none, but for what `set` changes.
pub async fn with_target<T>(
    data: &DataConfig,
    remote: &RemoteConfig,
    folder: Folder,
    set: impl FnOnce(&mut ServeConfig),
    command: impl AsyncFnOnce(&Target) -> Result<T>,
) -> Result<T> {
    match place(data, remote, folder)? {
        Place::Folder(store) => with_store(store, async |store| command(&Target::over(store, set)?).await).await,
        Place::Server(target) => command(&target).await,
    }
}

impl Target {
    /// The routes over an open store. Nothing runs in the background.
    pub fn over(store: &Store, set: impl FnOnce(&mut ServeConfig)) -> Result<Self> {
        let mut config = ServeConfig::defaults()?;
        set(&mut config);
        Ok(Self::Folder(router::in_process(&App::new(store.clone(), config)?)))
    }

    /// A server; `why` says why the command cannot use the data folder itself.
    fn server(config: &RemoteConfig, why: &str) -> Result<Self> {
        let key = config.admin_api_key.clone().ok_or_else(|| {
            Error::config(format!(
                "Set ADMIN_API_KEY to the key that the server was started with, and this command asks the server; start \
                 the server with one if it has none: {why}"
            ))
        })?;
        let endpoint = config.endpoint()?;
        let http = endpoint.client().build();
        let http = http.map_err(|e| Error::internal("no HTTP client can be made").with_source(e))?;
        Ok(Self::Server { http, base: endpoint.base().to_owned(), key })
    }

    /// Makes a request and reads the answer.
    pub async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T> {
        let sent = body.map_or(Sent::Nothing, Sent::Json);
        let answer = self.ask(method, path, sent, TIME).await?;
        self.read(answer).await
    }

    /// Sends a file and reads the answer.
    pub async fn upload<T: DeserializeOwned>(&self, path: &str, file: &Path) -> Result<T> {
        let answer = self.ask(Method::PUT, path, Sent::File(Upload::of(file)?), LONG).await?;
        self.read(answer).await
    }

    async fn read<T: DeserializeOwned>(&self, mut answer: Answer) -> Result<T> {
        let mut bytes = Vec::new();
        while let Some(piece) = answer.piece().await? {
            bytes.extend_from_slice(&piece);
        }
        serde_json::from_slice(&bytes).map_err(|e| self.other_program().with_source(e))
    }

    /// Makes a request; its answer is read as it comes.
    pub async fn open(&self, path: &str, body: &Value) -> Result<Answer> {
        self.ask(Method::POST, path, Sent::Json(body.clone()), LONG).await
    }

    /// Asks for a file; it is read as it comes.
    pub async fn download(&self, path: &str) -> Result<Answer> {
        self.ask(Method::GET, path, Sent::Nothing, LONG).await
    }

    /// What answers speaks of something else.
    pub fn other_program(&self) -> Error {
        match self {
            Self::Folder(_) => Error::internal("an answer"),
            Self::Server { base, .. } => {
                Error::new(ErrorKind::Conflict, format!("what answers at {base} is not a Cubby of this version"))
            }
        }
    }

    async fn ask(&self, method: Method, path: &str, sent: Sent, time: Duration) -> Result<Answer> {
        match self {
            Self::Folder(routes) => Ok(Answer::Folder(ask_here(routes, method, path, sent).await?.into_parts())),
            Self::Server { http, base, key } => {
                let request = http.request(method, format!("{base}{path}")).bearer_auth(key.reveal().trim());
                let request = match sent {
                    Sent::Nothing => request,
                    Sent::Json(body) => request.json(&body),
                    Sent::File(file) => request.body(reqwest::Body::wrap(file)),
                };
                Ok(Answer::Server(base.clone(), over_http(base, request.timeout(time)).await?))
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

/// An answer, as it comes.
pub enum Answer {
    /// From the routes in this process.
    Folder((response::Parts, Body)),
    /// From the server at this address.
    Server(String, reqwest::Response),
}

impl Answer {
    /// A header of it that was sent once, if it is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        let headers = match self {
            Self::Folder((parts, _)) => &parts.headers,
            Self::Server(_, response) => response.headers(),
        };
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// Its next bytes; none at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Folder((_, body)) => loop {
                let Some(frame) = body.frame().await else { return Ok(None) };
                let frame = frame.map_err(|e| Error::internal("an answer").with_source(e))?;
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            },
            Self::Server(base, response) => response.chunk().await.map_err(|e| {
                let why = format!("the answer of the server at {base} broke off");
                Error::new(ErrorKind::Unavailable, why).with_source(e.without_url())
            }),
        }
    }
}

/// What a request brings.
enum Sent {
    Nothing,
    Json(Value),
    File(Upload),
}

async fn ask_here(routes: &Router, method: Method, path: &str, sent: Sent) -> Result<Response> {
    let body = match sent {
        Sent::Nothing => Body::empty(),
        Sent::Json(body) => Body::from(body.to_string()),
        Sent::File(file) => Body::new(file),
    };
    let answer = in_process::ask(routes, Author::command_line(), method, path, body).await;
    answer.map_err(|problem| problem.error.unwrap_or_else(|| refusal(problem.code, problem.detail)))
}

fn unreachable(base: &str, error: reqwest::Error) -> Error {
    let why = format!(
        "the data folder is in use, and no server answers at {base}; if it listens elsewhere, say where with --url \
         (CUBBY_URL)"
    );
    Error::new(ErrorKind::Unavailable, why).with_source(error.without_url())
}

async fn over_http(base: &str, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
    let response = request.send().await.map_err(|e| unreachable(base, e))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = response.bytes().await.map_err(|e| unreachable(base, e))?;
    let problem: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let text = |name: &str| problem[name].as_str().unwrap_or_default();
    let error = refusal(text("code"), text("detail").to_owned());
    let about_key = match text("code") {
        "unauthorized" => Some("another ADMIN_API_KEY"),
        "admin_not_configured" => Some("no ADMIN_API_KEY; start it with the one that is set here"),
        _ => None,
    };
    if let Some(what) = about_key {
        return Err(Error::new(error.kind(), format!("the server at {base} has {what} ({status})")));
    }
    if matches!(error.kind(), ErrorKind::UnknownTenant | ErrorKind::NotFound | ErrorKind::Suspended) {
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
        "suspended" => ErrorKind::Suspended,
        "provider_not_configured" => ErrorKind::Config,
        "busy" | "overloaded" | "query_timeout" | "request_timeout" => ErrorKind::Busy,
        _ => ErrorKind::Conflict,
    };
    Error::new(kind, detail)
}
