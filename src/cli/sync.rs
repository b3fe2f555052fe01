//! `cubby sync`: the reconcile, from the command line.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde::Deserialize;

use super::{
    place::{Folder, Place},
    print_json,
    remote::{Remote, segment},
};
use crate::{
    catalog::audit::Author,
    config::{DataConfig, door::RemoteConfig, provider::ProviderConfig},
    error::{Error, ErrorKind, Result},
    identity::{clerk::Clerk, provider::Provider},
    reconcile::{
        report::{Entries, Phase, Report, RunOutcome},
        run::{Options, Syncer},
        runs::{Progress, RunStatus},
    },
    tenants::store::Store,
};

pub const EXAMPLES: &str = "Examples:
  cubby sync --dry-run     what a reconcile would change; changes nothing
  cubby sync               create, update, restore and delete so that the catalog is like Clerk's list
  cubby sync --force       the same, however many have to be deleted

While a server holds the data folder, the server does it, with its own settings and ADMIN_API_KEY.

Exit code: 0 if all is done, 1 if deletions were held back, something failed for a user, or the run
stopped. A run that stopped because Clerk answered badly has deleted nobody.";

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
    Ok(ExitCode::from(u8::from(report.outcome != RunOutcome::Done || report.errors.count > 0)))
}

/// What the server answers to a run that it is not to wait for.
#[derive(Deserialize)]
struct Accepted {
    run: String,
}

/// How often the server is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// How long a server that does not answer is asked again: a run goes on whoever looks.
const ABSENCE: Duration = Duration::from_secs(30);

/// A run of the server's: started, and then watched until there is a report, however long it takes.
async fn ask(server: &Remote, options: Options) -> Result<Report> {
    let path = format!("/api/admin/sync-users?dry_run={}&force={}&wait=false", options.dry_run, options.force);
    let Accepted { run } = server.call(Method::POST, &path, None).await?;
    let path = format!("/api/admin/sync-users/{}", segment(&run));
    let (bar, mut answered) = (bar()?, Instant::now());
    loop {
        match server.call::<RunStatus>(Method::GET, &path, None).await {
            Ok(RunStatus::Ended { report }) => {
                bar.finish_and_clear();
                return Ok(*report);
            }
            Ok(RunStatus::Lost) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the server ended before the run did; what it did stays, and `cubby sync` does the rest",
                ));
            }
            Ok(RunStatus::Running { progress }) => {
                answered = Instant::now();
                show(&bar, progress);
            }
            Err(error) if error.kind() == ErrorKind::Unavailable && answered.elapsed() < ABSENCE => {}
            // A server that was restarted meanwhile knows nothing of a dry run.
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One run, with a bar on a terminal.
pub async fn reconcile(store: &Store, config: &ProviderConfig, options: Options) -> Result<Report> {
    let provider = Clerk::new(config)?.map(|clerk| Arc::new(clerk) as Arc<dyn Provider>);
    let syncer = Syncer::new(store.clone(), provider, config.sync_max_delete);
    let mut progress = syncer.progress();
    let running = syncer.start(options, Author::command_line())?.report;
    let bar = bar()?;
    tokio::pin!(running);
    let report = loop {
        tokio::select! {
            report = &mut running => break report,
            Ok(()) = progress.changed() => show(&bar, *progress.borrow_and_update()),
        }
    };
    bar.finish_and_clear();
    report.map_err(|e| Error::internal("a reconcile did not finish").with_source(e))
}

fn bar() -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg:>9} {pos}/{len} {wide_bar} {per_sec} {eta}");
    Ok(ProgressBar::new(0).with_style(style.map_err(|e| Error::internal("progress bar").with_source(e))?))
}

fn show(bar: &ProgressBar, now: Progress) {
    bar.set_message(now.phase.as_str());
    bar.set_length(now.total.max(now.done));
    bar.set_position(now.done);
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
    list(&report.undone, "to delete, not done", "the run stopped before Clerk was asked for all of them");
    list(&report.unlisted, "not listed by Clerk, but known to it", "left alone");
    list(&report.shared_emails, "email addresses of more than one user", "legal; worth a look");
    list(&report.orphan_files, "files of no known user", "`cubby doctor` says whose");
    list(&report.unusable_ids, "ids at Clerk that cannot be used", "");
    list(&report.errors, "errors", "");
    if let Some(error) = &report.error {
        let at = report.stopped.map_or("starting", Phase::as_str);
        println!("stopped: {error} (while {at}; what comes after that was not begun)");
    }
}

fn list(entries: &Entries, what: &str, hint: &str) {
    const SHOWN: usize = 10;
    if entries.count == 0 {
        return;
    }
    println!("{:>10} {what}{}{hint}", entries.count, if hint.is_empty() { "" } else { ": " });
    for name in entries.named.iter().take(SHOWN) {
        println!("{:>14}{name}", "");
    }
    if entries.count > SHOWN as u64 {
        println!("{:>14}…", "");
    }
}
