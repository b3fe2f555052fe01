//! `cubby keys …`.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    shared::{Folder, print_json, print_rows},
    target::{Target, segment, with_target},
};
use crate::{
    admin::keys::{Keys as Listed, NewKey, OneKey},
    catalog::model::KeyRow,
    clock::{Clock, rfc3339},
    config::{DataConfig, door::RemoteConfig, duration},
    error::Result,
    tenants::id::TenantId,
};

pub const EXAMPLES: &str = "Examples:
  cubby keys create --name \"web backend\"
  cubby keys create --name reports --read-only --expires 90d
  cubby keys create --name import --tenant user_2abc
  cubby keys create --name next-app --sql
  cubby keys list
  cubby keys revoke key_abcdefghijkl

While a server holds the data folder, these commands ask it, with ADMIN_API_KEY:
a key works, and stops working, at once. The server must accept keys:
CUBBY_AUTH=keys or jwt+keys.";

#[derive(Debug, Args)]
pub struct Keys {
    #[command(flatten)]
    remote: RemoteConfig,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a key and show it, once
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// The only user whose database it reaches [default: all]
        #[arg(long, value_name = "ID")]
        tenant: Option<TenantId>,
        /// It may read and not write
        #[arg(long)]
        read_only: bool,
        /// It may send SQL
        #[arg(long)]
        sql: bool,
        /// It expires after this time [default: never]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires: Option<Duration>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List keys: what they are for and when they were last used, not the keys themselves
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Stop a key from working, at once
    Revoke {
        /// The id that `cubby keys list` shows: key_…
        id: String,
    },
}

pub async fn run(data: &DataConfig, keys: Keys) -> Result<ExitCode> {
    let folder = match &keys.command {
        Command::Create { .. } => Folder::MayBeNew,
        _ => Folder::MustExist,
    };
    let done = async |target: &Target| match keys.command {
        Command::Create { name, tenant, read_only, sql, expires, json } => {
            let expires = expires.map(|time| time.as_secs());
            let draft =
                json!({"name": name, "user_id": tenant, "read_only": read_only, "sql": sql, "expires_in": expires});
            let made: NewKey = target.post("/api/admin/keys", Some(draft)).await?;
            if json {
                return print_json(&made);
            }
            println!("{}", made.secret);
            eprintln!("{}: shown this once; keep it where only your backend can read it", made.key.id);
            Ok(())
        }
        Command::List { json } => {
            let now = Clock::system().now();
            let heading = row("id", "ends in", "state", "may", "reaches", "last used", "name");
            let found: Listed = target.get("/api/admin/keys").await?;
            print_rows(&found.keys, json, Some(heading), None, |key| line(key, now)).map(drop)
        }
        Command::Revoke { id } => {
            let path = format!("/api/admin/keys/{}/revoke", segment(&id));
            let revoked: OneKey = target.post(&path, None).await?;
            println!("{} ({}) is revoked", revoked.key.id, revoked.key.name);
            Ok(())
        }
    };
    with_target(data, &keys.remote, folder, |_| {}, done).await?;
    Ok(ExitCode::SUCCESS)
}

fn line(key: &KeyRow, now: i64) -> String {
    let state = match (key.revoked, key.expires) {
        (Some(_), _) => "revoked",
        (None, Some(at)) if at <= now => "expired",
        _ => "good",
    };
    let used = key.last_used.map_or("never".into(), |at| rfc3339(at).to_string());
    let reaches = key.tenant.as_ref().map_or("all", TenantId::as_str);
    let may = match (key.read_only, key.sql) {
        (true, false) => "read",
        (false, false) => "write",
        (true, true) => "read, sql",
        (false, true) => "write, sql",
    };
    row(&key.id, &format!("…{}", key.hint), state, may, reaches, &used, &key.name)
}

fn row(id: &str, hint: &str, state: &str, may: &str, reaches: &str, used: &str, name: &str) -> String {
    format!("{id:<16} {hint:<8} {state:<10} {may:<10} {reaches:<24} {used:<24} {name}")
}
