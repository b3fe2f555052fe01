//! Settings of what operators may see.

use clap::{ArgAction, Args};

/// What operators may see.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Operators")]
pub struct BrowseConfig {
    /// Whether operators may look at the tables and rows of users' databases, and ask them a SELECT; exports and SQL have
    /// routes of their own
    #[arg(long, env = "CUBBY_ADMIN_BROWSE", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true",
        default_value = "true", value_name = "BOOL")]
    pub admin_browse: bool,
}
