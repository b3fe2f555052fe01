//! `cubby log …`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::shared::{counted, print_rows};
use crate::{
    config::DataConfig,
    error::{Error, Result},
    log::{self, Entry, What, record::NOBODY},
    tenants::{disk::path::Layout, id::TenantId},
};

pub const EXAMPLES: &str = "Examples:
  cubby log show                              what the log has, oldest first
  cubby log show --user user_2abc             what it has of one user
  cubby log show --json | head                one JSON object a line
  cubby log show --folder data/log.damaged-1  a damaged log that was kept

A clean shutdown leaves the log empty. While a server writes to it, the newest
records may be missing.

Exit code: 0 if every record can be read, 1 if one is damaged.";

#[derive(Debug, Args)]
pub struct Command {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List the records that may still be needed after a crash
    #[command(after_help = EXAMPLES)]
    Show {
        /// Only those of this user
        #[arg(long, value_name = "ID")]
        user: Option<TenantId>,
        /// The folder of the log, if it is not that of the data folder
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

/// A record, as it is shown.
#[derive(Serialize)]
struct Line {
    group: u64,
    /// None for the catalog.
    user: Option<String>,
    change: &'static str,
    /// Where its bytes are in the write-ahead log of the database.
    offset: Option<u64>,
    /// How many bytes.
    bytes: Option<u64>,
    segment: String,
    /// Where it is in its segment; 0 for one that is damaged.
    at: u64,
}

impl Line {
    fn of(entry: &Entry) -> Self {
        let (change, offset, bytes) = match entry.what {
            What::Commit { offset, length, .. } => ("commit", Some(offset), Some(length)),
            What::Create { length } => ("create", None, Some(length)),
            What::Nothing => ("nothing", None, None),
            What::Barrier => ("barrier", None, None),
            What::Damaged => ("damaged", None, None),
        };
        let segment = entry.segment.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let user = Some(entry.name.clone()).filter(|name| !name.is_empty() && name != NOBODY);
        Self { group: entry.group, user, change, offset, bytes, segment, at: entry.at }
    }
}

pub fn run(data: &DataConfig, command: Command) -> Result<ExitCode> {
    let Sub::Show { user, folder, json } = command.command;
    let folder = folder.unwrap_or_else(|| Layout::at(data.data.clone()).log());
    if !folder.is_dir() {
        return Err(Error::config(format!(
            "{} is no folder: point --data (CUBBY_DATA) at the data folder, or --folder at a log",
            folder.display()
        )));
    }
    let entries = log::read(&folder)?;
    let shown = entries.iter().filter(|entry| user.as_ref().is_none_or(|user| entry.name == user.as_str()));
    let lines: Vec<Line> = shown.map(Line::of).collect();
    let damaged = lines.iter().any(|line| line.change == "damaged");
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let head = format!("{:>10} {:<8} {:>12} {:>10}  user", "group", "change", "offset", "bytes");
    let count = counted(lines.len() as u64, "record", "records");
    print_rows(&lines, json, Some(head), Some(count), |line| {
        let user = line.user.as_deref().unwrap_or("(catalog)");
        format!("{:>10} {:<8} {:>12} {:>10}  {user}", line.group, line.change, number(line.offset), number(line.bytes))
    })?;
    Ok(ExitCode::from(u8::from(damaged)))
}
