//! `cubby export`: users' databases as files.
//!
//! | module | has |
//! |---|---|
//! | `all` | everybody, in a folder, which an interrupted run is gone on with |
//! | `request` | what is asked for |
//! | `part` | a file that gets its name when all of it is there |

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde::Serialize;

use self::{
    part::place_of,
    request::{What, save},
};
use super::{
    interrupt::interrupted,
    shared::{Folder, print_json, print_rows},
    target::{Target, with_target},
};
use crate::{
    config::{DataConfig, ServeConfig, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
    sqlite::flush,
    tenants::id::TenantId,
};

mod all;
pub(super) mod part;
mod request;

pub const EXAMPLES: &str = "Examples:
  cubby export user_2abc --to ada.db
      the whole database, as a SQLite file
  cubby export user_2abc --to ada.sql --format sql
      the same as statements
  cubby export user_2abc --to notes.csv --format csv --table notes
      one table
  cubby export --all --to exports/monday
      everybody; run again after an interruption, it goes on

Each file is its user's database at one moment, while the server serves. It gets
its name when all of it has come and its SHA-256 is what the server said. With
--all, cubby-export.ndjson in the folder lists the files that are whole.

Everybody is who is active or suspended; a suspended or deleted user can be
exported by ID until nothing is left of them.

While a server holds the data folder, this command asks it, with ADMIN_API_KEY.

Exit code: 0 if all is there, 1 if not.";

/// In the folder nobody else waits for a copy.
const NO_HURRY: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("who").required(true)))]
pub struct Command {
    /// Whose database
    #[arg(value_name = "ID", group = "who")]
    id: Option<TenantId>,

    /// All that are active or suspended, a file each, in a folder
    #[arg(long, group = "who")]
    all: bool,

    /// The file, or with --all the folder, to write to
    #[arg(long, value_name = "PATH")]
    to: PathBuf,

    #[command(flatten)]
    what: What,

    /// Replace the file if it is there
    #[arg(long, conflicts_with = "all")]
    replace: bool,

    /// Files at once, with --all
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=8))]
    jobs: u16,

    /// The result as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    remote: RemoteConfig,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    let set = |config: &mut ServeConfig| config.export.transfer_timeout = NO_HURRY;
    with_target(data, &command.remote, Folder::MustExist, set, async |target| match &command.id {
        Some(id) => one(target, id, &command).await,
        None => all::run(target, &command.what, &command.to, usize::from(command.jobs), command.json).await,
    })
    .await
}

/// What was written for one user.
#[derive(Serialize)]
struct Exported<'e> {
    id: &'e TenantId,
    file: &'e Path,
    bytes: u64,
    sha256: &'e str,
}

async fn one(target: &Target, id: &TenantId, command: &Command) -> Result<ExitCode> {
    let to = &place_of(&command.to, command.replace)?;
    // Dropped when it is interrupted, which removes what has come.
    let saved = tokio::select! {
        saved = save(target, id, &command.what, to) => saved?,
        () = interrupted()? => {
            return Err(Error::new(ErrorKind::Conflict, format!("interrupted; {} was not written", to.display())));
        }
    };
    let sha256 = hex::encode(saved.sha256);
    let bytes = saved.bytes;
    saved.part.flush()?;
    if command.replace {
        saved.part.replace(to)?;
    } else {
        saved.part.name(to)?;
    }
    flush::sync_folder(part::folder_of(to))?;
    match command.json {
        true => print_json(&Exported { id, file: &command.to, bytes, sha256: &sha256 })?,
        false => {
            let told = format!("{id}: {bytes} bytes in {}, SHA-256 {sha256}", command.to.display());
            print_rows(&[told], false, None, None, String::clone)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
