//! `cubby deliveries …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    place::{Folder, Place},
    print_json,
    remote::segment,
};
use crate::{
    catalog::{
        audit::Author,
        model::DeliveryOutcome,
        queries::deliveries::{self as queries, Filter},
    },
    clock::rfc3339,
    config::{DataConfig, door::RemoteConfig},
    error::{Error, Result},
    tenants::id::TenantId,
    webhooks::{
        apply::Answer,
        routes::log::{self, OneDelivery},
    },
};

pub const EXAMPLES: &str = "Examples:
  cubby deliveries list
  cubby deliveries list --outcome failed
  cubby deliveries list --user user_2abc --json
  cubby deliveries show msg_2xyz
  cubby deliveries replay msg_2xyz     apply it once more, as if it had just come

Deliveries and their bodies are kept for CUBBY_DELIVERY_RETENTION. While a server holds the data
folder, these commands ask it, with ADMIN_API_KEY.";

#[derive(Debug, Args)]
pub struct Deliveries {
    #[command(flatten)]
    remote: RemoteConfig,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List deliveries, newest first
    List {
        /// Only those of this outcome: created, exists, updated, deleted, ignored, rejected, failed
        #[arg(long)]
        outcome: Option<DeliveryOutcome>,
        /// Only those about this user
        #[arg(long, value_name = "ID")]
        user: Option<TenantId>,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show one, with its body
    Show {
        /// The sender's id of the message
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Apply one once more, whatever came of it before
    Replay {
        /// The sender's id of the message
        id: String,
    },
}

pub async fn run(data: &DataConfig, deliveries: Deliveries) -> Result<ExitCode> {
    let place = Place::reach(data, &deliveries.remote, Folder::MustExist)?;
    let result = match deliveries.command {
        Command::List { outcome, user, limit, json } => list(&place, outcome, user, limit, json).await,
        Command::Show { id, json } => show(&place, id, json).await,
        Command::Replay { id } => replay(&place, id).await,
    };
    place.leave().await;
    result
}

async fn list(
    place: &Place,
    outcome: Option<DeliveryOutcome>,
    user: Option<TenantId>,
    limit: u32,
    json: bool,
) -> Result<ExitCode> {
    let found = match place {
        Place::Folder(store) => {
            let filter = Filter { outcome, tenant: user };
            store.catalog().query(move |conn| queries::list(conn, &filter, limit)).await?
        }
        Place::Server(server) => {
            let outcome = outcome.map_or(String::new(), |outcome| format!("&outcome={outcome}"));
            let user = user.map_or(String::new(), |id| format!("&user={}", segment(id.as_str())));
            let path = format!("/api/admin/deliveries?limit={limit}{outcome}{user}");
            server.call::<log::Deliveries>(Method::GET, &path, None).await?.deliveries
        }
    };
    if !json {
        println!("{:<24} {:<9} {:<14} {:>5} {:<28} id", "received", "outcome", "type", "tries", "user");
    }
    for one in found {
        match json {
            true => println!("{}", serde_json::to_string(&one).map_err(|e| Error::internal("JSON").with_source(e))?),
            false => println!(
                "{:<24} {:<9} {:<14} {:>5} {:<28} {}{}",
                rfc3339(one.received).to_string(),
                one.outcome,
                one.r#type,
                one.attempts,
                one.user_id.as_deref().unwrap_or("-"),
                one.svix_id,
                one.error.map(|error| format!("  {error}")).unwrap_or_default()
            ),
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(place: &Place, id: String, json: bool) -> Result<ExitCode> {
    let found = match place {
        Place::Folder(store) => log::find(store, id).await?,
        Place::Server(server) => server.call(Method::GET, &path(&id), None).await?,
    };
    if json {
        print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let OneDelivery { recorded: one, body } = found;
    println!("id        {}", one.svix_id);
    println!("type      {}", one.r#type);
    println!("user      {}", one.user_id.as_deref().unwrap_or("-"));
    println!("outcome   {}", one.outcome);
    println!("tries     {}", one.attempts);
    println!("received  {}", rfc3339(one.received));
    println!("last      {}", rfc3339(one.updated));
    println!("took      {}", one.duration_us.map_or("-".to_owned(), |us| format!("{us} µs")));
    println!("error     {}", one.error.as_deref().unwrap_or("-"));
    println!("body      {}", body.as_deref().unwrap_or("no longer kept"));
    Ok(ExitCode::SUCCESS)
}

async fn replay(place: &Place, id: String) -> Result<ExitCode> {
    let answer: Value = match place {
        Place::Folder(store) => match log::replay(store, id, Author::command_line()).await? {
            Answer::Done(answer) => answer,
            Answer::Rejected(error) => json!({"status": "rejected", "error": error.message()}),
        },
        Place::Server(server) => server.call(Method::POST, &format!("{}/replay", path(&id)), None).await?,
    };
    println!("{answer}");
    Ok(ExitCode::from(u8::from(answer["status"] == "rejected")))
}

fn path(id: &str) -> String {
    format!("/api/admin/deliveries/{}", segment(id))
}
