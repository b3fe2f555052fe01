//! `cubby import-file`, which help does not list: the process in which a file is read that somebody else made. It takes an
//! order on standard input and gives an answer on standard output.

use std::{
    io::{stdin, stdout},
    process::ExitCode,
};

use rustix::process::{Resource, Rlimit, setrlimit};
#[cfg(target_os = "linux")]
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::{
    error::{Error, Result},
    sqlite::import::{self, Order},
};

/// The most memory that it may take, in bytes.
const MEMORY: u64 = 1 << 30;

/// How long it may wait for its order, in seconds.
const WAITS: libc::c_uint = 60;

pub fn run() -> Result<ExitCode> {
    let failed = |e: rustix::io::Errno| Error::io("a limit of the process", e.into());
    // It writes into the data folder, which the next server may have by then.
    #[cfg(target_os = "linux")]
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
    for (resource, most) in [(Resource::As, MEMORY), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(failed)?;
    }
    // SAFETY: it takes a plain number. The signal ends the process, which has no handler for it.
    let end_in = |seconds| unsafe { libc::alarm(seconds) };
    end_in(WAITS);
    let order: Order = serde_json::from_reader(stdin()).map_err(|e| Error::config(format!("no order: {e}")))?;
    end_in(order.seconds.max(1));
    let answer = import::perform(&order);
    serde_json::to_writer(stdout(), &answer).map_err(|e| Error::internal("an answer").with_source(e))?;
    Ok(ExitCode::SUCCESS)
}
