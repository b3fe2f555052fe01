//! The secrets of the endpoint of deliveries.

use clap::Args;

use super::Secret;

#[derive(Debug, Clone, Default, Args)]
#[expect(missing_docs, reason = "a doc comment would replace the heading in --help")]
pub struct WebhookConfig {
    /// Secrets that Clerk's webhooks are signed with (whsec_…), separated by spaces
    #[arg(long, env = "CLERK_WEBHOOK_SECRET", value_name = "SECRETS", hide_env_values = true)]
    pub clerk_webhook_secret: Option<Secret>,

    /// Hookdeck's signing secrets, separated by spaces; set, deliveries must come through Hookdeck
    #[arg(long, env = "HOOKDECK_SIGNING_SECRET", value_name = "SECRETS", hide_env_values = true)]
    pub hookdeck_signing_secret: Option<Secret>,
}
