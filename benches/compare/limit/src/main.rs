//! The limit: what HTTP alone costs.
//!
//! Routes and responses are the notes API's, byte for byte, and nothing is stored or looked up.
//! Two routes more stand for Cubby's slow reads (`../slow`): they take two seconds of a core on a thread
//! of their own, as many at once as Cubby lets one tenant have, which is four, and one.
//!
//! A third answers every SQL over HTTP with the same row.
//!
//! With a second argument the responses are the ones captured from a running Cubby (`create.http`,
//! `list.http`, `read.http`, `select.http` in that folder), so a header added there is paid for here too.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use std::{
    env, fs, path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

const NOTE: &str = r#"{"id":"note_abcdefghijklmnop","text":"Bring the blue notebook and two pens to the meeting on Thursday.","created":"2026-01-01T00:00:00.000Z","updated":"2026-01-01T00:00:00.000Z"}"#;

const ROW: &str = r#"{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"execute","result":{"cols":[{"name":"id","decltype":"TEXT"},{"name":"text","decltype":"TEXT"},{"name":"created","decltype":"INTEGER"},{"name":"updated","decltype":"INTEGER"}],"rows":[[{"type":"text","value":"note_abcdefghijklmnop"},{"type":"text","value":"Bring the blue notebook and two pens to the meeting on Thursday."},{"type":"integer","value":"1767225600000"},{"type":"integer","value":"1767225600000"}]],"affected_row_count":0,"last_insert_rowid":"0","replication_index":null,"rows_read":1,"rows_written":0,"query_duration_ms":0.020}}},{"type":"ok","response":{"type":"close"}}]}"#;

#[derive(Clone)]
struct Canned {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Canned {
    fn built_in(status: StatusCode, body: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        if status == StatusCode::CREATED {
            let location = HeaderValue::from_static("/user_1/note_abcdefghijklmnop");
            headers.insert("location", location);
        }
        Self { status, headers, body: body.into() }
    }

    /// A response as it was on the wire. The length and the date are hyper's to write.
    fn captured(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ")?;
            let name: HeaderName = name.parse().ok()?;
            if !["content-length", "date", "connection"].contains(&name.as_str()) {
                headers.append(name, value.parse().ok()?);
            }
        }
        Some(Self { status, headers, body: body.to_owned().into() })
    }

    fn load(folder: Option<&String>, name: &str, status: StatusCode, body: String) -> Self {
        let Some(folder) = folder else {
            return Self::built_in(status, body);
        };
        let file = path::Path::new(folder).join(name);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        Self::captured(&text).unwrap_or_else(|| panic!("{} is no HTTP response", file.display()))
    }
}

impl IntoResponse for &Canned {
    fn into_response(self) -> Response {
        (self.status, self.headers.clone(), self.body.clone()).into_response()
    }
}

struct Answers {
    create: Canned,
    list: Canned,
    read: Canned,
    select: Canned,
}

async fn create(State(answers): State<Arc<Answers>>, Path(_): Path<String>, _: Bytes) -> Response {
    answers.create.into_response()
}

async fn list(State(answers): State<Arc<Answers>>, Path(_): Path<String>) -> Response {
    answers.list.into_response()
}

async fn read(State(answers): State<Arc<Answers>>, Path(_): Path<(String, String)>) -> Response {
    answers.read.into_response()
}

async fn select(State(answers): State<Arc<Answers>>, Path(_): Path<String>, _: Bytes) -> Response {
    answers.select.into_response()
}

/// Two seconds of computing. Who gave up before their turn costs nothing.
async fn slow(State(turns): State<Arc<Semaphore>>) -> StatusCode {
    let turn = turns.acquire_owned().await;
    let spin = move || {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        drop(turn);
    };
    match tokio::task::spawn_blocking(spin).await {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some(listen) = arguments.first() else {
        eprintln!("usage: compare-limit HOST:PORT [FOLDER OF CAPTURED RESPONSES]");
        std::process::exit(2);
    };
    let folder = arguments.get(1);
    let one = format!(r#"{{"note":{NOTE}}}"#);
    let twenty = format!(r#"{{"notes":[{}]}}"#, [NOTE; 20].join(","));
    let answers = Answers {
        create: Canned::load(folder, "create.http", StatusCode::CREATED, one.clone()),
        list: Canned::load(folder, "list.http", StatusCode::OK, twenty),
        read: Canned::load(folder, "read.http", StatusCode::OK, one),
        select: Canned::load(folder, "select.http", StatusCode::OK, ROW.to_owned()),
    };
    let app = Router::new()
        .route("/readyz", get(async || StatusCode::OK))
        .route("/{user}", get(list).post(create))
        .route("/{user}/{note}", get(read))
        .route("/{user}/sql/v2/pipeline", post(select))
        .route("/{user}/slow", get(slow).with_state(Arc::new(Semaphore::new(4))))
        .route("/{user}/slow-inline", get(slow).with_state(Arc::new(Semaphore::new(1))))
        .with_state(Arc::new(answers));
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .unwrap_or_else(|error| panic!("cannot listen on {listen}: {error}"))
        .tap_io(|stream| _ = stream.set_nodelay(true));
    axum::serve(listener, app).await.expect("the accept loop ends only with the process");
}
