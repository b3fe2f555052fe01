//! `cubby migrate`: the migration that otherwise happens when a database is first opened.

use std::{path::PathBuf, pin::pin, process::ExitCode};

use clap::Args;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal;

use super::shared::{Folder, bar, open_store, print_json, with_store};
use crate::{
    catalog::{audit::Author, queries},
    config::DataConfig,
    error::{Error, Result},
    tenants::{id::TenantId, store::Store},
};

pub const EXAMPLES: &str = "Examples:
  cubby migrate --all --dry-run       how many files are behind; tries some of each schema on copies
  cubby migrate --all                 migrate them; run again after an interruption, it goes on
  cubby migrate user_2abc user_2def   just these

Exit code: 0 if all are at the newest schema, 1 if some failed. A file that fails is left as it was
and its user is quarantined; `cubby tenants show ID` has the reason. Migrations that do not belong to
the data folder, or would fail for every user, are refused before any file is touched: exit code 2.";

#[derive(Debug, Args)]
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

    /// Files at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,

    /// The result as JSON
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
    let (failed, interrupted, text, mut fields) = with_store(open_store(data, Folder::MustExist)?, async |store| {
        let version = store.schema().version();
        let total = match command.all {
            true => store.catalog().query(move |conn| queries::count_behind(conn, version)).await?,
            false => command.ids.len() as u64,
        };
        match command.dry_run {
            true => dry_run(store, &command, total).await,
            false => migrate(store, &command, total).await,
        }
    })
    .await?;
    if command.json {
        fields["failed"] = json!(failed);
        print_json(&fields)?;
    } else {
        println!("{text}");
        failed.iter().for_each(|one| println!("  {} ({}): {}", one.id, one.file.display(), one.error));
        if interrupted {
            println!("interrupted; run it again to go on");
        }
    }
    Ok(ExitCode::from(u8::from(!failed.is_empty() || interrupted)))
}

/// What failed, whether the command was interrupted, and the result as text and as JSON.
type Outcome = (Vec<Failure>, bool, String, Value);

async fn migrate(store: &Store, command: &Command, total: u64) -> Result<Outcome> {
    let version = store.schema().version();
    let bar = bar("{pos}/{len} {wide_bar} {per_sec} {eta}")?;
    bar.set_length(total);
    let interrupt = signal::ctrl_c().map(drop).shared();
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
    let mut done = pin!(done.try_buffer_unordered(usize::from(command.jobs)));
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
    let text = format!("schema {version}: {migrated} migrated, {current} were there already, {count} failed");
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
    let text = format!(
        "{total} to check for schema {version}; tried on copies of {tried}, of which {} failed; nothing was changed",
        failed.len()
    );
    let fields = json!({"schema": version, "behind": total, "dry_run": true, "tried": tried});
    Ok((failed, false, text, fields))
}
