//! A job that runs in the background as long as its owner lives.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Mutex,
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

/// Runs a job on its owner, which it holds weakly, until this is stopped or dropped.
#[derive(Debug, Default)]
pub(super) struct Periodic {
    task: OnceLock<AbortHandle>,
    /// Whether it was stopped. Locked while the job runs.
    stopped: Arc<Mutex<bool>>,
}

impl Periodic {
    /// Runs `job` every `period` on a thread that may block, for the first time after one `period`.
    pub fn start<T: Send + Sync + 'static>(
        &self,
        runtime: &Handle,
        period: Duration,
        owner: Weak<T>,
        job: impl Fn(Arc<T>) + Clone + Send + 'static,
    ) {
        let stopped = self.stopped.clone();
        let task = runtime.spawn(async move {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let run = stopped.clone().lock_owned().await;
                // The abort does not end a poll that has begun.
                if *run {
                    return;
                }
                let Some(owner) = owner.upgrade() else { return };
                let job = job.clone();
                let done = tokio::task::spawn_blocking(move || {
                    job(owner);
                    // Last: when `stop` returns, the job does not keep the owner alive.
                    drop(run);
                });
                if let Err(error) = done.await {
                    tracing::error!(error = %error, "maintenance did not finish");
                }
            }
        });
        if self.task.set(task.abort_handle()).is_err() {
            task.abort();
        }
    }

    /// Ends the task, and waits for a job that is running.
    pub async fn stop(&self) {
        self.abort();
        *self.stopped.lock().await = true;
    }

    fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Drop for Periodic {
    fn drop(&mut self) {
        self.abort();
    }
}
