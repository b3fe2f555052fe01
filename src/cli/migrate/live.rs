//! Migrations by the server that holds the data folder: started, watched, paused, resumed.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    admin::migrations::{Migrated, Overview},
    cli::{
        interrupt::unless_interrupted,
        shared::{bar, counted, print_json, print_rows},
        target::{Target, segment},
        watch::{LOOK, is_absent},
    },
    config::provider::Part,
    error::{Error, ErrorKind, Result},
    rollout::report::{Report, Status},
    tenants::id::TenantId,
};

const PATH: &str = "/api/admin/migrations";

/// Starts a run and watches it.
pub async fn all(target: &Target, options: &str, max_failures: Part, json: bool) -> Result<ExitCode> {
    let max_failures = segment(&max_failures.to_string());
    let started: Report = target.post(&format!("{PATH}?{options}&max_failures={max_failures}"), None).await?;
    finish(target, started, json).await
}

/// Migrates users by name, one after the other.
pub async fn some(target: &Target, ids: &[TenantId], json: bool) -> Result<ExitCode> {
    let (mut migrated, mut current, mut schema, mut failed) = (0, 0, None, Vec::new());
    for id in ids {
        match target.post::<Migrated>(&format!("/api/admin/tenants/{}/migrate", segment(id.as_str())), None).await {
            Ok(done) => {
                schema = Some(done.schema);
                match done.from {
                    Some(_) => migrated += 1,
                    None => current += 1,
                }
            }
            // Whoever cannot be reached fails for none of them.
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => failed.push((id, error.detail())),
        }
    }
    if json {
        let failed: Vec<_> = failed.iter().map(|(id, error)| json!({"id": id, "error": error})).collect();
        print_json(&json!({"schema": schema, "migrated": migrated, "already_current": current, "failed": failed}))?;
    } else {
        let schema = schema.map_or(String::new(), |schema| format!("schema {schema}: "));
        let summary = format!("{schema}{migrated} migrated, {current} were there already, {} failed", failed.len());
        print_rows(&failed, false, Some(summary), None, |(id, error)| format!("  {id}: {error}"))?;
    }
    Ok(ExitCode::from(u8::from(!failed.is_empty())))
}

/// Says how many users have which schema, and how far a run is.
pub async fn status(target: &Target, run: Option<&str>, json: bool) -> Result<ExitCode> {
    let mut overview: Overview = target.get(PATH).await?;
    if let Some(run) = run {
        overview.run = Some(target.get(&at(run)).await?);
    }
    if json {
        print_json(&overview)?;
        return Ok(ExitCode::SUCCESS);
    }
    let heading = format!("{:>7} {:>10} {:>12}", "schema", "users", "quarantined");
    let newest = format!("the newest schema is {}", overview.schema);
    let after = overview.run.as_ref().map_or(newest.clone(), |run| format!("{newest}\n{}", text(run)));
    print_rows(&overview.schemas, false, Some(heading), Some(after), |share| {
        let schema = share.schema.map_or("unknown".to_owned(), |schema| schema.to_string());
        format!("{schema:>7} {:>10} {:>12}", share.users, share.quarantined)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Pauses a run.
pub async fn pause(target: &Target, run: Option<&str>, json: bool) -> Result<ExitCode> {
    let run = named(target, run).await?;
    let paused: Report = target.post(&format!("{}/pause", at(&run)), None).await?;
    show(&paused, json)?;
    Ok(ExitCode::SUCCESS)
}

/// Resumes a run and watches it.
pub async fn resume(target: &Target, run: Option<&str>, json: bool) -> Result<ExitCode> {
    let run = named(target, run).await?;
    let resumed: Report = target.post(&format!("{}/resume", at(&run)), None).await?;
    finish(target, resumed, json).await
}

fn at(run: &str) -> String {
    format!("{PATH}/{}", segment(run))
}

async fn named(target: &Target, run: Option<&str>) -> Result<String> {
    if let Some(run) = run {
        return Ok(run.to_owned());
    }
    let overview: Overview = target.get(PATH).await?;
    let none =
        || Error::new(ErrorKind::NotFound, "there is no run; `cubby migrate --all` starts one at a running server");
    Ok(overview.run.ok_or_else(none)?.run)
}

/// Watches a run to its end, and says what came of it.
async fn finish(target: &Target, started: Report, json: bool) -> Result<ExitCode> {
    let run = started.run.clone();
    let report = match (unless_interrupted(watch(target, started)).await?, target) {
        (Some(report), _) => report,
        // Nobody else would finish it.
        (None, Target::Folder(_)) => target.post(&format!("{}/pause", at(&run)), None).await?,
        (None, Target::Server { .. }) => {
            eprintln!("the server goes on; `cubby migrate status` says how far it is, `cubby migrate pause` pauses it");
            return Ok(ExitCode::FAILURE);
        }
    };
    show(&report, json)?;
    Ok(ExitCode::from(u8::from(report.status != Status::Done || report.failed + report.still_quarantined > 0)))
}

/// Looks at a run until it is over, with a progress bar on a terminal.
async fn watch(target: &Target, mut report: Report) -> Result<Report> {
    let path = at(&report.run);
    let bar = bar("{msg:>9} {pos}/{len} {wide_bar} {per_sec} {prefix}")?;
    let (mut wait, mut answered) = (Duration::from_millis(5), Instant::now());
    while report.status.is_under_way() {
        bar.set_message(report.phase.as_str());
        bar.set_length(report.total);
        bar.set_position(report.handled);
        bar.set_prefix(left(&report));
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK);
        match target.get::<Report>(&path).await {
            Ok(now) => (report, answered) = (now, Instant::now()),
            Err(error) if is_absent(&error, answered) => {}
            Err(error) => return Err(error),
        }
    }
    bar.finish_and_clear();
    Ok(report)
}

fn left(report: &Report) -> String {
    report
        .seconds_left
        .map_or(String::new(), |seconds| format!("{} left", humantime::format_duration(Duration::from_secs(seconds))))
}

/// What is said where nobody is behind.
pub fn already_there(version: i32) -> String {
    format!("everybody is at version {version} of the schema already")
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        return print_json(report);
    }
    print_rows(&[text(report)], false, None, None, String::clone).map(drop)
}

/// What came of a run, or has so far, in lines.
fn text(report: &Report) -> String {
    let Report { run, schema, handled, total, migrated, already_current, failed, .. } = report;
    if *total == 0 && report.status == Status::Done && report.still_quarantined == 0 {
        return format!("{run} is done: {}", already_there(*schema));
    }
    let left = left(report);
    let left = if left.is_empty() { left } else { format!(", about {left}") };
    let users = counted(*total, "user", "users");
    let mut lines = vec![format!("{run} is {}: {handled} of {users} handled{left}", report.status.as_str())];
    if let Some(reason) = &report.reason {
        lines.push(format!("  {reason}; `cubby migrate resume` goes on"));
    }
    lines.push(format!("schema {schema}: {migrated} migrated, {already_current} were there already, {failed} failed"));
    for failure in &report.failures {
        lines.push(format!("  {} failed: {}", failure.count, failure.error));
        let hidden = failure.count > failure.tenants.len() as u64;
        lines.push(format!("      {}{}", failure.tenants.join(", "), if hidden { ", …" } else { "" }));
    }
    if report.still_quarantined > 0 {
        lines.push(format!("  {} were quarantined before, and still are", report.still_quarantined));
    }
    if report.gone > 0 {
        lines.push(format!("  {} were deleted meanwhile", report.gone));
    }
    if report.status == Status::Interrupted {
        lines.push("the server ended before the run did; `cubby migrate resume` goes on".to_owned());
    }
    lines.join("\n")
}
