//! `cubby backup`: everybody's database, and the catalog, at another place.
//!
//! | module | has |
//! |---|---|
//! | `live` | one that is being made: started, watched, stopped |
//! | `look` | those that were made: listed, verified |
//! | `restore` | one that is brought back |

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{
    shared::Folder,
    target::{Target, with_target},
};
use crate::{
    config::{DataConfig, ServeConfig, backup::BackupConfig, door::RemoteConfig, replicate::Keep},
    error::{Error, Result},
};

mod live;
mod look;
pub(super) mod restore;

pub const EXAMPLES: &str = "Examples:
  cubby backup --to /mnt/disk/backups
      everybody, while the server serves; run again after an interruption, it
      goes on
  cubby backup --to s3://bucket/backups --keep 7d,4w
      the same to a bucket; then older ones are removed, but for the newest of
      each of seven days and of four weeks
  cubby backup status                         how far the one is that is being made
  cubby backup stop                           stop it
  cubby backup list --from /mnt/disk/backups
  cubby backup verify --from /mnt/disk/backups --sample 1%
      whether all copies are there, and whether some of them, and the catalog,
      can be brought back
  cubby restore --from /mnt/disk/backups --data new
      bring the newest one back

Of a database that nobody has written to since the backup before nothing is read
or written. A backup is whole when its list is there, which is written last.

While a server holds the data folder, it makes the backup, with ADMIN_API_KEY,
and --to names a folder of its machine. Ctrl-C ends the watching only. The other
commands read the place themselves. Credentials of buckets are in the variables
of their services, such as AWS_ACCESS_KEY_ID.

Exit code: 0 if all is there, 1 if something is missing or damaged, or the
backup is not whole.";

#[derive(Debug, Args)]
pub struct Command {
    /// Where the backup goes [default: where the server's go]
    #[arg(long, value_name = "DIR|URL")]
    to: Option<String>,

    /// Which backups are kept there, when this one is whole: the newest of each of so many days, and of so many weeks
    /// [default: all; where the server's go, as the server keeps them]
    #[arg(long, value_name = "LIST")]
    keep: Option<Keep>,

    /// The result as JSON
    #[arg(long)]
    json: bool,

    // Last, or the flags above would be below its heading in the help.
    #[command(flatten)]
    key: BackupConfig,

    #[command(flatten)]
    remote: RemoteConfig,

    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say how far the backup is that is being made, and what came of the last ones
    Status(Json),
    /// Stop the backup that is being made; the next one goes on
    Stop(Json),
    /// List the backups at a place
    List(look::List),
    /// Look whether a backup could be brought back
    Verify(look::Verify),
}

#[derive(Debug, Args)]
struct Json {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    let Command { to, keep, json, key, remote, what } = command;
    if what.is_some() && (to.is_some() || keep.is_some() || json) {
        return Err(Error::config(
            "--to and --keep are for a new backup, without status, stop, list and verify; their own flags come behind them",
        ));
    }
    let given = key.clone();
    let set = move |config: &mut ServeConfig| config.replicate.replicate_key = given.replicate_key;
    match what {
        None => {
            let to = to.as_deref().map(whole).transpose()?;
            let begin = async |target: &Target| live::begin(target, to, keep, json).await;
            with_target(data, &remote, Folder::MustExist, set, begin).await
        }
        Some(What::Status(Json { json })) => {
            let ask = async |target: &Target| live::status(target, json).await;
            with_target(data, &remote, Folder::MustExist, set, ask).await
        }
        Some(What::Stop(Json { json })) => {
            let ask = async |target: &Target| live::stop(target, json).await;
            with_target(data, &remote, Folder::MustExist, set, ask).await
        }
        Some(What::List(list)) => look::list(list, &key).await,
        Some(What::Verify(verify)) => look::verify(verify, &key).await,
    }
}

/// A folder with its whole path: the server stands in another one.
fn whole(to: &str) -> Result<String> {
    if to.contains("://") {
        return Ok(to.to_owned());
    }
    let path =
        std::path::absolute(to).map_err(|e| Error::config(format!("--to {to:?}: name a folder")).with_source(e))?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::config(format!("--to {to:?} has a name that is not UTF-8: choose another one")))
}
