//! `cubby deliveries …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    shared::{Folder, print_json, print_rows},
    target::{Target, segment, with_target},
};
use crate::{
    catalog::model::{DeliveryOutcome, Recorded},
    clock::rfc3339,
    config::{DataConfig, ServeConfig, door::RemoteConfig, webhooks::WebhookConfig},
    error::Result,
    tenants::id::TenantId,
    webhooks::routes::{
        log::{Deliveries as Listed, OneDelivery},
        test_delivery::TestDelivery,
    },
};

pub const EXAMPLES: &str = "Examples:
  cubby deliveries list
  cubby deliveries list --outcome failed
  cubby deliveries list --user user_2abc --json
  cubby deliveries show msg_2xyz
  cubby deliveries replay msg_2xyz    apply it once more, as if it had just come
  cubby deliveries test               sign one with CLERK_WEBHOOK_SECRET, send it
                                      through the endpoint's route

Deliveries and their bodies are kept for CUBBY_DELIVERY_RETENTION. While a
server holds the data folder, these commands ask it, with ADMIN_API_KEY.";

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
        /// Only those with this outcome: created, exists, updated, deleted, ignored, rejected, failed
        #[arg(long)]
        outcome: Option<DeliveryOutcome>,
        /// Only those of this type, such as user.created
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
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
    /// Send the endpoint a signed delivery that changes nobody
    Test {
        #[command(flatten)]
        secrets: WebhookConfig,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Apply one once more, whatever its outcome was
    Replay {
        /// The sender's id of the message
        id: String,
    },
}

pub async fn run(data: &DataConfig, deliveries: Deliveries) -> Result<ExitCode> {
    // A server has its own.
    let secrets = match &deliveries.command {
        Command::Test { secrets, .. } => Some(secrets.clone()),
        _ => None,
    };
    let set = |config: &mut ServeConfig| config.webhooks = secrets.unwrap_or_default();
    let done = async |target: &Target| {
        match deliveries.command {
            Command::List { outcome, kind, user, limit, json } => {
                let outcome = outcome.map_or(String::new(), |outcome| format!("&outcome={outcome}"));
                let kind = kind.map_or(String::new(), |kind| format!("&type={}", segment(&kind)));
                let user = user.map_or(String::new(), |id| format!("&user={}", segment(id.as_str())));
                let found: Listed =
                    target.get(&format!("/api/admin/deliveries?limit={limit}{outcome}{kind}{user}")).await?;
                let heading = row("received", "outcome", "type", "tries", "user", "id");
                print_rows(&found.deliveries, json, Some(heading), None, line)?;
            }
            Command::Show { id, json } => {
                let found: OneDelivery = target.get(&path(&id)).await?;
                match json {
                    true => print_json(&found)?,
                    false => print(&found),
                }
            }
            Command::Test { json, .. } => {
                let tested: TestDelivery = target.post("/api/admin/test-deliveries", None).await?;
                match json {
                    true => print_json(&tested)?,
                    false => print_test(&tested),
                }
                return Ok(ExitCode::from(u8::from(tested.status != 200)));
            }
            Command::Replay { id } => {
                let answer: Value = target.post(&format!("{}/replay", path(&id)), None).await?;
                println!("{answer}");
                return Ok(ExitCode::from(u8::from(answer["status"] == "rejected")));
            }
        }
        Ok(ExitCode::SUCCESS)
    };
    with_target(data, &deliveries.remote, Folder::MustExist, set, done).await
}

fn path(id: &str) -> String {
    format!("/api/admin/deliveries/{}", segment(id))
}

fn line(one: &Recorded) -> String {
    let error = one.error.as_ref().map_or(String::new(), |error| format!("  {error}"));
    let (received, user) = (rfc3339(one.received).to_string(), one.user_id.as_deref().unwrap_or("-"));
    let (outcome, tries) = (one.outcome.as_str(), one.attempts.to_string());
    row(&received, outcome, &one.r#type, &tries, user, &one.svix_id) + &error
}

fn row(received: &str, outcome: &str, kind: &str, tries: &str, user: &str, id: &str) -> String {
    format!("{received:<24} {outcome:<9} {kind:<14} {tries:>5} {user:<28} {id}")
}

fn print_test(TestDelivery { delivery_id, status, answer, code, detail }: &TestDelivery) {
    let answer = answer.as_ref().and_then(|answer| answer["status"].as_str());
    let said = code.as_deref().or(answer).unwrap_or_default();
    match detail {
        Some(detail) => println!("{delivery_id}: {status} {said}: {detail}"),
        None => println!("{delivery_id}: {status} {said}; signed, sent, verified and recorded"),
    }
}

fn print(OneDelivery { recorded: one, body }: &OneDelivery) {
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
}
