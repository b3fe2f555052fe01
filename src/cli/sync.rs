//! `cubby sync`: the reconcile, from the command line.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::Value;

use super::{
    place::{Folder, Place},
    print_json,
    remote::Remote,
};
use crate::{
    config::{DataConfig, door::RemoteConfig, provider::ProviderConfig},
    error::{Error, ErrorKind, Result},
    identity::{clerk::Clerk, provider::Provider},
    sync::{
        report::{Outcome, Report, Tally},
        run::{Options, Syncer},
    },
    tenants::store::Store,
};

pub const EXAMPLES: &str = "Examples:
  cubby sync --dry-run     what a reconcile would change; changes nothing
  cubby sync               create, update, restore and delete so that the catalog is like Clerk's list
  cubby sync --force       the same, however many have to be deleted

While a server holds the data folder, the server does it, with its own settings and ADMIN_API_KEY.

Exit code: 0 if all is done, 1 if deletions were held back or the run stopped.";

#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    provider: ProviderConfig,

    #[command(flatten)]
    remote: RemoteConfig,

    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,

    /// Delete however many there are
    #[arg(long)]
    force: bool,

    /// The report as JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    command.provider.validate()?;
    let options = Options { dry_run: command.dry_run, force: command.force };
    // May be the first command on a folder: it can fill an empty catalog.
    let place = Place::reach(data, &command.remote, Folder::MayBeNew)?;
    let result = match &place {
        Place::Folder(store) => reconcile(store, &command.provider, options).await,
        Place::Server(server) => ask(server, options).await,
    };
    place.leave().await;
    let report = result?;
    match command.json {
        true => print_json(&report)?,
        false => print(&report),
    }
    Ok(ExitCode::from(u8::from(report.outcome != Outcome::Done)))
}

/// A run of the server's. One that takes longer than a request may is waited for.
async fn ask(server: &Remote, options: Options) -> Result<Report> {
    let path = format!("/api/admin/sync-users?dry_run={}&force={}", options.dry_run, options.force);
    let mut answer: Value = server.call(Method::POST, &path, None).await?;
    while answer.get("outcome").is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now: Value = server.call(Method::GET, "/api/admin/sync-users", None).await?;
        if now["running"].is_null() {
            answer = now["last"].clone();
            if answer.is_null() || options.dry_run {
                let why = "the dry run took longer than a request may, and its report is in the server's log alone";
                return Err(Error::new(ErrorKind::Timeout, why));
            }
        }
    }
    serde_json::from_value(answer).map_err(|e| Error::internal("the server's report").with_source(e))
}

/// One run, with a bar on a terminal.
pub async fn reconcile(store: &Store, config: &ProviderConfig, options: Options) -> Result<Report> {
    let provider = Clerk::new(config)?.map(|clerk| Arc::new(clerk) as Arc<dyn Provider>);
    let syncer = Syncer::new(store.clone(), provider, config.sync_max_delete);
    let mut progress = syncer.progress();
    let running = syncer.start(options)?;
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{msg:>9} {pos}/{len} {wide_bar} {per_sec} {eta}")
            .map_err(|e| Error::internal("progress bar").with_source(e))?,
    );
    tokio::pin!(running);
    let report = loop {
        tokio::select! {
            report = &mut running => break report,
            Ok(()) = progress.changed() => {
                let now = *progress.borrow_and_update();
                bar.set_message(now.phase);
                bar.set_length(now.total.max(now.done));
                bar.set_position(now.done);
            }
        }
    };
    bar.finish_and_clear();
    report.map_err(|e| Error::internal("a reconcile did not finish").with_source(e))
}

/// A report for people.
pub fn print(report: &Report) {
    println!(
        "{} at Clerk ({} listed), {} here{}",
        report.provider_count,
        report.provider_listed,
        report.local_count,
        if report.dry_run { "; nothing was changed" } else { "" }
    );
    println!("{:>10} unchanged", report.unchanged);
    let (create, update, restore, delete) = match report.dry_run {
        true => ("to create", "to update", "to restore", "to delete"),
        false => ("created", "updated", "restored", "deleted"),
    };
    list(&report.created, create, "");
    list(&report.updated, update, "");
    list(&report.restored, restore, "");
    list(&report.deleted, delete, "");
    list(&report.held, "to delete, held back", "more than CUBBY_SYNC_MAX_DELETE allows; --force deletes them");
    list(&report.unlisted, "not listed by Clerk, but known to it", "left alone");
    list(&report.shared_emails, "addresses of more than one user", "legal; worth a look");
    list(&report.orphan_files, "files of no known user", "`cubby doctor` says whose");
    list(&report.unusable_ids, "ids at Clerk that cannot be used", "");
    list(&report.errors, "errors", "");
    if let Some(error) = &report.error {
        println!("stopped: {error}");
    }
}

fn list(tally: &Tally, what: &str, hint: &str) {
    const SHOWN: usize = 10;
    if tally.count == 0 {
        return;
    }
    println!("{:>10} {what}{}{hint}", tally.count, if hint.is_empty() { "" } else { ": " });
    for name in tally.named.iter().take(SHOWN) {
        println!("{:>14}{name}", "");
    }
    if tally.count > SHOWN as u64 {
        println!("{:>14}…", "");
    }
}
