//! Cubby with two routes more, whose SQL takes two seconds: the notes API has none that could.
//!
//! `GET /{user_id}/slow` reads on a connection apart, as an export does ([`Tenant::read_long`]);
//! `GET /{user_id}/slow-inline` does what no handler should, and passes such a query off as a short
//! read. Everything else is the server as it ships, with its flags.
//!
//! [`Tenant::read_long`]: cubby::Tenant::read_long

use std::{
    error::Error as StdError,
    time::{Duration, Instant},
};

use axum::{Router, middleware::from_fn_with_state, routing::get};
use clap::Parser;
use cubby::{
    Result,
    app::App,
    config::{DataConfig, LogConfig, ServeConfig},
    http::{extract::Tenant, middleware::envelope},
    router::router,
    rusqlite::Connection,
    server, telemetry,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// How long a slow read's SQL runs.
const SLOW: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
struct Settings {
    #[command(flatten)]
    data: DataConfig,
    #[command(flatten)]
    log: LogConfig,
    #[command(flatten)]
    serve: ServeConfig,
}

fn main() -> Result<(), Box<dyn StdError>> {
    let settings = Settings::parse();
    settings.serve.validate()?;
    telemetry::log::start(&settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(settings.serve.blocking_threads as usize)
        .build()?;
    runtime.block_on(serve(settings))?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

async fn serve(settings: Settings) -> Result<(), Box<dyn StdError>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(settings.serve.listen).await?;
    let app = App::start(&settings.data, settings.serve)?;
    let slow = Router::new()
        .route("/{user_id}/slow", get(apart))
        .route("/{user_id}/slow-inline", get(inline))
        .layer(from_fn_with_state((app.door().clone(), None), envelope))
        .with_state(app.clone());
    let routes = router(&app)?.merge(slow);
    server::serve_routes(app.door(), (listener, routes), None, async move {
        let _ = terminate.recv().await;
    })
    .await;
    app.close(tokio::time::Instant::now() + Duration::from_secs(10)).await;
    Ok(())
}

async fn apart(Tenant(tenant): Tenant) -> Result<String> {
    tenant.read_long(SLOW * 2, compute).await
}

async fn inline(Tenant(tenant): Tenant) -> Result<String> {
    tenant.read(compute).await
}

/// Two seconds of one core inside SQLite, in steps of some milliseconds.
fn compute(conn: &Connection) -> Result<String> {
    let until = Instant::now() + SLOW;
    let mut total = 0;
    while Instant::now() < until {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT sum(i) FROM n";
        total += conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))?;
    }
    Ok(total.to_string())
}
