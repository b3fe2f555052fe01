//! `cubby doctor`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{
    shared::{Folder, bar, blocking, counted, open_store, print_entries, print_json, with_store},
    sync,
    target::Target,
};
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
  cubby doctor                      compare the catalog with the files; changes
                                    nothing
  cubby doctor --fix                add files that name their user to the
                                    catalog, complete interrupted moves
  cubby doctor --provider           compare with Clerk's list too, as
                                    `cubby sync --dry-run` does
  cubby doctor --rebuild-catalog    after catalog.db was lost or damaged: rebuild
                                    it from the files and what can be read of
                                    it; the old one is kept, and what is lost is
                                    named

It needs the data folder for itself: stop the server first.

Exit code: 0 if all is in order, 1 if something is left for you to repair, 2 if
a server has the folder.";

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Command {
    /// Repair what can be repaired without losing anything
    #[arg(long)]
    fix: bool,

    /// Rebuild a lost or damaged catalog from the users' files; implies --fix
    #[arg(long)]
    rebuild_catalog: bool,

    /// Compare with the provider too
    #[arg(long)]
    provider: bool,

    /// As JSON
    #[arg(long)]
    json: bool,

    // Last, or the flags above would be below its heading in the help.
    #[command(flatten)]
    clerk: ProviderConfig,
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    command.clerk.validate()?;
    let root = std::path::absolute(&data.data).map_err(|e| Error::io(data.data.display(), e))?;
    if !root.join("tenants").is_dir() {
        return Err(Error::config(format!("{} is no data folder; name one with --data", root.display())));
    }
    // Counted before the store is opened, which removes them.
    let unfinished = std::fs::read_dir(root.join("tmp")).map(Iterator::count).unwrap_or(0);
    let bar = bar("{pos} files {per_sec}")?;
    let mut rebuilt = None;
    if command.rebuild_catalog {
        let (options, ticks) = (app::store_options(data)?, bar.clone());
        let tick = move |progress| ticks.inc(u64::from(progress == Progress::File));
        let work = move || rebuild::rebuild(&options, &Author::command_line(), tick);
        rebuilt = Some(blocking("rebuilding the catalog", work).await?.map_err(locked)?);
        bar.reset();
    }
    let fix = (command.fix || command.rebuild_catalog).then(Author::command_line);
    let (mut findings, provider) = with_store(open_store(data, Folder::MustExist).map_err(locked)?, async |store| {
        let (examined, ticks) = (store.clone(), bar.clone());
        let examine = move || doctor::examine(&examined, fix.as_ref(), || ticks.inc(1));
        let findings = blocking("the examination", examine).await?.map_err(catalog::explain_damage)?;
        bar.finish_and_clear();
        if !command.provider {
            return Ok((findings, None));
        }
        let target = Target::over(store, |config| config.sync.provider = command.clerk.clone())?;
        Ok((findings, Some(sync::reconcile(&target, Options { dry_run: true, ..Options::default() }).await?)))
    })
    .await?;
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

/// Says why the doctor needs the data folder for itself: a file that is open is locked, and other files
/// may be moved while the doctor looks at them.
fn locked(error: Error) -> Error {
    if error.kind() != ErrorKind::FolderLocked {
        return error;
    }
    let why = format!(
        "stop the server (`systemctl stop cubby`), run this again, start it: the doctor looks into every file, so it \
         needs the folder for itself. On a running server `cubby sync --dry-run` compares the catalog with Clerk's list \
         and names files of no user, and `cubby tenants list --state quarantined` lists quarantined users. In detail: {}",
        error.message()
    );
    Error::new(ErrorKind::FolderLocked, why)
}

fn print(found: &Findings, unfinished: usize, provider: Option<&Report>) {
    let problems = |entries: &Entries, [one, many]: [&str; 2], hint| {
        print_entries(entries, if entries.count == 1 { one } else { many }, hint, 0, usize::MAX);
    };
    println!("{}, {} in the catalog", counted(found.files, "file", "files"), counted(found.rows, "user", "users"));
    if unfinished > 0 {
        println!("{unfinished} unfinished files in tmp/ were removed");
    }
    if found.older > 0 {
        println!("{} files have an older schema; `cubby migrate --all` brings them up to date now", found.older);
    }
    let look = "look into it; the doctor does not touch it";
    let restore = "restore the whole folder from a backup, or --rebuild-catalog";
    problems(&found.catalog, ["error in the catalog", "errors in the catalog"], restore);
    let list = "`cubby log show --folder` lists one; remove it when you have looked";
    problems(&found.logs, ["damaged log", "damaged logs"], list);
    let orphans = ["file of a user who is not in the catalog", "files of users who are not in the catalog"];
    problems(&found.orphans, orphans, "--fix adds them");
    let purge = "restore it from a backup, or `cubby tenants purge ID --yes`";
    problems(&found.missing, ["user without a file", "users without a file"], purge);
    problems(&found.interrupted, ["move that was interrupted", "moves that were interrupted"], "--fix completes them");
    problems(&found.damaged, ["file that is no user's", "files that are no user's"], look);
    problems(&found.misplaced, ["file at another user's path", "files at another user's path"], look);
    problems(&found.leftover, ["file left beside a database", "files left beside databases"], look);
    problems(&found.quarantined, ["quarantined user", "quarantined users"], "`cubby tenants show ID` says why");
    let newer = "use that version; the doctor does not touch them";
    problems(&found.newer, ["file of a newer version of Cubby", "files of a newer version of Cubby"], newer);
    problems(&found.fixed, ["repaired"; 2], "");
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
            println!("the catalog was rebuilt; the old one is kept as {}, its log beside it", aside.display());
        }
        None => println!("the catalog was rebuilt; there was none"),
    }
    for part in rebuilt.salvaged.iter().filter(|part| part.rows > 0) {
        println!("    read from the old one: {} {}", part.rows, part.table);
    }
    for lost in rebuilt.salvaged.iter().filter_map(|part| part.lost) {
        println!("    lost, or a part of it: {lost}");
    }
}
