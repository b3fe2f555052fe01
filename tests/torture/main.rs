//! `cubby-torture`: a machine that tries to break what `docs/DURABILITY.md` promises.
//!
//! Each subcommand is one fault, with a seed and a count. A workload remembers what it was told;
//! after the fault everything is read back and compared. `--control` runs the same checks over
//! something that breaks the promise on purpose, and succeeds only if they catch it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::pedantic, missing_docs, unreachable_pub)]

mod broken;
mod check;
mod clerk;
mod faults;
mod http;
mod ledger;
mod load;
mod logfile;
mod mount;
mod movers;
mod people;
mod replica;
mod rng;
#[path = "../s3/mod.rs"]
mod s3;
mod server;
mod snapshot;
mod sql;
mod step;
mod trace;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Args, Parser, Subcommand};

use crate::faults::{Report, Setup};

#[derive(Debug, Parser)]
#[command(name = "cubby-torture", about = "Breaks things under cubby and sees whether its promise holds")]
struct Cli {
    #[command(subcommand)]
    fault: Fault,
}

#[derive(Debug, Clone, Args)]
struct Common {
    /// Decides everything that chance decides, but for the timing of threads
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often
    #[arg(long)]
    count: Option<u32>,
    /// For how many seconds, for faults that last
    #[arg(long)]
    seconds: Option<u64>,
    /// Break the promise on purpose: the checks must catch it
    #[arg(long)]
    control: bool,
    /// Just the cases whose name starts with this, of faults that name theirs
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The server [default: the cubby beside this program's folder]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Fault {
    /// SIGKILL at random moments under load
    Kill(Common),
    /// SIGKILL in the midst of transactions of SQL over HTTP
    Sql(Common),
    /// Power cuts in the midst of the same (root)
    SqlPower(Common),
    /// Power cuts under load: ext4 on a loop device, shut down without a flush (root)
    Power(Common),
    /// Power cuts while flushes take long: what a read gave must stay (root)
    Reads(Common),
    /// Power cuts while the log's segments are used again all the time (root)
    Recycle(Common),
    /// Power cuts under load and while files are moved, then twice in a row during the redo of the log (root)
    Redo(Common),
    /// Power cuts under load, then a flipped bit in each kind of place of the log (root)
    Bitflip(Common),
    /// A log on a disk that is full, or fails (root)
    LogDisk(Common),
    /// Power cuts at each step of creating, migrating, deleting and restoring, or at every COUNT-th (root)
    Steps(Common),
    /// fsync and write errors, and a full disk, by system call
    Syscalls(Common),
    /// A disk that is full: a small tmpfs (root)
    Full(Common),
    /// A file system turned read-only by the kernel, and a file that is (root)
    Readonly(Common),
    /// 256 descriptors, 500 users
    Descriptors(Common),
    /// A bound on memory: a cgroup (root)
    Memory(Common),
    /// Damaged, empty, foreign and newer files
    Corrupt(Common),
    /// Migrations that fail or are killed half-way
    Migration(Common),
    /// SIGKILL in the midst of imports
    Import(Common),
    /// SIGKILL in the midst of an export of all
    Export(Common),
    /// SIGKILL in the midst of a run of migrations
    Rollout(Common),
    /// SIGKILL amid transactions that go to a bucket: what comes back from there
    Replicate(Common),
    /// Two servers on one bucket, the first stopped and woken
    Takeover(Common),
    /// The data folder deleted under load, and restored from a bucket
    Disaster(Common),
    /// Two servers started at once on one folder
    Twins(Common),
    /// A clock that jumps
    Clock(Common),
    /// SIGTERM under load
    Sigterm(Common),
    /// Everything done to tenants at once, by eight tasks
    Lifecycle(Common),
    /// A read that does not end, under writes
    Reader(Common),
    /// Every operation on a user cut at each of its system calls, and followed by each other operation
    Pairs(Common),
    /// Every two operations on a user started together, and each on many users
    AtOnce(Common),
    /// Hours of use: descriptors, memory, threads and logs stay flat
    Soak(Common),
    /// A deliberately broken server, for the controls
    #[command(hide = true)]
    Broken(Box<broken::Broken>),
}

/// The status that automake's test drivers read as "skipped".
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    let run: (&str, Common, fn(&Setup) -> Report) = match Cli::parse().fault {
        Fault::Broken(broken) => {
            broken::run(*broken);
            return ExitCode::SUCCESS;
        }
        Fault::Kill(common) => ("kill", common, faults::kill::run),
        Fault::Sql(common) => ("sql", common, faults::sql::run),
        Fault::SqlPower(common) => ("sql-power", common, faults::sql::run_power),
        Fault::Power(common) => ("power", common, faults::power::run),
        Fault::Reads(common) => ("reads", common, faults::reads::run),
        Fault::Recycle(common) => ("recycle", common, faults::recycle::run),
        Fault::Redo(common) => ("redo", common, faults::redo::run),
        Fault::Bitflip(common) => ("bitflip", common, faults::bitflip::run),
        Fault::LogDisk(common) => ("log-disk", common, faults::log_disk::run),
        Fault::Steps(common) => ("steps", common, faults::steps::run),
        Fault::Syscalls(common) => ("syscalls", common, faults::syscalls::run),
        Fault::Full(common) => ("full", common, faults::full::run),
        Fault::Readonly(common) => ("readonly", common, faults::readonly::run),
        Fault::Descriptors(common) => ("descriptors", common, faults::descriptors::run),
        Fault::Memory(common) => ("memory", common, faults::memory::run),
        Fault::Corrupt(common) => ("corrupt", common, faults::corrupt::run),
        Fault::Migration(common) => ("migration", common, faults::migration::run),
        Fault::Import(common) => ("import", common, faults::import::run),
        Fault::Export(common) => ("export", common, faults::export::run),
        Fault::Rollout(common) => ("rollout", common, faults::rollout::run),
        Fault::Replicate(common) => ("replicate", common, faults::replicate::run),
        Fault::Takeover(common) => ("takeover", common, faults::takeover::run),
        Fault::Disaster(common) => ("disaster", common, faults::disaster::run),
        Fault::Twins(common) => ("twins", common, faults::twins::run),
        Fault::Clock(common) => ("clock", common, faults::clock::run),
        Fault::Sigterm(common) => ("sigterm", common, faults::sigterm::run),
        Fault::Lifecycle(common) => ("lifecycle", common, faults::lifecycle::run),
        Fault::Reader(common) => ("reader", common, faults::reader::run),
        Fault::Pairs(common) => ("pairs", common, faults::pairs::run),
        Fault::AtOnce(common) => ("at-once", common, faults::at_once::run),
        Fault::Soak(common) => ("soak", common, faults::soak::run),
    };
    let (name, common, work) = run;
    let setup = Setup {
        seed: common.seed,
        count: common.count,
        seconds: common.seconds,
        control: common.control,
        only: common.only,
        program: server::cubby(common.server.as_deref()),
    };
    let started = Instant::now();
    let report = work(&setup);
    let took = started.elapsed().as_secs_f64();
    for line in &report.notes {
        println!("  {line}");
    }
    if let Some(why) = &report.skipped {
        // Not a success: whoever runs this says whether it may be left out.
        println!("SKIPPED {name}: {why}");
        return ExitCode::from(SKIPPED);
    }
    for violation in report.violations.iter().take(if common.control { 3 } else { 20 }) {
        println!("  {}{violation}", if common.control { "caught: " } else { "" });
    }
    let (held, word) = match (common.control, report.violations.len()) {
        (false, 0) => (true, "held".to_owned()),
        (false, n) => (false, format!("BROKEN, {n} violations")),
        (true, 0) => (false, "CONTROL NOT CAUGHT: the harness is broken".to_owned()),
        (true, n) => (true, format!("control caught, {n} violations")),
    };
    println!(
        "{name}: {word}; {} faults, {} requests acknowledged, seed {}, {took:.1} s",
        report.faults, report.acknowledged, common.seed
    );
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
