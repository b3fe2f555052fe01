//! `cubby tenants bulk`: one change of many users.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    admin::bulk::Newest,
    bulk::report::{Action, Preview, Report, Status},
    catalog::model::State,
    cli::{
        interrupt::unless_interrupted,
        shared::{bar, blocking, counted, print_json},
        target::{Target, segment},
        watch::{LOOK, is_absent},
    },
    error::{Error, ErrorKind, Result},
    http::text::shown,
    tenants::id::TenantId,
};

const PATH: &str = "/api/admin/bulk";

#[derive(Debug, Args)]
pub struct Bulk {
    /// suspend, resume, migrate, delete; status of the newest run; stop the one that runs
    #[arg(value_name = "ACTION")]
    what: What,
    /// Whom: ids, or - for ids on standard input, one a line
    #[arg(value_name = "ID", conflicts_with_all = ["state", "search", "all"])]
    ids: Vec<String>,
    /// All in this state: active, suspended, deleted, quarantined
    #[arg(long)]
    state: Option<State>,
    /// All whose id, address or name has this text; one or two characters are the beginning of an id
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// All users
    #[arg(long, conflicts_with_all = ["state", "search"])]
    all: bool,
    /// What suspended users are told, up to 500 characters
    #[arg(long)]
    reason: Option<String>,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
    /// The number of users that a dry run told, in place of typing it
    #[arg(long, value_name = "COUNT")]
    confirm: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Change(Action),
    Status,
    Stop,
}

impl std::str::FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "status" => Ok(Self::Status),
            "stop" => Ok(Self::Stop),
            _ => text.parse().map(Self::Change).map_err(|_| {
                format!("{text:?} is not an action; use suspend, resume, migrate, delete, status or stop")
            }),
        }
    }
}

impl Bulk {
    /// What is wrong with the arguments, before the data folder is opened.
    pub fn validate(&self) -> Result<()> {
        let wrong = |why: &str| Err(Error::config(why.to_owned()));
        let What::Change(action) = self.what else { return Ok(()) };
        if self.search.as_deref().is_some_and(|text| text.trim().is_empty()) {
            return wrong("--search is empty, which would be every user; say --all if you mean them");
        }
        if self.ids.is_empty() && self.state.is_none() && self.search.is_none() && !self.all {
            return wrong("say whom: ids, --state, --search, or --all for every user");
        }
        match (action, &self.reason) {
            (Action::Suspend, None) if !self.dry_run => wrong("say with --reason what the users are told"),
            (Action::Resume | Action::Migrate | Action::Delete, Some(_)) => wrong("--reason is for suspend only"),
            _ => Ok(()),
        }
    }
}

/// Counts, asks for a confirmation, starts and watches.
pub async fn run(target: &Target, bulk: Bulk) -> Result<ExitCode> {
    let action = match bulk.what {
        What::Change(action) => action,
        What::Status => {
            let newest: Newest = target.get(PATH).await?;
            let none = || Error::new(ErrorKind::NotFound, "there was no change of many users yet");
            return show(&newest.run.ok_or_else(none)?, bulk.json);
        }
        What::Stop => return show(&stop(target, None).await?, bulk.json),
    };
    let from_input = bulk.ids == ["-"];
    let mut draft = json!({"action": action});
    if bulk.ids.is_empty() {
        draft["filter"] = json!({"state": bulk.state, "q": bulk.search});
    } else {
        draft["ids"] = json!(ids(bulk.ids).await?);
    }
    let preview: Preview = target.post(&format!("{PATH}?dry_run=true"), Some(draft.clone())).await?;
    if bulk.dry_run {
        match bulk.json {
            true => print_json(&preview)?,
            false => tell(&preview),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if preview.count == 0 {
        eprintln!("nobody matches; nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    match bulk.confirm {
        Some(count) if count == preview.count => {}
        Some(count) => {
            let (confirmed, found) = (counted(count, "user", "users"), counted(preview.count, "user is", "users are"));
            let why = format!("{confirmed} confirmed, but {found} meant by now; nothing was changed");
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        None => confirm(&preview, from_input).await?,
    }
    (draft["count"], draft["as_of"]) = (json!(preview.count), json!(preview.as_of));
    draft["digest"] = json!(preview.digest);
    if let Some(reason) = bulk.reason {
        draft["reason"] = json!(reason);
    }
    let started: Report = target.post(PATH, Some(draft)).await?;
    finish(target, started, bulk.json).await
}

/// The ids that were given, or those on standard input.
async fn ids(given: Vec<String>) -> Result<Vec<TenantId>> {
    let texts = if given == ["-"] {
        let read = || io::stdin().lock().lines().collect::<io::Result<Vec<String>>>();
        blocking("reading standard input", read).await?.map_err(|e| Error::io("standard input", e))?
    } else {
        given
    };
    let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    let parsed = texts.map(|text| {
        TenantId::parse(text.as_bytes()).map_err(|e| Error::invalid("id", format!("{}: {e}", shown(text))))
    });
    let ids: Vec<TenantId> = parsed.collect::<Result<_>>()?;
    if ids.is_empty() {
        return Err(Error::config("no ids were given; nothing was changed"));
    }
    Ok(ids)
}

fn tell(preview: &Preview) {
    println!("{} {}; nothing was changed", preview.action.as_str(), counted(preview.count, "user", "users"));
    let more = preview.count > preview.some.len() as u64;
    println!("  {}{}", preview.some.join(", "), if more { ", …" } else { "" });
    if preview.left_out > 0 {
        println!("  left out: {} whose state this does not change", preview.left_out);
    }
    if !preview.unknown.is_empty() {
        println!("  unknown, among others perhaps: {}", preview.unknown.join(", "));
    }
}

/// Has the operator type what is to be done.
async fn confirm(preview: &Preview, from_input: bool) -> Result<()> {
    let (action, count) = (preview.action.as_str(), preview.count);
    if from_input || !io::stdin().is_terminal() {
        let meant = counted(count, "user is", "users are");
        return Err(Error::config(format!("{meant} meant; to {action} them: --confirm {count}")));
    }
    let wanted = format!("{action} {count}");
    tell(preview);
    let asked = wanted.clone();
    let typed = blocking("reading standard input", move || {
        print!("type {asked:?} to do it: ");
        io::stdout().flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let typed = typed.await?.map_err(|e| Error::io("standard input", e))?;
    if typed.trim() == wanted || typed.trim() == count.to_string() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "that is something else; nothing was changed"))
}

async fn stop(target: &Target, run: Option<&str>) -> Result<Report> {
    let which = run.map_or(String::new(), |run| format!("?run={}", segment(run)));
    let stopped: Newest = target.call(Method::DELETE, &format!("{PATH}{which}"), None::<Value>).await?;
    stopped.run.ok_or_else(|| target.other_program())
}

/// Watches a run to its end, and says what came of it.
async fn finish(target: &Target, started: Report, json: bool) -> Result<ExitCode> {
    let run = started.run.clone();
    let report = match (unless_interrupted(watch(target, started)).await?, target) {
        (Some(report), _) => report,
        // Nobody else would finish it.
        (None, Target::Folder(_)) => stop(target, Some(&run)).await?,
        (None, Target::Server { .. }) => {
            eprintln!(
                "the server goes on; `cubby tenants bulk status` says how far it is, `cubby tenants bulk stop` stops it"
            );
            return Ok(ExitCode::FAILURE);
        }
    };
    show(&report, json)
}

/// Looks at a run until it is over, with a progress bar on a terminal.
async fn watch(target: &Target, mut report: Report) -> Result<Report> {
    let run = report.run.clone();
    let bar = bar("{msg:>9} {pos}/{len} {wide_bar} {per_sec} {prefix}")?;
    let (mut wait, mut answered) = (Duration::from_millis(5), Instant::now());
    while report.status.is_under_way() {
        bar.set_message(report.action.as_str());
        bar.set_length(report.total);
        bar.set_position(report.handled);
        bar.set_prefix(left(&report));
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK);
        match target.get::<Newest>(PATH).await {
            Ok(Newest { run: Some(now) }) if now.run == run => (report, answered) = (now, Instant::now()),
            Ok(_) => {
                let why = format!("{run} is over, and another run was started; the audit trail says what came of it");
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            Err(error) if is_absent(&error, answered) => {}
            Err(error) => return Err(error),
        }
    }
    bar.finish_and_clear();
    Ok(report)
}

fn left(report: &Report) -> String {
    let span = |seconds| humantime::format_duration(Duration::from_secs(seconds));
    report.seconds_left.map_or(String::new(), |seconds| format!("{} left", span(seconds)))
}

fn show(report: &Report, json: bool) -> Result<ExitCode> {
    match json {
        true => print_json(report)?,
        false => print(report),
    }
    let good = report.status.is_under_way() || report.status == Status::Done && report.failed == 0;
    Ok(ExitCode::from(u8::from(!good)))
}

fn print(report: &Report) {
    let Report { run, action, handled, total, changed, unchanged, gone, failed, .. } = report;
    let left = left(report);
    let left = if left.is_empty() { left } else { format!(", about {left}") };
    let users = counted(*total, "user", "users");
    println!("{run} ({}) is {}: {handled} of {users} handled{left}", action.as_str(), report.status.as_str());
    if let Some(why) = &report.why {
        println!("  {why}");
    }
    println!("{changed} {}, {unchanged} needed nothing, {gone} deleted or unknown, {failed} failed", action.past());
    for failure in &report.failures {
        println!("  {}: {}", failure.id, failure.error);
    }
    if *failed > report.failures.len() as u64 {
        println!("  …");
    }
}
