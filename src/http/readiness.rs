//! Whether the disk and the catalog can take writes, and what other parts of the server say.

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::{Mutex, RwLock};

use crate::tenants::store::Store;

/// Free space below which the server calls itself not ready: new commits are about to fail.
const LOW_DISK: u64 = 16 << 20;

/// What a part of the server says when it is asked whether it can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Good,
    /// It can, and somebody should look after it.
    Warning(String),
    /// It cannot, so that nobody is to be sent here.
    Failure(String),
}

/// Asks the disk and the catalog, and whoever else is to be asked.
#[derive(Default)]
pub struct Readiness {
    /// The check that is running. Requests that come meanwhile share it: they are not authenticated, and a disk
    /// that hangs must not take a thread for each.
    running: Mutex<Option<Check>>,
    parts: RwLock<Vec<Part>>,
}

type Part = Box<dyn Fn() -> Standing + Send + Sync>;

/// How many bytes of the disk are free, or why the server is not ready.
type Check = Shared<BoxFuture<'static, Result<u64, String>>>;

impl Readiness {
    /// Checks both, or joins the check that is running.
    pub fn check(&self, store: &Store) -> Check {
        let mut last = self.running.lock();
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

    /// Has another part asked from now on. Anybody may ask any number of times, so it answers at once, of what it knows, and
    /// names nothing that is secret.
    pub fn ask_too(&self, part: impl Fn() -> Standing + Send + Sync + 'static) {
        self.parts.write().push(Box::new(part));
    }

    /// What the other parts warn of.
    ///
    /// # Errors
    /// Why the first of them cannot do its work.
    pub fn others(&self) -> Result<Vec<String>, String> {
        let mut warnings = Vec::new();
        for part in self.parts.read().iter() {
            match part() {
                Standing::Good => {}
                Standing::Warning(what) => warnings.push(what),
                Standing::Failure(why) => return Err(why),
            }
        }
        Ok(warnings)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_fails_is_the_reason_and_others_are_warned_of() {
        let readiness = Readiness::default();
        assert_eq!(readiness.others(), Ok(Vec::new()));
        readiness.ask_too(|| Standing::Good);
        readiness.ask_too(|| Standing::Warning("late".into()));
        assert_eq!(readiness.others(), Ok(vec!["late".to_owned()]));
        readiness.ask_too(|| Standing::Failure("gone".into()));
        assert_eq!(readiness.others(), Err("gone".to_owned()));
    }
}
