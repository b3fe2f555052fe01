//! Serving while a data folder is restored: the catalog is there before anybody is served, and each user's file comes when it
//! is first needed, or in the background.
//!
//! # Invariants
//! 1. **Nothing is read of a bucket that another server writes.** Every shard is opened as its writer before the catalog is
//!    read, so what the server before has acknowledged by the bucket is seen, and it can add nothing after that.
//! 2. **The word before the catalog.** The [`Marker`](crate::tenants::disk::marker::Marker) is on the disk before the catalog has
//!    its place, and until no file is awaited: without the bucket such a folder is not opened.
//! 3. **A head before its file.** Whoever sees the file sees where its chain goes on. A head without its file is read anew
//!    with it.
//! 4. **Nothing is given up.** What cannot be made whole stays in the bucket, and is refused until an operator has decided.

mod background;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering, mpsc},
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};

use super::{
    capture::Shared,
    format::CATALOG,
    restore::{self, Restored, source::Source},
    shards::Shards,
    state::State,
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::flush,
    tenants::{
        disk::{files::sweep_tmp, lock::FolderLock, path::Layout, placing::refuse_unfinished},
        id::TenantId,
        open::fetch::Fetch,
        startup::refuse_a_lost_catalog,
    },
};

/// Files fetched at once, for requests and in the background.
const AT_ONCE: usize = 16;

/// Threads that may wait for files: others of that pool open databases that are there.
const WAITING: usize = 128;

/// A data folder without a catalog that is to get that of a bucket. It has the folder's lock.
pub struct Empty {
    layout: Layout,
    _lock: FolderLock,
}

impl Empty {
    /// Takes a data folder; none if it has a catalog.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if it has something else; [`ErrorKind::FolderLocked`] if another process has it.
    pub fn take(data: &Path) -> Result<Option<Self>> {
        let layout = Layout::prepare(data)?;
        let lock = FolderLock::take(&layout.lock())?;
        refuse_unfinished(layout.root())?;
        if layout.catalog().exists() {
            return Ok(None);
        }
        refuse_a_lost_catalog(&layout)?;
        sweep_tmp(&layout)?;
        Ok(Some(Self { layout, _lock: lock }))
    }

    /// Where the catalog is to be written first.
    pub fn temporary(&self) -> PathBuf {
        self.layout.temporary()
    }

    /// Gives a catalog its place, if it is one. Its chain has ended: opening it may migrate it, which no log has.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it is none; those of the disk.
    pub fn place(self, catalog: &Path, restored: &Restored, state: &State) -> Result<()> {
        restore::verify(catalog, None)?;
        if let Some(head) = &restored.head {
            state.end(CATALOG, head.clone());
            state.persist()?;
        }
        flush::if_there(catalog)?;
        flush::rename_new(catalog, &self.layout.catalog())?;
        flush::sync_folder(self.layout.root())
    }
}

/// Takes every shard over and writes the catalog as it is in the bucket then to `into`.
///
/// # Errors
/// [`ErrorKind::Config`] if the bucket has none; as [`restore::fetch`].
pub async fn fetch_catalog(source: &Source, shards: &Shards, into: &Path) -> Result<Restored> {
    shards.open_all().await?;
    restore::fetch(source, CATALOG, None, into).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::config(format!(
            "the replica at {} has no catalog, so nothing can be restored of it: look whether the URL has the right prefix, or \
             give up what is there with --new",
            source.remote().url()
        )),
        _ => error,
    })
}

/// How far a restore is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// All users that have files.
    pub users: u64,
    /// Users whose files are there, or cannot be.
    pub done: u64,
    /// What was fetched, in bytes.
    pub bytes: u64,
    /// Who cannot be brought back, and why.
    pub failed: BTreeMap<TenantId, String>,
}

/// A restore of users' files while they are served.
pub struct Restoring {
    source: Arc<Source>,
    shards: Arc<Shards>,
    shared: Arc<Shared>,
    /// The bucket is used there alone.
    handle: Handle,
    waiting: Semaphore,
    turns: Arc<Semaphore>,
    stopped: watch::Sender<bool>,
    progress: Mutex<Progress>,
}

impl Restoring {
    /// From what this server's shards have, by the runtime in which they are used.
    pub fn new(source: Source, shards: Arc<Shards>, shared: Arc<Shared>, handle: Handle) -> Arc<Self> {
        shared.is_restoring.store(true, Ordering::Release);
        Arc::new(Self {
            source: Arc::new(source),
            shards,
            shared,
            handle,
            waiting: Semaphore::new(WAITING),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            stopped: watch::Sender::new(false),
            progress: Mutex::default(),
        })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    /// Whether it goes on.
    pub fn is_under_way(&self) -> bool {
        self.shared.is_restoring.load(Ordering::Acquire)
    }

    /// Writes a tenant's database to `into`; none if the bucket has nothing of it. Blocks.
    fn restored(&self, id: &TenantId, into: &Path) -> Result<Option<Restored>> {
        let (send, done) = mpsc::sync_channel(1);
        let (source, turns, mut stopped) = (self.source.clone(), self.turns.clone(), self.stopped.subscribe());
        let (tenant, path) = (id.to_string(), into.to_owned());
        drop(self.handle.spawn(async move {
            let work = async {
                let _turn = turns.acquire().await;
                restore::fetch(&source, &tenant, None, &path).await
            };
            let ended = async {
                // Also if nobody can say so any more.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            };
            let fetched = tokio::select! {
                biased;
                () = ended => Err(over()),
                fetched = work => fetched,
            };
            let _ = send.send(fetched);
        }));
        match done.recv().unwrap_or_else(|_| Err(over())) {
            Ok(restored) => Ok(Some(restored)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes where the chain of a tenant goes on whose file is about to get its place.
    fn note_head(&self, id: &TenantId, restored: &Restored) {
        let tenant = id.as_str();
        if let Some(head) = &restored.head {
            self.shared.state.set(tenant, head.clone());
        }
        if restored.head.as_ref().is_none_or(|head| head.ended) {
            self.shared.wanted.add(tenant);
        }
    }
}

impl Fetch for Restoring {
    fn fetch(&self, id: &TenantId, into: &Path) -> Result<Option<u64>> {
        if self.shared.is_stopped.load(Ordering::Acquire) {
            // To read the bucket would take it back from whoever has taken it over.
            return Err(over());
        }
        let _place = self.waiting.try_acquire().map_err(|e| {
            let why = "many users' data is being brought back from its copies at this moment; try again soon";
            Error::new(ErrorKind::Busy, why).with_source(e)
        })?;
        let Some(restored) = self.restored(id, into)? else { return Ok(None) };
        restore::verify(into, Some(id))?;
        self.note_head(id, &restored);
        let mut progress = self.progress.lock();
        progress.bytes += restored.bytes;
        progress.failed.remove(id);
        Ok(Some(restored.bytes))
    }

    fn stop(&self) {
        self.stopped.send_replace(true);
    }
}

/// The error when this server reads nothing of the bucket any more.
fn over() -> Error {
    Error::new(ErrorKind::Unavailable, "this server ends, or another one has taken over its data: ask that one")
}
