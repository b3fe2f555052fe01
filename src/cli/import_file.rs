//! `cubby import-file`, which help does not list: the process in which a file is read that somebody else made. It takes an
//! order on standard input and gives an answer on standard output.

use std::{
    io::{stdin, stdout},
    process::ExitCode,
};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    error::{Error, Result},
    sqlite::import::{self, Order},
};

/// The most memory that it may take, in bytes.
const MEMORY: u64 = 1 << 30;

/// How long it may compute, and how long it may take, in seconds.
const COMPUTES: u64 = 600;
const TAKES: libc::c_uint = 900;

pub fn run() -> Result<ExitCode> {
    for (resource, most) in [(Resource::As, MEMORY), (Resource::Cpu, COMPUTES), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|e| Error::io("a limit of the process", e.into()))?;
    }
    // SAFETY: it takes a plain number. The signal ends the process, which has no handler for it.
    unsafe { libc::alarm(TAKES) };
    let order: Order = serde_json::from_reader(stdin()).map_err(|e| Error::config(format!("no order: {e}")))?;
    let answer = import::perform(&order);
    serde_json::to_writer(stdout(), &answer).map_err(|e| Error::internal("an answer").with_source(e))?;
    Ok(ExitCode::SUCCESS)
}
