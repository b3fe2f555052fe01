//! Where traces go: OpenTelemetry's own variables, which other programs of an operator read, too.

use std::time::Duration;

use reqwest::Url;

use super::{endpoint::web_address, environment};
use crate::error::{Error, Result};

/// Where traces are sent by OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    timeout: Duration,
}

/// The protocol that is spoken.
const PROTOCOL: &str = "http/protobuf";

/// How long a request may take if nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Target {
    /// What the environment says; none if traces are sent nowhere.
    ///
    /// # Errors
    /// A variable has a value that would be passed over without a word.
    pub fn from_environment() -> Result<Option<Self>> {
        Self::read(&environment::opentelemetry)
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let set =
            |name: &'static str| variable(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value));
        let off = set("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
        match set("OTEL_TRACES_EXPORTER").as_ref().map(|(_, value)| value.as_str()) {
            _ if off => return Ok(None),
            Some("none") => return Ok(None),
            Some("otlp") | None => {}
            Some(other) => return Err(unusable("OTEL_TRACES_EXPORTER", other, "otlp or none")),
        }
        let (name, url) = match (set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), set("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some((name, whole)), _) => (name, whole),
            (None, Some((name, base))) => (name, format!("{}/v1/traces", base.trim_end_matches('/'))),
            (None, None) => return Ok(None),
        };
        let url = web_address(name, &url)?;
        if let Some((name, value)) =
            set("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| set("OTEL_EXPORTER_OTLP_PROTOCOL"))
            && value != PROTOCOL
        {
            return Err(unusable(name, &value, PROTOCOL));
        }
        if let Some((name, sampler)) = set("OTEL_TRACES_SAMPLER") {
            match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
                "always_on" | "always_off" => {}
                "traceidratio" => {
                    let name = "OTEL_TRACES_SAMPLER_ARG";
                    let ratio = set(name).map(|(_, value)| value);
                    let good =
                        ratio.as_ref().is_none_or(|text| text.parse().is_ok_and(|r: f64| (0.0..=1.0).contains(&r)));
                    if !good {
                        return Err(unusable(name, &ratio.unwrap_or_default(), "a number from 0 to 1"));
                    }
                }
                _ => {
                    let known = "always_on, always_off or traceidratio, or one of these after parentbased_";
                    return Err(unusable(name, &sampler, known));
                }
            }
        }
        let timeout = match set("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| set("OTEL_EXPORTER_OTLP_TIMEOUT")) {
            None => TIMEOUT,
            Some((name, value)) => {
                let read = value.trim().parse().map(Duration::from_millis);
                read.map_err(|_| unusable(name, &value, "a number of milliseconds"))?
            }
        };
        Ok(Some(Self { url, timeout }))
    }

    /// The whole URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The URL for operators to read, without its query, in which there may be a key.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.into()
    }
}

fn unusable(name: &str, value: &str, known: &str) -> Error {
    Error::config(format!("{name} is {value:?}, and can be {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<String>> {
        let of = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Target::read(&of).map(|target| target.map(|target| target.shown()))
    }

    #[test]
    fn traces_go_where_the_standard_variables_say() {
        let (all, own) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[(all, " ")]).unwrap(), None);
        assert_eq!(read(&[(all, "http://collector:4318/")]).unwrap().unwrap(), "http://collector:4318/v1/traces");
        let both = [(all, "http://a"), (own, "https://b.example/x?key=hunter2")];
        assert_eq!(read(&both).unwrap().unwrap(), "https://b.example/x");
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(read(&[(all, "http://a"), off]).unwrap(), None);
        }
    }

    #[test]
    fn what_would_be_passed_over_is_refused() {
        let to = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a");
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318"),
        ] {
            let error = read(&[to, (name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let sampled = |ratio| read(&[to, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)]);
        assert!(sampled("0.1").is_ok() && sampled("1.1").is_err() && sampled("few").is_err());
    }
}
