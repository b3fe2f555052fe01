//! Settings of the change feed.

use std::time::Duration;

use clap::Args;

use super::duration;
use crate::error::{Error, Result};

/// The change feed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Change feed")]
pub struct ChangesConfig {
    /// Clients that may listen to changes, all users together; more are answered 503, and 0 turns the feed off
    /// [default: 1024, or a quarter of the connections if that is less]
    #[arg(long, env = "CUBBY_CHANGES_LISTENERS", value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub changes_listeners: Option<u32>,

    /// Clients that may listen to one user's changes; more are answered 503
    #[arg(long, env = "CUBBY_CHANGES_TENANT_LISTENERS", default_value_t = 32, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub changes_tenant_listeners: u32,

    /// Commits of a user that are kept for clients who read slowly or come back; who has missed more reads everything
    /// anew
    #[arg(long, env = "CUBBY_CHANGES_EVENTS", default_value_t = 256, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub changes_events: u32,

    /// How long they are kept when no client listens any more
    #[arg(long, env = "CUBBY_CHANGES_KEEP", default_value = "1m", value_name = "TIME", value_parser = duration)]
    pub changes_keep: Duration,

    /// How often a client hears that the feed is still there, and is asked anew whether it may listen
    #[arg(long, env = "CUBBY_CHANGES_HEARTBEAT", default_value = "15s", value_name = "TIME", value_parser = duration)]
    pub changes_heartbeat: Duration,
}

/// The most clients that may listen if nothing is said.
const LISTENERS: u32 = 1024;

impl ChangesConfig {
    /// Clients that may listen, of a server that has so many connections.
    pub fn listeners(&self, connections: u32) -> u32 {
        self.changes_listeners.unwrap_or(LISTENERS.min(connections / 4))
    }

    pub(super) fn validate(&self, connections: u32) -> Result<()> {
        if self.listeners(connections) >= connections {
            return Err(Error::config(format!(
                "--changes-listeners: fewer than --max-connections, {connections}: each client that listens has one, and \
                 others must come in"
            )));
        }
        if self.changes_heartbeat < Duration::from_millis(50) {
            return Err(Error::config("--changes-heartbeat: 50ms or more"));
        }
        Ok(())
    }
}
