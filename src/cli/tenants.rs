//! `cubby tenants …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::{
    shared::{Folder, print_json, print_rows},
    target::{Target, segment, with_target},
};
use crate::{
    admin::tenants::{Created, OneTenant, Tenants as Listed},
    catalog::model::{Row, State},
    clock::rfc3339,
    config::{DataConfig, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
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
    Show(One),
    /// Print where one's file is, whether it exists or not
    Path { id: TenantId },
    /// Create one
    Create {
        #[command(flatten)]
        one: One,
        /// Their email address
        #[arg(long)]
        email: Option<String>,
    },
    /// Refuse one's reads and writes until it is resumed
    Suspend {
        #[command(flatten)]
        one: One,
        /// What its user is told
        #[arg(long)]
        reason: String,
    },
    /// Serve a suspended or quarantined one again
    Resume(One),
    /// Delete one; its file is kept until its retention ends
    Delete(One),
    /// Restore a deleted one
    Restore(One),
    /// Erase one for good: file, personal data, and the deliveries about them; a tombstone stays
    Purge {
        id: TenantId,
        /// Yes, for good
        #[arg(long)]
        yes: bool,
    },
    /// Restore one of whom nothing is left, with an empty database
    Revive { id: TenantId },
    /// Give a user who signed up again the data of their old, deleted id
    Adopt {
        /// The id they have now
        new: TenantId,
        /// The id they had, which is purged by it
        #[arg(long, value_name = "OLD")]
        from: TenantId,
        /// Replace what the new id has of its own
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Debug, Args)]
struct One {
    id: TenantId,

    /// As JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(data: &DataConfig, tenants: Tenants) -> Result<ExitCode> {
    let folder = match &tenants.command {
        Command::Path { id } => {
            // Opens nothing, so it needs no lock.
            let root = std::path::absolute(&data.data).map_err(|e| Error::io(data.data.display(), e))?;
            println!("{}", Layout::at(root).tenant(id).display());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Purge { id, yes: false } => {
            return Err(Error::config(format!(
                "this erases the data of {id} for good; to do that: cubby tenants purge {id} --yes"
            )));
        }
        Command::Create { .. } => Folder::MayBeNew,
        _ => Folder::MustExist,
    };
    with_target(data, &tenants.remote, folder, None, async |target| execute(target, tenants.command).await).await?;
    Ok(ExitCode::SUCCESS)
}

async fn execute(target: &Target, command: Command) -> Result<()> {
    let post = |verb, body| (Method::POST, verb, body);
    let text = |id| One { id, json: false };
    let (One { id, json }, (method, verb, body)) = match command {
        Command::List { state, after, limit, json } => return list(target, state, after, limit, json).await,
        Command::Show(One { id, json }) => {
            let one: OneTenant = target.get(&path(&id)).await.map_err(|e| name(e, &id))?;
            if json {
                return print_json(&one);
            }
            print(&one);
            return Ok(());
        }
        Command::Path { .. } => return Ok(()),
        Command::Create { one: One { id, json }, email } => {
            let draft = json!({"id": id, "email": email});
            let made: Created = target.post("/api/admin/tenants", Some(draft)).await?;
            if json {
                return print_json(&made);
            }
            println!("{id} {}", if made.created { "created" } else { "exists already" });
            return Ok(());
        }
        Command::Suspend { one, reason } => (one, post("/suspend", Some(json!({"reason": reason})))),
        Command::Resume(one) => (one, post("/resume", None)),
        Command::Delete(one) => (one, (Method::DELETE, "", None)),
        Command::Restore(one) => (one, post("/restore", None)),
        Command::Purge { id, .. } => (text(id), post("/purge", Some(json!({"yes": true})))),
        Command::Revive { id } => (text(id), post("/revive", None)),
        Command::Adopt { new, from, replace } => {
            (text(new), post("/adopt", Some(json!({"from": from, "replace": replace}))))
        }
    };
    let row: Row = target.call(method, &(path(&id) + verb), body).await.map_err(|e| name(e, &id))?;
    if json {
        return print_json(&row);
    }
    let state = if row.purged.is_some() { "purged" } else { row.state.as_str() };
    println!("{} is {state}{}", row.id, row.reason.map_or(String::new(), |reason| format!(": {reason}")));
    Ok(())
}

fn path(id: &TenantId) -> String {
    format!("/api/admin/tenants/{}", segment(id.as_str()))
}

/// Names the tenant where the route does not: an adoption says which of the two is unknown.
fn name(error: Error, id: &TenantId) -> Error {
    if error.kind() != ErrorKind::UnknownTenant || error.message() != Error::unknown_tenant().message() {
        return error;
    }
    Error::new(ErrorKind::UnknownTenant, format!("{id} is unknown; `cubby tenants list` shows who is"))
}

async fn list(
    target: &Target,
    state: Option<State>,
    mut after: Option<TenantId>,
    limit: Option<u32>,
    json: bool,
) -> Result<()> {
    let state = state.map_or(String::new(), |state| format!("&state={state}"));
    let mut heading = Some(line("id", "state", "schema", "bytes", "last seen", "reason"));
    let mut left = limit.unwrap_or(u32::MAX);
    loop {
        let start = after.map_or(String::new(), |after| format!("&after={}", segment(after.as_str())));
        let most = left.min(1000);
        let found: Listed = target.get(&format!("/api/admin/tenants?limit={most}{state}{start}")).await?;
        left -= most;
        let is_last = found.tenants.len() < most as usize || left == 0;
        let counts = found.counts;
        let footer = format!(
            "\n{} active, {} suspended, {} deleted, {} quarantined",
            counts.active, counts.suspended, counts.deleted, counts.quarantined
        );
        let more = print_rows(&found.tenants, json, heading.take(), is_last.then_some(footer), |row| {
            let (schema, bytes) = (optional(row.schema_version), optional(row.bytes));
            let seen = row.last_seen.map_or("never".to_owned(), |at| rfc3339(at).to_string());
            line(row.id.as_str(), row.state.as_str(), &schema, &bytes, &seen, row.reason.as_deref().unwrap_or(""))
        });
        if !more? || is_last {
            return Ok(());
        }
        after = found.tenants.last().map(|row: &Row| row.id.clone());
    }
}

fn line(id: &str, state: &str, schema: &str, bytes: &str, seen: &str, reason: &str) -> String {
    format!("{id:<36} {state:<12} {schema:>6} {bytes:>12}  {seen:<24} {reason}")
}

fn print(one: &OneTenant) {
    let row = &one.row;
    let time = |at: Option<i64>| optional(at.map(rfc3339));
    let text = |text: &Option<String>| optional(text.as_deref());
    println!("id              {}", row.id);
    println!("state           {}", row.state);
    println!("reason          {}", text(&row.reason));
    if row.state == State::Quarantined {
        let retry = row.retry_at.map_or("when an operator resumes it".into(), |at| rfc3339(at).to_string());
        println!("failed attempts {}", row.consecutive_quarantines);
        println!("next attempt    {retry}");
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
    println!("file            {}", one.path);
    println!("file size       {}", one.file_bytes.map_or("missing".into(), |n| format!("{n} bytes")));
    println!("email           {}", text(&row.profile.email));
    println!("name            {} {}", text(&row.profile.first_name), text(&row.profile.last_name));
    println!("username        {}", text(&row.profile.username));
    println!("role            {}", text(&row.profile.role));
    println!("workspace       {}", row.workspace);
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
