//! A backup that is being made, by the server that holds the data folder or in this process.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use indicatif::HumanBytes;
use reqwest::Method;
use serde_json::json;

use crate::{
    admin::backups::Overview,
    backup::report::{Report, Status},
    cli::{
        interrupt::unless_interrupted,
        shared::{bar, counted, print_json, print_rows},
        target::{Target, segment},
        watch::{LOOK, is_absent},
    },
    config::replicate::Keep,
    error::{Error, ErrorKind, Result},
};

const PATH: &str = "/api/admin/backups";

/// Starts one and watches it.
pub async fn begin(target: &Target, to: Option<String>, keep: Option<Keep>, json: bool) -> Result<ExitCode> {
    let draft = json!({"to": to, "keep": keep.map(|keep| keep.to_string())});
    let started: Report = target.post(PATH, Some(draft)).await?;
    let run = started.run.clone();
    let report = match (unless_interrupted(watch(target, started)).await?, target) {
        (Some(report), _) => report,
        // Nobody else would finish it.
        (None, Target::Folder(_)) => end(target, &run).await?,
        (None, Target::Server { .. }) => {
            eprintln!("the server goes on; `cubby backup status` says how far it is, `cubby backup stop` stops it");
            return Ok(ExitCode::FAILURE);
        }
    };
    show(&report, json)?;
    Ok(ExitCode::from(u8::from(report.status != Status::Done || report.missing > 0)))
}

/// Says how far the one is that is being made, and what came of the last ones.
pub async fn status(target: &Target, json: bool) -> Result<ExitCode> {
    let overview: Overview = target.get(PATH).await?;
    if json {
        print_json(&overview)?;
        return Ok(ExitCode::SUCCESS);
    }
    let reports: Vec<&Report> = overview.run.iter().chain(&overview.last).collect();
    let none = reports.is_empty().then(|| {
        let to = overview.to.as_ref().map_or("nowhere by itself".to_owned(), |to| format!("to {to}"));
        format!("no backup was made since the server started; it makes them {to}")
    });
    print_rows(&reports, false, none, None, |report| text(report))?;
    Ok(ExitCode::SUCCESS)
}

/// Stops the one that is being made.
pub async fn stop(target: &Target, json: bool) -> Result<ExitCode> {
    let overview: Overview = target.get(PATH).await?;
    let Some(run) = overview.run else {
        return Err(Error::new(ErrorKind::NotFound, "no backup is being made; nothing was stopped"));
    };
    show(&end(target, &run.run).await?, json)?;
    Ok(ExitCode::SUCCESS)
}

async fn end(target: &Target, run: &str) -> Result<Report> {
    target.call(Method::DELETE, &format!("{PATH}/{}", segment(run)), None).await
}

/// Looks at one until it is over, with a progress bar on a terminal.
async fn watch(target: &Target, mut report: Report) -> Result<Report> {
    let path = format!("{PATH}/{}", segment(&report.run));
    let bar = bar("{msg:>9} {pos}/{len} {wide_bar} {prefix}")?;
    let (mut wait, mut answered) = (Duration::from_millis(5), Instant::now());
    while report.status.is_under_way() {
        bar.set_message(report.phase.as_str());
        bar.set_length(report.total);
        bar.set_position(report.handled);
        bar.set_prefix(pace(&report));
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

/// How much was read, how fast, and how long it still takes.
fn pace(report: &Report) -> String {
    let rate = report.bytes_per_second.map_or(String::new(), |rate| format!(" {}/s", HumanBytes(rate)));
    let left = report
        .seconds_left
        .filter(|_| report.status.is_under_way())
        .map_or(String::new(), |seconds| format!(" {} left", humantime::format_duration(Duration::from_secs(seconds))));
    format!("{}{rate}{left}", HumanBytes(report.bytes_read))
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        return print_json(report);
    }
    print_rows(&[text(report)], false, None, None, String::clone).map(drop)
}

/// What came of one, or has so far, in lines.
fn text(report: &Report) -> String {
    let Report { run, to, handled, total, uploaded, same, unchanged, missing, bytes, .. } = report;
    let users = counted(*total, "user", "users");
    let mut lines = vec![
        format!("{run} to {to} is {}: {handled} of {users}, {}", report.status.as_str(), HumanBytes(*bytes)),
        format!("  {uploaded} copied, {same} read and there already, {unchanged} unchanged, {missing} missing"),
    ];
    if report.status.is_under_way() {
        lines.push(format!("  read {}", pace(report)));
    }
    if report.removed > 0 {
        lines.push(format!("  {} removed", counted(report.removed, "older backup", "older backups")));
    }
    lines.extend(report.why.iter().map(|why| format!("  {why}")));
    lines.extend(report.some_missing.iter().map(|one| format!("  missing: {}: {}", one.id, one.why)));
    if *missing > report.some_missing.len() as u64 {
        lines.push("  missing: …".to_owned());
    }
    if matches!(report.status, Status::Stopped | Status::Failed | Status::Interrupted) {
        lines.push("  not whole; run it again, it goes on".to_owned());
    }
    lines.join("\n")
}
