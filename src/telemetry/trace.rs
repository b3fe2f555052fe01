//! Traces of requests, for the cargo feature `otel`. Without it each function here gives back what it was given, and nothing of
//! OpenTelemetry is linked.
//!
//! A request that is sampled has a span, which is the parent of those that are begun while it is worked on; of one that is
//! not, none is made. What is current goes the way of the request's id: by a task-local value, and with `carried` to another
//! thread. Spans are named by what is done, and never by a tenant or anything else that a caller chooses.

#[cfg(feature = "otel")]
mod export;
#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod on;

#[cfg(feature = "otel")]
pub use self::{
    export::{start, stop, target},
    on::{RequestSpan, Stages, carried, carried_async, during, of_tenant, request, root, within},
};
#[cfg(not(feature = "otel"))]
pub use off::{RequestSpan, Stages, carried, carried_async, during, of_tenant, request, root, target, within};
#[cfg(all(not(feature = "otel"), feature = "server"))]
pub use off::{start, stop};

/// What of a request its span tells.
pub struct Incoming<'a> {
    /// Its method.
    pub method: &'a str,
    /// The pattern of its route; none for a path that no route has.
    pub route: Option<&'a str>,
    /// Its id.
    pub id: &'a str,
    /// Whether it came to a trusted proxy by https.
    pub encrypted: bool,
    /// The header `Host`.
    pub host: Option<&'a str>,
    /// The header `traceparent`, if there is one.
    pub traceparent: Option<&'a str>,
    /// The header `tracestate`, if there is one.
    pub tracestate: Option<&'a str>,
}

/// The longest host name that there is.
const LONGEST_HOST: usize = 253;

impl<'a> Incoming<'a> {
    /// The host and the port that the client asked for; none if it is no name or address.
    pub fn server(&self) -> Option<(&'a str, Option<u16>)> {
        let host = self.host?;
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port.parse().ok()?)),
            _ => (host, None),
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        let good = (1..=LONGEST_HOST).contains(&name.len()) && name.bytes().all(legal);
        good.then_some((name, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_host_is_not_told() {
        let server = |host| {
            let (method, id) = ("GET", "1");
            let request = Incoming {
                method,
                route: None,
                id,
                encrypted: false,
                host: Some(host),
                traceparent: None,
                tracestate: None,
            };
            request.server()
        };
        assert_eq!(server("db.example:8080"), Some(("db.example", Some(8080))));
        assert_eq!(server("[::1]:80"), Some(("[::1]", Some(80))));
        assert_eq!(server("[::1]"), Some(("[::1]", None)));
        assert_eq!(server("localhost"), Some(("localhost", None)));
        let long = "a".repeat(254);
        for bad in ["", ":80", "a b", "host:x", "<script>", &long] {
            assert_eq!(server(bad), None, "{bad}");
        }
    }
}
