//! The command line: one file a subcommand.

use std::{io, process::ExitCode};

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};

use crate::{
    config::{DataConfig, LogConfig, ServeConfig},
    error::{Error, ErrorKind, Result},
    telemetry,
};

mod deliveries;
mod doctor;
mod keys;
mod migrate;
mod serve;
mod shared;
mod sync;
mod target;
mod tenants;

/// A SQLite database for every user of your app
///
/// Without a command, cubby serves. Every setting is a flag and an environment variable; a file
/// named .env in the current folder is read too.
#[derive(Debug, Parser)]
#[command(name = "cubby", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: ServeConfig,

    #[command(flatten)]
    data: DataConfig,

    #[command(flatten)]
    log: LogConfig,
}

const EXAMPLES: &str = "Examples:
  cubby                                       serve on 127.0.0.1:8080, data in ./data
  cubby serve --listen 127.0.0.1:9000         serve on another port
  cubby tenants list --state suspended        who is suspended
  cubby migrate --all                         bring every file to the newest schema now";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (what cubby does without a command)
    #[command(after_help = serve::EXAMPLES)]
    Serve(Box<ServeConfig>),
    /// List, show, create, suspend, resume, delete and restore users' databases
    #[command(after_help = tenants::EXAMPLES)]
    Tenants(tenants::Tenants),
    /// Make, list and revoke API keys
    #[command(after_help = keys::EXAMPLES)]
    Keys(keys::Keys),
    /// Bring users' databases to the newest schema now, not when they are next opened
    #[command(after_help = migrate::EXAMPLES)]
    Migrate(migrate::Command),
    /// Make the catalog like Clerk's list of users
    #[command(after_help = sync::EXAMPLES)]
    Sync(sync::Command),
    /// List, show and replay webhook deliveries
    #[command(after_help = deliveries::EXAMPLES)]
    Deliveries(deliveries::Deliveries),
    /// Compare the catalog with the files, and repair what can be repaired
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Command),
}

/// Parses the command line and runs it. Errors go to standard error, with what to do about them.
pub fn main() -> ExitCode {
    // Every file that this process creates is its user's alone, also those that SQLite creates.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // A missing file is the usual case; one that cannot be read must not be ignored.
    if let Err(why) = read_env_file() {
        eprintln!("error: .env cannot be read: {why}");
        return ExitCode::from(2);
    }
    match run(parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.kind() == ErrorKind::Config { 2 } else { 1 })
        }
    }
}

/// Adds the current folder's `.env` to the environment. Those of the folders above are not read: one of
/// them could name the server that the operator's key is sent to.
fn read_env_file() -> Result<(), String> {
    let text = match std::fs::read(".env") {
        Ok(text) => text,
        // Some tools have a folder of this name.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    match dotenvy::from_read(text.as_slice()) {
        Ok(()) => Ok(()),
        // The error shows part of the line, and there may be a secret in it.
        Err(dotenvy::Error::LineParse(..)) => {
            let good = dotenvy::from_read_iter(text.as_slice()).map_while(std::result::Result::ok).last();
            let line = good.map_or("its first line".to_owned(), |(name, _)| format!("the line after {name}"));
            Err(format!("{line} is not NAME=value; a value with spaces needs quotes"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Parses the command line. A setting of the server before another command would be ignored, so it is
/// refused; settings of every command may be on either side.
fn parse() -> Cli {
    let mut command = Cli::command();
    let matches = command.get_matches_mut();
    if let Some(name) = matches.subcommand_name() {
        let server = ServeConfig::augment_args(clap::Command::new(""));
        let given = |arg: &&clap::Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        // The command may have a flag of the same name.
        let taken = |arg: &clap::Arg| {
            let takes = |sub: &clap::Command| sub.get_arguments().any(|other| other.get_id() == arg.get_id());
            command.find_subcommand(name).is_some_and(takes)
        };
        let misplaced = server.get_arguments().find(|arg| given(arg) && !taken(arg));
        if let Some(flag) = misplaced.and_then(clap::Arg::get_long) {
            let why = format!("--{flag} is a setting of the server: write `cubby serve --{flag} …`, not before {name}");
            command.error(clap::error::ErrorKind::ArgumentConflict, why).exit();
        }
    }
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn run(cli: Cli) -> Result<ExitCode> {
    telemetry::log::start(&cli.log)?;
    match cli.command.unwrap_or(Command::Serve(Box::new(cli.serve))) {
        Command::Serve(config) => serve::run(&cli.data, *config),
        Command::Tenants(tenants) => runtime()?.block_on(tenants::run(&cli.data, tenants)),
        Command::Keys(keys) => runtime()?.block_on(keys::run(&cli.data, keys)),
        Command::Migrate(command) => runtime()?.block_on(migrate::run(&cli.data, command)),
        Command::Sync(command) => runtime()?.block_on(sync::run(&cli.data, command)),
        Command::Deliveries(command) => runtime()?.block_on(deliveries::run(&cli.data, command)),
        Command::Doctor(command) => runtime()?.block_on(doctor::run(&cli.data, command)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Error::io("starting the runtime", e))
}
