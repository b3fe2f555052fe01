//! `cubby serve`.

use std::{net::SocketAddr, pin::pin, process::ExitCode};

use futures_util::future;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    app::App,
    config::{DataConfig, Provisioning, ServeConfig},
    error::{Error, Result},
    router::NOTES_TABLE,
    server,
    telemetry::trace,
    webhooks::verify::verifiers,
};

pub const EXAMPLES: &str = "Examples:
  cubby serve
  cubby serve --listen 127.0.0.1:9000 --data /var/lib/cubby
  CLERK_WEBHOOK_SECRET=whsec_… cubby serve --provisioning webhook";

/// Serves until SIGTERM or SIGINT.
pub fn run(data: &DataConfig, config: ServeConfig) -> Result<ExitCode> {
    config.validate()?;
    // Before anything says that it serves.
    verifiers(&config.webhooks)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(config.blocking_threads as usize)
        .build()
        .map_err(|e| Error::io("starting the runtime", e))?;
    let served = runtime.block_on(serve(data, config));
    // What still runs on a blocking thread is cancelled and holds nothing that a crash would lose.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    served?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(data: &DataConfig, config: ServeConfig) -> Result<()> {
    // The handlers are installed before anything is opened, so that an early signal is not lost.
    let handle = |kind| signal(kind).map_err(|e| Error::io("waiting for signals", e));
    let (mut terminate, mut interrupt) = (handle(SignalKind::terminate())?, handle(SignalKind::interrupt())?);

    let listener = bind(config.listen, "--listen").await?;
    let address = listener.local_addr().map_err(|e| Error::io("the listening address", e))?;
    let operators = match config.limits.admin_listen {
        Some(listen) => Some(bind(listen, "--admin-listen").await?),
        None => None,
    };
    trace::start()?;
    let app = App::start(data, config)?;
    if let Some(operators) = &operators {
        let address = operators.local_addr().map_err(|e| Error::io("the operators' address", e))?;
        tracing::info!("listening to operators on http://{address}");
    }
    announce(&app, data, address);

    let shutdown = async move {
        future::select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
        tokio::spawn(async move {
            future::select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
            tracing::warn!("second signal: exiting at once");
            std::process::exit(130);
        });
    };
    let served = server::serve(app, listener, operators, shutdown).await;
    trace::stop().await;
    served
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    let refused = |e| Error::config(format!("cannot listen on {address}: {e}; choose another port with {flag}"));
    TcpListener::bind(address).await.map_err(refused)
}

/// Logs what is served, where, and who may call.
fn announce(app: &App, data: &DataConfig, address: SocketAddr) {
    let config = app.config();
    let has_notes = app.store().has_table(NOTES_TABLE);
    let schema = match &data.migrations {
        None => "shipped".to_owned(),
        Some(folder) if has_notes => format!("{}: {}", folder.display(), app.store().schema().form()),
        Some(folder) => format!(
            "{}: {} (no table {NOTES_TABLE}: the notes API is not mounted)",
            folder.display(),
            app.store().schema().form()
        ),
    };
    let provisioning = match config.provisioning {
        Provisioning::Open if has_notes => "a first POST creates a user's database",
        // No other route creates anybody.
        Provisioning::Open => "webhooks and operators create users' databases (`cubby tenants create ID`)",
        Provisioning::Webhook => "only webhooks and operators create users' databases",
        Provisioning::OnDemand => "the provider is asked for unknown users, besides webhooks and operators",
        Provisioning::OnProof => "a user's first session token creates their database",
    };
    tracing::info!(
        data = %app.store().layout().root().display(),
        schema,
        version = app.store().schema().version(),
        capacity = app.store().capacity(),
        webhooks = if config.webhooks.clerk_webhook_secret.is_some() { "on" } else { "off" },
        "serving on http://{address}; callers {}; {provisioning}",
        config.door.auth.describe(),
    );
}
