//! What the environment has, besides the settings that are read from it.

use std::collections::BTreeSet;

/// Whether there is a variable of this name.
#[expect(clippy::disallowed_methods, reason = "asks whether there is one, and reads no setting")]
pub fn has(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// The variables that begin as this program's own do and are none of `known`: a misspelt one is ignored without a word.
pub fn unknown(known: &BTreeSet<String>) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<_> = names.filter(|name| name.starts_with("CUBBY_") && !known.contains(name)).collect();
    unknown.sort();
    unknown
}

/// A variable that OpenTelemetry has named. Those of the exporter's details and of what is sampled are read by its SDK.
#[expect(clippy::disallowed_methods, reason = "the variables of OpenTelemetry are settings, and this is in config")]
pub fn opentelemetry(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
