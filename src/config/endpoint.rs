//! URLs that Cubby sends requests to: which are accepted, and the HTTP client for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{Client, ClientBuilder, Url, redirect};

use crate::error::{Error, Result};

/// A URL with https, or with plain http to this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Parses the value of `setting`. `risk` completes "use https, or …".
    ///
    /// # Errors
    /// Names the setting, and does not show a password in the URL.
    pub fn parse(setting: &str, text: &str, risk: &str) -> Result<Self> {
        let url = web_address(setting, text)?;
        let this = Self(url);
        if this.is_plain() && !this.is_this_machine() {
            return Err(Error::config(format!(
                "{setting} {text:?} is plain http to what is not this machine: use https, or {risk}. Only 127.0.0.1, \
                 [::1] and localhost may be asked over plain http"
            )));
        }
        Ok(this)
    }

    /// The same for a base URL, which has no query.
    pub fn parse_base(setting: &str, text: &str, risk: &str) -> Result<Self> {
        let this = Self::parse(setting, text, risk)?;
        match this.0.query().is_none() && this.0.fragment().is_none() {
            true => Ok(this),
            false => Err(Error::config(format!("{setting} {text:?}: leave out what begins with ? or #"))),
        }
    }

    /// The whole URL.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The URL without a slash at its end.
    pub fn base(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// A client for this URL. It follows no redirects, since a request may carry a secret, and uses no proxy for plain
    /// http and for this machine.
    pub fn client(&self) -> ClientBuilder {
        let mut client = Client::builder().redirect(redirect::Policy::none()).https_only(!self.is_plain());
        if self.is_plain() || self.is_this_machine() {
            client = client.no_proxy();
        }
        // Without asking a name server. Port 0 stands for the URL's own.
        let here = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        client.resolve_to_addrs("localhost", &here.map(|ip| SocketAddr::new(ip, 0)))
    }

    fn is_plain(&self) -> bool {
        self.0.scheme() != "https"
    }

    fn is_this_machine(&self) -> bool {
        self.0.host_str().is_some_and(is_this_machine)
    }
}

/// Whether the host of a URL is this machine: a loopback address or `localhost`.
pub fn is_this_machine(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// Parses an http or https URL without credentials.
///
/// # Errors
/// Names the setting, and does not show a password in the URL.
pub fn web_address(setting: &str, text: &str) -> Result<Url> {
    let url = Url::parse(text);
    let shown = match &url {
        Ok(url) if url.username().is_empty() && url.password().is_none() => format!("{text:?}"),
        // An invalid URL may contain a password, too.
        Err(_) if !text.contains('@') => format!("{text:?}"),
        Ok(_) => {
            return Err(Error::config(format!(
                "{setting} has a name or a password before its @: leave them out, and write it as https://host or \
                 https://host/path"
            )));
        }
        Err(_) => "is no address".to_owned(),
    };
    match url {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err(Error::config(format!("{setting} {shown}: write it as https://host or https://host/path"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Endpoint> {
        Endpoint::parse("CUBBY_X", text, "it could be read")
    }

    #[test]
    fn only_https_and_this_machine_are_asked() {
        for good in [
            "https://issuer.example/jwks?x=1",
            "HTTPS://issuer.example",
            "http://127.0.0.1:9/jwks",
            "http://127.9.9.9/",
            "http://127.1/",
            "http://localhost/jwks",
            "http://LocalHost:80",
            "http://[::1]:9",
            "http://[::ffff:127.0.0.1]/",
            "http://127.0.0.1\\@evil.example/",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        assert_eq!(parse("http://127.0.0.1\\@evil.example/").unwrap().url().host_str(), Some("127.0.0.1"));
        for bad in [
            "http://issuer.example/jwks",
            "http://localhost.evil.example/",
            "http://localhost./",
            "http://127.0.0.1.evil.example/",
            "http://127.0.0.1@evil.example/",
            "http://localhost:80@evil.example/",
            "https://127.0.0.1@evil.example/",
            "http://127.0.0.256/",
            "http://0.0.0.0/",
            "http://[::2]/",
            "http://10.0.0.1/",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "jwks",
            "localhost:8080",
            "//localhost",
            "https://",
            "",
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("CUBBY_X") && error.contains("https"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        for text in ["https://a:hunter2@x.example", "http://hunter2@x.example", "https://a:hunter2@x:y", "hunter2@x"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("CUBBY_X") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_base_url_has_no_query() {
        let base = |text| Endpoint::parse_base("CUBBY_X", text, "…").map(|endpoint| endpoint.base().to_owned());
        assert_eq!(base("https://x.example/v1/").unwrap(), "https://x.example/v1");
        assert_eq!(base("https://X.example").unwrap(), "https://x.example");
        assert!(base("https://x.example/?a=b").is_err() && base("https://x.example/#a").is_err());
    }
}
