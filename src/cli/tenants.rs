//! `cubby tenants …`.

use std::{io::Write, ops::ControlFlow, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    erasure,
    place::{Action, Folder, Place},
    print_json,
};
use crate::{
    admin::tenants::{OneTenant, TenantDraft},
    catalog::model::{Counts, Row, State},
    clock::rfc3339,
    config::{DataConfig, door::RemoteConfig},
    error::{Error, Result},
    tenants::{disk::path::Layout, id::TenantId},
};

pub const EXAMPLES: &str = "Examples:
  cubby tenants list
  cubby tenants list --state quarantined --json
  cubby tenants show user_2abc
  cubby tenants path user_2abc
  cubby tenants create user_2abc
  cubby tenants suspend user_2abc --reason \"payment overdue\"
  cubby tenants delete user_2abc && cubby tenants restore user_2abc
  cubby tenants purge user_2abc --yes
  cubby tenants adopt user_2new --from user_2old

While a server holds the data folder, these commands ask it, with ADMIN_API_KEY.";

#[derive(Debug, Args)]
pub struct Tenants {
    #[command(flatten)]
    remote: RemoteConfig,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List users' databases in the order of ids
    List {
        /// Only those in this state: active, suspended, deleted, quarantined
        #[arg(long)]
        state: Option<State>,
        /// Start after this id
        #[arg(long, value_name = "ID")]
        after: Option<TenantId>,
        /// At most so many [default: all]
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of one
    Show {
        id: TenantId,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print where one's file is, whether it exists or not
    Path { id: TenantId },
    /// Create one
    Create {
        id: TenantId,
        /// Their email address
        #[arg(long)]
        email: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse one's reads and writes until it is resumed
    Suspend {
        id: TenantId,
        /// What its user is told
        #[arg(long)]
        reason: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a suspended or quarantined one be used again
    Resume {
        id: TenantId,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete one; its file is kept until its retention ends
    Delete {
        id: TenantId,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring a deleted one back
    Restore {
        id: TenantId,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Erasure(erasure::Command),
}

pub async fn run(data: &DataConfig, tenants: Tenants) -> Result<ExitCode> {
    if let Command::Path { id } = &tenants.command {
        // Needs no lock: nothing is opened.
        let root = std::path::absolute(&data.data).map_err(|e| Error::io(data.data.display(), e))?;
        println!("{}", Layout::at(root).tenant(id).display());
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Erasure(command) = tenants.command {
        return erasure::run(data, &tenants.remote, command).await;
    }
    let folder = match &tenants.command {
        Command::Create { .. } => Folder::MayBeNew,
        _ => Folder::MustExist,
    };
    let place = Place::reach(data, &tenants.remote, folder)?;
    let result = execute(&place, tenants.command).await;
    place.leave().await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn execute(place: &Place, command: Command) -> Result<()> {
    let (id, action, json) = match command {
        Command::List { state, after, limit, json } => return list(place, state, after, limit, json).await,
        Command::Show { id, json } => return show(&place.show(&id).await.map_err(|e| name(e, &id))?, json),
        Command::Path { .. } | Command::Erasure(_) => return Ok(()),
        Command::Create { id, email, json } => {
            let made = place.create(TenantDraft { id: id.to_string(), email }).await?;
            if json {
                return print_json(&made);
            }
            println!("{id} {}", if made.created { "created" } else { "exists already" });
            return Ok(());
        }
        Command::Suspend { id, reason, json } => (id, Action::Suspend(reason), json),
        Command::Resume { id, json } => (id, Action::Resume, json),
        Command::Delete { id, json } => (id, Action::Delete, json),
        Command::Restore { id, json } => (id, Action::Restore, json),
    };
    let row = place.act(&id, action).await.map_err(|e| name(e, &id))?;
    if json {
        return print_json(&row);
    }
    report(&row);
    Ok(())
}

const PAGE: u32 = 1000;

async fn list(
    place: &Place,
    state: Option<State>,
    mut after: Option<TenantId>,
    limit: Option<u32>,
    json: bool,
) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut left = limit.unwrap_or(u32::MAX);
    let mut counts = Counts::default();
    if !json && written(print_heading(&mut out))?.is_break() {
        return Ok(());
    }
    while left > 0 {
        let page = place.list(state, after.as_ref(), left.min(PAGE)).await?;
        counts = page.counts;
        let rows = page.tenants;
        let printed = rows.iter().try_for_each(|row| match json {
            true => writeln!(out, "{}", serde_json::to_string(row)?),
            false => print_row(&mut out, row),
        });
        if written(printed)?.is_break() {
            return Ok(());
        }
        left = left.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        match rows.last() {
            Some(row) if rows.len() == PAGE as usize => after = Some(row.id.clone()),
            _ => break,
        }
    }
    let end = match json {
        true => Ok(()),
        false => writeln!(
            out,
            "\n{} active, {} suspended, {} deleted, {} quarantined",
            counts.active, counts.suspended, counts.deleted, counts.quarantined
        ),
    };
    written(end.and_then(|()| out.flush())).map(drop)
}

fn print_heading(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{:<36} {:<12} {:>6} {:>12}  {:<24} reason", "id", "state", "schema", "bytes", "last seen")
}

fn print_row(out: &mut impl Write, row: &Row) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<36} {:<12} {:>6} {:>12}  {:<24} {}",
        row.id.as_str(),
        row.state,
        optional(row.schema_version),
        optional(row.bytes),
        row.last_seen.map_or("never".into(), |at| rfc3339(at).to_string()),
        row.reason.as_deref().unwrap_or("")
    )
}

/// A reader that has seen enough (`| head`) ends the list, and is no error.
fn written(result: std::io::Result<()>) -> Result<ControlFlow<()>> {
    match result {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Error::io("standard output", error)),
    }
}

fn show(one: &OneTenant, json: bool) -> Result<()> {
    if json {
        return print_json(one);
    }
    let row = &one.row;
    let time = |at: Option<i64>| at.map_or("-".to_owned(), |at| rfc3339(at).to_string());
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    println!("id              {}", row.id);
    println!("state           {}", row.state);
    println!("reason          {}", text(&row.reason));
    if row.state == State::Quarantined {
        println!("failed attempts {}", row.faults);
        println!(
            "next attempt    {}",
            row.retry_at.map_or("when an operator resumes it".into(), |at| rfc3339(at).to_string())
        );
    }
    if let (Some(fault), Some(at)) = (&row.fault, row.fault_at) {
        println!("newest fault    {} {fault}", rfc3339(at));
    }
    println!("created         {}", rfc3339(row.created));
    println!("deleted         {}", time(row.deleted));
    println!("kept until      {}", time(row.purge_after));
    if let Some(state) = row.state_before {
        println!("when restored   {state}: {}", row.reason_before.as_deref().unwrap_or("no reason is kept"));
    }
    println!("last seen       {}", time(row.last_seen));
    println!("schema          {} (newest is {})", optional(row.schema_version), one.newest_schema);
    println!("file            {}", one.path.display());
    println!("file size       {}", one.file_bytes.map_or("missing".into(), |n| format!("{n} bytes")));
    println!("email           {}", text(&row.profile.email));
    println!("name            {} {}", text(&row.profile.first_name), text(&row.profile.last_name));
    println!("username        {}", text(&row.profile.username));
    println!("role            {}", text(&row.profile.role));
    println!("workspace       {}", row.workspace);
    Ok(())
}

fn report(row: &Row) {
    match &row.reason {
        Some(reason) => println!("{} is {}: {reason}", row.id, row.state),
        None => println!("{} is {}", row.id, row.state),
    }
}

fn name(error: Error, id: &TenantId) -> Error {
    if error.kind() == crate::ErrorKind::UnknownTenant { unknown(id) } else { error }
}

fn unknown(id: &TenantId) -> Error {
    Error::new(crate::ErrorKind::UnknownTenant, format!("{id} is unknown; `cubby tenants list` shows who is"))
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
