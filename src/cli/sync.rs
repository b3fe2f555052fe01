//! `cubby sync`.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Deserialize;

use super::{
    shared::{Folder, bar, print_entries, print_json},
    target::{Target, segment, with_target},
    watch::{LOOK, is_absent},
};
use crate::{
    config::{DataConfig, ServeConfig, door::RemoteConfig, provider::ProviderConfig},
    error::{Error, ErrorKind, Result},
    reconcile::{
        plan::PlanDigest,
        report::{Entries, Phase, Report, RunOutcome},
        run::Options,
        runs::RunStatus,
    },
};

pub const EXAMPLES: &str = "Examples:
  cubby sync --dry-run     what a reconcile would change; changes nothing
  cubby sync               make the catalog like Clerk's list: create, update,
                           restore, delete
  cubby sync --plan 3f…    exactly what a dry run told, which names its plan;
                           nothing if it is another one by now
  cubby sync --force       the same, however many have to be deleted

While a server holds the data folder, the server does it, with its own settings
and ADMIN_API_KEY.

Exit code: 0 if all is done, 1 if deletions were held back, something failed for
a user, or the run stopped. A run that stopped because of Clerk's answers has
deleted nobody.";

#[derive(Debug, Args)]
pub struct Command {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,

    /// Delete however many there are
    #[arg(long)]
    force: bool,

    /// Do exactly what the dry run told that named this plan, with the same --force, or nothing
    #[arg(long, value_name = "PLAN", conflicts_with = "dry_run")]
    plan: Option<PlanDigest>,

    /// The report as JSON
    #[arg(long)]
    json: bool,

    // Last, or the flags above would be below their headings in the help.
    #[command(flatten)]
    provider: ProviderConfig,

    #[command(flatten)]
    remote: RemoteConfig,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    command.provider.validate()?;
    let options = Options { dry_run: command.dry_run, force: command.force, plan: command.plan };
    let run = async |target: &Target| reconcile(target, options).await;
    // May be the first command on a folder: it can fill an empty catalog.
    let set = |config: &mut ServeConfig| config.sync.provider = command.provider.clone();
    let report = with_target(data, &command.remote, Folder::MayBeNew, set, run).await?;
    match command.json {
        true => print_json(&report)?,
        false => print(&report),
    }
    Ok(ExitCode::from(u8::from(report.outcome != RunOutcome::Done || report.errors.count > 0)))
}

/// The answer to the start of a run.
#[derive(Deserialize)]
struct Accepted {
    run: String,
}

/// Starts a run and watches it until there is a report, with a progress bar on a terminal. A run may take
/// longer than a request may.
pub async fn reconcile(target: &Target, Options { dry_run, force, plan }: Options) -> Result<Report> {
    let plan = plan.map_or(String::new(), |plan| format!("&plan={plan}"));
    let path = format!("/api/admin/sync-users?dry_run={dry_run}&force={force}&wait=false{plan}");
    let Accepted { run } = target.post(&path, None).await?;
    let path = format!("/api/admin/sync-users/{}", segment(&run));
    let bar = bar("{msg:>9} {pos}/{len} {wide_bar} {per_sec} {eta}")?;
    let (mut wait, mut answered) = (Duration::from_millis(5), Instant::now());
    loop {
        match target.get::<RunStatus>(&path).await {
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
            Ok(RunStatus::Running { progress: now }) => {
                answered = Instant::now();
                bar.set_message(now.phase.as_str());
                bar.set_length(now.total.max(now.done));
                bar.set_position(now.done);
            }
            Err(error) if is_absent(&error, answered) => {}
            // A server that was restarted meanwhile does not know a dry run.
            Err(error) => return Err(error),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK);
    }
}

/// A report for people.
pub fn print(report: &Report) {
    let list = |entries: &Entries, what, hint| print_entries(entries, what, hint, 10, 10);
    // Numbers of a list that nobody has read would be taken for counts.
    if report.stopped == Some(Phase::Listing) && report.provider_listed == 0 {
        let why = report.error.as_deref().unwrap_or_default();
        println!("no users could be read from Clerk's list, so nothing was compared with it and nothing was changed");
        println!("stopped: {why}");
        return;
    }
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
    list(&report.orphan_files, "files of no known user", "`cubby doctor` says whose they are");
    list(&report.unusable_ids, "ids at Clerk that cannot be used", "");
    list(&report.errors, "errors", "");
    if let (true, Some(plan)) = (report.dry_run && report.differences() > 0, &report.plan) {
        println!("to do exactly this: cubby sync --plan {plan}{}", if report.forced { " --force" } else { "" });
    }
    if report.outcome == RunOutcome::Changed {
        println!("not done: {}", report.error.as_deref().unwrap_or_default());
        return;
    }
    if let Some(error) = &report.error {
        let at = report.stopped.map_or("starting", Phase::as_str);
        println!("stopped: {error} (while {at}; what comes after that was not begun)");
    }
}
