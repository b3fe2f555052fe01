//! Settings of the identity provider: its API, and the synchronization with it.

use std::{fmt, str::FromStr, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    endpoint::Endpoint,
    values::{Secret, duration},
};
use crate::error::{Error, Result};

/// Clerk's Backend API: for the server, and for the commands that ask it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Clerk")]
pub struct ProviderConfig {
    /// Clerk's secret key (sk_…), for reconciling and for provisioning on demand
    #[arg(long, env = "CLERK_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    pub clerk_secret_key: Option<Secret>,

    /// Clerk's Backend API, or a proxy of it
    #[arg(long, env = "CLERK_API_URL", default_value = "https://api.clerk.com/v1", value_name = "URL")]
    pub clerk_api_url: String,

    /// How long one request to Clerk may take
    #[arg(long, env = "CUBBY_PROVIDER_TIMEOUT", default_value = "15s", value_name = "TIME", value_parser = duration)]
    pub provider_timeout: Duration,

    /// How often a reconcile repeats a request that Clerk did not answer as it should, before it stops
    #[arg(long, env = "CUBBY_PROVIDER_RETRIES", default_value_t = 7, value_name = "COUNT",
        value_parser = clap::value_parser!(u8).range(0..=20))]
    pub provider_retries: u8,

    /// The most users that a reconcile deletes unless forced: a number, a percentage of those who
    /// live, or both, of which the larger counts
    #[arg(long, env = "CUBBY_SYNC_MAX_DELETE", default_value = "10%,10", value_name = "PART")]
    pub sync_max_delete: Part,
}

impl ProviderConfig {
    /// Refuses a URL over which the key would be sent in the clear.
    pub fn validate(&self) -> Result<()> {
        self.endpoint().map(drop)
    }

    /// The URL of the API.
    pub fn endpoint(&self) -> Result<Endpoint> {
        Endpoint::parse_base("CLERK_API_URL", &self.clerk_api_url, "CLERK_SECRET_KEY could be read on its way")
    }
}

/// Synchronization with the provider.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Synchronization with Clerk")]
pub struct SyncConfig {
    /// Clerk's Backend API.
    #[command(flatten)]
    pub provider: ProviderConfig,

    /// How often the server reconciles with Clerk by itself, such as 24h [default: never]
    #[arg(long, env = "CUBBY_SYNC_EVERY", value_name = "TIME", value_parser = duration)]
    pub sync_every: Option<Duration>,

    /// By how many users catalog and Clerk may differ before the health page warns
    #[arg(long, env = "CUBBY_SYNC_WARN", default_value_t = 10, value_name = "COUNT")]
    pub sync_warn: u64,

    /// After how long without a delivery the health page warns; 0 for never
    #[arg(long, env = "CUBBY_SYNC_SILENCE", default_value = "7d", value_name = "TIME", value_parser = duration)]
    pub sync_silence: Duration,

    /// How long deliveries are kept, with their bodies for replay
    #[arg(long, env = "CUBBY_DELIVERY_RETENTION", default_value = "30d", value_name = "TIME", value_parser = duration)]
    pub delivery_retention: Duration,

    /// Unknown users that Clerk is asked for a minute, all together, with --provisioning on-demand
    #[arg(long, env = "CUBBY_ON_DEMAND_LIMIT", default_value_t = 300, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub on_demand_limit: u32,
}

impl SyncConfig {
    pub(super) fn validate(&self) -> Result<()> {
        self.provider.validate()?;
        if self.sync_every.is_some_and(|every| every < Duration::from_secs(60)) {
            return Err(Error::config("CUBBY_SYNC_EVERY: at least 1m; webhooks are quicker"));
        }
        if self.sync_every.is_some() && self.provider.clerk_secret_key.is_none() {
            return Err(Error::config("CUBBY_SYNC_EVERY needs CLERK_SECRET_KEY: without it Clerk cannot be asked"));
        }
        Ok(())
    }
}

/// A number, a percentage, or the larger of both: `25`, `10%`, `10%,10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Part {
    percent: u64,
    number: u64,
}

impl Part {
    /// The larger of a percentage and a number.
    pub const fn of_either(percent: u64, number: u64) -> Self {
        Self { percent, number }
    }

    /// The number that this is of `whole`.
    pub fn of(self, whole: u64) -> u64 {
        self.number.max(whole.saturating_mul(self.percent) / 100)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.percent, self.number) {
            (0, number) => write!(f, "{number}"),
            (percent, 0) => write!(f, "{percent}%"),
            (percent, number) => write!(f, "{percent}%,{number}"),
        }
    }
}

impl From<Part> for String {
    fn from(part: Part) -> Self {
        part.to_string()
    }
}

impl TryFrom<String> for Part {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut part = Self { percent: 0, number: 0 };
        let wrong = || "write it as 25, 10% or 10%,10".to_owned();
        for word in text.split(',').map(str::trim) {
            match word.strip_suffix('%') {
                Some(percent) => part.percent = percent.parse().ok().filter(|n| *n <= 100).ok_or_else(wrong)?,
                None => part.number = word.parse().map_err(|_| wrong())?,
            }
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_number_or_a_percentage_whichever_is_more() {
        let of = |text: &str, whole| text.parse::<Part>().unwrap().of(whole);
        assert_eq!([of("10%,10", 0), of("10%,10", 99), of("10%,10", 100), of("10%,10", 1_000)], [10, 10, 10, 100]);
        assert_eq!([of("25", 1_000_000), of("50%", 3), of("0", 5)], [25, 1, 0]);
        for text in ["25", "10%", "10%,10", "0"] {
            assert_eq!(text.parse::<Part>().unwrap().to_string(), text);
        }
        for text in ["", "x", "101%", "-1", "10 %x"] {
            assert!(text.parse::<Part>().is_err(), "{text}");
        }
    }
}
