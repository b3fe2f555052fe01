//! Settings of exports and imports.

use std::time::Duration;

use clap::Args;

use super::values::duration;
use crate::rate::Rate;

/// Exports and imports.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Exports and imports")]
pub struct ExportConfig {
    /// How often a user may ask for their whole database as a file, such as 4/h; off is never
    #[arg(long, env = "CUBBY_USER_EXPORT", default_value = "off", value_name = "RATE")]
    pub user_export: Rate,

    /// How long an export of a user's database may take until it is sent, and an import with its file's arrival
    #[arg(long, env = "CUBBY_TRANSFER_TIMEOUT", default_value = "15m", value_name = "TIME", value_parser = duration)]
    pub transfer_timeout: Duration,
}
