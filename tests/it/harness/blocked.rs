//! A tenant whose only connection is taken, so that what is sent to it queues up.

use std::sync::mpsc;

use cubby::Tenant;
use tokio::{sync::oneshot, task::JoinHandle};

/// A write that lasts until it is told to end.
pub struct Blocked {
    gate: mpsc::Sender<()>,
    write: JoinHandle<cubby::Result<()>>,
}

impl Blocked {
    /// Returns once it has the connection.
    pub async fn start(tenant: Tenant) -> Self {
        let (gate, opened) = mpsc::channel();
        let (begun, has_begun) = oneshot::channel();
        let write = tokio::spawn(async move {
            let wait = move |_: &rusqlite::Transaction| {
                let _ = begun.send(());
                let _ = opened.recv();
                Ok(())
            };
            tenant.write(wait).await
        });
        has_begun.await.unwrap();
        Self { gate, write }
    }

    /// Lets it commit, and waits until it has.
    pub async fn end(self) {
        let Self { gate, write } = self;
        drop(gate);
        write.await.unwrap().unwrap();
    }
}
