//! Logs: their format and where they go.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{LogConfig, LogFormat},
    error::{Error, Result},
};

/// Starts logging to standard error. Standard output belongs to commands' results.
pub fn start(config: &LogConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log).map_err(|e| Error::config(format!("--log {:?}: {e}", config.log)))?;
    let json = match config.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let started = match json {
        true => {
            registry.with(lines.json().flatten_event(true).with_current_span(true).with_span_list(false)).try_init()
        }
        false => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
    };
    started.map_err(|e| Error::config("logging was started before").with_source(e))
}

/// Counts a delivery and how long it took. Types that nothing is done for share one label: they
/// come from outside, and each label is a series for good.
pub fn delivery(kind: &str, outcome: &'static str, took: std::time::Duration) {
    const KNOWN: [&str; 3] = ["user.created", "user.updated", "user.deleted"];
    let kind = KNOWN.into_iter().find(|known| *known == kind).unwrap_or("other");
    metrics::counter!("cubby_deliveries_total", "type" => kind, "outcome" => outcome).increment(1);
    metrics::histogram!("cubby_delivery_duration_seconds").record(took.as_secs_f64());
}
