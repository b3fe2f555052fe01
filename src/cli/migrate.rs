//! `cubby migrate`: the eager twin of the migration that happens on first open.

use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::{signal, task::JoinSet};

use super::{close, open, print_json};
use crate::{
    catalog::{audit::Author, queries},
    config::DataConfig,
    error::{Error, Result},
    tenants::{id::TenantId, store::Store},
};

pub const EXAMPLES: &str = "Examples:
  cubby migrate --all --dry-run       how many files are behind; tries some of each schema on copies
  cubby migrate --all                 migrate them; interrupted, it goes on where it stopped
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

    /// Only say what would be done, and try it on copies: of those named, else of the largest few of each schema
    #[arg(long)]
    dry_run: bool,

    /// Files at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,

    /// The result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Tally {
    migrated: u64,
    current: u64,
    failed: Vec<(TenantId, String)>,
    interrupted: bool,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    let store = open(data)?;
    let result = execute(&store, &command).await;
    close(store).await;
    result
}

async fn execute(store: &Store, command: &Command) -> Result<ExitCode> {
    let version = store.schema().version();
    let total = match command.all {
        true => store.catalog().query(move |conn| queries::count_behind(conn, version)).await?,
        false => command.ids.len() as u64,
    };
    if command.dry_run {
        return dry_run(store, command, total).await;
    }

    let bar = ProgressBar::new(total).with_style(
        ProgressStyle::with_template("{pos}/{len} {wide_bar} {per_sec} {eta}")
            .map_err(|e| Error::internal("progress bar").with_source(e))?,
    );
    let mut tally = Tally::default();
    let mut running = JoinSet::new();
    let mut queue = Queue::new(store, command);
    let interrupt = signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        while running.len() < usize::from(command.jobs) && !tally.interrupted {
            let Some(id) = queue.next().await? else { break };
            let store = store.clone();
            running.spawn(async move {
                let result = store.migrate(&id, &Author::command_line()).await;
                (id, result)
            });
        }
        tokio::select! {
            done = running.join_next() => {
                let Some(done) = done else { break };
                let (id, result) = done.map_err(|e| Error::internal("a migration did not finish").with_source(e))?;
                bar.inc(1);
                match result {
                    Ok(Some(from)) => {
                        tracing::debug!(tenant = %id, from, to = version, "migrated");
                        tally.migrated += 1;
                    }
                    Ok(None) => tally.current += 1,
                    Err(error) => tally.failed.push((id, error.detail())),
                }
            }
            _ = &mut interrupt, if !tally.interrupted => tally.interrupted = true,
        }
    }
    bar.finish_and_clear();
    report(store, &tally, command.json)
}

/// Files of each schema that a dry run tries, where it may choose: the largest.
const TRIED: u32 = 8;

/// Tries on copies of some files what would be done to all.
async fn dry_run(store: &Store, command: &Command, total: u64) -> Result<ExitCode> {
    let ids = match command.all {
        true => store.sample_behind(TRIED).await?,
        false => command.ids.clone(),
    };
    let tried = ids.len();
    let mut failed = Vec::new();
    for id in ids {
        if let Err(error) = store.try_migration(&id).await {
            failed.push((id, error.detail()));
        }
    }
    let version = store.schema().version();
    if command.json {
        let failed = failures(store, &failed);
        print_json(&json!({"schema": version, "behind": total, "dry_run": true, "tried": tried, "failed": failed}))?;
    } else {
        println!(
            "{total} to be looked at for schema {version}; tried on copies of {tried}, of which {} failed; nothing was \
             changed",
            failed.len()
        );
        list(store, &failed);
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn failures(store: &Store, failed: &[(TenantId, String)]) -> Vec<serde_json::Value> {
    failed.iter().map(|(id, why)| json!({"id": id, "file": store.layout().tenant(id), "error": why})).collect()
}

fn list(store: &Store, failed: &[(TenantId, String)]) {
    for (id, why) in failed {
        println!("  {id} ({}): {why}", store.layout().tenant(id).display());
    }
}

fn report(store: &Store, tally: &Tally, json: bool) -> Result<ExitCode> {
    let version = store.schema().version();
    if json {
        let failed = failures(store, &tally.failed);
        print_json(&json!({
            "schema": version, "migrated": tally.migrated, "already_current": tally.current, "failed": failed,
            "interrupted": tally.interrupted,
        }))?;
    } else {
        println!(
            "schema {version}: {} migrated, {} were there already, {} failed",
            tally.migrated,
            tally.current,
            tally.failed.len()
        );
        list(store, &tally.failed);
        if tally.interrupted {
            println!("interrupted; run it again to go on");
        }
    }
    Ok(match tally.failed.is_empty() && !tally.interrupted {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

/// The ids to be migrated, a page at a time: a million of them are never in memory together.
struct Queue<'a> {
    store: &'a Store,
    all: bool,
    page: std::vec::IntoIter<TenantId>,
    last: Option<TenantId>,
}

const PAGE: u32 = 1000;

impl<'a> Queue<'a> {
    fn new(store: &'a Store, command: &Command) -> Self {
        Self { store, all: command.all, page: command.ids.clone().into_iter(), last: None }
    }

    async fn next(&mut self) -> Result<Option<TenantId>> {
        if let Some(id) = self.page.next() {
            return Ok(Some(id));
        }
        if !self.all {
            return Ok(None);
        }
        let (version, after) = (self.store.schema().version(), self.last.clone());
        let page = self
            .store
            .catalog()
            .query(move |conn| queries::behind(conn, version, after.as_ref().map(TenantId::as_str), PAGE))
            .await?;
        self.last = page.last().cloned().or(self.last.take());
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}
