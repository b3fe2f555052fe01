//! Servers that break the promise, one way each. A harness that does not catch them is the broken
//! one.

use std::{sync::Mutex, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use clap::{Args, ValueEnum};
use cubby::{
    TenantId,
    app::App,
    config::{DataConfig, LogConfig, ServeConfig},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Answers 201 before the commit.
    EarlyAck,
    /// Commits with `synchronous=NORMAL`.
    Normal,
    /// Answers 201 for writes that failed.
    Swallow,
    /// Keeps a descriptor and some memory of every request.
    Leak,
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
        Mode::Normal => {
            let id = request.uri().path().split('/').nth(1).unwrap_or("").parse::<TenantId>();
            if let Ok(id) = id
                && let Ok(tenant) = app.store().lease(&id).await
            {
                let set = tenant.read(|conn| Ok(conn.pragma_update(None, "synchronous", "NORMAL")?)).await;
                set.unwrap();
            }
            next.run(request).await
        }
        Mode::Swallow if writes => {
            let response = next.run(request).await;
            if response.status().is_server_error() { done() } else { response }
        }
        Mode::Leak => {
            let file = std::fs::File::open("/dev/null").unwrap();
            LEAKED.lock().unwrap().push((file, vec![1; 4096]));
            next.run(request).await
        }
        Mode::EarlyAck | Mode::Swallow => next.run(request).await,
    }
}
