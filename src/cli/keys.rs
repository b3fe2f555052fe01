//! `cubby keys …`.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};

use super::{
    place::{Folder, Place},
    print_json,
};
use crate::{
    admin::keys::KeyDraft,
    catalog::keys::KeyRow,
    clock::{Clock, rfc3339},
    config::{DataConfig, door::RemoteConfig, duration},
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

pub const EXAMPLES: &str = "Examples:
  cubby keys create --name \"web backend\"
  cubby keys create --name reports --read-only --expires 90d
  cubby keys create --name import --tenant user_2abc
  cubby keys list
  cubby keys revoke key_abcdefghijkl

While a server holds the data folder, these commands ask it, with ADMIN_API_KEY: a key works, and
stops working, at once. The server must accept keys: CUBBY_AUTH=keys or jwt+keys.";

#[derive(Debug, Args)]
pub struct Keys {
    #[command(flatten)]
    remote: RemoteConfig,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and show it, once
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
        /// It ends after this time [default: never]
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
    let place = Place::reach(data, &keys.remote, folder)?;
    let result = execute(&place, keys.command).await;
    place.leave().await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn execute(place: &Place, command: Command) -> Result<()> {
    match command {
        Command::Create { name, tenant, read_only, expires, json } => {
            let draft = KeyDraft {
                name,
                user_id: tenant.map(|id| id.to_string()),
                read_only,
                expires_in: expires.map(|time| time.as_secs()),
            };
            let made = place.create_key(draft).await?;
            if json {
                return print_json(&made);
            }
            println!("{}", made.secret);
            eprintln!("{}: shown this once; keep it where only your backend can read it", made.key.id);
            Ok(())
        }
        Command::List { json } => {
            let keys = place.list_keys().await?.keys;
            if json {
                for key in &keys {
                    println!("{}", serde_json::to_string(key).map_err(|e| Error::internal("JSON").with_source(e))?);
                }
                return Ok(());
            }
            println!(
                "{:<16} {:<8} {:<10} {:<9} {:<24} {:<24} name",
                "id", "ends in", "state", "may", "reaches", "last used"
            );
            let now = Clock::system().now();
            keys.iter().for_each(|key| println!("{}", line(key, now)));
            Ok(())
        }
        Command::Revoke { id } => {
            let key = place.revoke_key(&id).await.map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::new(
                    ErrorKind::NotFound,
                    format!("there is no key {id}; `cubby keys list` shows which there are"),
                ),
                _ => e,
            })?;
            println!("{} ({}) is revoked", key.key.id, key.key.name);
            Ok(())
        }
    }
}

fn line(key: &KeyRow, now: i64) -> String {
    let state = match (key.revoked, key.expires) {
        (Some(_), _) => "revoked",
        (None, Some(at)) if at <= now => "expired",
        _ => "good",
    };
    format!(
        "{:<16} …{:<7} {:<10} {:<9} {:<24} {:<24} {}",
        key.id,
        key.hint,
        state,
        if key.read_only { "read" } else { "write" },
        key.tenant.as_ref().map_or("all", TenantId::as_str),
        key.last_used.map_or("never".into(), |at| rfc3339(at).to_string()),
        key.name
    )
}
