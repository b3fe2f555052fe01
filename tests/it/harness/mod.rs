//! What the tests stand on: a server in this process, a server in a process of its own, and a
//! client that says what it got.

#![allow(dead_code)]

pub mod blocked;
pub mod clerk;
pub mod events;
pub mod sender;
pub mod terminal;
pub mod tokens;
pub mod trap;
pub mod wire;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clap::Parser;
use cubby::{
    Store, StoreOptions,
    app::App,
    catalog::audit::Author,
    clock::Clock,
    config::{DataConfig, LogConfig, ServeConfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// How long to wait for what must come. Long, because a slow machine is not a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The settings as the command line gives them, for a server in this process.
#[derive(Debug, Parser)]
struct Settings {
    #[command(flatten)]
    data: DataConfig,
    #[command(flatten)]
    log: LogConfig,
    #[command(flatten)]
    serve: ServeConfig,
}

/// The server's settings by flags as on the command line.
pub fn serve_config(flags: &[&str]) -> ServeConfig {
    let settings = Settings::try_parse_from(["cubby"].iter().chain(flags)).expect("flags of a test are legal");
    with_program(settings.serve)
}

/// The program under test reads files to be imported, and not that of the tests.
fn with_program(serve: ServeConfig) -> ServeConfig {
    ServeConfig { program: Some(env!("CARGO_BIN_EXE_cubby").into()), ..serve }
}

/// A server in this process, on a port of its own and a fresh folder.
pub struct Server {
    pub app: App,
    pub address: SocketAddr,
    pub client: Client,
    folder: Option<TempDir>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<cubby::Result<()>>,
}

impl Server {
    /// With default settings.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With flags that were put together.
    pub async fn with_flags(flags: &[String]) -> Self {
        Self::with(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// With flags as on the command line.
    pub async fn with(flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().to_owned();
        let mut server = Self::on(&path, flags).await;
        server.folder = Some(folder);
        server
    }

    /// On a folder that outlives the server.
    pub async fn on(folder: &Path, flags: &[&str]) -> Self {
        let data = folder.to_str().unwrap();
        let settings =
            Settings::try_parse_from(["cubby", "--data", data].iter().chain(flags)).expect("flags of a test are legal");
        Self::of(App::start(&settings.data, with_program(settings.serve)).expect("the server starts")).await
    }

    /// Why no server starts on a folder.
    pub fn refused(folder: &Path, flags: &[&str]) -> cubby::Error {
        let data = folder.to_str().unwrap();
        let settings =
            Settings::try_parse_from(["cubby", "--data", data].iter().chain(flags)).expect("flags of a test are legal");
        App::start(&settings.data, with_program(settings.serve)).err().expect("the server does not start")
    }

    /// Over a store that the test opened, with a clock of its own perhaps.
    pub async fn over(store: Store, flags: &[&str]) -> Self {
        Self::of(App::over(store, serve_config(flags)).expect("the server starts")).await
    }

    /// In a fresh folder, with a time of day of the test's own.
    pub async fn at(clock: &Clock, flags: &[String]) -> Self {
        let folder = TempDir::new().unwrap();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let options = StoreOptions { clock: clock.clone(), ..StoreOptions::new(folder.path()) };
        Self { folder: Some(folder), ..Self::over(Store::open(options).unwrap(), &flags).await }
    }

    async fn of(app: App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(cubby::server::serve(app.clone(), listener, None, async move {
            let _ = stopped.await;
        }));
        Self { app, address, client: Client::new(address), folder: None, stop: Some(stop), task }
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.app.store().layout().root().to_owned()
    }

    /// Asks the server to shut down, without waiting.
    pub fn ask_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Shuts the server down and waits until it is.
    pub async fn stop(mut self) {
        self.ask_to_stop();
        let Self { app, task, .. } = self;
        task.await.unwrap().unwrap();
        drop(app);
    }
}

/// A server in a process of its own, to be killed.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    pub client: Client,
    log: Arc<Mutex<Vec<String>>>,
}

/// The binary under test.
pub fn cubby() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cubby"));
    // A developer's own settings must not reach the tests.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CUBBY_", "CLERK_", "ADMIN_", "HOOKDECK_", "OTEL_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.current_dir(std::env::temp_dir());
    command
}

/// Runs a command to its end.
pub fn run(data: &Path, arguments: &[&str]) -> Output {
    cubby().args(arguments).arg("--data").arg(data).output().unwrap()
}

/// What a command printed, if it succeeded.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

impl Process {
    /// Starts `cubby serve` and waits until it says where it listens.
    pub fn start(data: &Path, flags: &[&str]) -> Self {
        let mut command = cubby();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"]).arg(data).args(flags);
        Self::spawn(command)
    }

    /// The same for a command of one's own, which must serve and log as JSON.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the server ended at start-up: {seen:#?}") };
            let found = line.split_once("serving on http://").map(|(_, rest)| {
                rest.chars().take_while(|c| c.is_ascii_hexdigit() || ".:[]".contains(*c)).collect::<String>()
            });
            seen.push(line);
            if let Some(address) = found {
                break address.parse().expect("an address");
            }
        };
        let log = Arc::new(Mutex::new(seen));
        let keep = log.clone();
        // Somebody must read on, or the server would block on a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| keep.lock().unwrap().push(line)));
        Self { child, address, client: Client::new(address), log }
    }

    /// The lines it has logged so far.
    pub fn log(&self) -> Vec<Value> {
        let lines = self.log.lock().unwrap();
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The lines whose message is this, once there is one.
    pub async fn logged(&self, message: &str) -> Vec<Value> {
        let lines = || self.log().into_iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
        eventually(message, async || !lines().is_empty()).await;
        lines()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no destructor, no flush.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name: TERM, INT.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end.
    pub fn wait(mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the server does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that knows where the server is.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The problem's code, if it is a problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        Self { http, base: format!("http://{address}"), token: None }
    }

    /// The same client with a token of its own.
    pub fn bearing(&self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A request to be filled in further.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method.parse().unwrap(), self.url(path));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        self.try_send(request).await.expect("an answer")
    }

    /// `Err` when the connection was cut.
    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Reply> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply { status, headers, body: response.bytes().await?.to_vec() })
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request("GET", path)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request("DELETE", path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(self.request("POST", path).json(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.send(self.request("PATCH", path).json(&body)).await
    }

    /// Makes a note and gives its id.
    pub async fn note(&self, user: &str, text: &str) -> String {
        let reply = self.post(&format!("/{user}"), json!({"text": text})).await.expect(201);
        reply.json()["note"]["id"].as_str().unwrap().to_owned()
    }

    /// The texts of a user's notes, oldest first, all pages.
    pub async fn texts(&self, user: &str) -> Vec<String> {
        let mut texts = Vec::new();
        let mut path = format!("/{user}?limit=500");
        loop {
            let page = self.get(&path).await.expect(200).json();
            for note in page["notes"].as_array().unwrap() {
                texts.push(note["text"].as_str().unwrap().to_owned());
            }
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/{user}?limit=500&cursor={cursor}"),
                None => return texts,
            }
        }
    }
}

/// A copy in which ids and times, which differ from run to run, are replaced by a word.
pub fn redacted(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| {
                let varies = ["id", "created", "updated", "request_id", "next_cursor"].contains(&name.as_str());
                let value = if varies && value.is_string() { json!(format!("[{name}]")) } else { redacted(value) };
                (name.clone(), value)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(redacted).collect(),
        other => other.clone(),
    }
}

/// Waits until `holds` does, without a fixed delay.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < until, "never happened: {what}");
        tokio::task::yield_now().await;
    }
}

/// Who changes a tenant where a test does it by itself.
pub fn author() -> Author {
    Author::program("test")
}

/// The notes API's migrations.
pub const SHIPPED_MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/tenant");

/// The shipped migrations in a folder of one's own, with more or other files.
pub fn migrations(changes: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in std::fs::read_dir(SHIPPED_MIGRATIONS).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    for (name, sql) in changes {
        std::fs::write(folder.path().join(name), sql).unwrap();
    }
    folder
}

/// What a power cut leaves of a database's write-ahead log if none of it was written back: SQLite has flushed the header.
pub fn lose_wal(database: &Path) {
    const HEADER: u64 = 32;
    let wal = cubby::tenants::disk::path::wal_of(database);
    std::fs::File::options().write(true).open(wal).unwrap().set_len(HEADER).unwrap();
}

/// Every file and folder below `root` with its size: what a read must not change.
pub fn tree(root: &Path) -> Vec<(PathBuf, u64, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
                found.push((entry.path(), meta.ino(), 0));
            } else {
                found.push((entry.path(), meta.ino(), meta.len()));
            }
        }
    }
    found.sort();
    found
}

/// A file as an operator opens it in the `sqlite3` shell, with no server there.
#[expect(clippy::disallowed_methods, reason = "an operator, who opens files in their own way")]
pub fn shell(path: &std::path::Path) -> rusqlite::Connection {
    // As every store does: whoever is first decides for the process.
    cubby::sqlite::process::init(cubby::sqlite::process::Globals::Adjust).unwrap();
    rusqlite::Connection::open(path).unwrap()
}
