//! A replica that runs: from before the data folder is opened until after it is closed.

use std::{
    future::Future,
    path::Path,
    sync::{Arc, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{
    bases::Bases,
    capture::Shared,
    fence::{Fence, Owner},
    format::{CATALOG, FORMAT_PATH, Format, SHARDS},
    hold::{self, Holder},
    remote::Remote,
    seal::Seal,
    shards::Shards,
    ship::Shipper,
    state::State,
    traffic::Traffic,
};
use crate::{
    clock::Clock,
    config::replicate::Mode,
    error::{Error, ErrorKind, Result},
    log::Tail,
    sqlite::flush,
    tenants::{disk::path::Layout, store::Store},
};

/// How often heads are written to the disk and the log's segments released.
const RELEASE: Duration = Duration::from_millis(500);

/// How long the start waits for the bucket.
const CONNECT: Duration = Duration::from_secs(30);

/// How it replicates.
pub struct Settings {
    /// The bucket.
    pub remote: Remote,
    /// What encrypts what leaves the machine.
    pub seal: Seal,
    /// When answers are sent.
    pub mode: Mode,
    /// How long the past is kept.
    pub window: Duration,
    /// The most of the log that is kept while the bucket is away, in bytes.
    pub backlog: u64,
    /// Whether a folder without data may begin anew in a bucket that has some.
    pub anew: bool,
    /// The time of day.
    pub clock: Clock,
}

/// Which installation a data folder belongs to, in `replica.json`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Belongs {
    /// As in the bucket's `meta/format.json`.
    pub installation: String,
    /// The bucket.
    pub url: String,
}

/// Replicates a data folder.
pub struct Replica {
    shared: Arc<Shared>,
    remote: Remote,
    shards: Arc<Shards>,
    seal: Arc<Seal>,
    fence: Arc<Fence>,
    mode: Mode,
    window: Duration,
    traffic: Arc<Traffic>,
    runtime: Runtime,
    capture: Mutex<Option<JoinHandle<()>>>,
}

impl Replica {
    /// Connects to the bucket before a data folder is opened, and takes it over. The store must be opened with
    /// [`tail`](Self::tail). May block for a minute.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the bucket cannot be used, or belongs to another installation; [`ErrorKind::Unavailable`] if it
    /// does not answer.
    pub fn prepare(settings: Settings, data: &Path) -> Result<Self> {
        let Settings { remote, seal, mode, window, backlog, anew, clock } = settings;
        let runtime = Runtime::start()?;
        let layout = Layout::at(data.to_owned());
        let belongs = read_belongs(&layout)?;
        let has_data = layout.catalog().exists();
        let (place, known, time) = (remote.clone(), belongs.clone(), clock.clone());
        let connected = runtime.wait(CONNECT, async move {
            place.probe().await?;
            installation(&place, known.as_ref(), has_data, anew, &time).await
        });
        let installation = match (connected, belongs) {
            (Ok(format), _) => format.installation,
            // Users are served, and everything is sent later.
            (Err(error), Some(belongs)) if error.kind() == ErrorKind::Unavailable && mode == Mode::Async => {
                tracing::warn!(%error, bucket = remote.url(), "started while the bucket does not answer; it is tried again");
                belongs.installation
            }
            (Err(error), _) => return Err(error),
        };
        let belongs = Belongs { installation, url: remote.url().to_owned() };
        write_belongs(&layout, &belongs)?;
        let state = Arc::new(State::open(&layout.replica_state(), &format!("{} {}", belongs.installation, belongs.url))?);
        let left = state.clone();
        let tail = Tail::new(Box::new(move |names| left.note_left(names)));
        let shared = Shared::new(tail, state, backlog);
        let fence = Fence::new(Owner::new(&clock), shared.clone());
        let (owner, place, ours) = (fence.clone(), remote.clone(), belongs.installation);
        let claim = move || -> BoxFuture<'static, Result<()>> {
            let (owner, place, ours) = (owner.clone(), place.clone(), ours.clone());
            Box::pin(async move { owner.claim(&place, &ours).await })
        };
        let shards = Shards::new(&remote, Box::new(claim));
        let (shards, seal) = (Arc::new(shards), Arc::new(seal));
        let (traffic, capture) = (Arc::new(Traffic::new(Instant::now())), Mutex::default());
        Ok(Self { shared, remote, shards, seal, fence, mode, window, traffic, runtime, capture })
    }

    /// What the store's log is opened with.
    pub fn tail(&self) -> Tail {
        self.shared.tail.clone()
    }

    /// Begins to replicate an open store.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub fn start(&self, store: &Store) -> Result<()> {
        let shards = self.shards.clone();
        match self.runtime.wait(CONNECT, async move { shards.open_all().await }) {
            Err(error) if error.kind() == ErrorKind::Unavailable && self.mode == Mode::Async => {
                tracing::warn!(%error, "the bucket does not answer; it is tried again");
            }
            opened => opened?,
        }
        self.fence.guards(Some(store.clone()));
        // A migration of the catalog is not in the log.
        if let Some(head) = self.shared.state.head(CATALOG)? {
            self.shared.state.end(CATALOG, head);
        }
        self.shared.wanted.add(CATALOG);
        self.shared.wanted.look_at_all();
        let holder = Holder { shared: self.shared.clone(), fence: self.fence.clone(), mode: self.mode };
        self.shared.tail.set_hold(Arc::new(holder));
        let shared = self.shared.clone();
        let capture = std::thread::Builder::new().name("replica log".into()).spawn(move || shared.run());
        *self.capture.lock() = Some(capture.map_err(|e| Error::io("starting the replica's thread", e))?);
        for number in 0..SHARDS {
            let shipper = Shipper {
                number,
                shared: self.shared.clone(),
                remote: self.remote.clone(),
                seal: self.seal.clone(),
                fence: self.fence.clone(),
                shards: self.shards.clone(),
            };
            self.runtime.spawn(shipper.run());
        }
        let bases = Bases {
            shared: self.shared.clone(),
            store: store.clone(),
            remote: self.remote.clone(),
            shards: self.shards.clone(),
            seal: self.seal.clone(),
            window: self.window,
        };
        self.runtime.spawn(Arc::new(bases).run());
        self.runtime.spawn(hold::watch(self.shared.clone()));
        self.runtime.spawn(release(self.shared.clone(), self.remote.clone(), self.traffic.clone()));
        tracing::info!(bucket = self.remote.url(), mode = %self.mode, "replicating");
        Ok(())
    }

    /// Stops, after the store was closed, which waits until the bucket has everything or for a while.
    pub fn stop(&self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        for slot in &self.shared.slots {
            slot.changed.notify_one();
            slot.shipped.notify_all();
        }
        self.shared.wanted.look_at_all();
        let shards = self.shards.clone();
        let closed = self.runtime.wait(Duration::from_secs(5), async move {
            shards.close().await;
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "the bucket was not closed in time");
        }
        if let Some(thread) = self.capture.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads the log has panicked");
        }
        if let Err(error) = self.shared.state.persist() {
            tracing::error!(%error, "replica.db cannot be written");
        }
        self.runtime.stop();
        // They hold the store, whose log holds them.
        self.shared.tail.clear_hold();
        self.fence.guards(None);
    }

    /// What its parts share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The bucket.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Its shards.
    pub fn shards(&self) -> &Arc<Shards> {
        &self.shards
    }

    /// What encrypts what leaves the machine.
    pub fn seal(&self) -> &Arc<Seal> {
        &self.seal
    }

    /// When answers are sent.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How long the past is kept.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// What was asked of the bucket.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Whether another server has taken over.
    pub fn is_taken_over(&self) -> bool {
        self.fence.is_taken()
    }

    /// Runs something on the replica's runtime, and waits for it without blocking.
    ///
    /// # Errors
    /// Its own; and if the replica was stopped meanwhile.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let done = self.runtime.handle.spawn(work).await;
        done.map_err(|e| Error::new(ErrorKind::Unavailable, "the replica was stopped meanwhile").with_source(e))?
    }

    /// Waits until the bucket has everything that was written before.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if it does not within `limit`.
    pub async fn flush(&self, limit: Duration) -> Result<()> {
        let newest = self.shared.tail.newest();
        let until = tokio::time::Instant::now() + limit;
        loop {
            let has_released = self.shared.has_released.notified();
            if self.shared.released() >= newest {
                return Ok(());
            }
            if tokio::time::timeout_at(until, has_released).await.is_err() {
                return Err(super::ship::not_there());
            }
        }
    }
}

/// Writes heads to the disk, and releases the log's segments that nothing needs after that. Counts what was asked of the
/// bucket meanwhile.
async fn release(shared: Arc<Shared>, remote: Remote, traffic: Arc<Traffic>) {
    loop {
        tokio::time::sleep(RELEASE).await;
        traffic.note(Instant::now(), remote.meter());
        let own = shared.clone();
        let done = tokio::task::spawn_blocking(move || own.release()).await;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "replica.db cannot be written: the log keeps its segments"),
            Err(error) => tracing::error!(%error, "the log's segments were not released"),
        }
    }
}

/// The bucket's format, made if it has none.
async fn installation(
    remote: &Remote,
    belongs: Option<&Belongs>,
    has_data: bool,
    anew: bool,
    clock: &Clock,
) -> Result<Format> {
    let url = remote.url();
    let Some(text) = remote.get(FORMAT_PATH).await? else {
        let format = Format::begin(clock.now())?;
        return match remote.put_new(FORMAT_PATH, format.encode()?.into()).await? {
            true => Ok(format),
            false => Err(Error::config(format!("another server has begun to replicate to {url} at this moment: start again"))),
        };
    };
    let format = Format::parse(&text)?;
    match belongs {
        Some(belongs) if belongs.installation == format.installation => Ok(format),
        _ if anew => {
            let new = Format::begin(clock.now())?;
            let kept = format!("meta/format-{}.json", format.installation);
            remote.put(&kept, text).await?;
            Shards::begin_all_anew(remote).await?;
            remote.put(FORMAT_PATH, new.encode()?.into()).await?;
            Ok(new)
        }
        _ if has_data => Err(Error::config(format!(
            "{url} has the replica of another installation than this data folder: choose another prefix; or, to give up what \
             is there, start with --new"
        ))),
        _ => Err(Error::config(format!(
            "the data folder is empty, and {url} has a replica: `cubby restore --from {url} --data DIR` brings its data back \
             here; to give up what is there and begin with nothing, start with --new"
        ))),
    }
}

fn belongs_path(layout: &Layout) -> std::path::PathBuf {
    layout.root().join("replica.json")
}

/// Which installation a data folder belongs to; none if it was never replicated.
pub fn read_belongs(layout: &Layout) -> Result<Option<Belongs>> {
    let path = belongs_path(layout);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path.display(), error)),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::config(format!("{} cannot be read: move it away, and choose a new prefix", path.display())).with_source(e)
        }),
    }
}

/// Notes which installation a data folder belongs to.
pub fn write_belongs(layout: &Layout, belongs: &Belongs) -> Result<()> {
    if read_belongs(layout)?.as_ref() == Some(belongs) {
        return Ok(());
    }
    let text = serde_json::to_vec(belongs).map_err(|e| Error::internal("replica.json cannot be written").with_source(e))?;
    let (path, new) = (belongs_path(layout), layout.root().join("replica.json.new"));
    std::fs::create_dir_all(layout.root()).map_err(|e| Error::io(layout.root().display(), e))?;
    flush::remove(&new)?;
    flush::write_new(&new, &text)?;
    std::fs::rename(&new, &path).map_err(|e| Error::io(path.display(), e))?;
    flush::sync_folder(layout.root())
}

/// A runtime of one thread: what it does for the bucket never delays a request's thread.
struct Runtime {
    handle: Handle,
    stop: Mutex<Option<tokio::sync::oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Runtime {
    fn start() -> Result<Self> {
        let failed = |e| Error::io("starting the replica's runtime", e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("replica".into()).spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        let thread = Mutex::new(Some(thread.map_err(failed)?));
        Ok(Self { handle, stop: Mutex::new(Some(stop)), thread })
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(work));
    }

    /// Runs something there and blocks until it is done.
    fn wait<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (send, done) = mpsc::sync_channel(1);
        self.spawn(async move {
            let _ = send.send(work.await);
        });
        let why = format!("the bucket did not answer within {} s", limit.as_secs());
        done.recv_timeout(limit).unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, why)))
    }

    fn stop(&self) {
        if let Some(stop) = self.stop.lock().take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop();
    }
}
