//! `cubby tenants purge | revive | adopt`: the end of a user's data, and its second life.

use std::process::ExitCode;

use clap::Subcommand;

use reqwest::Method;
use serde_json::json;

use super::{
    place::{Folder, Place, recorded, tenant_path},
    remote::Remote,
};
use crate::{
    catalog::{audit::Author, model::Row},
    config::{DataConfig, door::RemoteConfig},
    error::{Error, ErrorKind, Result},
    tenants::{id::TenantId, store::Store},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Erase one for good: file, personal data, and the deliveries about them; a tombstone stays
    Purge {
        id: TenantId,
        /// Yes, for good
        #[arg(long)]
        yes: bool,
    },
    /// Bring back one of whom nothing is left, with an empty database
    Revive { id: TenantId },
    /// Give a user who signed up again the data of their old, deleted id
    Adopt {
        /// The id they have now
        new: TenantId,
        /// The id they had, which is purged by it
        #[arg(long, value_name = "OLD")]
        from: TenantId,
        /// Give up what the new id has of its own
        #[arg(long)]
        replace: bool,
    },
}

pub async fn run(data: &DataConfig, remote: &RemoteConfig, command: Command) -> Result<ExitCode> {
    if let Command::Purge { id, yes: false } = &command {
        return Err(Error::config(format!(
            "this erases the data of {id} for good; to do that: cubby tenants purge {id} --yes"
        )));
    }
    let place = Place::reach(data, remote, Folder::MustExist)?;
    let result = match &place {
        Place::Folder(store) => on_folder(store, command).await,
        Place::Server(server) => through(server, command).await,
    };
    place.leave().await;
    let row = result?;
    println!("{} is {}", row.id, if row.purged.is_some() { "purged" } else { row.state.as_str() });
    Ok(ExitCode::SUCCESS)
}

/// A success is in the audit trail with the deed itself; a failure is written down here.
async fn on_folder(store: &Store, command: Command) -> Result<Row> {
    let author = Author::command_line();
    let (action, target, result) = match command {
        Command::Purge { id, .. } => {
            let result = store.purge(&id, &author).await.map_err(|e| name(e, &id));
            ("tenants purge", id, result)
        }
        Command::Revive { id } => {
            let result = store.revive(&id, &author).await.map_err(|e| name(e, &id));
            ("tenants revive", id, result)
        }
        Command::Adopt { new, from, replace } => {
            let result = store.adopt(&new, &from, replace, &author).await;
            ("tenants adopt", new, result)
        }
    };
    match result {
        Ok(row) => Ok(row),
        failed => recorded(store, action, Some(target.to_string()), failed).await,
    }
}

async fn through(server: &Remote, command: Command) -> Result<Row> {
    match command {
        Command::Purge { id, .. } => {
            let path = format!("{}/purge", tenant_path(&id));
            server.call(Method::POST, &path, Some(json!({"yes": true}))).await.map_err(|e| name(e, &id))
        }
        Command::Revive { id } => {
            server.call(Method::POST, &format!("{}/revive", tenant_path(&id)), None).await.map_err(|e| name(e, &id))
        }
        Command::Adopt { new, from, replace } => {
            let body = json!({"from": from, "replace": replace});
            server
                .call(Method::POST, &format!("{}/adopt", tenant_path(&new)), Some(body))
                .await
                .map_err(|e| name(e, &new))
        }
    }
}

fn name(error: Error, id: &TenantId) -> Error {
    if error.kind() == ErrorKind::UnknownTenant {
        Error::new(ErrorKind::UnknownTenant, format!("{id} is unknown; `cubby tenants list` shows who is"))
    } else {
        error
    }
}
