//! Whether the disk and the catalog can take writes.

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;

use crate::tenants::store::Store;

/// Free space below which the server calls itself not ready: new commits are about to fail.
const LOW_DISK: u64 = 16 << 20;

/// The check that is running. Requests that come meanwhile share it: they are not authenticated, and a disk
/// that hangs must not take a thread for each.
#[derive(Default)]
pub struct Readiness(Mutex<Option<Check>>);

/// How many bytes of the disk are free, or why the server is not ready.
type Check = Shared<BoxFuture<'static, Result<u64, String>>>;

impl Readiness {
    /// Checks both, or joins the check that is running.
    pub fn check(&self, store: &Store) -> Check {
        let mut last = self.0.lock();
        if let Some(running) = last.as_ref().filter(|check| check.peek().is_none()) {
            return running.clone();
        }
        let checking = tokio::spawn(check(store.clone()));
        let new = async { checking.await.unwrap_or_else(|_| Err("the check of the disk did not finish".into())) };
        let new = new.boxed().shared();
        // It ends although the request that began it is gone.
        tokio::spawn(new.clone());
        *last = Some(new.clone());
        new
    }
}

async fn check(store: Store) -> Result<u64, String> {
    let root = store.layout().root().to_owned();
    let free = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&root))
        .await
        .map_err(|_| "the disk could not be asked".to_owned())?
        .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))
        .map_err(|e| format!("the data folder cannot be reached: {e}"))?;
    if free < LOW_DISK {
        return Err(format!("the disk is nearly full: {free} bytes are left"));
    }
    let proven = store.catalog().check_writable().await;
    proven.map_err(|e| format!("the catalog cannot be written: {}", e.message()))?;
    Ok(free)
}
