//! The threads on which long reads run.

use std::sync::Arc;

use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::JoinHandle,
};

use super::descriptors::MAX_LONG_READS;
use crate::error::{Error, Result};

/// How much less of a busy processor a long read gets than everything else: a tenth, by the kernel's table
/// of weights (`sched_prio_to_weight`). A request that finds every core at a long read then runs at
/// once, instead of after the few milliseconds that the kernel gives to equals.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Long reads of all tenants together: how many at once, and threads of low priority for them.
pub struct LongReads {
    turns: Arc<Semaphore>,
    /// A runtime for its threads that may block alone; nothing is driven on it.
    threads: Option<Runtime>,
}

impl LongReads {
    /// Threads for `count` long reads at once, started when they are needed.
    pub fn new(count: usize) -> Result<Self> {
        let count = count.clamp(1, MAX_LONG_READS);
        let threads = Builder::new_current_thread()
            .max_blocking_threads(count)
            .thread_name("long-read")
            .on_thread_start(be_nice)
            .build()
            .map_err(|e| Error::internal("threads for long reads").with_source(e))?;
        Ok(Self { turns: Arc::new(Semaphore::new(count)), threads: Some(threads) })
    }

    /// Turns: whoever runs a long read holds one meanwhile.
    pub fn turns(&self) -> Arc<Semaphore> {
        self.turns.clone()
    }

    /// Runs `work` on a thread of low priority. It is not cancelled with the future.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<JoinHandle<T>> {
        Some(self.threads.as_ref()?.spawn_blocking(work))
    }
}

impl Drop for LongReads {
    fn drop(&mut self) {
        // A runtime's own drop waits, which is not allowed where this may happen.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// Lowers the priority of the calling thread. A refusal costs others some milliseconds and no more.
fn be_nice() {
    // Elsewhere a priority is that of the whole process.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test]
    async fn only_the_threads_of_long_reads_are_nice() {
        let before = getpriority_process(None).unwrap();
        let long = LongReads::new(1).unwrap();
        let there = long.run(|| getpriority_process(None).unwrap()).unwrap().await.unwrap();
        assert_eq!(there, before.max(NICENESS));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
