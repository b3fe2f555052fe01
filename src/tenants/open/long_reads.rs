//! Threads of low priority for long reads.

use std::sync::Arc;

use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::JoinHandle,
};

use super::descriptors::MAX_LONG_READS;
use crate::error::{Error, Result};

/// The niceness of these threads. On a busy core they get a tenth of a request's share, by the kernel's table
/// of weights (`sched_prio_to_weight`), so a request that finds every core in a long read runs at once
/// instead of after a time slice of some milliseconds.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Bounds the long reads of all tenants together, and runs them.
pub struct LongReads {
    permits: Arc<Semaphore>,
    /// A runtime used only for its blocking threads.
    threads: Option<Runtime>,
}

impl LongReads {
    /// For `count` long reads at once; threads are started when needed.
    pub fn new(count: usize) -> Result<Self> {
        let count = count.clamp(1, MAX_LONG_READS);
        let threads = Builder::new_current_thread()
            .max_blocking_threads(count)
            .thread_name("long-read")
            .on_thread_start(lower_priority)
            .build()
            .map_err(|e| Error::internal("threads for long reads").with_source(e))?;
        Ok(Self { permits: Arc::new(Semaphore::new(count)), threads: Some(threads) })
    }

    /// A long read holds one of these permits while it runs.
    pub fn permits(&self) -> Arc<Semaphore> {
        self.permits.clone()
    }

    /// Runs `work` on a thread of low priority. It is not cancelled with the future.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<JoinHandle<T>> {
        Some(self.threads.as_ref()?.spawn_blocking(work))
    }
}

impl Drop for LongReads {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which panics in async code.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// Lowers the priority of the calling thread. If refused, requests may wait some milliseconds longer.
fn lower_priority() {
    // On other systems the priority is that of the whole process.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test]
    async fn only_threads_of_long_reads_have_low_priority() {
        let before = getpriority_process(None).unwrap();
        let long = LongReads::new(1).unwrap();
        let there = long.run(|| getpriority_process(None).unwrap()).unwrap().await.unwrap();
        assert_eq!(there, before.max(NICENESS));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
