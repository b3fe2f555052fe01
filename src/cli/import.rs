//! `cubby import`: a file in the place of a user's database.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use super::{
    shared::{Folder, print_json},
    target::{segment, with_target},
};
use crate::{
    admin::import::ImportReport,
    config::{DataConfig, ServeConfig, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

pub const EXAMPLES: &str = "Examples:
  cubby import user_2abc ada.db                                rows of a file for a user who has none
  cubby import user_2abc ada.db --replace                      instead of those that they have
  cubby import user_2abc ada.db --allow tags --allow by_tag    with a table and an index that the schema does not have

The user must exist: `cubby tenants create ID`. The file is one of `cubby export`, or any SQLite file with the schema's
tables; it must be closed, without a -wal beside it. It is read in a process of its own, with limits; its rows are put into a
fresh database of the newest schema, and that in the place of the user's. The one that is replaced is kept in
trash/replaced/ of the data folder until --retention ends, or another import for the same user.

Triggers, views, indexes and tables that the schema does not have are refused with their names, but for those that are
allowed. A trigger runs with the user's writes: look at it first.

While a server holds the data folder, this command asks it, with ADMIN_API_KEY.

Exit code: 0 if the rows are there, 1 if nothing was changed.";

/// In the folder nobody else waits.
const NO_HURRY: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Args)]
pub struct Command {
    /// Whose database
    #[arg(value_name = "ID")]
    id: TenantId,

    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Replace what the user has
    #[arg(long)]
    replace: bool,

    /// Take a table, view, index or trigger of this name although the schema does not have it
    #[arg(long, value_name = "NAME")]
    allow: Vec<String>,

    /// The result as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    remote: RemoteConfig,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    let Command { id, file, replace, allow, json, remote } = command;
    if let Some(name) = allow.iter().find(|name| name.contains(',')) {
        return Err(Error::config(format!(
            "--allow {name}: a name with a comma cannot be allowed; rename it in the file"
        )));
    }
    let mut log = file.clone().into_os_string();
    log.push("-wal");
    if std::fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
        let file = file.display();
        return Err(Error::config(format!(
            "{file} has a write-ahead log beside it: close whatever has it open, or empty that with `sqlite3 {file} \
             'PRAGMA wal_checkpoint(TRUNCATE)'`"
        )));
    }
    let set = |config: &mut ServeConfig| config.request_timeout = NO_HURRY;
    let path = format!(
        "/api/admin/tenants/{}/import?replace={replace}&allow={}",
        segment(id.as_str()),
        segment(&allow.join(","))
    );
    let report: ImportReport = with_target(data, &remote, Folder::MustExist, set, async |target| {
        target.upload(&path, &file).await.map_err(|error| match error.kind() {
            ErrorKind::UnknownTenant => {
                Error::new(ErrorKind::UnknownTenant, format!("{id} is unknown; `cubby tenants create {id}` makes them"))
            }
            _ => error,
        })
    })
    .await?;
    if json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{id}: {} rows imported", report.rows);
    if !report.made.is_empty() {
        println!("made, as allowed: {}", report.made.join(", "));
    }
    if let Some(replaced) = report.replaced {
        println!("what was replaced is {replaced}");
    }
    Ok(ExitCode::SUCCESS)
}
