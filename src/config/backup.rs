//! Settings of the commands about backups.

use std::path::PathBuf;

use clap::Args;

/// What opens and makes backups, for commands that do so in their own process.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Backups")]
pub struct BackupConfig {
    /// The file of keys that encrypt and decrypt backups, as the server has it; none if they are not encrypted
    #[arg(long, env = "CUBBY_REPLICATE_KEY", value_name = "FILE", global = true)]
    pub replicate_key: Option<PathBuf>,
}
