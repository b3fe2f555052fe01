//! Starts and stops backups, one at a time, and says when the next one is due.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use parking_lot::Mutex;
use rusqlite::Transaction;
use tokio::sync::watch;

use super::{
    destination::{Destination, seal_of},
    journal,
    name::Name,
    report::{Phase, Report, Status},
    scratch::blocking,
    take::{Take, open_journal},
    tidy::{Removed, tidy},
    under_way::{End, Guard, UnderWay},
};
use crate::{
    catalog::audit::Author,
    clock::{Millis, millis, rfc3339},
    config::replicate::{Keep, ReplicateConfig},
    error::{Error, Result},
    tenants::store::Store,
};

/// The actions in the audit trail.
const ACTION: &str = "backup";
const STOP: &str = "backup stop";

/// Reports of backups that are over, kept in memory.
const KEPT: usize = 16;

/// How long a stop waits for the end.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// After a backup that failed the next one is tried this much later, unless it is due earlier.
const RETRY: Duration = Duration::from_secs(15 * 60);

/// How long the place may take to say when its newest backup was made.
const LOOK: Duration = Duration::from_secs(5);

/// Where backups go if it is not said otherwise, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A folder or a URL.
    pub to: Option<String>,
    /// Which are kept there.
    pub keep: Keep,
    /// The file of the keys that encrypt them.
    pub key: Option<PathBuf>,
}

impl From<&ReplicateConfig> for Settings {
    fn from(config: &ReplicateConfig) -> Self {
        Self { to: config.backup_to.clone(), keep: config.backup_keep, key: config.replicate_key.clone() }
    }
}

/// What a backup is told.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Where it goes; where the settings say, if not said.
    pub to: Option<String>,
    /// Which are kept there; with a place of its own all, if not said.
    pub keep: Option<Keep>,
}

/// Makes backups of a store.
pub struct Backups {
    store: Store,
    settings: Settings,
    /// Whether callers' requests are in flight.
    is_busy: Box<dyn Fn() -> bool + Send + Sync>,
    under_way: Arc<UnderWay>,
    /// The newest first.
    last: Mutex<VecDeque<Report>>,
    /// When the newest backup where the settings say was begun, if that is known.
    newest: Mutex<Option<Millis>>,
    /// Whether the last try of one there came to nothing.
    has_failed: AtomicBool,
}

/// Why a backup is not whole.
enum Cut {
    Asked(End),
    Failed(Error),
}

impl Backups {
    /// Of the tenants of `store`; `is_busy` says whether callers' requests are in flight.
    pub fn new(store: Store, settings: Settings, is_busy: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Self> {
        describe_counter!("cubby_backups_total", "Backups by outcome.");
        describe_gauge!("cubby_backup_newest_timestamp_seconds", "When the newest backup was begun.");
        for status in [Status::Done, Status::Stopped, Status::Failed, Status::Interrupted] {
            counter!("cubby_backups_total", "outcome" => status.as_str()).increment(0);
        }
        Arc::new(Self {
            store,
            settings,
            is_busy: Box::new(is_busy),
            under_way: Arc::default(),
            last: Mutex::default(),
            newest: Mutex::default(),
            has_failed: AtomicBool::new(false),
        })
    }

    /// Where they go if it is not said otherwise.
    pub fn to(&self) -> Option<&str> {
        self.settings.to.as_deref()
    }

    /// The one that is being made.
    pub fn running(&self) -> Option<Report> {
        self.under_way.report()
    }

    /// Those that are over, since this process began, the newest first.
    pub fn last(&self) -> Vec<Report> {
        self.last.lock().iter().cloned().collect()
    }

    /// One by name, running or over.
    pub fn find(&self, run: &str) -> Option<Report> {
        let running = self.running().filter(|report| report.run == run);
        running.or_else(|| self.last.lock().iter().find(|report| report.run == run).cloned())
    }

    /// Starts one. Gives what is closed when it is over.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) while another one is being made; what is wrong with the place.
    pub async fn start(self: &Arc<Self>, order: Order, author: Author) -> Result<(Report, watch::Receiver<()>)> {
        let is_own = order.to.is_none();
        let keep = order.keep.or(is_own.then_some(self.settings.keep));
        let to = order.to.or_else(|| self.settings.to.clone()).ok_or_else(|| {
            Error::invalid("to", "say where the backup goes: a folder or a URL, or set CUBBY_BACKUP for the server")
        })?;
        let key = self.settings.key.clone();
        let destination = blocking(move || Destination::open(&to, seal_of(key.as_deref())?)).await?;
        let now = self.store.clock().now();
        let name = Name::new(now);
        let by = author.origin.as_ref().map_or(author.actor.clone(), |from| format!("{}, {from}", author.actor));
        let report = Report::new(name.to_string(), destination.url(), by, rfc3339(now).to_string());
        let guard = self.under_way.begin(report.clone())?;
        let (run, by) = (report.run.clone(), author.clone());
        let begin = move |tx: &Transaction| by.record(tx, now, ACTION, run.as_str(), "started");
        self.store.catalog().write(begin).await?;
        let (this, over) = (self.clone(), guard.over());
        tokio::spawn(async move {
            let began = Instant::now();
            let made = tokio::select! {
                made = this.make(&guard, &destination, &name, now, keep) => made.map_err(Cut::Failed),
                end = guard.asked() => Err(Cut::Asked(end)),
            };
            if !matches!(made, Err(Cut::Asked(End::Interrupted)))
                && let Err(error) = destination.end(name.as_str()).await
            {
                tracing::debug!(%error, "the place still says that the backup is being made");
            }
            this.conclude(&guard, made, author, (is_own, now, began.elapsed())).await;
            // Whoever waits for the end may open the store anew.
            drop(this);
            drop(guard);
        });
        Ok((report, over))
    }

    async fn make(
        &self,
        guard: &Guard,
        destination: &Destination,
        name: &Name,
        started: Millis,
        keep: Option<Keep>,
    ) -> Result<()> {
        let root = self.store.layout().root();
        let installation = destination.claim(root, started).await?;
        let (store, place) = (self.store.clone(), destination.clone());
        let journal = Arc::new(blocking(move || open_journal(&store, &place)).await?);
        let take = Take {
            store: &self.store,
            destination,
            guard,
            is_busy: &*self.is_busy,
            name,
            started,
            journal: journal.clone(),
            installation,
        };
        let end = take.run().await?;
        drop(take);
        tracing::info!(backup = %name, users = end.tenants, missing = end.missing, bytes = end.bytes, "backed up");
        if let Some(keep) = keep {
            guard.enter(Phase::Removing);
            let own = (name.as_str(), started);
            let now = self.store.clock().now();
            match tidy(destination, (&journal, self.store.layout()), own, keep, now).await {
                Ok(Removed { backups, copies }) => {
                    tracing::debug!(backups, copies, "old backups removed");
                    guard.with(|report| report.removed = backups);
                }
                // What was made is whole nevertheless.
                Err(error) => {
                    tracing::error!(%error, "old backups could not be removed; the next backup tries again");
                    let why = format!("old backups could not be removed: {}", error.detail());
                    guard.with(|report| report.why = Some(why));
                }
            }
        }
        drop(journal);
        let path = root.join(journal::FILE);
        blocking(move || journal::remove(&path)).await
    }

    /// Says in the report how it ended, keeps it, and records it.
    async fn conclude(
        &self,
        guard: &Guard,
        made: Result<(), Cut>,
        author: Author,
        (is_own, started, took): (bool, Millis, Duration),
    ) {
        let (status, action, by, why) = match made {
            Ok(()) => (Status::Done, ACTION, author, None),
            Err(Cut::Asked(End::Stopped(by))) => (Status::Stopped, STOP, by, None),
            Err(Cut::Asked(End::Interrupted)) => (Status::Interrupted, ACTION, author, None),
            Err(Cut::Failed(error)) => {
                tracing::error!(%error, "a backup failed; the next one goes on where it was");
                (Status::Failed, ACTION, author, Some(error.detail()))
            }
        };
        let at = self.store.clock().now();
        let Some(mut report) = guard.report() else { return };
        (report.status, report.ended, report.seconds_left) = (status, Some(rfc3339(at).to_string()), None);
        report.why = why.or(report.why);
        counter!("cubby_backups_total", "outcome" => status.as_str()).increment(1);
        if status == Status::Done {
            tell_newest(started);
        }
        if is_own {
            // Whoever has stopped one does not want it back in a moment.
            let is_settled = matches!(status, Status::Done | Status::Stopped);
            self.has_failed.store(!is_settled, Ordering::Release);
            if is_settled {
                *self.newest.lock() = Some(started);
            }
        }
        let seconds = took.as_secs();
        let Report { run, to, handled, missing, uploaded, .. } = &report;
        tracing::info!(run, to, status = status.as_str(), handled, missing, uploaded, seconds, "a backup is over");
        let (run, result) = (run.clone(), status.as_str());
        let end = move |tx: &Transaction| by.record(tx, at, action, run.as_str(), result);
        {
            let mut last = self.last.lock();
            last.push_front(report);
            last.truncate(KEPT);
        }
        if let Err(error) = self.store.catalog().write(end).await {
            tracing::error!(%error, "the end of a backup could not be recorded in the audit trail");
        }
    }

    /// Stops one by name, or whichever is being made; what it has done is used by the next one. None if it is not being made.
    pub async fn stop(&self, run: Option<&str>, author: Author) -> Option<Report> {
        let name = self.running()?.run;
        let mut over = self.under_way.ask(run, End::Stopped(author))?;
        // Closed at the end: nothing is ever sent.
        let _ = tokio::time::timeout(STOP_WAIT, over.changed()).await;
        self.find(&name)
    }

    /// Ends what is being made, before the store is closed.
    pub async fn end(&self) {
        if let Some(mut over) = self.under_way.ask(None, End::Interrupted) {
            let _ = over.changed().await;
        }
    }

    /// How long it is until one is to be made where the settings say.
    pub async fn due_in(&self, every: Duration) -> Duration {
        let retry = every.min(RETRY);
        if self.has_failed.load(Ordering::Acquire) || self.running().is_some() {
            return retry;
        }
        let newest = *self.newest.lock();
        let newest = match newest {
            Some(newest) => Some(newest),
            // The process has begun: what was made before is at the place only.
            None => match tokio::time::timeout(LOOK, self.look()).await {
                Ok(Ok(newest)) => newest,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "when the newest backup was made is not known; it is asked again");
                    return retry;
                }
                Err(_) => {
                    tracing::warn!("the place of backups does not answer in time; it is asked again");
                    return retry;
                }
            },
        };
        let Some(newest) = newest else { return Duration::ZERO };
        *self.newest.lock() = Some(newest);
        let since = self.store.clock().now().saturating_sub(newest);
        // After a clock that was ahead, no longer than one turn.
        let left = millis(every).saturating_sub(since).clamp(0, millis(every));
        Duration::from_millis(u64::try_from(left).unwrap_or_default())
    }

    async fn look(&self) -> Result<Option<Millis>> {
        let Some(to) = self.settings.to.clone() else { return Ok(None) };
        let key = self.settings.key.clone();
        let destination = blocking(move || Destination::open(&to, seal_of(key.as_deref())?)).await?;
        let newest = destination.backups().await?.last().map(|found| found.name.at());
        if let Some(at) = newest {
            tell_newest(at);
        }
        Ok(newest)
    }

    /// Starts one where the settings say, because it is due. Gives what is closed when it is over.
    pub async fn start_scheduled(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        match self.start(Order::default(), Author::program("schedule")).await {
            Ok((_, over)) => Some(over),
            Err(error) => {
                tracing::error!(%error, "the scheduled backup did not start; it is tried again");
                counter!("cubby_backups_total", "outcome" => Status::Failed.as_str()).increment(1);
                self.has_failed.store(true, Ordering::Release);
                None
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time in seconds is exact in a float")]
fn tell_newest(at: Millis) {
    gauge!("cubby_backup_newest_timestamp_seconds").set((at / 1000) as f64);
}
