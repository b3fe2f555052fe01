//! What keeping in step costs. `benches/sync/README.md` says how to run it and what is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, missing_docs)]

mod broken;
mod deliveries;
mod provisioning;
mod reconcile;

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use cubby::{Store, StoreOptions};
use serde_json::{Value, json};
use svix::webhooks::Webhook;

/// The endpoint's secret.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Where to work; the disk of this folder is what is measured
    #[arg(long, default_value = "target", global = true)]
    folder: PathBuf,

    /// What cargo adds
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Updates applied a second: raw commits, one sender, many senders, over HTTP
    Deliveries {
        #[arg(long, default_value_t = 20_000)]
        count: u32,
        #[arg(long, default_value_t = 64)]
        senders: u32,
    },
    /// From sign-up to a first note, at a steady rate
    Provisioning {
        #[arg(long, default_value_t = 500)]
        rate: u32,
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
    /// A reconcile of a catalog that is in step already: time and peak memory
    Reconcile {
        #[arg(long, default_value_t = 1_000_000)]
        users: u64,
    },
    /// A data folder that was broken on purpose, before and after, by the commands an operator has
    Broken {
        #[arg(long, default_value_t = 100_000)]
        users: u64,
    },
}

fn main() {
    let cli = Cli::parse();
    std::fs::create_dir_all(&cli.folder).unwrap();
    let folder = tempfile::TempDir::new_in(&cli.folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        match cli.command {
            Command::Deliveries { count, senders } => deliveries::run(&store, count, senders).await,
            Command::Provisioning { rate, seconds } => provisioning::run(&store, rate, seconds).await,
            Command::Reconcile { users } => reconcile::in_step(&store, users).await,
            // Its commands need the folder for themselves.
            Command::Broken { users } => return broken::run(store, folder.path(), users).await,
        }
        store.close(tokio::time::Instant::now() + Duration::from_secs(60)).await;
    });
}

/// Says a figure beside what is asked of it.
pub fn against(figure: &str, bound: &str, holds: bool) {
    println!("{} {figure} (bound: {bound})", if holds { "holds:   " } else { "EXCEEDED:" });
}

/// A user as Clerk writes one.
pub fn user(id: &str, name: &str, updated_at: i64) -> Value {
    json!({
        "object": "user", "id": id, "primary_email_address_id": "idn_1",
        "email_addresses": [{"id": "idn_1", "email_address": format!("{id}@example.com"), "verification": {"status": "verified"}}],
        "first_name": name, "last_name": "Doe", "username": null, "image_url": format!("https://img.clerk.com/{id}"),
        "public_metadata": {}, "private_metadata": {}, "unsafe_metadata": {}, "phone_numbers": [],
        "external_accounts": [], "created_at": 1_700_000_000_000_i64, "updated_at": updated_at,
    })
}

/// An event about one.
pub fn event(kind: &str, user: Value) -> String {
    json!({"object": "event", "type": kind, "timestamp": 1_700_000_000_i64, "data": user}).to_string()
}

/// The request of a signed delivery.
pub fn delivery(
    http: &reqwest::Client,
    address: std::net::SocketAddr,
    id: &str,
    body: String,
) -> reqwest::RequestBuilder {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let signature = Webhook::new(SECRET).unwrap().sign(id, now, body.as_bytes()).unwrap();
    http.post(format!("http://{address}/webhooks/clerk"))
        .header("svix-id", id)
        .header("svix-timestamp", now)
        .header("svix-signature", signature)
        .body(body)
}

/// A server over the store, on a port of its own.
pub async fn serve(store: &Store) -> std::net::SocketAddr {
    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        serve: cubby::config::ServeConfig,
    }
    let config = Settings::parse_from(["cubby", "--clerk-webhook-secret", SECRET, "--provisioning", "webhook"]).serve;
    let app = cubby::app::App::over(store.clone(), config).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(cubby::server::serve(app, listener, None, std::future::pending()));
    address
}
