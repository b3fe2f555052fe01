//! `cubby check-config`: what the settings are, where they are from, and what is wrong with them.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    process::ExitCode,
};

use clap::{Arg, ArgMatches, Args, builder::Resettable, error::ErrorKind};
use serde::Serialize;
use serde_json::json;

use super::shared::{print_json, print_rows};
use crate::{
    clock::Clock,
    config::{
        DataConfig, LogConfig, ServeConfig, environment,
        told::{self, Setting},
        traces::Target,
    },
    error::{Error, Result},
    http::text::shown as printable,
    identity::{Identity, clerk::Clerk},
    sqlite::migrate::Schema,
    telemetry,
    webhooks::verify::{Hookdeck, Verifier},
};

pub const EXAMPLES: &str = "Examples:
  cubby check-config                           the settings of the environment and of .env
  cubby check-config --listen 0.0.0.0:8080     the same, with a flag that serve would have
  systemd-run --pipe -p EnvironmentFile=/etc/cubby.env cubby check-config

Nothing is opened and nothing is asked. Secrets are not shown.

Exit code: 0 if a server would start with the settings, 2 if one of them is
wrong.";

#[derive(Debug, Args)]
pub struct Command {
    /// As JSON
    #[arg(long)]
    json: bool,

    // Last, or the flag above would be below its headings in the help.
    #[command(flatten)]
    serve: ServeConfig,
}

/// The settings, if all could be read.
pub struct Settings<'a> {
    pub data: &'a DataConfig,
    pub log: &'a LogConfig,
    pub command: &'a Command,
}

const NAME: &str = "check-config";

/// Whether an error of the command line is one of a setting's value, and this command is to tell of it.
pub fn is_about(error: &clap::Error) -> bool {
    let is_value = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    is_value && std::env::args_os().nth(1).is_some_and(|word| word == NAME)
}

/// One setting, and what is wrong with it.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(flatten)]
    setting: Setting,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
}

/// Says each setting. `parsed` is the settings, or why they could not be read.
pub fn run(
    cubby: &clap::Command,
    from_file: &BTreeSet<String>,
    parsed: Result<Settings<'_>, &clap::Error>,
) -> Result<ExitCode> {
    let (settings, as_json) = read(cubby, from_file)?;
    let mut wrong: Vec<String> = settings.iter().filter_map(|setting| setting.wrong.clone()).collect();
    match parsed {
        Ok(settings) => wrong.extend(problems(&settings)),
        Err(error) if wrong.is_empty() => wrong.push(first_paragraph(error)),
        Err(_) => {}
    }
    let unknown = environment::unknown(&variables(cubby));
    let traces = Target::from_environment();
    if as_json {
        print_json(&json!({"settings": settings, "wrong": wrong, "unknown": unknown, "traces": exported(&traces)}))?;
    } else {
        let heading = format!("{:<28} {:<12} value", "setting", "from");
        let misspelt =
            unknown.iter().map(|name| format!("unknown: {} is no setting; is it misspelt?", printable(name)));
        let good = wrong.is_empty().then(|| "a server would start with these settings".to_owned());
        let traces = match (exported(&traces), &traces) {
            (Some(to), _) => Some(format!("traces: exported to {}", printable(&to))),
            (None, Ok(None)) => None,
            (None, _) if cfg!(feature = "otel") => None,
            (None, _) => {
                Some("traces: not exported, this program was built without them (cargo's feature otel)".to_owned())
            }
        };
        let found: Vec<String> =
            misspelt.chain(traces).chain(wrong.iter().map(|why| format!("wrong: {why}"))).chain(good).collect();
        print_rows(&settings, false, Some(heading), Some(found.join("\n")), |Checked { setting, .. }| {
            let Setting { variable, value, source, .. } = setting;
            format!("{variable:<28} {source:<12} {}", value.as_deref().unwrap_or("-"))
        })?;
    }
    Ok(ExitCode::from(if wrong.is_empty() { 0 } else { 2 }))
}

/// Where this program would export traces to.
fn exported(traces: &Result<Option<Target>>) -> Option<String> {
    let target = traces.as_ref().ok()?.as_ref()?;
    cfg!(feature = "otel").then(|| target.shown())
}

/// The settings that the server has, those of every command first.
fn arguments(cubby: &clap::Command) -> Vec<&Arg> {
    let below = cubby.find_subcommand(NAME).into_iter().flat_map(clap::Command::get_arguments);
    let all = cubby.get_arguments().filter(|arg| arg.is_global_set()).chain(below);
    let mut seen = BTreeSet::new();
    all.filter(|arg| arg.get_env().is_some() && seen.insert(arg.get_id().as_str().to_owned())).collect()
}

/// Reads all settings, also wrong ones, and whether JSON is asked for.
fn read(cubby: &clap::Command, from_file: &BTreeSet<String>) -> Result<(Vec<Checked>, bool)> {
    let unread = |arg: Arg| match arg.get_env() {
        Some(_) => arg.value_parser(clap::value_parser!(OsString)),
        None => arg,
    };
    let raw = cubby.clone().mut_args(unread).mut_subcommand(NAME, |command| command.mut_args(unread));
    let matches = raw.try_get_matches_from(std::env::args_os()).map_err(|e| Error::config(first_paragraph(&e)))?;
    let matches = matches.subcommand_matches(NAME).ok_or_else(|| Error::internal("another command's settings"))?;
    let settings = arguments(cubby).into_iter().filter_map(|arg| check(arg, matches, from_file)).collect();
    Ok((settings, matches.get_flag("json")))
}

fn check(arg: &Arg, matches: &ArgMatches, from_file: &BTreeSet<String>) -> Option<Checked> {
    let mut setting = told::setting(arg, matches, from_file)?;
    setting.value = setting.value.map(|value| printable(&value));
    let given = matches.get_one::<OsString>(arg.get_id().as_str()).filter(|_| setting.source != "default");
    let wrong = given.and_then(|value| why_wrong(arg, value));
    let wrong = wrong.map(|why| format!("{} (from {}): {why}", setting.variable, setting.source));
    Some(Checked { setting, wrong })
}

/// Why a value cannot be this setting's.
fn why_wrong(arg: &Arg, value: &OsStr) -> Option<String> {
    let mut flag = OsString::from(format!("--{}=", arg.get_long()?));
    flag.push(value);
    let alone = clap::Command::new("cubby").no_binary_name(true).disable_help_flag(true);
    let read = alone.arg(arg.clone().env(Resettable::Reset)).try_get_matches_from([flag]);
    read.err().map(|error| first_paragraph(&error))
}

/// An error of the command line without the advice below it.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    printable(lines.join(" ").trim_start_matches("error: "))
}

/// What is wrong with settings of which each can be read.
fn problems(Settings { data, log, command }: &Settings) -> Vec<String> {
    let serve = &command.serve;
    let is_no_folder = data.data.exists() && !data.data.is_dir();
    let folder = match is_no_folder {
        true => Err(Error::config(format!("CUBBY_DATA: {} is no folder", data.data.display()))),
        false => Ok(()),
    };
    let checks = [
        telemetry::log::start(log),
        folder,
        serve.validate(),
        // Nobody uses them otherwise.
        Target::from_environment().map(drop).or_else(|error| if cfg!(feature = "otel") { Err(error) } else { Ok(()) }),
        data.migrations.as_deref().map(Schema::from_folder).transpose().map(drop),
        Identity::new(&serve.door, &Clock::system()).map(drop),
        Clerk::new(&serve.sync.provider).map(drop),
        serve.webhooks.clerk_webhook_secret.as_ref().map(Verifier::new).transpose().map(drop),
        serve.webhooks.hookdeck_signing_secret.as_ref().map(Hookdeck::new).transpose().map(drop),
    ];
    let mut found: Vec<String> = checks.into_iter().filter_map(Result::err).map(|error| error.detail()).collect();
    let mut seen = BTreeSet::new();
    found.retain(|why| seen.insert(why.clone()));
    found
}

/// The variables of all commands.
fn variables(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}
