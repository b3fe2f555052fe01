//! The process in which a file is read that somebody else made: this program again, with nothing of its environment.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    sqlite::import::{Answer, Order},
};

/// The name of the command, which help does not list.
pub const NAME: &str = "import-file";

/// The longest answer, in bytes.
const ANSWER: u64 = 4 << 20;

/// The processes of one import. Dropped, it ends the one that runs, and no other begins.
pub struct Processes(Arc<Mutex<Run>>);

/// Carries out orders, one after the other.
#[derive(Clone)]
pub struct Carrier(Arc<Mutex<Run>>);

#[derive(Default)]
struct Run {
    child: Option<Child>,
    ended: bool,
}

impl Processes {
    /// None yet, and who starts them.
    pub fn new() -> (Self, Carrier) {
        let run = Arc::default();
        (Self(Arc::clone(&run)), Carrier(run))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let mut run = self.0.lock();
        run.ended = true;
        if let Some(child) = &mut run.child {
            // Whoever waits for its answer reaps it.
            let _ = child.kill();
        }
    }
}

impl Carrier {
    /// Has another process carry out an order. May block.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it ended without an answer, as it does when it takes more time or
    /// memory than it may.
    pub fn carry_out(&self, program: &Path, order: &Order) -> Result<Answer> {
        let failed = |e| Error::internal("a process for an import").with_source(e);
        let order = serde_json::to_vec(order).map_err(|e| Error::internal("an order").with_source(e))?;
        let mut command = Command::new(program);
        command.arg(NAME).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let (stdin, stdout) = {
            let mut run = self.0.lock();
            if run.ended {
                return Err(Error::internal("an import that nobody waits for"));
            }
            let child = run.child.insert(command.spawn().map_err(failed)?);
            (child.stdin.take(), child.stdout.take())
        };
        let told = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(&order));
        let mut answer = Vec::new();
        let heard = stdout.map_or(Ok(0), |stdout| stdout.take(ANSWER).read_to_end(&mut answer));
        let child = self.0.lock().child.take();
        let status = child.map(|mut child| {
            // One that says more than it may would wait for ever to be read.
            let _ = child.kill();
            child.wait()
        });
        let status = status.transpose().map_err(failed)?;
        // An answer is all of its JSON, whatever the end of the process.
        serde_json::from_slice(&answer).map_err(|error| {
            let cause = told.err().or(heard.err()).map_or_else(|| error.to_string(), |error| error.to_string());
            tracing::warn!(?status, cause, "the process of an import ended without an answer");
            let why = "the file takes more time or memory to read than an import may, or is made to do harm";
            Error::invalid("file", why)
        })
    }
}
