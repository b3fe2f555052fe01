//! `cubby import`: a file in the place of a user's database.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde_json::Value;

use super::{
    shared::{Folder, print_rows},
    target::{segment, with_target},
};
use crate::{
    admin::import::ImportReport,
    config::{DataConfig, ServeConfig, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

pub const EXAMPLES: &str = "Examples:
  cubby import user_2abc ada.db
      rows of a file for a user who has none
  cubby import user_2abc ada.db --replace
      instead of those that they have
  cubby import user_2abc ada.db --allow tags --allow by_tag
      with a table and an index that the schema does not have

The user must exist: `cubby tenants create ID`. The file is one of `cubby
export`, or any SQLite file with the schema's tables. It must be closed, without
a -wal or -journal beside it, and not in WAL mode. This brings all into it:
  sqlite3 FILE 'PRAGMA journal_mode=DELETE'

It is read in a process of its own, with limits; its rows are put into a fresh
database of the newest schema, and that in the place of the user's. The one that
is replaced is kept in trash/replaced/ of the data folder until --retention
ends; of more than eight for one user, the oldest and the newest seven. No
trigger of the schema runs meanwhile.

Triggers, views, indexes and tables that the schema does not have are refused
with their names, but for those that are allowed. A trigger runs with the user's
writes: look at it first.

While a server holds the data folder, this command asks it, with ADMIN_API_KEY.

Exit code: 0 if the rows are there; 1, or 2 for a setting or a file that cannot
be read, if nothing was changed, or if the error says that the rows are there
all the same, or that what came of the import is unknown.";

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
    refuse_unfinished(&file)?;
    let set = |config: &mut ServeConfig| config.export.transfer_timeout = NO_HURRY;
    let user = format!("/api/admin/tenants/{}", segment(id.as_str()));
    let path = format!("{user}/import?replace={replace}&allow={}", segment(&allow.join(",")));
    let named = |error: Error| match error.kind() {
        ErrorKind::UnknownTenant => {
            let why = format!("\"{id}\" is unknown; `cubby tenants create {id}` makes them");
            Error::new(ErrorKind::UnknownTenant, why)
        }
        _ => error,
    };
    let report: ImportReport = with_target(data, &remote, Folder::MustExist, set, async |target| {
        // A server that answers this is there: what fails later may have failed after the import.
        target.get::<Value>(&user).await.map_err(named)?;
        target.upload(&path, &file).await.map_err(|error| match error.kind() {
            ErrorKind::Unavailable => in_doubt(&id, &error),
            _ => named(error),
        })
    })
    .await?;
    tell(&id, &report, json).map_err(|error| {
        let why = format!("{id} has the rows of the file, but that cannot be printed: {error}");
        Error::new(error.kind(), why)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The error of an import that may be done.
fn in_doubt(id: &TenantId, error: &Error) -> Error {
    let why = format!(
        "{error}. What came of the import is unknown: either all of it is done or nothing is changed. Look at `cubby \
         tenants show {id}` and at the audit trail, /api/admin/audit?target={}. If it is done, what was there before is in \
         trash/replaced/ of the data folder, and stays there if you run this again",
        segment(id.as_str())
    );
    Error::new(ErrorKind::Unavailable, why)
}

/// Prints what came of it.
fn tell(id: &TenantId, report: &ImportReport, json: bool) -> Result<()> {
    let lines = if json {
        vec![serde_json::to_string_pretty(report).map_err(|e| Error::internal("JSON").with_source(e))?]
    } else {
        let made = (!report.made.is_empty()).then(|| format!("made, as allowed: {}", report.made.join(", ")));
        let replaced = report.replaced.as_ref().map(|replaced| format!("what was replaced is {replaced}"));
        [Some(format!("{id}: {} rows imported", report.rows)), made, replaced].into_iter().flatten().collect()
    };
    print_rows(&lines, false, None, None, String::clone).map(drop)
}

/// Refuses a file whose newest commits, or the undoing of unfinished ones, are in a file beside it.
fn refuse_unfinished(file: &Path) -> Result<()> {
    // SQLite's own are beside the file itself, and not beside a link to it.
    let real = file.canonicalize().map_err(|e| Error::config(format!("{} cannot be read: {e}", file.display())))?;
    for (suffix, what) in [("-wal", "a write-ahead log"), ("-journal", "a journal of a transaction that was cut short")]
    {
        let mut beside = real.clone().into_os_string();
        beside.push(suffix);
        if std::fs::metadata(&beside).is_ok_and(|found| found.len() > 0) {
            let (file, beside) = (real.display(), Path::new(&beside).display());
            return Err(Error::config(format!(
                "{beside} is {what}, without which the file is not whole: close whatever has it open, and run `sqlite3 \
                 {file} 'PRAGMA journal_mode=DELETE'`"
            )));
        }
    }
    Ok(())
}
