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
use tokio::runtime::Handle;

use super::{
    bases::Bases,
    belongs::{Belongs, Folder, installation, read_belongs, write_belongs},
    capture::Shared,
    erasure::Erasure,
    fence::{Fence, Owner},
    format::{CATALOG, SHARDS},
    hold::{self, Holder},
    remote::Remote,
    restore::source::Source,
    seal::Seal,
    serving::{Empty, Restoring, fetch_catalog},
    shards::{Claim, Shards},
    ship::Shipper,
    state::State,
    traffic::Traffic,
};
use crate::{
    clock::Clock,
    config::replicate::Mode,
    error::{Error, ErrorKind, Result},
    log::Tail,
    tenants::{
        disk::{marker::Marker, path::Layout},
        open::fetch::Fetcher,
        store::Store,
    },
};

/// How often heads are written to the disk and the log's segments released.
const RELEASE: Duration = Duration::from_millis(500);

/// How long the start waits for the bucket.
const CONNECT: Duration = Duration::from_secs(30);

/// How long it waits for the catalog, which may be large.
const FETCH: Duration = Duration::from_secs(3600);

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
    /// Whether a folder without data is restored from the bucket.
    pub restore: bool,
    /// The time of day.
    pub clock: Clock,
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
    /// The restore of users' files that are not there yet.
    restoring: Option<Arc<Restoring>>,
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
        let Settings { remote, seal, mode, window, backlog, anew, restore, clock } = settings;
        let runtime = Runtime::start()?;
        let layout = Layout::at(data.to_owned());
        let marker = Marker::read(layout.root())?;
        let empty = if restore || marker.is_some() { Empty::take(data)? } else { None };
        let (belongs, has_data) = (read_belongs(&layout)?, layout.catalog().exists());
        let goes_on = marker.is_some();
        let folder = Folder { belongs: belongs.clone(), marker, has_data, restore, anew };
        let (place, time) = (remote.clone(), clock.clone());
        let connected = runtime.wait(CONNECT, async move {
            place.probe().await?;
            installation(&place, &folder, &time).await
        });
        let may_be_away = mode == Mode::Async && empty.is_none();
        let installation = match (connected, &belongs) {
            (Ok(format), _) => format.installation,
            // Users are served, and everything is sent later.
            (Err(error), Some(belongs)) if error.kind() == ErrorKind::Unavailable && may_be_away => {
                tracing::warn!(%error, bucket = remote.url(), "started while the bucket does not answer; it is tried again");
                belongs.installation.clone()
            }
            (Err(error), _) => return Err(error),
        };
        if empty.is_some() {
            Marker { installation: installation.clone(), url: remote.url().to_owned() }.write(layout.root())?;
        }
        let owner = Owner::new(&clock);
        let belongs = Belongs::begun(installation, remote.url(), belongs, &owner.server);
        write_belongs(&layout, &belongs)?;
        let state =
            Arc::new(State::open(&layout.replica_state(), &format!("{} {}", belongs.installation, belongs.url))?);
        let left = state.clone();
        let tail = Tail::new(Box::new(move |names| left.note_left(names)));
        let shared = Shared::new(tail, state, backlog);
        let server = owner.server.clone();
        let fence = Fence::new(owner, shared.clone());
        let claim = Claiming { fence: fence.clone(), remote: remote.clone(), layout, belongs, server, has_data };
        let (owner, place) = (fence.clone(), remote.clone());
        let ours = move || -> BoxFuture<'static, Result<bool>> {
            let (owner, place) = (owner.clone(), place.clone());
            Box::pin(async move { owner.is_ours(&place).await })
        };
        let shards = Arc::new(Shards::new(&remote, claim.done_once(), Box::new(ours)));
        let seal = Arc::new(seal);
        let (traffic, capture) = (Arc::new(Traffic::new(Instant::now())), Mutex::default());
        let restoring = (goes_on || empty.is_some()).then(|| {
            let source = Source::of_server(remote.clone(), seal.clone(), shards.clone());
            Restoring::new(source, shards.clone(), shared.clone(), runtime.handle.clone())
        });
        let replica = Self { shared, remote, shards, seal, fence, mode, window, traffic, restoring, runtime, capture };
        match empty {
            Some(empty) => replica.restore_catalog(empty)?,
            None if restore && !goes_on => tracing::info!("the data folder has its data: leave --restore out"),
            None => {}
        }
        Ok(replica)
    }

    /// Gives an empty data folder the catalog that the bucket has.
    fn restore_catalog(&self, empty: Empty) -> Result<()> {
        tracing::info!(bucket = self.remote.url(), "restoring the catalog");
        let source = Source::of_server(self.remote.clone(), self.seal.clone(), self.shards.clone());
        let (shards, path) = (self.shards.clone(), empty.temporary());
        let into = path.clone();
        let restored = self.runtime.wait(FETCH, async move { fetch_catalog(&source, &shards, &into).await })?;
        empty.place(&path, &restored, &self.shared.state)
    }

    /// What the store is opened with if not all users' files are there.
    pub fn fetcher(&self) -> Option<Fetcher> {
        self.restoring.as_ref().map(|restoring| Fetcher(restoring.clone()))
    }

    /// The restore of users' files, while it goes on.
    pub fn restoring(&self) -> Option<&Restoring> {
        self.restoring.as_deref().filter(|restoring| restoring.is_under_way())
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
            // What is wrong with a shard must not keep users from being served.
            Err(error) if error.kind() != ErrorKind::Config && self.mode == Mode::Async => {
                tracing::error!(%error, "not everything can be sent to the bucket; it is tried again");
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
        let erasure = Erasure {
            shared: self.shared.clone(),
            remote: self.remote.clone(),
            shards: self.shards.clone(),
            fence: self.fence.clone(),
            clock: store.clock().clone(),
        };
        self.runtime.spawn(erasure.run());
        if let Some(restoring) = &self.restoring {
            self.runtime.spawn(restoring.clone().run(store.clone()));
        }
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
        self.shared.tail.end();
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

/// What claims a bucket.
struct Claiming {
    fence: Arc<Fence>,
    remote: Remote,
    layout: Layout,
    belongs: Belongs,
    server: String,
    has_data: bool,
}

impl Claiming {
    fn done_once(self) -> Claim {
        let own = Arc::new(self);
        Box::new(move || -> BoxFuture<'static, Result<()>> {
            let own = own.clone();
            Box::pin(async move { own.claim().await })
        })
    }

    async fn claim(&self) -> Result<()> {
        if self.has_data {
            self.belongs.refuse_if_taken(&self.remote).await?;
        }
        self.fence.claim(&self.remote, &self.belongs.installation).await?;
        write_belongs(&self.layout, &self.belongs.claimed(&self.server))
    }
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
