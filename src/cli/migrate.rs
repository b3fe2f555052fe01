//! `cubby migrate`: the migration that otherwise happens when a database is first opened.

mod live;

use std::{path::PathBuf, pin::pin, process::ExitCode};

use clap::{Args, Subcommand};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    interrupt::interrupted,
    shared::{Folder, bar, print_json, print_rows, with_store},
    target::{Place, Target, place, with_target},
};
use crate::{
    catalog::{audit::Author, queries},
    config::{DataConfig, door::RemoteConfig, provider::Part},
    error::{Error, ErrorKind, Result},
    tenants::{id::TenantId, store::Store},
};

pub const EXAMPLES: &str = "Examples:
  cubby migrate --all --dry-run        how many files are behind; tries some of
                                       each schema on copies
  cubby migrate --all                  migrate them; run again after an
                                       interruption, it goes on
  cubby migrate user_2abc user_2def    just these
  cubby migrate --all --canary 100     at a running server: a hundred first,
                                       then the others
  cubby migrate status                 how many users have which schema, and how
                                       far the run is
  cubby migrate pause                  the run begins no further file
  cubby migrate resume                 go on after a pause, a stop, or the end
                                       of the server

While a server holds the data folder, it migrates, with ADMIN_API_KEY: a few
users first, of whom none may fail, then the others, with a rest after each
while requests are in flight. It stops by itself when too many fail. Ctrl-C ends
the watching only.

Exit code: 0 if all are at the newest schema, 1 if some failed or the run did
not come to its end. A file that fails is left as it was and its user is
quarantined; `cubby tenants show ID` has the reason. Migrations that do not
belong to the data folder, or would fail for every user, are refused before any
file is touched: exit code 2.";

#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
#[command(group(clap::ArgGroup::new("which").required(true)))]
pub struct Command {
    /// Just these
    #[arg(value_name = "ID", group = "which")]
    ids: Vec<TenantId>,

    /// All that are behind, and all that are quarantined
    #[arg(long, group = "which")]
    all: bool,

    /// Only say what would be done, and try it on copies: of the named files, or of the largest few of each schema
    #[arg(long)]
    dry_run: bool,

    /// Files at once [default: 4, or 2 while a server holds the folder]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,

    /// At a running server, users to migrate before all others; the first that fails stops the run
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    canary: u32,

    /// At a running server, the failures after which the run stops: a number, a percentage of those handled, or
    /// both, of which the larger counts
    #[arg(long, value_name = "PART", default_value = "1%,10")]
    max_failures: Part,

    /// The result as JSON
    #[arg(long)]
    json: bool,

    // Last, or the flags above would be below its heading in the help.
    #[command(flatten)]
    remote: RemoteConfig,

    #[command(subcommand)]
    run: Option<Run>,
}

#[derive(Debug, Subcommand)]
enum Run {
    /// Say how many users have which schema, and how far the newest run is
    Status(One),
    /// Let the run begin no further file
    Pause(One),
    /// Go on with the newest run, and watch it
    Resume(One),
}

#[derive(Debug, Args)]
struct One {
    /// The run; the newest if it is not named
    #[arg(value_name = "RUN")]
    run: Option<String>,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A file that could not be migrated.
#[derive(Serialize)]
struct Failure {
    id: TenantId,
    file: PathBuf,
    error: String,
}

impl Failure {
    fn new(store: &Store, id: TenantId, error: &Error) -> Self {
        Self { file: store.layout().tenant(&id), id, error: error.detail() }
    }
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    if let Some(run) = &command.run {
        if command.all || !command.ids.is_empty() || command.dry_run || command.jobs.is_some() {
            return Err(Error::config(
                "status, pause and resume are about a run; --all, IDs, --dry-run and --jobs are for a new one",
            ));
        }
        let ask = async |target: &Target| match run {
            Run::Status(one) => live::status(target, one.run.as_deref(), one.json).await,
            Run::Pause(one) => live::pause(target, one.run.as_deref(), one.json).await,
            Run::Resume(one) => live::resume(target, one.run.as_deref(), one.json).await,
        };
        return with_target(data, &command.remote, Folder::MustExist, |_| {}, ask).await;
    }
    match place(data, &command.remote, Folder::MustExist)? {
        Place::Folder(store) => on_folder(store, &command).await,
        Place::Server(_) if command.dry_run => Err(Error::new(
            ErrorKind::FolderLocked,
            "stop the server, or try a few users with `cubby migrate ID`: a dry run works on copies of files, so it needs \
             the data folder for itself",
        )),
        Place::Server(target) if command.all => {
            let jobs = command.jobs.map(|jobs| format!("&jobs={jobs}")).unwrap_or_default();
            live::all(&target, &format!("canary={}{jobs}", command.canary), command.max_failures, command.json).await
        }
        Place::Server(target) => live::some(&target, &command.ids, command.json).await,
    }
}

async fn on_folder(store: Store, command: &Command) -> Result<ExitCode> {
    let (failed, interrupted, text, mut fields) = with_store(store, async |store| {
        let version = store.schema().version();
        let total = match command.all {
            true => store.catalog().query(move |conn| queries::count_behind(conn, version)).await?,
            false => command.ids.len() as u64,
        };
        match command.dry_run {
            true => dry_run(store, command, total).await,
            false => migrate(store, command, total).await,
        }
    })
    .await?;
    if command.json {
        fields["failed"] = json!(failed);
        print_json(&fields)?;
    } else {
        let after = interrupted.then(|| "interrupted; run it again to go on".to_owned());
        print_rows(&failed, false, Some(text), after, |one| {
            format!("  {} ({}): {}", one.id, one.file.display(), one.error)
        })?;
    }
    Ok(ExitCode::from(u8::from(!failed.is_empty() || interrupted)))
}

/// Files at once on a folder, if it is not said otherwise.
const JOBS: u16 = 4;

/// What failed, whether the command was interrupted, and the result as text and as JSON.
type Outcome = (Vec<Failure>, bool, String, Value);

async fn migrate(store: &Store, command: &Command, total: u64) -> Result<Outcome> {
    let version = store.schema().version();
    let bar = bar("{pos}/{len} {wide_bar} {per_sec} {eta}")?;
    bar.set_length(total);
    let interrupt = interrupted()?.shared();
    // Page by page: a million ids are not in memory at once.
    let behind = stream::try_unfold(None, |last: Option<TenantId>| async move {
        if !command.all {
            return Ok(None);
        }
        let page = move |conn: &_| queries::behind(conn, version, last.as_ref().map(TenantId::as_str), 1000);
        let ids = store.catalog().query(page).await?;
        Ok(ids.last().cloned().map(|last| (ids, Some(last))))
    });
    let pages = stream::iter([Ok::<_, Error>(command.ids.clone())]).chain(behind);
    let ids = pages
        .map_ok(|ids| stream::iter(ids.into_iter().map(Ok::<_, Error>)))
        .try_flatten()
        .take_until(interrupt.clone());
    let author = &Author::command_line();
    let done = ids.map_ok(|id| async move { Ok((store.migrate(&id, author).await, id)) });
    let mut done = pin!(done.try_buffer_unordered(usize::from(command.jobs.unwrap_or(JOBS))));
    let (mut migrated, mut current, mut failed) = (0, 0, Vec::new());
    while let Some((result, id)) = done.try_next().await? {
        bar.inc(1);
        match result {
            Ok(Some(from)) => {
                tracing::debug!(tenant = %id, from, to = version, "migrated");
                migrated += 1;
            }
            Ok(None) => current += 1,
            Err(error) => failed.push(Failure::new(store, id, &error)),
        }
    }
    bar.finish_and_clear();
    let (count, interrupted) = (failed.len(), interrupt.now_or_never().is_some());
    let nobody = command.all && migrated == 0 && current == 0 && count == 0 && !interrupted;
    let text = match nobody {
        true => live::already_there(version),
        false => format!("schema {version}: {migrated} migrated, {current} were there already, {count} failed"),
    };
    let fields = json!({
        "schema": version, "migrated": migrated, "already_current": current, "interrupted": interrupted,
    });
    Ok((failed, interrupted, text, fields))
}

/// How many files of each schema a dry run of `--all` tries, the largest first.
const TRIED: u32 = 8;

/// Migrates copies of some files.
async fn dry_run(store: &Store, command: &Command, total: u64) -> Result<Outcome> {
    let ids = match command.all {
        true => store.sample_behind(TRIED).await?,
        false => command.ids.clone(),
    };
    let (tried, version) = (ids.len(), store.schema().version());
    let mut failed = Vec::new();
    for id in ids {
        if let Err(error) = store.try_migration(&id).await {
            failed.push(Failure::new(store, id, &error));
        }
    }
    let text = match command.all && total == 0 {
        true => live::already_there(version),
        false => format!(
            "{total} to check for schema {version}; tried on copies of {tried}, of which {} failed; nothing was \
             changed",
            failed.len()
        ),
    };
    let fields = json!({"schema": version, "behind": total, "dry_run": true, "tried": tried});
    Ok((failed, false, text, fields))
}
