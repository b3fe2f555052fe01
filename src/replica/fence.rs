//! Who owns the bucket: the server that was started last. It writes its name into `meta/owner.json`, and SlateDB refuses what
//! the one before it writes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    capture::{Shared, answer},
    format::{FORMAT_PATH, Format},
    remote::Remote,
};
use crate::{
    clock::{Clock, rfc3339},
    error::{Error, ErrorKind, Result},
    tenants::store::Store,
};

/// The object that names the owner.
pub const OWNER_PATH: &str = "meta/owner.json";

/// A server that replicates to the bucket.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Owner {
    /// Another one for each start.
    pub server: String,
    /// The machine that it runs on.
    pub machine: String,
    /// When it started, RFC 3339.
    pub since: String,
}

impl Owner {
    /// This server, from now on.
    pub fn new(clock: &Clock) -> Self {
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { server: nanoid::nanoid!(), machine, since: rfc3339(clock.now()).to_string() }
    }
}

/// Notices that another server has taken over, and stops this one's writes.
pub struct Fence {
    owner: Owner,
    shared: Arc<Shared>,
    store: Mutex<Option<Store>>,
    taken: AtomicBool,
    /// Told when it has happened.
    pub happened: Notify,
}

impl Fence {
    /// Of this server.
    pub fn new(owner: Owner, shared: Arc<Shared>) -> Arc<Self> {
        let (store, taken, happened) = (Mutex::default(), AtomicBool::new(false), Notify::new());
        Arc::new(Self { owner, shared, store, taken, happened })
    }

    /// Whose writes are to stop; none if it is closed.
    pub fn guards(&self, store: Option<Store>) {
        *self.store.lock() = store;
    }

    /// Takes the bucket over, which has to be that of `installation`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if it is another's by now; those of the bucket.
    pub async fn claim(&self, remote: &Remote, installation: &str) -> Result<()> {
        let found = remote.get(FORMAT_PATH).await?.map(|text| Format::parse(&text)).transpose()?;
        if found.is_none_or(|found| found.installation != installation) {
            return Err(Error::config(format!(
                "{} has the replica of another installation by now: stop this server, and give it another --replicate",
                remote.url()
            )));
        }
        let text = serde_json::to_vec(&self.owner)
            .map_err(|e| Error::internal("the owner cannot be written").with_source(e))?;
        remote.put(OWNER_PATH, text.into()).await
    }

    /// Whether this server still is the owner.
    ///
    /// # Errors
    /// The bucket does not say.
    pub async fn is_ours(&self, remote: &Remote) -> Result<bool> {
        Ok(read(remote).await?.is_none_or(|owner| owner == self.owner))
    }

    /// Whether another server has taken over.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// Another server has taken over: nothing is written any more, here or there.
    pub async fn taken_over(&self, remote: &Remote) {
        if self.taken.swap(true, Ordering::AcqRel) {
            return;
        }
        let by = read(remote).await.ok().flatten();
        let by = by
            .map_or_else(|| "another server".to_owned(), |by| format!("the server on {} of {}", by.machine, by.since));
        tracing::error!(
            "{by} has taken over {}: this one accepts no more writes. Stop it, or give it another --replicate",
            remote.url()
        );
        let why = format!("{by} has taken over the data: this one accepts no more writes");
        let error = Error::new(ErrorKind::Unavailable, why);
        if let Some(store) = &*self.store.lock() {
            store.refuse_writes(&error);
        }
        self.shared.is_stopped.store(true, Ordering::Release);
        for slot in &self.shared.slots {
            let waiting = slot.pending.lock().expired(std::time::Duration::ZERO);
            answer(waiting, Some(&error));
            slot.changed.notify_one();
            slot.shipped.notify_all();
        }
        self.happened.notify_waiters();
    }
}

/// The owner of a bucket; none if nobody has replicated to it.
pub async fn read(remote: &Remote) -> Result<Option<Owner>> {
    let Some(text) = remote.get(OWNER_PATH).await? else { return Ok(None) };
    let owner = serde_json::from_slice(&text);
    owner.map(Some).map_err(|e| Error::new(ErrorKind::Damaged, format!("{OWNER_PATH} cannot be read")).with_source(e))
}
