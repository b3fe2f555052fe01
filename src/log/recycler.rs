//! Recycling: after a flush of the databases' file system nothing before it is needed in the log.

use std::{fs::File, path::Path, sync::Arc};

use parking_lot::{Condvar, Mutex};

use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::flush,
};

/// Flushes the file system of the databases, on a thread of its own, which ends when this is dropped.
pub(super) struct Recycler(Flusher);

/// Asks a [`Recycler`] for flushes.
#[derive(Clone)]
pub(super) struct Flusher(Arc<Sync>);

struct Sync {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Default)]
struct SyncState {
    /// Flushes asked for, and how many of these were made.
    asked: u64,
    made: u64,
    /// The group after which the last flush was asked for.
    wanted: u64,
    /// The groups up to this one are not needed any more.
    synced: u64,
    /// A flush failed: what it did not write is called clean by the kernel, so that a later flush says nothing of it,
    /// and no segment is freed until the log is redone.
    failed: Option<Error>,
    stop: bool,
}

impl SyncState {
    fn check(&self) -> Result<()> {
        let Some(error) = &self.failed else { return Ok(()) };
        let why = "a file could not be flushed; the next start of the server repairs it from the log";
        Err(Error::new(ErrorKind::Unavailable, why).with_source(error.clone()))
    }
}

impl Recycler {
    pub fn start(data: &Path) -> Result<Self> {
        // One descriptor for all flushes: it is told of every error since it was opened.
        let folder = File::open(data).map_err(|e| Error::io(data.display(), e))?;
        let sync = Arc::new(Sync { state: Mutex::default(), changed: Condvar::new() });
        let (own, data) = (sync.clone(), data.to_owned());
        let thread = std::thread::Builder::new().name("log recycler".into()).spawn(move || own.run(&folder, &data));
        thread.map_err(|e| Error::io("starting the log's recycler", e))?;
        Ok(Self(Flusher(sync)))
    }

    /// Asks for flushes.
    pub fn flusher(&self) -> &Flusher {
        &self.0
    }
}

impl Flusher {
    /// The groups up to this one are not needed any more.
    pub fn synced(&self) -> u64 {
        self.0.state.lock().synced
    }

    /// How many flushes were asked for so far.
    pub fn asked(&self) -> u64 {
        self.0.state.lock().asked
    }

    /// Asks for a flush after which the groups up to this one are not needed any more, and does not wait for it.
    /// Returns how many were asked for so far.
    pub fn request(&self, number: u64) -> u64 {
        let mut state = self.0.state.lock();
        state.wanted = state.wanted.max(number);
        state.asked += 1;
        let asked = state.asked;
        drop(state);
        self.0.changed.notify_all();
        asked
    }

    /// Flushes what databases have written until now, after which the groups up to this one are not needed any more.
    pub fn flush(&self, number: u64) -> Result<()> {
        let asked = self.request(number);
        self.wait_until(|state| state.made >= asked)
    }

    /// Whether a flush has failed.
    pub fn check(&self) -> Result<()> {
        self.0.state.lock().check()
    }

    /// Takes the failure of another flush for one of its own.
    pub fn fail(&self, error: &Error) {
        self.0.fail(error);
    }

    /// Waits until the groups up to this one are not needed any more.
    pub fn wait(&self, number: u64) -> Result<()> {
        self.wait_until(|state| state.synced >= number)
    }

    fn wait_until(&self, done: impl Fn(&SyncState) -> bool) -> Result<()> {
        let mut state = self.0.state.lock();
        while !done(&state) {
            state.check()?;
            if state.stop {
                return Err(Error::internal("the log is closed"));
            }
            self.0.changed.wait(&mut state);
        }
        Ok(())
    }
}

impl Drop for Recycler {
    fn drop(&mut self) {
        let Flusher(sync) = &self.0;
        sync.state.lock().stop = true;
        sync.changed.notify_all();
    }
}

impl Sync {
    fn fail(&self, error: &Error) {
        tracing::error!(error = %error, "the databases could not be flushed: the log keeps every segment until the next start");
        self.state.lock().failed.get_or_insert_with(|| error.clone());
        self.changed.notify_all();
    }

    fn run(&self, folder: &File, data: &Path) {
        let _guard = Panicked(self);
        loop {
            let (asked, wanted) = {
                let mut state = self.state.lock();
                while !state.stop && (state.failed.is_some() || state.asked == state.made) {
                    self.changed.wait(&mut state);
                }
                if state.stop {
                    return;
                }
                (state.asked, state.wanted)
            };
            let result = flush::file_system_of(folder, data);
            let mut state = self.state.lock();
            match result {
                Ok(()) => (state.made, state.synced) = (asked, wanted),
                Err(error) => {
                    drop(state);
                    self.fail(&error);
                }
            }
            self.changed.notify_all();
        }
    }
}

/// Ends every wait if the thread panics: nobody else would.
struct Panicked<'s>(&'s Sync);

impl Drop for Panicked<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&Error::internal("the log's recycler panicked"));
        }
    }
}
