//! Many tenants on one disk. `benches/tenants/README.md` says how to run it and what is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, clippy::disallowed_methods, missing_docs)]

mod make;
mod server;
mod start;
mod touch;

use std::path::PathBuf;

use clap::Parser;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Where temporary data folders go; the disk of this folder is what is measured
    #[arg(long, default_value = "target", global = true)]
    folder: PathBuf,

    /// What cargo adds
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a data folder with so many users, and keep it
    Make {
        /// The data folder; users that are there already are left as they are
        data: PathBuf,
        #[arg(long, default_value_t = 100_000)]
        count: u32,
        /// Give each a note
        #[arg(long)]
        note: bool,
        /// Bytes a page of those with a note: smaller ones make a million fit on a small disk
        #[arg(long, default_value_t = 4096, requires = "note")]
        page_size: u32,
    },
    /// Start-up time and memory of a server, by how many users there are on disk
    Start {
        #[arg(long, value_delimiter = ',', default_value = "10,100000")]
        counts: Vec<u32>,
        /// Starts of each, of which the median counts
        #[arg(long, default_value_t = 5)]
        times: usize,
    },
    /// Every user touched once, with room for few: descriptors, memory, failures
    Touch {
        #[arg(long, default_value_t = 20_000)]
        count: u32,
        #[arg(long, default_value_t = 500)]
        room: u32,
        /// Requests at once
        #[arg(long, default_value_t = 64)]
        connections: u32,
    },
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    std::fs::create_dir_all(&cli.folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let good = runtime.block_on(async {
        match cli.command {
            Command::Make { data, count, note, page_size } => {
                make::run(&data, count, note.then_some(page_size)).await;
                true
            }
            Command::Start { counts, times } => start::run(&cli.folder, &counts, times).await,
            Command::Touch { count, room, connections } => touch::run(&cli.folder, count, room, connections).await,
        }
    });
    if good { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
