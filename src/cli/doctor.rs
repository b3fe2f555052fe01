//! `cubby doctor`.

use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{close, open, print_json, sync};
use crate::{
    app,
    catalog::{self, audit::Author},
    config::{DataConfig, provider::ProviderConfig},
    error::{Error, ErrorKind, Result},
    reconcile::{
        doctor::{self, Findings},
        rebuild::{self, Progress, Rebuilt},
        report::{Entries, Report, RunOutcome},
        run::Options,
    },
};

pub const EXAMPLES: &str = "Examples:
  cubby doctor                      compare the catalog with the files; changes nothing
  cubby doctor --fix                adopt files that say whose they are, complete what was interrupted
  cubby doctor --provider           compare with Clerk's list too, as `cubby sync --dry-run` does
  cubby doctor --rebuild-catalog    after catalog.db was lost or damaged: make it anew from the files and
                                    what can be read of it; the old one is kept, and what is lost is said

It needs the data folder for itself: stop the server first.

Exit code: 0 if all is in order, 1 if something wants a hand.";

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Command {
    #[command(flatten)]
    clerk: ProviderConfig,

    /// Mend what can be mended without losing anything
    #[arg(long)]
    fix: bool,

    /// Make a lost or damaged catalog anew from the users' files; implies --fix
    #[arg(long)]
    rebuild_catalog: bool,

    /// Compare with the provider too
    #[arg(long)]
    provider: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    command.clerk.validate()?;
    let root = std::path::absolute(&data.data).map_err(|e| Error::io(data.data.display(), e))?;
    if !root.join("tenants").is_dir() {
        return Err(Error::config(format!("{} is no data folder; name one with --data", root.display())));
    }
    // Before the store opens and sweeps them away.
    let unfinished = std::fs::read_dir(root.join("tmp")).map(Iterator::count).unwrap_or(0);
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{pos} files {per_sec}")
            .map_err(|e| Error::internal("progress bar").with_source(e))?,
    );
    let rebuilt = match command.rebuild_catalog {
        true => {
            let (options, ticks) = (app::store_options(data)?, bar.clone());
            let tick = move |progress| {
                if progress == Progress::File {
                    ticks.inc(1);
                }
            };
            let rebuilt =
                tokio::task::spawn_blocking(move || rebuild::rebuild(&options, &Author::command_line(), tick))
                    .await
                    .map_err(|e| Error::internal("making the catalog anew did not finish").with_source(e))?;
            bar.reset();
            Some(rebuilt.map_err(in_use)?)
        }
        false => None,
    };
    let store = open(data).map_err(in_use)?;
    let fix = (command.fix || command.rebuild_catalog).then(Author::command_line);
    let (examined, ticks) = (store.clone(), bar.clone());
    let findings = tokio::task::spawn_blocking(move || doctor::examine(&examined, fix.as_ref(), || ticks.inc(1)))
        .await
        .map_err(|e| Error::internal("the examination did not finish").with_source(e))?;
    bar.finish_and_clear();
    let provider = match command.provider {
        true => Some(sync::reconcile(&store, &command.clerk, Options { dry_run: true, force: false }).await),
        false => None,
    };
    close(store).await;
    let (mut findings, provider) = (findings.map_err(catalog::damaged)?, provider.transpose()?);
    if let Some(rebuilt) = &rebuilt {
        findings.fixed.add_all(&rebuilt.known);
    }
    match command.json {
        true => print_json(
            &json!({"findings": findings, "unfinished": unfinished, "rebuilt": rebuilt, "provider": provider}),
        )?,
        false => {
            if let Some(rebuilt) = &rebuilt {
                print_rebuilt(rebuilt);
            }
            print(&findings, unfinished, provider.as_ref());
        }
    }
    let agreed = provider.is_none_or(|report| report.outcome == RunOutcome::Done && report.differences() == 0);
    Ok(ExitCode::from(u8::from(findings.problems() > 0 || !agreed)))
}

/// A file that is being served is locked for its server, and one that looks at files beside it would
/// see them half-moved.
fn in_use(error: Error) -> Error {
    if error.kind() != ErrorKind::Conflict {
        return error;
    }
    let why = format!(
        "{}. The doctor looks into every file, so it needs the folder for itself: stop the server (`systemctl stop \
         cubby`), run this again, start it. Of a running server `cubby sync --dry-run` compares the catalog with Clerk's \
         list and names files of nobody, and `cubby tenants list --state quarantined` says who is out of service",
        error.message()
    );
    Error::new(ErrorKind::Conflict, why)
}

fn print(found: &Findings, unfinished: usize, provider: Option<&Report>) {
    println!("{} files, {} users in the catalog", found.files, found.rows);
    if unfinished > 0 {
        println!("{unfinished} half-made files in tmp/ were removed");
    }
    if found.older > 0 {
        println!("{} files have an older schema; `cubby migrate --all` brings them up to date now", found.older);
    }
    list(&found.catalog, "complaints about the catalog", "restore it from a backup, or --rebuild-catalog");
    list(&found.orphans, "files of users the catalog does not know", "--fix makes them known");
    list(&found.missing, "users without a file", "restore it from a backup, or `cubby tenants purge ID --yes`");
    list(&found.interrupted, "moves that were interrupted", "--fix completes them");
    list(&found.damaged, "files that are no user's", "look at them; nothing here touches them");
    list(&found.misplaced, "files in another user's place", "look at them; nothing here touches them");
    list(&found.leftover, "files beside others", "look at them; nothing here touches them");
    list(&found.quarantined, "users out of service", "`cubby tenants show ID` says why");
    list(&found.newer, "files of a newer version of Cubby", "use that version; they are not touched");
    list(&found.fixed, "mended", "");
    if found.problems() == 0 {
        println!("catalog and files agree");
    }
    if let Some(report) = provider {
        sync::print(report);
    }
}

fn print_rebuilt(rebuilt: &Rebuilt) {
    match &rebuilt.aside {
        Some(aside) => {
            println!("the catalog was made anew; the old one is kept as {}, its log beside it", aside.display());
        }
        None => println!("the catalog was made anew; there was none"),
    }
    for part in rebuilt.salvaged.iter().filter(|part| part.rows > 0) {
        println!("    read from the old one: {} {}", part.rows, part.table);
    }
    for lost in rebuilt.salvaged.iter().filter_map(|part| part.lost) {
        println!("    lost, or a part of it: {lost}");
    }
}

fn list(entries: &Entries, what: &str, hint: &str) {
    if entries.count == 0 {
        return;
    }
    println!("{} {what}{}{hint}", entries.count, if hint.is_empty() { "" } else { ": " });
    for name in &entries.named {
        println!("    {name}");
    }
    if entries.count > entries.named.len() as u64 {
        println!("    …");
    }
}
