//! `cubby tenants …`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::{close, open, print_json};
use crate::{
    catalog::model::{Profile, Row, State},
    clock::rfc3339,
    config::DataConfig,
    error::{Error, Result},
    tenants::{id::TenantId, path::Layout, store::Store},
};

pub const EXAMPLES: &str = "Examples:
  cubby tenants list
  cubby tenants list --state quarantined --json
  cubby tenants show user_2abc
  cubby tenants path user_2abc
  cubby tenants create user_2abc
  cubby tenants suspend user_2abc --reason \"payment overdue\"
  cubby tenants delete user_2abc && cubby tenants restore user_2abc";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List users' databases in the order of ids
    List {
        /// Only those in this state: active, suspended, deleted, quarantined
        #[arg(long)]
        state: Option<State>,
        /// Start after this id
        #[arg(long, value_name = "ID")]
        after: Option<TenantId>,
        /// At most so many [default: all]
        #[arg(long, value_name = "COUNT")]
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
    },
    /// Let a suspended or quarantined one be used again
    Resume { id: TenantId },
    /// Delete one; its file is kept until its retention ends
    Delete { id: TenantId },
    /// Bring a deleted one back
    Restore { id: TenantId },
}

pub async fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    if let Command::Path { id } = &command {
        // Needs no lock: nothing is opened.
        let root = std::path::absolute(&data.data).map_err(|e| Error::io(data.data.display(), e))?;
        println!("{}", Layout::at(root).tenant(id).display());
        return Ok(ExitCode::SUCCESS);
    }
    let store = open(data)?;
    let result = execute(&store, command).await;
    close(store).await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn execute(store: &Store, command: Command) -> Result<()> {
    match command {
        Command::List { state, after, limit, json } => list(store, state, after, limit, json).await,
        Command::Show { id, json } => {
            let row = store.find(&id).await?.ok_or_else(|| unknown(&id))?;
            show(store, &row, json)
        }
        Command::Path { .. } => Ok(()),
        Command::Create { id, email, json } => {
            let (tenant, created) = store.create(&id, Profile { email, ..Profile::default() }).await.map_err(|e| {
                // To an operator a deleted tenant is no secret.
                if e.kind() == crate::ErrorKind::UnknownTenant { deleted(&id) } else { e }
            })?;
            drop(tenant);
            match json {
                true => print_json(&json!({"id": id, "created": created})),
                false => {
                    println!("{id} {}", if created { "created" } else { "exists already" });
                    Ok(())
                }
            }
        }
        Command::Suspend { id, reason } => {
            report(&store.suspend(&id, &reason).await.map_err(|e| name(e, &id))?);
            Ok(())
        }
        Command::Resume { id } => {
            report(&store.resume(&id).await.map_err(|e| name(e, &id))?);
            Ok(())
        }
        Command::Delete { id } => {
            report(&store.delete(&id).await.map_err(|e| name(e, &id))?);
            Ok(())
        }
        Command::Restore { id } => {
            report(&store.restore(&id).await.map_err(|e| name(e, &id))?);
            Ok(())
        }
    }
}

const PAGE: u32 = 1000;

async fn list(
    store: &Store,
    state: Option<State>,
    mut after: Option<TenantId>,
    limit: Option<u32>,
    json: bool,
) -> Result<()> {
    let mut left = limit.unwrap_or(u32::MAX);
    if !json {
        println!("{:<36} {:<12} {:>6} {:>12}  {:<24} reason", "id", "state", "schema", "bytes", "last seen");
    }
    while left > 0 {
        let rows = store.list(state, after.clone(), left.min(PAGE)).await?;
        for row in &rows {
            match json {
                true => println!("{}", serde_json::to_string(row).map_err(|e| Error::internal("JSON").with_source(e))?),
                false => println!(
                    "{:<36} {:<12} {:>6} {:>12}  {:<24} {}",
                    row.id.as_str(),
                    row.state,
                    optional(row.schema_version),
                    optional(row.bytes),
                    row.last_seen.map_or("never".into(), |at| rfc3339(at).to_string()),
                    row.reason.as_deref().unwrap_or("")
                ),
            }
        }
        left = left.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        match rows.last() {
            Some(row) if rows.len() == PAGE as usize => after = Some(row.id.clone()),
            _ => break,
        }
    }
    if !json {
        let counts = store.counts().await?;
        println!(
            "\n{} active, {} suspended, {} deleted, {} quarantined",
            counts.active, counts.suspended, counts.deleted, counts.quarantined
        );
    }
    Ok(())
}

fn show(store: &Store, row: &Row, json: bool) -> Result<()> {
    let path = match row.state {
        State::Deleted if !store.layout().tenant(&row.id).exists() => store.layout().trashed(&row.id),
        _ => store.layout().tenant(&row.id),
    };
    let size = std::fs::metadata(&path).map(|found| found.len()).ok();
    if json {
        let mut value = serde_json::to_value(row).map_err(|e| Error::internal("JSON").with_source(e))?;
        value["path"] = json!(path);
        value["file_bytes"] = json!(size);
        return print_json(&value);
    }
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
    println!("last seen       {}", time(row.last_seen));
    println!("schema          {} (newest is {})", optional(row.schema_version), store.schema().version());
    println!("file            {}", path.display());
    println!("file size       {}", size.map_or("missing".into(), |n| format!("{n} bytes")));
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

fn deleted(id: &TenantId) -> Error {
    Error::new(crate::ErrorKind::Conflict, format!("{id} is deleted; `cubby tenants restore {id}` brings it back"))
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
