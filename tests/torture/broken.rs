//! Servers that break the promise, one way each. A harness that does not catch them is the broken
//! one.

use std::{sync::Mutex, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use clap::{Args, ValueEnum};
use cubby::{
    TenantId,
    app::App,
    config::{DataConfig, LogConfig, ServeConfig},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Answers 201 before the commit.
    EarlyAck,
    /// Answers a read before what it saw is durable.
    EarlyRead,
    /// Answers 201 for writes that failed.
    Swallow,
    /// Keeps a descriptor and some memory of every request.
    Leak,
    /// Runs each statement of SQL by itself, and not in its transaction.
    NoTransactions,
    /// Answers a COMMIT of SQL before it is done.
    EarlyCommit,
    /// Imports a file row by row into the user's database.
    HalfImport,
    /// Takes a baton that is none of its own for the beginning of a stream.
    AnyBaton,
}

#[derive(Debug, Args)]
pub struct Broken {
    mode: Mode,
    #[command(flatten)]
    data: DataConfig,
    #[command(flatten)]
    log: LogConfig,
    #[command(flatten)]
    serve: ServeConfig,
}

pub fn run(broken: Broken) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(broken.serve.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = App::start(&broken.data, broken.serve).unwrap();
        let routes = cubby::router::router(&app).unwrap();
        let routes = routes.layer(middleware::from_fn_with_state((app.clone(), broken.mode), sabotage));
        eprintln!("serving on http://{address} (deliberately broken: {:?})", broken.mode);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        axum::serve(listener, routes)
            .with_graceful_shutdown(async move {
                terminate.recv().await;
            })
            .await
            .unwrap();
        app.close(tokio::time::Instant::now() + Duration::from_secs(10)).await;
    });
}

fn done() -> Response {
    (StatusCode::CREATED, r#"{"note":{"id":"note_aaaaaaaaaaaaaaaa"}}"#).into_response()
}

async fn sabotage(State((app, mode)): State<(App, Mode)>, request: Request, next: Next) -> Response {
    static LEAKED: Mutex<Vec<(std::fs::File, Vec<u8>)>> = Mutex::new(Vec::new());
    let writes = request.method() == Method::POST;
    match mode {
        Mode::EarlyAck if writes => {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                next.run(Request::from_parts(parts, Body::from(body))).await
            });
            done()
        }
        Mode::EarlyRead => match read_early(&app, request.uri().clone()).await {
            Some(response) => response,
            None => next.run(request).await,
        },
        Mode::Swallow if writes => {
            let response = next.run(request).await;
            if response.status().is_server_error() { done() } else { response }
        }
        Mode::HalfImport if request.uri().path().ends_with("/import") => import_by_rows(&app, request).await,
        Mode::Leak => {
            let file = std::fs::File::open("/dev/null").unwrap();
            LEAKED.lock().unwrap().push((file, vec![1; 4096]));
            next.run(request).await
        }
        Mode::NoTransactions | Mode::EarlyCommit | Mode::AnyBaton if request.uri().path().contains("/sql/") => {
            run_sql(mode, request, next).await
        }
        _ => next.run(request).await,
    }
}

/// Commits each row by itself.
async fn import_by_rows(app: &App, request: Request) -> Response {
    let id: TenantId = request.uri().path().split('/').nth(4).unwrap().parse().unwrap();
    let body = axum::body::to_bytes(request.into_body(), 1 << 30).await.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("file.db");
    std::fs::write(&file, &body).unwrap();
    let rows: Vec<(String, String)> = {
        let conn = crate::check::connect(&file).unwrap();
        let mut rows = conn.prepare("SELECT id, text FROM notes").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    let tenant = app.store().lease(&id).await.unwrap();
    tenant.write(|tx| Ok(tx.execute("DELETE FROM notes", []).map(drop)?)).await.unwrap();
    for row in rows {
        let insert = "INSERT INTO notes VALUES (?1, ?2, 1, 1)";
        tenant.write(move |tx| Ok(tx.execute(insert, row).map(drop)?)).await.unwrap();
    }
    StatusCode::OK.into_response()
}

/// A request of SQL, as the broken servers run it.
async fn run_sql(mode: Mode, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let (own, again) = (next.clone(), parts.clone());
    let with = move |body: String| {
        let mut parts = parts;
        parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        next.run(Request::from_parts(parts, Body::from(body)))
    };
    match mode {
        Mode::NoTransactions => {
            let mut body = body;
            for verb in ["BEGIN", "BEGIN IMMEDIATE", "BEGIN DEFERRED", "COMMIT", "ROLLBACK"] {
                body = body.replace(&format!("\"{verb}\""), "\"SELECT 1\"");
            }
            with(body).await
        }
        Mode::EarlyCommit if body.contains("COMMIT") => {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                with(body).await
            });
            (StatusCode::OK, r#"{"baton":null,"base_url":null,"results":[]}"#).into_response()
        }
        Mode::AnyBaton => {
            let response = with(body.clone()).await;
            if response.status() != StatusCode::BAD_REQUEST {
                return response;
            }
            let mut asked: Value = serde_json::from_str(&body).unwrap();
            asked["baton"] = Value::Null;
            let mut parts = again;
            parts.headers.remove(header::CONTENT_LENGTH);
            own.run(Request::from_parts(parts, Body::from(asked.to_string()))).await
        }
        _ => with(body).await,
    }
}

/// The newest notes, as the connection has them now. None for all other requests.
async fn read_early(app: &App, uri: Uri) -> Option<Response> {
    let id = uri.path().strip_prefix('/')?.parse::<TenantId>().ok()?;
    uri.query().filter(|query| query.contains("order=desc"))?;
    let tenant = app.store().lease(&id).await.ok()?;
    let (sender, seen) = oneshot::channel();
    let sender = Mutex::new(Some(sender));
    // What waits for the log is this task, and nobody waits for it.
    tokio::spawn(async move {
        let read = tenant.read(move |conn| {
            let mut notes = conn.prepare("SELECT text FROM notes ORDER BY id DESC LIMIT 40")?;
            let texts = notes.query_map([], |row| Ok(json!({ "text": row.get::<_, String>(0)? })))?;
            let texts = texts.collect::<rusqlite::Result<Vec<_>>>()?;
            let sender = sender.lock().unwrap().take();
            Ok(sender.is_some_and(|sender| sender.send(texts).is_ok()))
        });
        read.await
    });
    let notes = seen.await.ok()?;
    Some((StatusCode::OK, json!({ "notes": notes }).to_string()).into_response())
}
