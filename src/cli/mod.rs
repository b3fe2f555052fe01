//! The command line: one file a subcommand.

use std::{collections::BTreeSet, io, process::ExitCode};

use clap::{
    Args as _, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable, error::ErrorKind as Wrong,
    parser::ValueSource,
};

use crate::{
    config::{DataConfig, LogConfig, ServeConfig, environment, told},
    error::{Error, ErrorKind, Result},
    telemetry,
};

#[cfg(feature = "replicate")]
mod backup;
mod check_config;
mod completions;
mod deliveries;
mod doctor;
mod export;
mod import;
mod import_file;
mod interrupt;
mod keys;
mod log;
mod man;
mod migrate;
#[cfg(feature = "replicate")]
mod replica;
#[cfg(feature = "replicate")]
mod restore;
mod serve;
mod shared;
mod sql;
mod sync;
mod target;
mod tenants;
mod upload;
mod usage;
mod watch;

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
  cubby sql user_2abc 'SELECT * FROM notes'   ask one user's database
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
    /// Run SQL on a user's database, or ask it at a prompt
    #[command(after_help = sql::EXAMPLES)]
    Sql(sql::Command),
    /// Write users' databases to files, while the server serves
    #[command(after_help = export::EXAMPLES)]
    Export(export::Command),
    /// Put a file in the place of a user's database
    #[command(after_help = import::EXAMPLES)]
    Import(import::Command),
    /// Read a file that somebody else made; for a server's own use
    #[command(hide = true)]
    ImportFile,
    /// Bring users' databases to the newest schema now, not when they are next opened
    #[command(after_help = migrate::EXAMPLES)]
    Migrate(migrate::Command),
    /// Copy everybody's database, and the catalog, to another place
    #[cfg(feature = "replicate")]
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::Command),
    /// Say how the copies in the bucket are doing, and whether they are whole
    #[cfg(feature = "replicate")]
    #[command(after_help = replica::EXAMPLES)]
    Replica(replica::Replica),
    /// Make a data folder of the copies in a bucket, or of a backup
    #[cfg(feature = "replicate")]
    #[command(after_help = restore::EXAMPLES)]
    Restore(restore::Command),
    /// Make the catalog like Clerk's list of users
    #[command(after_help = sync::EXAMPLES)]
    Sync(sync::Command),
    /// List, show and replay webhook deliveries
    #[command(after_help = deliveries::EXAMPLES)]
    Deliveries(deliveries::Deliveries),
    /// Show what users used by day, as CSV or JSON
    #[command(after_help = usage::EXAMPLES)]
    Usage(usage::Command),
    /// Compare the catalog with the files, and repair what can be repaired
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Command),
    /// Show what the log of the data folder has
    #[command(after_help = log::EXAMPLES)]
    Log(log::Command),
    /// Say each setting of the server, where it is from, and what is wrong with it
    #[command(after_help = check_config::EXAMPLES)]
    CheckConfig(Box<check_config::Command>),
    /// Print the completions of the command line for a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::Command),
    /// Write the manual, a page for each command
    #[command(after_help = man::EXAMPLES)]
    Man(man::Command),
}

/// Parses the command line and runs it. Errors go to standard error, with what to do about them.
pub fn main() -> ExitCode {
    // Every file that this process creates is its user's alone, also those that SQLite creates.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // A missing file is the usual case; one that cannot be read must not be ignored.
    let from_file = match read_env_file() {
        Ok(names) => names,
        Err(why) => {
            eprintln!("error: .env cannot be read: {why}");
            return ExitCode::from(2);
        }
    };
    let cli = match parse(&from_file) {
        Ok(cli) => cli,
        // One wrong setting ends every other command; this one says all that are.
        Err(error) if check_config::is_about(&error) => {
            return exit(check_config::run(&Cli::command(), &from_file, Err(&error)));
        }
        Err(error) => error.exit(),
    };
    exit(run(cli, &from_file))
}

fn exit(done: Result<ExitCode>) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            // Whoever finds the folder in use has to change how the command is called, as with a wrong setting.
            ExitCode::from(if matches!(error.kind(), ErrorKind::Config | ErrorKind::FolderLocked) { 2 } else { 1 })
        }
    }
}

/// The variables that `.env` has and the environment had not.
type FromFile = BTreeSet<String>;

/// Adds the current folder's `.env` to the environment. Those of the folders above are not read: one of
/// them could name the server that the operator's key is sent to.
fn read_env_file() -> Result<FromFile, String> {
    let text = match std::fs::read(".env") {
        Ok(text) => text,
        // Some tools have a folder of this name.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
            return Ok(FromFile::new());
        }
        Err(error) => return Err(error.to_string()),
    };
    let names = dotenvy::from_read_iter(text.as_slice()).map_while(std::result::Result::ok).map(|(name, _)| name);
    let from_file = names.filter(|name| !environment::has(name)).collect();
    match dotenvy::from_read(text.as_slice()) {
        Ok(()) => Ok(from_file),
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
fn parse(from_file: &FromFile) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(std::env::args_os()).map_err(of_the_line)?;
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
            return Err(command.error(Wrong::ArgumentConflict, why));
        }
    }
    let mut cli = Cli::from_arg_matches(&matches)?;
    let settings = clap::Command::new("cubby");
    let settings = ServeConfig::augment_args(DataConfig::augment_args(LogConfig::augment_args(settings)));
    match (&mut cli.command, matches.subcommand()) {
        (Some(Command::Serve(config)), Some((_, matches))) => {
            config.told = told::settings(&settings, matches, from_file);
        }
        (None, _) => cli.serve.told = told::settings(&settings, &matches, from_file),
        _ => {}
    }
    Ok(cli)
}

/// The same error with a usage line that has only what the command line has. clap adds what variables set, such as
/// `--admin-api-key`, as if it were required.
fn of_the_line(error: clap::Error) -> clap::Error {
    fn unread(command: clap::Command) -> clap::Command {
        command.mut_args(|arg| arg.env(Resettable::Reset)).mut_subcommands(unread)
    }
    let help = [Wrong::DisplayHelp, Wrong::DisplayVersion, Wrong::DisplayHelpOnMissingArgumentOrSubcommand];
    if help.contains(&error.kind()) {
        return error;
    }
    let again = unread(Cli::command()).try_get_matches_from(std::env::args_os()).err();
    again.filter(|again| again.kind() == error.kind()).unwrap_or(error)
}

fn run(cli: Cli, from_file: &FromFile) -> Result<ExitCode> {
    // It says what is wrong with the log's settings itself.
    if let Some(Command::CheckConfig(command)) = &cli.command {
        let settings = check_config::Settings { data: &cli.data, log: &cli.log, command };
        return check_config::run(&Cli::command(), from_file, Ok(settings));
    }
    telemetry::log::start(&cli.log)?;
    match cli.command.unwrap_or(Command::Serve(Box::new(cli.serve))) {
        Command::Serve(config) => serve::run(&cli.data, *config),
        Command::Tenants(tenants) => runtime()?.block_on(tenants::run(&cli.data, tenants)),
        Command::Keys(keys) => runtime()?.block_on(keys::run(&cli.data, keys)),
        Command::Sql(command) => runtime()?.block_on(sql::run(&cli.data, command)),
        Command::Export(command) => runtime()?.block_on(export::run(&cli.data, command)),
        Command::Import(command) => runtime()?.block_on(import::run(&cli.data, command)),
        Command::ImportFile => import_file::run(),
        Command::Migrate(command) => runtime()?.block_on(migrate::run(&cli.data, command)),
        #[cfg(feature = "replicate")]
        Command::Replica(replica) => runtime()?.block_on(replica::run(&cli.data, replica)),
        #[cfg(feature = "replicate")]
        Command::Backup(command) => runtime()?.block_on(backup::run(&cli.data, command)),
        #[cfg(feature = "replicate")]
        Command::Restore(command) => runtime()?.block_on(restore::run(&cli.data, command)),
        Command::Sync(command) => runtime()?.block_on(sync::run(&cli.data, command)),
        Command::Deliveries(command) => runtime()?.block_on(deliveries::run(&cli.data, command)),
        Command::Usage(command) => runtime()?.block_on(usage::run(&cli.data, command)),
        Command::Log(command) => log::run(&cli.data, command),
        Command::Completions(command) => completions::run(&mut Cli::command(), &command),
        Command::Man(command) => man::run(Cli::command(), &command),
        // Before the log is started.
        Command::CheckConfig(_) => Ok(ExitCode::SUCCESS),
        Command::Doctor(command) => runtime()?.block_on(doctor::run(&cli.data, command)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Error::io("starting the runtime", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command and those below it.
    fn with_all_below(command: clap::Command) -> Vec<clap::Command> {
        let below: Vec<_> = command.get_subcommands().cloned().flat_map(with_all_below).collect();
        std::iter::once(command).chain(below).collect()
    }

    #[test]
    fn a_commands_own_flags_are_not_below_the_heading_of_settings() {
        for command in with_all_below(Cli::command()) {
            // Whatever has a variable is a setting.
            let own = command.get_arguments().filter(|arg| arg.get_env().is_none());
            let misplaced: Vec<_> = own.filter(|arg| arg.get_help_heading().is_some()).map(clap::Arg::get_id).collect();
            assert!(misplaced.is_empty(), "{}: {misplaced:?}", command.get_name());
        }
    }

    #[test]
    fn everything_on_the_command_line_is_explained() {
        for command in with_all_below(Cli::command()) {
            let silent = command.get_arguments().filter(|arg| arg.get_help().is_none());
            let silent: Vec<_> = silent.map(clap::Arg::get_id).collect();
            assert!(silent.is_empty(), "{}: {silent:?}", command.get_name());
        }
    }

    #[test]
    fn the_text_below_help_has_lines_that_clap_does_not_wrap_again() {
        // So wide is help where clap does not ask the terminal.
        const WIDTH: usize = 100;
        for command in with_all_below(Cli::command()) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > WIDTH).collect();
            assert!(long.is_empty(), "{}: {long:#?}", command.get_name());
        }
    }
}
