//! Bringing a backup back into a new data folder: what `cubby restore` does at a place of backups.

use std::{path::Path, process::ExitCode};

use indicatif::HumanBytes;
use serde_json::json;

use crate::{
    backup::{
        choice::Choice,
        destination::Destination,
        restore::{Progress, Restored, restore},
    },
    cli::{
        interrupt::unless_interrupted,
        shared::{bar, counted, print_json, print_rows},
    },
    clock::rfc3339,
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

/// Brings one back, with a progress bar on a terminal.
pub async fn run(place: &Destination, choice: &Choice, data: &Path, json: bool) -> Result<ExitCode> {
    let bar = bar("{pos}/{len} {wide_bar} {prefix} {eta}")?;
    let shown = bar.clone();
    let progress = move |progress: Progress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
        shown.set_prefix(HumanBytes(progress.bytes).to_string());
    };
    let Some(restored) = unless_interrupted(restore(place, choice, data, &progress)).await? else {
        let why = format!(
            "interrupted; {} is unfinished, and is not served: run the same again, which goes on",
            data.display()
        );
        return Err(Error::new(ErrorKind::Conflict, why));
    };
    bar.finish_and_clear();
    show(&restored, data, json)?;
    Ok(ExitCode::from(u8::from(restored.damaged > 0)))
}

fn show(restored: &Restored, data: &Path, json: bool) -> Result<()> {
    let Restored { backup, users, already, bytes, missing, some_missing, damaged, some_damaged, .. } = restored;
    let finished = rfc3339(restored.finished).to_string();
    if json {
        let named = |some: &[(TenantId, String)]| -> Vec<_> {
            some.iter().map(|(id, why)| json!({"id": id, "error": why})).collect()
        };
        return print_json(&json!({
            "folder": data, "backup": backup, "finished": finished, "users": users, "already_there": already, "bytes": bytes,
            "missing": missing, "some_missing": named(some_missing), "damaged": damaged,
            "some_damaged": named(some_damaged),
        }));
    }
    let mut lines = vec![format!(
        "{backup}, of {finished}, is in {}: {}, {}",
        data.display(),
        counted(*users, "user", "users"),
        HumanBytes(*bytes)
    )];
    if *already > 0 {
        lines.push(format!("  {already} were there already"));
    }
    let kinds = [("not in the backup", *missing, some_missing), ("damaged in the backup", *damaged, some_damaged)];
    for (what, count, some) in kinds {
        if count == 0 {
            continue;
        }
        lines.push(format!("  {count} {what}, and without a file now; `cubby doctor` shows them"));
        lines.extend(some.iter().map(|(id, why)| format!("      {id}: {why}")));
        if count > some.len() as u64 {
            lines.push("      …".to_owned());
        }
    }
    print_rows(&lines, false, None, None, String::clone).map(drop)
}
