//! Settings of users' exports.

use clap::Args;

use crate::rate::Rate;

/// Users' exports.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Users' exports")]
pub struct ExportConfig {
    /// How often a user may ask for their whole database as a file, such as 4/h; off is never
    #[arg(long, env = "CUBBY_USER_EXPORT", default_value = "off", value_name = "RATE")]
    pub user_export: Rate,
}
