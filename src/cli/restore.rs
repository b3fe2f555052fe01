//! `cubby restore`: a data folder of what a bucket has.

use std::{path::Path, process::ExitCode};

use clap::Args;
use indicatif::HumanBytes;
use serde::Deserialize;
use serde_json::json;

use super::{
    backup,
    interrupt::unless_interrupted,
    shared::{bar, blocking, counted, print_json, print_rows},
};
use crate::{
    backup::{
        choice::Choice,
        destination::{Destination, seal_of, url_of},
    },
    clock::{Clock, moment::parse_moment, rfc3339},
    config::{DataConfig, backup::BackupConfig, replicate::variables},
    error::{Error, ErrorKind, Result},
    replica::{
        folder,
        format::FORMAT_PATH,
        remote::Remote,
        restore::folder::{Progress, Summary},
        seal::Seal,
    },
};

pub const EXAMPLES: &str = "Examples:
  cubby restore --from s3://bucket/prefix --data /var/lib/cubby
      everybody as the bucket has them, where a server replicated to
  cubby restore --from s3://bucket/prefix --at \"2 hours ago\" --data before
      as they were then
  cubby restore --from /mnt/disk/backups --data new
      the newest backup

The folder must be new or empty: nothing is restored over anything. Each
database gets its place when it is whole and was looked through, and the catalog
last: until then no server starts on the folder. After an interruption the same
command goes on.

A server that starts on the folder with the same CUBBY_REPLICATE goes on there:
then the one that was there before must not run any more. Credentials of buckets
are in the variables of their services, such as AWS_ACCESS_KEY_ID.

Exit code: 0 if everybody is there; 1 if somebody could not be restored, who is
named, or nothing could be.";

#[derive(Debug, Args)]
pub struct Command {
    /// Where the copies are: what a server replicated to, or the place of its backups
    #[arg(long, value_name = "DIR|URL")]
    from: String,

    /// As it was then: a time such as 2026-11-21T10:00:00Z, or how long ago, such as "2 hours ago" [default: as it is]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,

    /// Of backups, the one of this name [default: the newest]
    #[arg(long, value_name = "NAME", conflicts_with = "at")]
    backup: Option<String>,

    /// The result as JSON
    #[arg(long)]
    json: bool,

    // Last, or the flags above would be below its heading in the help.
    #[command(flatten)]
    key: BackupConfig,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    let Command { from, at, backup: name, json, key } = command;
    let at = at.map(|at| parse_moment(&at, Clock::system().now())).transpose()?;
    let keys = key.replicate_key;
    let (url, seal) =
        blocking("the key file", move || Ok::<_, Error>((place(&from)?, seal_of(keys.as_deref())?))).await??;
    let remote = Remote::open(&url, &variables())?;
    let data = data.data.as_path();
    match (&*kind_of(&remote).await?, name) {
        ("replica", None) => Box::pin(replica(remote, seal, data, at, json)).await,
        ("replica", Some(_)) => Err(Error::config(format!(
            "at {url} are no backups, but the copies of a server that replicates: leave out --backup, or name a moment with --at"
        ))),
        ("backup", name) => {
            let choice = match (name, at) {
                (Some(name), _) => Choice::Named(name),
                (None, Some(at)) => Choice::Before(at),
                (None, None) => Choice::Newest,
            };
            backup::restore::run(&Destination { remote, seal }, &choice, data, json).await
        }
        (kind, _) => Err(Error::config(format!(
            "at {url} is something of the kind {kind:?}, which this version of cubby does not know: use the version that wrote it"
        ))),
    }
}

/// The URL of a place, which is not made if it is a folder.
fn place(from: &str) -> Result<String> {
    let url = url_of(from)?;
    match url.strip_prefix("file://") {
        Some(folder) if !Path::new(folder).is_dir() => {
            let why = format!(
                "{folder} is no folder: name the one that has the copies, and look whether its disk is mounted"
            );
            Err(Error::config(why))
        }
        _ => Ok(url),
    }
}

/// What is there.
async fn kind_of(remote: &Remote) -> Result<String> {
    /// What anything has that cubby writes to such a place.
    #[derive(Deserialize)]
    struct Any {
        kind: String,
    }
    let Some(text) = remote.get(FORMAT_PATH).await? else {
        return Err(Error::config(format!(
            "at {} is nothing that cubby has written: look whether the prefix is the one of CUBBY_REPLICATE or CUBBY_BACKUP",
            remote.url()
        )));
    };
    let any = serde_json::from_slice::<Any>(&text);
    any.map(|any| any.kind).map_err(|e| {
        let why = format!("{FORMAT_PATH} at {} is not what cubby writes: put it back as it was", remote.url());
        Error::config(why).with_source(e)
    })
}

/// Restores what a server replicated, with a progress bar on a terminal.
async fn replica(remote: Remote, seal: Seal, data: &Path, at: Option<i64>, json: bool) -> Result<ExitCode> {
    let bar = bar("{pos}/{len} {wide_bar} {prefix} {eta}")?;
    let shown = bar.clone();
    let progress = move |progress: Progress| {
        shown.set_length(progress.tenants);
        shown.set_position(progress.done);
        shown.set_prefix(HumanBytes(progress.bytes).to_string());
    };
    let from = remote.url().to_owned();
    let Some(summary) = unless_interrupted(Box::pin(folder::restore(remote, seal, data, at, progress))).await? else {
        let why = format!(
            "interrupted; {} is unfinished, and is not served: run the same again, which goes on",
            data.display()
        );
        return Err(Error::new(ErrorKind::Conflict, why));
    };
    bar.finish_and_clear();
    show(&summary, &from, data, json)?;
    Ok(ExitCode::from(u8::from(!summary.failed.is_empty())))
}

fn show(summary: &Summary, from: &str, data: &Path, json: bool) -> Result<()> {
    let Summary { restored, bytes, at, failed } = summary;
    if json {
        let failures: Vec<_> = failed.iter().map(|(id, error)| json!({"id": id, "error": error.detail()})).collect();
        return print_json(&json!({
            "folder": data, "from": from, "at": at.map(|at| rfc3339(at).to_string()), "restored": restored, "bytes": bytes,
            "failed": failed.len(), "failures": failures,
        }));
    }
    let mut lines = vec![match at {
        None => format!("{} was complete already", data.display()),
        Some(at) => format!(
            "what {from} had at {} is in {}: {}, {}",
            rfc3339(*at),
            data.display(),
            counted(*restored, "user", "users"),
            HumanBytes(*bytes)
        ),
    }];
    if !failed.is_empty() {
        let count = counted(failed.len() as u64, "user", "users");
        lines.push(format!("{count} could not be restored, and have no file now; `cubby doctor` shows them:"));
        lines.extend(failed.iter().map(|(id, error)| format!("  {id}: {}", error.detail())));
    }
    print_rows(&lines, false, None, None, String::clone).map(drop)
}
