//! One reconcile: list, compare, mend, report.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    carry,
    plan::{Diff, Step},
    report::{Outcome, Report, Tally},
    spool::{Spool, chunks},
};
use crate::{
    catalog::{
        model::{Counts, Millis, Row},
        queries::{self, runs},
    },
    config::provider::Part,
    error::{Error, ErrorKind, Result},
    identity::{
        provider::{AMONG, Provider},
        user::User,
    },
    telemetry::metrics,
    tenants::{id::TenantId, path, store::Store},
};

/// What a run may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Delete however many there are.
    pub force: bool,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// What it does now.
    pub phase: &'static str,
    /// How many users it has gone through in this phase.
    pub done: u64,
    /// Of how many, as far as is known.
    pub total: u64,
}

/// Compares and mends; one run at a time.
pub struct Syncer {
    store: Store,
    provider: Option<Arc<dyn Provider>>,
    max_delete: Part,
    running: AtomicBool,
    progress: watch::Sender<Progress>,
}

/// Files made, moved or updated at once.
const AT_ONCE: usize = 16;

/// Rows and updates handled together.
const CHUNK: usize = 500;

/// The share of users that may be missing from a list for it to count as whole: some are deleted
/// while it is read.
const SHORTFALL: u64 = 100;

impl Syncer {
    /// Over a store and a provider, if one is configured.
    pub fn new(store: Store, provider: Option<Arc<dyn Provider>>, max_delete: Part) -> Arc<Self> {
        let progress = watch::Sender::new(Progress::default());
        Arc::new(Self { store, provider, max_delete, running: AtomicBool::new(false), progress })
    }

    /// Whether a run is under way.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// How far it is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The provider, if one is configured.
    pub fn provider(&self) -> Result<&Arc<dyn Provider>> {
        self.provider
            .as_ref()
            .ok_or_else(|| Error::config("set CLERK_SECRET_KEY: without it Clerk cannot be asked who exists"))
    }

    /// Starts a run. It goes on when nobody waits for it any more.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] without a provider, [`ErrorKind::Conflict`] while another run is under
    /// way.
    pub fn start(self: &Arc<Self>, options: Options) -> Result<JoinHandle<Report>> {
        let provider = self.provider()?.clone();
        let turn = Turn::take(self)?;
        let this = self.clone();
        Ok(tokio::spawn(async move {
            let report = this.run(&*provider, options).await;
            drop(turn);
            report
        }))
    }

    async fn run(&self, provider: &dyn Provider, options: Options) -> Report {
        let (clock, started) = (Instant::now(), self.store.clock().now());
        let mut report = Report::begin(started, options.dry_run, options.force);
        let id = match options.dry_run {
            true => Ok(None),
            false => self.store.catalog().write(move |tx| runs::begin(tx, started)).await.map(Some),
        };
        let result = match &id {
            Ok(_) => self.reconcile(provider, options, started, &mut report).await,
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = result {
            tracing::error!(error = %error, "a reconcile stopped");
            report.stop(&error);
        }
        report.duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        metrics::sync_run(report.outcome.as_str(), clock.elapsed());
        tracing::info!(
            outcome = report.outcome.as_str(),
            dry_run = options.dry_run,
            created = report.created.count,
            updated = report.updated.count,
            restored = report.restored.count,
            deleted = report.deleted.count,
            held = report.held.count,
            took_ms = report.duration_ms,
            "reconciled"
        );
        if let Ok(Some(id)) = id {
            let (now, outcome) = (self.store.clock().now(), report.outcome.as_str());
            let text = serde_json::to_string(&report).unwrap_or_default();
            let kept = self.store.catalog().write(move |tx| runs::finish(tx, id, now, outcome, &text)).await;
            if let Err(error) = kept {
                tracing::error!(error = %error, "the report of a reconcile could not be kept");
            }
        }
        report
    }

    async fn reconcile(
        &self,
        provider: &dyn Provider,
        options: Options,
        since: Millis,
        report: &mut Report,
    ) -> Result<()> {
        report.local_count = live(self.store.counts().await?);
        let spool = self.list(provider, report).await?;
        self.compare(&spool, options, since, report).await?;
        self.remove(provider, &spool, options, since, report).await?;
        for (email, users) in self.store.catalog().query(|conn| runs::shared_emails(conn, u32::MAX)).await? {
            report.shared_emails.add(&format!("{email} ({users} users)"));
        }
        Ok(())
    }

    /// Brings the provider's whole list here.
    async fn list(&self, provider: &dyn Provider, report: &mut Report) -> Result<Spool> {
        report.provider_count = provider.count().await?;
        let folder = self.store.layout().tmp();
        let spool = blocking(move || Spool::new(&folder)).await?;
        let mut cursor: Option<String> = None;
        let mut seen = 0;
        loop {
            let page = provider.page(cursor.as_deref()).await?;
            seen += page.users.len() as u64;
            page.unusable.iter().for_each(|id| report.unusable_ids.add(id));
            let (into, users) = (spool.clone(), page.users);
            blocking(move || into.add(&users)).await?;
            self.progress.send_replace(Progress { phase: "listing", done: seen, total: report.provider_count });
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let of = spool.clone();
        report.provider_listed = blocking(move || of.count()).await? + report.unusable_ids.count;
        let (listed, counted) = (report.provider_listed, report.provider_count);
        if listed + (counted / SHORTFALL).max(10) < counted || (listed == 0 && counted > 0) {
            return Err(Error::new(
                ErrorKind::Provider,
                format!("Clerk listed {listed} of the {counted} users it says there are; nothing was changed"),
            ));
        }
        if listed == 0 && report.local_count > 0 && !report.forced {
            return Err(Error::new(
                ErrorKind::Provider,
                format!(
                    "Clerk has no users and {} live here: most likely CLERK_SECRET_KEY is another instance's. Nothing \
                     was changed; use force if it is right",
                    report.local_count
                ),
            ));
        }
        Ok(spool)
    }

    /// Merges both lists and mends all but those who are absent there, who are noted in the spool.
    async fn compare(&self, spool: &Spool, options: Options, since: Millis, report: &mut Report) -> Result<()> {
        let total = report.local_count.max(report.provider_listed);
        let (steps, mut found) = mpsc::channel(CHUNK);
        let merge = Merge { store: self.store.clone(), spool: spool.clone(), since };
        let merged = tokio::task::spawn_blocking(move || merge.run(&steps));
        let mut mending = Mending { store: &self.store, options, since, running: JoinSet::new(), updates: Vec::new() };
        let mut absent = Vec::new();
        let mut done = 0;
        while let Some(step) = found.recv().await {
            done += 1;
            match step {
                Step::Delete(id) => {
                    report.deleted.add(&id);
                    absent.push(id);
                    if absent.len() >= CHUNK {
                        note_absent(spool, std::mem::take(&mut absent)).await?;
                    }
                }
                step => mending.take(step, report).await,
            }
            if done % CHUNK as u64 == 0 {
                self.progress.send_replace(Progress { phase: "mending", done, total });
            }
        }
        mending.finish(report).await;
        note_absent(spool, absent).await?;
        let merged = merged.await.map_err(|e| Error::internal("a comparison did not finish").with_source(e))??;
        report.unchanged = merged.unchanged;
        report.orphan_files = merged.orphans;
        Ok(())
    }

    /// Deletes those who are absent there, if they are not too many and are absent by name too.
    async fn remove(
        &self,
        provider: &dyn Provider,
        spool: &Spool,
        options: Options,
        since: Millis,
        report: &mut Report,
    ) -> Result<()> {
        let absent = std::mem::take(&mut report.deleted);
        let limit = self.max_delete.of(report.local_count);
        if absent.count > limit && !options.force {
            tracing::warn!(absent = absent.count, limit, "more users are absent at the provider than may be deleted");
            report.held = absent;
            report.outcome = Outcome::Held;
            return Ok(());
        }
        let mut after: Option<TenantId> = None;
        let mut done = 0;
        loop {
            let (of, from) = (spool.clone(), after.clone());
            let ids = blocking(move || of.absent(from.as_ref(), u32::try_from(AMONG).unwrap_or(1))).await?;
            let Some(last) = ids.last() else { return Ok(()) };
            after = Some(last.clone());
            let there = provider.among(&ids).await?;
            let mut running = JoinSet::new();
            for id in ids {
                if there.iter().any(|user| user.id == id) {
                    report.unlisted.add(&id);
                    continue;
                }
                let (store, dry_run) = (self.store.clone(), options.dry_run);
                running.spawn(async move {
                    let gone = if dry_run { Ok(true) } else { carry::delete(&store, &id, since).await };
                    (id, gone)
                });
            }
            while let Some(result) = running.join_next().await {
                let (id, gone) = result.map_err(|e| Error::internal("a deletion did not finish").with_source(e))?;
                done += 1;
                match gone {
                    Ok(true) => report.deleted.add(&id),
                    Ok(false) => report.unchanged += 1,
                    Err(error) => report.errors.add(&format!("{id}: {error}")),
                }
            }
            self.progress.send_replace(Progress { phase: "deleting", done, total: absent.count });
        }
    }
}

/// How many live, in whatever state.
pub fn live(counts: Counts) -> u64 {
    counts.active + counts.suspended + counts.quarantined
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("work of a reconcile did not finish").with_source(e))?
}

async fn note_absent(spool: &Spool, ids: Vec<TenantId>) -> Result<()> {
    let spool = spool.clone();
    blocking(move || spool.set_absent(&ids)).await
}

/// The one run; given back however it ends.
struct Turn(Arc<Syncer>);

impl Turn {
    fn take(syncer: &Arc<Syncer>) -> Result<Self> {
        match syncer.running.swap(true, Ordering::AcqRel) {
            true => Err(Error::new(ErrorKind::Conflict, "a reconcile is running already; wait until it is done")),
            false => {
                syncer.progress.send_replace(Progress { phase: "listing", ..Progress::default() });
                Ok(Self(syncer.clone()))
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

/// Carries steps out, some at once.
struct Mending<'a> {
    store: &'a Store,
    options: Options,
    since: Millis,
    running: JoinSet<Done>,
    updates: Vec<User>,
}

/// Which list of the report it belongs to, of whom, and whether it was still right.
type Done = (fn(&mut Report) -> &mut Tally, Vec<TenantId>, Result<bool>);

impl Mending<'_> {
    async fn take(&mut self, step: Step, report: &mut Report) {
        while self.running.len() >= AT_ONCE {
            self.settle(report).await;
        }
        let (store, since, dry_run) = (self.store.clone(), self.since, self.options.dry_run);
        match step {
            Step::Update(user) => {
                self.updates.push(user);
                if self.updates.len() >= CHUNK {
                    self.write_updates();
                }
            }
            Step::Create(user) => {
                self.running.spawn(async move {
                    let id = user.id.clone();
                    let done = if dry_run { Ok(true) } else { carry::create(&store, user, since).await };
                    let tally: fn(&mut Report) -> &mut Tally = |report| &mut report.created;
                    (tally, vec![id], done)
                });
            }
            Step::Restore(user) => {
                self.running.spawn(async move {
                    let id = user.id.clone();
                    let done = if dry_run { Ok(true) } else { carry::restore(&store, user, since).await };
                    let tally: fn(&mut Report) -> &mut Tally = |report| &mut report.restored;
                    (tally, vec![id], done)
                });
            }
            // Held back until all is known.
            Step::Delete(_) => {}
        }
    }

    fn write_updates(&mut self) {
        let users = std::mem::take(&mut self.updates);
        let (store, since, dry_run) = (self.store.clone(), self.since, self.options.dry_run);
        self.running.spawn(async move {
            let ids = users.iter().map(|user| user.id.clone()).collect();
            let done = if dry_run { Ok(true) } else { carry::update(&store, users, since).await.map(|n| n > 0) };
            let tally: fn(&mut Report) -> &mut Tally = |report| &mut report.updated;
            (tally, ids, done)
        });
    }

    async fn settle(&mut self, report: &mut Report) {
        match self.running.join_next().await {
            None => {}
            Some(Ok((tally, ids, Ok(true)))) => ids.iter().for_each(|id| tally(report).add(id)),
            Some(Ok((_, ids, Ok(false)))) => report.unchanged += ids.len() as u64,
            Some(Ok((_, ids, Err(error)))) => ids.iter().for_each(|id| report.errors.add(&format!("{id}: {error}"))),
            Some(Err(error)) => report.errors.add(&format!("a step did not finish: {error}")),
        }
    }

    async fn finish(mut self, report: &mut Report) {
        if !self.updates.is_empty() {
            self.write_updates();
        }
        while !self.running.is_empty() {
            self.settle(report).await;
        }
    }
}

/// The comparison, on a thread of its own.
struct Merge {
    store: Store,
    spool: Spool,
    since: Millis,
}

#[derive(Default)]
struct Merged {
    unchanged: u64,
    orphans: Tally,
}

impl Merge {
    fn run(&self, steps: &mpsc::Sender<Step>) -> Result<Merged> {
        // Eight bytes a tenant, to know later which files are of none.
        let mut known: Vec<u64> = Vec::new();
        let here = self.rows().inspect(|row| known.extend(row.iter().map(|row| path::fingerprint(&row.id))));
        let mut diff = Diff::new(here, self.spool.users(), self.since);
        for step in diff.by_ref() {
            // Nobody listens when the run has stopped.
            if steps.blocking_send(step?).is_err() {
                return Ok(Merged::default());
            }
        }
        let unchanged = diff.unchanged();
        drop(diff);
        known.sort_unstable();
        Ok(Merged { unchanged, orphans: self.orphans(&known)? })
    }

    fn rows(&self) -> impl Iterator<Item = Result<Row>> + use<> {
        let store = self.store.clone();
        chunks(move |after: Option<&Row>| {
            let after = after.map(|row| row.id.as_str());
            store.catalog().read(|conn| queries::list(conn, None, after, u32::try_from(CHUNK).unwrap_or(1)))
        })
    }

    fn orphans(&self, known: &[u64]) -> Result<Tally> {
        let since = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.since).unwrap_or(0));
        let mut orphans = Tally::default();
        self.store.layout().each_live(|file| {
            let unknown = path::fingerprint_of(&file).is_none_or(|print| known.binary_search(&print).is_err());
            // One made since then is of a user who came meanwhile.
            if unknown && file.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at < since) {
                orphans.add(&file.file_name().unwrap_or_default().to_string_lossy());
            }
        })?;
        Ok(orphans)
    }
}
