//! What is limited and to how much: the settings with their defaults.
//!
//! On loopback nothing is limited that is not set, unless a proxy stands in front: then the callers are
//! elsewhere.

use std::{net::SocketAddr, time::Duration};

use crate::{
    config::{
        ServeConfig, Size,
        limits::{Network, Rate},
    },
    error::Result,
};

const PER_TENANT: Rate = Rate::Of { count: 100, per: Duration::from_secs(1), burst: 400 };
const PER_ADDRESS: Rate = Rate::Of { count: 200, per: Duration::from_secs(1), burst: 800 };
const CREATIONS: Rate = Rate::Of { count: 600, per: Duration::from_secs(60), burst: 600 };
const KEY_FAILURES: Rate = Rate::Of { count: 30, per: Duration::from_secs(60), burst: 30 };
const CONNECTIONS: u32 = 256;
const ADDRESS_IN_FLIGHT: u32 = 512;
const ADDRESS_BYTES: Size = Size(64 << 20);

/// The settings whose defaults depend on others.
pub struct Settings {
    /// Requests of one user.
    pub tenant_rate: Rate,
    /// Requests from one address.
    pub address_rate: Rate,
    /// Requests from one address to the operators' listener without the key.
    pub operators_address_rate: Rate,
    /// Users created by requests.
    pub creation_rate: Rate,
    /// Wrong operators' keys from one address.
    pub key_failures: Rate,
    /// Requests in flight of one address.
    pub address_in_flight: Option<u32>,
    /// Bytes in flight of one address.
    pub address_bytes: Option<Size>,
    /// Connections of one address.
    pub address_connections: Option<u32>,
    /// Whether one address may have only a share of the connections to the operators' listener.
    pub shares_operators: bool,
    /// Trusted proxies.
    pub proxies: Vec<Network>,
}

impl Settings {
    /// Of a server.
    pub fn of(config: &ServeConfig) -> Result<Self> {
        let limits = &config.limits;
        let proxies = limits.proxies()?;
        let is_exposed = |listen: SocketAddr| !listen.ip().is_loopback();
        let exposed = is_exposed(config.listen);
        let limited = exposed || !proxies.is_empty();
        // An exposed operators' listener does not expose the users' one.
        let operators_exposed = limits.admin_listen.is_some_and(is_exposed);
        let of = |set: Option<Rate>, limited: bool, default: Rate| match limited {
            true => set.unwrap_or(default),
            false => set.unwrap_or(Rate::Off),
        };
        Ok(Self {
            tenant_rate: of(limits.tenant_rate, limited, PER_TENANT),
            address_rate: of(limits.address_rate, limited, PER_ADDRESS),
            operators_address_rate: of(limits.address_rate, operators_exposed, PER_ADDRESS),
            creation_rate: of(limits.creation_rate, limited, CREATIONS),
            key_failures: of(limits.key_failures, limited || operators_exposed, KEY_FAILURES),
            address_in_flight: limits.address_in_flight.or(limited.then_some(ADDRESS_IN_FLIGHT)),
            address_bytes: limits.address_bytes_in_flight.or(limited.then_some(ADDRESS_BYTES)),
            address_connections: limits.address_connections.or(exposed.then_some(CONNECTIONS)),
            shares_operators: limits.address_connections.is_some() || exposed || operators_exposed,
            proxies,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_that_help_tells() {
        use clap::Args;
        let command = crate::config::limits::LimitsConfig::augment_args(clap::Command::new("cubby"));
        let told = |name: &str| {
            let setting = command.get_arguments().find(|argument| argument.get_id() == name).unwrap();
            let help = setting.get_help().unwrap().to_string();
            help.split_once("[default: ").unwrap().1.split(';').next().unwrap().to_owned()
        };
        for (name, default) in [
            ("tenant_rate", PER_TENANT),
            ("address_rate", PER_ADDRESS),
            ("creation_rate", CREATIONS),
            ("key_failures", KEY_FAILURES),
        ] {
            assert_eq!(told(name).parse(), Ok(default), "{name}");
        }
        assert_eq!(told("address_connections").parse(), Ok(CONNECTIONS));
        assert_eq!(told("address_in_flight").parse(), Ok(ADDRESS_IN_FLIGHT));
        assert_eq!(told("address_bytes_in_flight").parse(), Ok(ADDRESS_BYTES));
    }
}
