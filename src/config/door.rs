//! Settings of authentication.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::{Args, ValueEnum};

use super::{
    endpoint::{Endpoint, web_address},
    values::{List, Secret, duration},
};
use crate::error::{Error, Result};

/// What a caller must send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Nothing: anyone who reaches the port reaches every user's data.
    None,
    /// A session token of the identity provider; it opens its own user's database.
    Jwt,
    /// An API key made with `cubby keys create`.
    Keys,
    /// Either.
    #[value(name = "jwt+keys")]
    JwtAndKeys,
}

impl AuthMode {
    /// Whether callers need not authenticate.
    pub fn is_open(self) -> bool {
        self == Self::None
    }

    /// Whether session tokens are accepted.
    pub fn takes_tokens(self) -> bool {
        matches!(self, Self::Jwt | Self::JwtAndKeys)
    }

    /// Whether API keys are accepted.
    pub fn takes_keys(self) -> bool {
        matches!(self, Self::Keys | Self::JwtAndKeys)
    }

    /// Completes a sentence that begins with "callers".
    pub fn describe(self) -> &'static str {
        match self {
            Self::None => "are not authenticated",
            Self::Jwt => "show a session token",
            Self::Keys => "show an API key",
            Self::JwtAndKeys => "show a session token or an API key",
        }
    }
}

/// How callers authenticate.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct DoorConfig {
    /// What callers must show
    #[arg(long, env = "CUBBY_AUTH", default_value = "none", value_name = "MODE")]
    pub auth: AuthMode,

    /// Who issues session tokens: their `iss` to the letter, such as <https://clerk.example.com>
    #[arg(long, env = "CUBBY_ISSUER", value_name = "URL")]
    pub issuer: Option<String>,

    /// The public key that session tokens are verified with, PEM: RSA, P-256 or Ed25519
    #[arg(long, env = "CLERK_JWT_KEY", value_name = "PEM", hide_env_values = true, allow_hyphen_values = true)]
    pub clerk_jwt_key: Option<Secret>,

    /// Where the issuer publishes its keys, instead of a PEM
    #[arg(long, env = "CUBBY_JWKS_URL", value_name = "URL")]
    pub jwks_url: Option<String>,

    /// How old the issuer's published keys may get while it cannot be asked; five minutes at least
    #[arg(long, env = "CUBBY_JWKS_GRACE", default_value = "1h", value_name = "TIME", value_parser = duration)]
    pub jwks_grace: Duration,

    /// Origins that session tokens may have been made for (their `azp`); any if not set
    #[arg(
        long,
        env = "CUBBY_AUTHORIZED_PARTIES",
        value_name = "ORIGINS",
        default_value = "",
        hide_default_value = true
    )]
    pub authorized_parties: List,

    /// Audiences of which session tokens must name one (their `aud`); if not set, a token that names any is refused
    #[arg(long, env = "CUBBY_AUDIENCE", value_name = "NAMES", default_value = "", hide_default_value = true)]
    pub audience: List,

    /// The cookie that a session token may be in, besides the Authorization header
    #[arg(long, env = "CUBBY_SESSION_COOKIE", value_name = "NAME", default_value = "__session")]
    pub session_cookie: String,

    /// Names that `Host` may have besides localhost and loopback addresses; with none set, only those on loopback
    /// without authentication, and any elsewhere
    #[arg(long, env = "CUBBY_ALLOWED_HOSTS", value_name = "NAMES", default_value = "", hide_default_value = true)]
    pub allowed_hosts: List,
}

impl DoorConfig {
    /// Refuses unsafe and contradictory settings.
    pub(super) fn validate(&self) -> Result<()> {
        for name in &self.allowed_hosts.0 {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if !name.chars().all(is_name) && name.parse::<IpAddr>().is_err() {
                return Err(Error::config(format!(
                    "CUBBY_ALLOWED_HOSTS: {name:?} is not the name of a host; write each as data.example.com, without \
                     https://, a port or *"
                )));
            }
        }
        if !self.auth.takes_tokens() {
            return Ok(());
        }
        let Some(issuer) = self.issuer.as_deref().filter(|issuer| !issuer.is_empty()) else {
            return Err(Error::config(
                "CUBBY_AUTH=jwt needs CUBBY_ISSUER, the `iss` of your session tokens; Clerk calls it the Frontend API \
                 URL, and docs/AUTHENTICATION.md has it for others",
            ));
        };
        // RFC 6265, section 4.1.1: a token.
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if self.session_cookie.is_empty() || !self.session_cookie.chars().all(is_token) {
            return Err(Error::config("CUBBY_SESSION_COOKIE is not the name of a cookie"));
        }
        // An issuer need not be a URL (RFC 7519, 4.1.1).
        if issuer.contains("://") {
            web_address("CUBBY_ISSUER", issuer)?;
        }
        self.jwks()?;
        match (&self.clerk_jwt_key, &self.jwks_url) {
            (Some(_), Some(_)) => Err(Error::config(
                "CLERK_JWT_KEY and CUBBY_JWKS_URL are both set; keep one of them, so that it is clear which keys are \
                 used",
            )),
            (None, None) => Err(Error::config(format!(
                "CUBBY_AUTH=jwt needs the issuer's keys: set CLERK_JWT_KEY to its PEM public key, or CUBBY_JWKS_URL to \
                 where it publishes them (Clerk, Supabase and Auth0: {}/.well-known/jwks.json)",
                issuer.trim_end_matches('/')
            ))),
            _ => Ok(()),
        }
    }

    /// The URL of the issuer's keys, if it is set.
    pub fn jwks(&self) -> Result<Option<Endpoint>> {
        let risk = "somebody on the way could put their own keys in place of the issuer's";
        self.jwks_url.as_ref().map(|url| Endpoint::parse("CUBBY_JWKS_URL", url, risk)).transpose()
    }
}

/// The running server that a command sends its requests to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Speaking to a running server")]
pub struct RemoteConfig {
    /// Where the server is [default: http:// and what CUBBY_ADMIN_LISTEN or CUBBY_LISTEN say]
    #[arg(long, env = "CUBBY_URL", value_name = "URL", global = true)]
    pub url: Option<String>,

    /// The operator's key that the server has
    #[arg(long, env = "ADMIN_API_KEY", value_name = "KEY", hide_env_values = true, global = true)]
    pub admin_api_key: Option<Secret>,

    /// Where the server listens
    #[arg(
        long,
        env = "CUBBY_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDR:PORT",
        hide = true,
        global = true
    )]
    pub listen: SocketAddr,

    /// Where the server listens to operators
    #[arg(long, env = "CUBBY_ADMIN_LISTEN", value_name = "ADDR:PORT", hide = true, global = true)]
    pub admin_listen: Option<SocketAddr>,
}

impl RemoteConfig {
    /// The address of the server.
    ///
    /// # Errors
    /// If the operator's key would be sent in the clear over a network.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let risk = "ADMIN_API_KEY could be read on its way. On the server's machine set CUBBY_ADMIN_LISTEN to \
                    127.0.0.1:8081, or from elsewhere open a tunnel (ssh -L 8081:127.0.0.1:8081 …) and use \
                    --url http://127.0.0.1:8081";
        if let Some(url) = &self.url {
            return Endpoint::parse_base("CUBBY_URL", url, risk);
        }
        let mut address = self.admin_listen.unwrap_or(self.listen);
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let setting = if self.admin_listen.is_some() { "CUBBY_ADMIN_LISTEN" } else { "CUBBY_LISTEN" };
        Endpoint::parse_base(setting, &format!("http://{address}"), risk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        remote: RemoteConfig,
    }

    #[test]
    fn a_command_asks_the_url_or_the_address_of_the_listener() {
        let base = |flags: &[&str]| {
            let command: Command = clap::Parser::try_parse_from([&["cubby"], flags].concat()).unwrap();
            command.remote.endpoint().map(|endpoint| endpoint.base().to_owned()).unwrap_or_default()
        };
        assert_eq!(base(&["--listen", "127.0.0.1:9000"]), "http://127.0.0.1:9000");
        assert_eq!(base(&["--listen", "0.0.0.0:9000"]), "http://127.0.0.1:9000");
        assert_eq!(base(&["--listen", "[::]:9000"]), "http://[::1]:9000");
        assert_eq!(base(&["--listen", "127.0.0.1:9000", "--admin-listen", "127.0.0.1:9001"]), "http://127.0.0.1:9001");
        assert_eq!(base(&["--listen", "127.0.0.1:9000", "--url", "https://x.example/"]), "https://x.example");
        assert_eq!(base(&["--listen", "10.0.0.1:9000"]), "", "not in the clear over the network");
        assert_eq!(base(&["--listen", "10.0.0.1:9000", "--admin-listen", "127.0.0.1:9001"]), "http://127.0.0.1:9001");
    }
}
