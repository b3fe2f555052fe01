//! Settings of the limits on callers.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use clap::Args;
use reqwest::Url;

use super::values::{List, Size, duration};
use crate::{
    error::{Error, Result},
    rate::Rate,
};

/// A range of addresses: `10.0.0.0/8`, `192.168.1.7`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: u128,
    mask: u128,
    v4: bool,
}

fn bits(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, true),
        IpAddr::V6(address) => (address.to_bits(), false),
    }
}

impl Network {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (address, v4) = bits(address);
        v4 == self.v4 && address & self.mask == self.address
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither an address nor a network such as 10.0.0.0/8");
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let (address, v4) = bits(address.parse().map_err(|_| wrong())?);
        let most = if v4 { 32 } else { 128 };
        let length: u32 = length.map_or(Ok(most), |length| length.parse().map_err(|_| wrong()))?;
        if length > most {
            return Err(wrong());
        }
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        Ok(Self { address: address & mask, mask, v4 })
    }
}

/// The limits on callers.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitsConfig {
    /// Requests of one user [default: 100/s:400; off on loopback without a trusted proxy]
    #[arg(long, env = "CUBBY_TENANT_RATE", value_name = "RATE")]
    pub tenant_rate: Option<Rate>,

    /// Requests from one address [default: 200/s:800; off on loopback without a trusted proxy]
    #[arg(long, env = "CUBBY_ADDRESS_RATE", value_name = "RATE")]
    pub address_rate: Option<Rate>,

    /// Users created by requests, all together [default: 600/m:600; off on loopback without a trusted proxy]
    #[arg(long, env = "CUBBY_CREATION_RATE", value_name = "RATE")]
    pub creation_rate: Option<Rate>,

    /// Connections from one address [default: 256; unbounded on loopback]
    #[arg(long, env = "CUBBY_ADDRESS_CONNECTIONS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub address_connections: Option<u32>,

    /// Proxies in front, addresses or networks: their X-Forwarded-For and X-Forwarded-Proto are believed
    #[arg(long, env = "CUBBY_TRUSTED_PROXIES", value_name = "NETWORKS", default_value = "", hide_default_value = true)]
    pub trusted_proxies: List,

    /// Requests being answered at once; more are answered 503
    #[arg(long, env = "CUBBY_MAX_IN_FLIGHT", default_value_t = 2048, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_in_flight: u32,

    /// Requests of one user being answered at once; more are answered 429
    #[arg(long, env = "CUBBY_TENANT_IN_FLIGHT", default_value_t = 512, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub tenant_in_flight: u32,

    /// Requests from one address being answered at once; more are answered 429 [default: 512; unbounded on loopback
    /// without a trusted proxy]
    #[arg(long, env = "CUBBY_ADDRESS_IN_FLIGHT", value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub address_in_flight: Option<u32>,

    /// Bytes of larger requests being received and larger answers being written; more are answered 503
    #[arg(long, env = "CUBBY_BYTES_IN_FLIGHT", default_value = "256MiB", value_name = "SIZE")]
    pub bytes_in_flight: Size,

    /// Of these, those of one user; more are answered 429
    #[arg(long, env = "CUBBY_TENANT_BYTES_IN_FLIGHT", default_value = "32MiB", value_name = "SIZE")]
    pub tenant_bytes_in_flight: Size,

    /// Of these, those of one address; more are answered 429 [default: 64MiB; unbounded on loopback without a trusted
    /// proxy]
    #[arg(long, env = "CUBBY_ADDRESS_BYTES_IN_FLIGHT", value_name = "SIZE")]
    pub address_bytes_in_flight: Option<Size>,

    /// Webhook deliveries being taken in at once; when one more comes, the one that has been arriving for longest is
    /// answered 503
    #[arg(long, env = "CUBBY_DELIVERIES_IN_FLIGHT", default_value_t = 256, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub deliveries_in_flight: u32,

    /// Webhook deliveries that are kept; of more, the oldest are forgotten before their retention ends
    #[arg(long, env = "CUBBY_DELIVERY_LIMIT", default_value_t = 1_000_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub delivery_limit: u32,

    /// Lines of the audit trail that are kept; of more, the oldest are forgotten
    #[arg(long, env = "CUBBY_AUDIT_LIMIT", default_value_t = 1_000_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub audit_limit: u32,

    /// How long a client may read nothing of its answer; then the connection is cut
    #[arg(long, env = "CUBBY_ANSWER_TIMEOUT", default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub answer_timeout: Duration,

    /// Bytes of its answer that a client must read a second; one that is slower for long is cut off
    #[arg(long, env = "CUBBY_ANSWER_RATE", default_value = "16KiB", value_name = "SIZE")]
    pub answer_rate: Size,

    /// How long a client may take to send a request's body
    #[arg(long, env = "CUBBY_BODY_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub body_timeout: Duration,

    /// Origins whose pages may call from a browser, such as <https://app.example.com>; none if not set
    #[arg(long, env = "CUBBY_CORS_ORIGINS", value_name = "ORIGINS", default_value = "", hide_default_value = true)]
    pub cors_origins: List,

    /// Wrong operators' keys from one address; more are answered 429 [default: 30/m:30; off on loopback without a
    /// trusted proxy]
    #[arg(long, env = "CUBBY_KEY_FAILURES", value_name = "RATE")]
    pub key_failures: Option<Rate>,

    /// Connections of operators at once, with --admin-listen; when one more comes, the oldest that has not shown the
    /// key is closed
    #[arg(long, env = "CUBBY_ADMIN_CONNECTIONS", default_value_t = 256, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub admin_connections: u32,

    /// Where operators are listened to: then /api/admin and /metrics are there and nowhere else
    #[arg(long, env = "CUBBY_ADMIN_LISTEN", value_name = "ADDR:PORT")]
    pub admin_listen: Option<SocketAddr>,
}

impl LimitsConfig {
    /// The trusted proxies.
    pub fn proxies(&self) -> Result<Vec<Network>> {
        let parse = |text: &String| text.parse().map_err(|e| Error::config(format!("--trusted-proxies: {e}")));
        self.trusted_proxies.0.iter().map(parse).collect()
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.proxies()?;
        if self.answer_timeout.is_zero() {
            return Err(Error::config("--answer-timeout: more than 0s, or every answer is cut off"));
        }
        for origin in &self.cors_origins.0 {
            // A browser sends it in exactly this form, and it is compared byte by byte.
            let is_origin =
                |url: Url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == *origin;
            if origin.contains('*') || !Url::parse(origin).is_ok_and(is_origin) {
                return Err(Error::config(format!(
                    "--cors-origins: {origin:?} is not an origin; write each as https://app.example.com, without a \
                     path and without *"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let holds =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        assert!(holds("127.0.0.1", "::ffff:127.0.0.1"));
        assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1"));
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "::1"));
        for text in ["", "10.0.0.0/33", "x", "10.0.0/8", "::/129", "1.2.3.4/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
