//! What the operator's seat costs. `benches/seat/README.md` says how to run it and what is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, clippy::disallowed_methods, missing_docs)]

mod beside;
mod client;
mod export;
mod fill;
mod large;
mod load;
#[allow(dead_code)]
#[path = "../tenants/make.rs"]
mod make;
mod migrate;
mod overview;
mod pages;
mod process;
#[allow(dead_code)]
#[path = "../tenants/server.rs"]
mod server;
mod table;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};

use table::Table;

#[derive(Debug, Parser)]
struct Cli {
    /// What to measure; all of it if nothing is named
    rows: Vec<Row>,

    /// Does everything work? Few tenants, short rounds; the figures are worthless
    #[arg(long)]
    quick: bool,

    /// Where temporary data folders go; the disk of this folder is what is measured
    #[arg(long, default_value = "target")]
    folder: PathBuf,

    /// Seconds of a round
    #[arg(long)]
    seconds: Option<u32>,

    /// Rounds of each kind
    #[arg(long)]
    rounds: Option<usize>,

    /// Seconds that an export or a migration goes on without callers after its rounds [default: to its end]
    #[arg(long)]
    rest: Option<u32>,

    /// Callers' requests a second where they come at a steady rate
    #[arg(long, default_value_t = 2000)]
    rate: u32,

    /// Callers' connections
    #[arg(long, default_value_t = 32)]
    connections: u32,

    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// The list of tenants and the search, with a million tenants
    Pages,
    /// What an overview that is open costs callers
    Overview,
    /// Everybody's export beside callers
    Export,
    /// One large tenant's export, and the server's memory
    Large,
    /// Everybody's migration beside callers
    Migrate,
}

/// How much of everything.
#[derive(Debug, Clone)]
pub struct Options {
    pub folder: PathBuf,
    pub seconds: u32,
    pub rounds: usize,
    pub rest: u32,
    pub rate: u32,
    pub connections: u32,
    /// Tenants in the catalog of the row `pages`.
    pub listed: u32,
    /// Requests for each page of it.
    pub requests: u32,
    /// Tenants who are exported.
    pub exported: u32,
    /// Bytes of the large one.
    pub large: u64,
    /// Tenants who are migrated.
    pub migrated: u32,
}

impl Cli {
    fn options(&self) -> Options {
        let of = |full, quick| if self.quick { quick } else { full };
        Options {
            folder: self.folder.clone(),
            seconds: self.seconds.unwrap_or(of(10, 1)),
            rounds: self.rounds.unwrap_or(if self.quick { 2 } else { 6 }),
            rest: self.rest.unwrap_or(u32::MAX),
            rate: self.rate,
            connections: self.connections,
            listed: of(1_000_000, 20_000),
            requests: of(400, 40),
            exported: of(20_000, 2_000),
            large: if self.quick { 32 << 20 } else { 1 << 30 },
            migrated: of(100_000, 2_000),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    std::fs::create_dir_all(&cli.folder).unwrap();
    let (options, mut table) = (cli.options(), Table::default());
    let rows = if cli.rows.is_empty() { Row::value_variants().to_vec() } else { cli.rows.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for row in rows {
            match row {
                Row::Pages => pages::run(&options, &mut table).await,
                Row::Overview => overview::run(&options, &mut table).await,
                Row::Export => export::run(&options, &mut table).await,
                Row::Large => large::run(&options, &mut table).await,
                Row::Migrate => migrate::run(&options, &mut table).await,
            }
        }
    });
    println!("\n{table}");
    if table.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
