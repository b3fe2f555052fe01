//! What is set and from where, for operators to read. Secrets are only said to be set.

use std::collections::BTreeSet;

use clap::{ArgMatches, Command, parser::ValueSource};
use serde::{Deserialize, Serialize};

/// A setting of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Setting {
    /// Its environment variable.
    pub variable: String,
    /// Its flag.
    pub flag: String,
    /// Its value; none if it has none.
    pub value: Option<String>,
    /// Where the value is from: `default`, `flag`, `environment`, `.env` or `not set`.
    pub source: String,
    /// Whether the value is a secret, which is not shown.
    pub secret: bool,
    /// What it is.
    pub help: String,
}

/// The settings of a command as the command line and the environment gave them; `from_file` are the variables that are
/// from `.env`.
pub fn settings(command: &Command, matches: &ArgMatches, from_file: &BTreeSet<String>) -> Vec<Setting> {
    let mut all: Vec<Setting> = command.get_arguments().filter_map(|arg| setting(arg, matches, from_file)).collect();
    all.sort_by(|one, other| one.variable.cmp(&other.variable));
    all
}

/// One of them; none if the argument is no setting, which has a variable and a flag.
pub fn setting(arg: &clap::Arg, matches: &ArgMatches, from_file: &BTreeSet<String>) -> Option<Setting> {
    let (variable, flag) = (arg.get_env()?.to_str()?.to_owned(), format!("--{}", arg.get_long()?));
    let name = arg.get_id().as_str();
    let given = matches.try_get_raw(name).ok().flatten();
    let given = given.map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(" "));
    let secret = arg.is_hide_env_values_set();
    let value = given.filter(|text| !text.is_empty()).map(|text| if secret { "set".to_owned() } else { text });
    let source = match matches.value_source(name) {
        None => "not set",
        Some(ValueSource::CommandLine) => "flag",
        Some(ValueSource::EnvVariable) if from_file.contains(&variable) => ".env",
        Some(ValueSource::EnvVariable) => "environment",
        Some(_) => "default",
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    Some(Setting { variable, flag, value, source: source.to_owned(), secret, help })
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;
    use crate::config::ServeConfig;

    #[test]
    fn a_secret_is_said_to_be_set_and_not_shown() {
        let command = ServeConfig::augment_args(Command::new("cubby"));
        let flags = ["cubby", "--admin-api-key", "correct horse battery", "--idle", "7m"];
        let all = settings(&command, &command.clone().get_matches_from(flags), &BTreeSet::new());
        let of = |variable: &str| all.iter().find(|setting| setting.variable == variable).unwrap();
        let key = of("ADMIN_API_KEY");
        assert_eq!((key.value.as_deref(), key.secret, key.source.as_str()), (Some("set"), true, "flag"));
        assert_eq!(of("CUBBY_IDLE").value.as_deref(), Some("7m"));
        assert_eq!(of("CUBBY_CACHE").source, "default");
        assert!(!format!("{all:?}").contains("horse"));
    }
}
