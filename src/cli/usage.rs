//! `cubby usage`.

use std::{
    io::{ErrorKind as Io, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use super::{
    export::part::{Part, folder_of, place_of},
    interrupt::interrupted,
    shared::Folder,
    target::{Answer, Target, segment, with_target},
};
use crate::{
    clock::day::Day,
    config::{DataConfig, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
    sqlite::flush,
    tenants::id::TenantId,
};

pub const EXAMPLES: &str = "Examples:
  cubby usage                                             this month, so far
  cubby usage --from 2026-10-01 --to 2026-10-31           days in UTC, the last one too
  cubby usage --from 2026-10-01 --to 2026-10-31 --out october.csv
  cubby usage --user user_2abc --format json

A row is one user on one day: the size of their database, the requests that
reached it, and the writes. A user who was not used on a day has no row of it.
Rows are kept for a year, and what was counted in the last minute may not be
among them yet.

While a server holds the data folder, this command asks it, with ADMIN_API_KEY.";

#[derive(Debug, Args)]
pub struct Command {
    /// The first day, such as 2026-11-01 [default: the first of the last day's month]
    #[arg(long, value_name = "DAY")]
    from: Option<Day>,

    /// The last day, which is shown, too [default: today]
    #[arg(long, value_name = "DAY")]
    to: Option<Day>,

    /// Only this user's
    #[arg(long, value_name = "ID")]
    user: Option<TenantId>,

    /// The form
    #[arg(long, default_value = "csv", value_name = "FORMAT")]
    format: Format,

    /// Write to this file, which is there when all of it is
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    // Last, or the flags above would be below its heading in the help.
    #[command(flatten)]
    remote: RemoteConfig,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Csv,
    Json,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    let remote = command.remote.clone();
    with_target(data, &remote, Folder::MustExist, |_| {}, async |target| execute(target, &command).await).await?;
    Ok(ExitCode::SUCCESS)
}

async fn execute(target: &Target, command: &Command) -> Result<()> {
    let format = match command.format {
        Format::Csv => "csv",
        Format::Json => "json",
    };
    let day = |name: &str, day: Option<Day>| day.map_or(String::new(), |day| format!("&{name}={day}"));
    let user = command.user.as_ref().map_or(String::new(), |id| format!("&user={}", segment(id.as_str())));
    let path = format!("/api/admin/usage?format={format}{}{}{user}", day("from", command.from), day("to", command.to));
    let out = command.out.as_deref().map(|out| place_of(out, true)).transpose()?;
    let answer = target.download(&path).await?;
    match &out {
        Some(out) => to_file(answer, out).await,
        None => to_standard_output(answer).await,
    }
}

async fn to_standard_output(mut answer: Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    while let Some(piece) = answer.piece().await? {
        match out.write_all(&piece).and_then(|()| out.flush()) {
            // `| head`.
            Err(error) if error.kind() == Io::BrokenPipe => return Ok(()),
            written => written.map_err(|e| Error::io("standard output", e))?,
        }
    }
    Ok(())
}

/// Writes to another name beside the file's, which it gets when it is whole and on the disk. One that was there is
/// replaced then.
async fn to_file(answer: Answer, out: &Path) -> Result<()> {
    let mut part = Part::beside(out)?;
    // Dropped when it is interrupted, which removes what has come.
    let filled = tokio::select! {
        filled = part.fill(answer) => filled,
        () = interrupted()? => {
            Err(Error::new(ErrorKind::Conflict, format!("interrupted; {} was not written", out.display())))
        }
    };
    filled?;
    part.flush()?;
    part.replace(out)?;
    flush::sync_folder(folder_of(out))
}
