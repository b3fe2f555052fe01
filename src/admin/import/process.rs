//! The process in which a file is read that somebody else made: this program again, with nothing of its environment.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    error::{Error, Result},
    sqlite::import::{Answer, Order},
};

/// The name of the command, which help does not list.
pub const NAME: &str = "import-file";

/// The longest answer, in bytes.
const ANSWER: u64 = 4 << 20;

/// Has another process carry out an order. May block.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it ended without an answer, as it does when it takes more time or memory than it may.
pub fn carry_out(program: &Path, order: &Order) -> Result<Answer> {
    let failed = |e| Error::internal("a process for an import").with_source(e);
    let order = serde_json::to_vec(order).map_err(|e| Error::internal("an order").with_source(e))?;
    let mut command = Command::new(program);
    command.arg(NAME).env_clear().current_dir("/");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
    let told = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&order));
    let mut answer = Vec::new();
    let heard = child.stdout.take().map_or(Ok(0), |stdout| stdout.take(ANSWER).read_to_end(&mut answer));
    // One that says more than it may would wait for ever to be read.
    let _ = child.kill();
    let status = child.wait().map_err(failed)?;
    // An answer is all of its JSON, whatever the end of the process.
    serde_json::from_slice(&answer).map_err(|error| {
        let cause = told.err().or(heard.err()).map_or_else(|| error.to_string(), |error| error.to_string());
        tracing::warn!(%status, cause, "the process of an import ended without an answer");
        let why = "the file takes more time or memory to read than an import may, or is made to do harm";
        Error::invalid("file", why)
    })
}
