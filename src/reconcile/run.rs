//! One reconcile: list, compare, mend, report.

use std::{sync::Arc, time::Instant};

use rusqlite::Transaction;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    changes,
    mend::{AT_ONCE, Mending},
    merge::Merge,
    plan::Step,
    report::{Phase, Report, RunOutcome},
    runs::{Fate, Progress, RunGuard, Runs},
    spool::Spool,
};
use crate::{
    catalog::{
        audit::Author,
        model::{Counts, Millis},
        queries::runs,
    },
    config::provider::Part,
    error::{Error, ErrorKind, Result},
    identity::{
        circuit::{Circuit, Guarded},
        provider::{AMONG, Provider},
    },
    telemetry::metrics,
    tenants::{id::TenantId, store::Store},
};

/// What a run may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Delete however many there are.
    pub force: bool,
}

/// Compares and mends; one run at a time.
pub struct Syncer {
    store: Store,
    provider: Option<Arc<dyn Provider>>,
    max_delete: Part,
    runs: Arc<Runs>,
}

/// A run that was started.
pub struct Started {
    /// What it is called.
    pub run: String,
    /// Its report, in the end. It goes on when nobody waits for it any more.
    pub report: JoinHandle<Report>,
}

/// What a run is called in the audit trail.
const ACTION: &str = "sync";

/// Rows and updates handled together.
pub(super) const CHUNK: usize = 500;

/// The share of users that may be missing from a list for it to count as whole: some are deleted
/// while it is read.
const SHORTFALL: u64 = 100;

/// Addresses of more than one user that are looked up at once.
const SHARED: u32 = 1000;

impl Syncer {
    /// Over a store and a provider, if one is configured.
    pub fn new(store: Store, provider: Option<Arc<dyn Provider>>, max_delete: Part) -> Arc<Self> {
        Arc::new(Self { store, provider, max_delete, runs: Runs::new() })
    }

    /// The run that is under way, and how far it is.
    pub fn running(&self) -> Option<(String, Progress)> {
        self.runs.running()
    }

    /// How far it is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.runs.progress()
    }

    /// What became of one run; none if there was none of this name.
    pub async fn fate(&self, run: &str) -> Result<Option<Fate>> {
        if let Some(fate) = self.runs.find(run) {
            return Ok(Some(fate));
        }
        let name = run.to_owned();
        let kept = self.store.catalog().query(move |conn| runs::find(conn, &name)).await?;
        Ok(match kept {
            None => None,
            Some(None) => Some(Fate::Lost),
            Some(Some(text)) => {
                let report = serde_json::from_str(&text);
                Some(Fate::Ended { report: report.map_err(|e| Error::internal("a kept report").with_source(e))? })
            }
        })
    }

    /// The provider, if one is configured.
    pub fn provider(&self) -> Result<&Arc<dyn Provider>> {
        self.provider
            .as_ref()
            .ok_or_else(|| Error::config("set CLERK_SECRET_KEY: without it Clerk cannot be asked who exists"))
    }

    /// Starts a run.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] without a provider, [`ErrorKind::Conflict`] while another run is under
    /// way.
    pub fn start(self: &Arc<Self>, options: Options, author: Author) -> Result<Started> {
        let provider = self.provider()?.clone();
        let turn = self.runs.begin()?;
        let (this, run) = (self.clone(), turn.run().to_owned());
        Ok(Started { run, report: tokio::spawn(async move { this.run(turn, &*provider, options, author).await }) })
    }

    async fn run(&self, turn: RunGuard, provider: &dyn Provider, options: Options, author: Author) -> Report {
        let (clock, started) = (Instant::now(), self.store.clock().now());
        let mut report = Report::begin(turn.run(), started, options.dry_run, options.force);
        let (name, by) = (turn.run().to_owned(), author.clone());
        let begin = move |tx: &Transaction| {
            by.record(tx, started, ACTION, name.as_str(), "started")?;
            runs::begin(tx, &name, started)
        };
        let id = match options.dry_run {
            true => Ok(None),
            false => self.store.catalog().write(begin).await.map(Some),
        };
        let circuit = Circuit::stopping();
        let guarded = Guarded { provider, circuit: &circuit };
        let one = One { syncer: self, turn: &turn, provider: &guarded, circuit: &circuit, options, since: started };
        let result = match &id {
            Ok(_) => one.reconcile(&mut report).await,
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = result {
            tracing::error!(run = turn.run(), phase = turn.phase().as_str(), error = %error, "a reconcile stopped");
            report.stop(turn.phase(), &error);
        }
        report.duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        metrics::sync_run(report.outcome.as_str(), clock.elapsed());
        tracing::info!(
            run = turn.run(),
            outcome = report.outcome.as_str(),
            dry_run = options.dry_run,
            created = report.created.count,
            updated = report.updated.count,
            restored = report.restored.count,
            deleted = report.deleted.count,
            held = report.held.count,
            undone = report.undone.count,
            took_ms = report.duration_ms,
            "reconciled"
        );
        if let Ok(Some(id)) = id {
            let (now, outcome, name) = (self.store.clock().now(), report.outcome.as_str(), report.run.clone());
            let text = serde_json::to_string(&report).unwrap_or_default();
            let finish = move |tx: &Transaction| {
                author.record(tx, now, ACTION, name.as_str(), outcome)?;
                runs::finish(tx, id, now, outcome, &text)
            };
            let kept = self.store.catalog().write(finish).await;
            if let Err(error) = kept {
                tracing::error!(error = %error, "the report of a reconcile could not be kept");
            }
        }
        turn.end(&report);
        report
    }
}

/// One run.
struct One<'a> {
    syncer: &'a Syncer,
    turn: &'a RunGuard,
    provider: &'a dyn Provider,
    circuit: &'a Circuit,
    options: Options,
    since: Millis,
}

impl One<'_> {
    async fn reconcile(&self, report: &mut Report) -> Result<()> {
        report.local_count = live(self.syncer.store.counts().await?);
        let spool = self.list(report).await?;
        let absent = self.compare(&spool, report).await?;
        if self.may_delete(&spool, absent, report).await? {
            self.delete(&spool, absent, report).await?;
        }
        self.look_around(report).await
    }

    /// Brings the provider's whole list here.
    async fn list(&self, report: &mut Report) -> Result<Spool> {
        report.provider_count = self.provider.count().await?;
        let folder = self.syncer.store.layout().tmp();
        let spool = blocking(move || Spool::new(&folder)).await?;
        let mut next: Vec<String> = Vec::new();
        let mut seen = 0;
        loop {
            let page = self.provider.page(&next).await?;
            let (into, users, unusable) = (spool.clone(), page.users, page.unusable);
            let new = blocking(move || into.add(&users, &unusable)).await?;
            seen += new;
            self.turn.at(Phase::Listing, seen, report.provider_count);
            next = page.next;
            if next.is_empty() {
                break;
            }
            if new == 0 {
                return Err(self.distrust("Clerk's list goes round in a circle; nothing was changed".to_owned()));
            }
        }
        let of = spool.clone();
        let mut unusable = std::mem::take(&mut report.unusable_ids);
        let listed = blocking(move || {
            of.unusable(|id| unusable.add(id))?;
            Ok((of.count()?, unusable))
        });
        (report.provider_listed, report.unusable_ids) = listed.await?;
        let (listed, counted) = (report.provider_listed, report.provider_count);
        if listed + (counted / SHORTFALL).max(10) < counted || (listed == 0 && counted > 0) {
            let why = format!("Clerk listed {listed} of the {counted} users it says there are; nothing was changed");
            return Err(self.distrust(why));
        }
        if listed == 0 && report.local_count > 0 && !self.options.force {
            return Err(self.distrust(format!(
                "Clerk has no users and {} live here: most likely CLERK_SECRET_KEY is another instance's. Nothing was \
                 changed; use force if it is right",
                report.local_count
            )));
        }
        Ok(spool)
    }

    /// An answer that cannot be true is as bad as none.
    fn distrust(&self, why: String) -> Error {
        self.circuit.distrust(Error::new(ErrorKind::Provider, why))
    }

    /// Merges both lists and mends all but those who are absent there, who are noted in the spool.
    /// Says how many those are.
    async fn compare(&self, spool: &Spool, report: &mut Report) -> Result<u64> {
        let total = report.local_count.max(report.provider_listed);
        self.turn.at(Phase::Mending, 0, total);
        let (steps, mut found) = mpsc::channel(CHUNK);
        let store = &self.syncer.store;
        let merge = Merge { store: store.clone(), spool: spool.clone(), since: self.since };
        let merged = tokio::task::spawn_blocking(move || merge.run(&steps));
        let mut mending = Mending::new(store, self.options, self.since);
        let mut absent = Vec::new();
        let (mut done, mut count) = (0, 0);
        while let Some(step) = found.recv().await {
            done += 1;
            match step {
                Step::Delete(id) => {
                    count += 1;
                    absent.push(id);
                    if absent.len() >= CHUNK {
                        note_absent(spool, std::mem::take(&mut absent)).await?;
                    }
                }
                step => mending.take(step, report).await,
            }
            if done % CHUNK as u64 == 0 {
                self.turn.at(Phase::Mending, done, total);
            }
        }
        mending.finish(report).await;
        note_absent(spool, absent).await?;
        let merged = merged.await.map_err(|e| Error::internal("a comparison did not finish").with_source(e))??;
        report.unchanged += merged.unchanged;
        report.orphan_files = merged.orphans;
        Ok(count)
    }

    /// Whether those who are absent may be deleted: they are not too many, and the provider, asked for
    /// each by name, does not have them either. All are asked for before the first is deleted, so that
    /// a run that stops has deleted nobody.
    async fn may_delete(&self, spool: &Spool, absent: u64, report: &mut Report) -> Result<bool> {
        self.turn.at(Phase::Asking, 0, absent);
        let limit = self.syncer.max_delete.of(report.local_count);
        if absent > limit && !self.options.force {
            tracing::warn!(absent, limit, "more users are absent at the provider than may be deleted");
            each_absent(spool, CHUNK, |ids| ids.iter().for_each(|id| report.held.add(id))).await?;
            report.outcome = RunOutcome::Held;
            return Ok(false);
        }
        let mut asked = 0;
        let mut after: Option<TenantId> = None;
        loop {
            let ids = absent_after(spool, after.take(), AMONG).await?;
            let Some(last) = ids.last() else { break };
            after = Some(last.clone());
            let there = match self.provider.among(&ids).await {
                Ok(there) => there,
                Err(error) => {
                    each_absent(spool, CHUNK, |ids| ids.iter().for_each(|id| report.undone.add(id))).await?;
                    return Err(error);
                }
            };
            asked += ids.len() as u64;
            let known: Vec<TenantId> = ids.into_iter().filter(|id| there.iter().any(|user| user.id == *id)).collect();
            known.iter().for_each(|id| report.unlisted.add(id));
            let of = spool.clone();
            blocking(move || of.unset_absent(&known)).await?;
            self.turn.at(Phase::Asking, asked, absent);
        }
        // Nobody is deleted on the word of a provider that is not believed.
        self.circuit.check()?;
        Ok(true)
    }

    async fn delete(&self, spool: &Spool, absent: u64, report: &mut Report) -> Result<()> {
        self.turn.at(Phase::Deleting, 0, absent);
        let mut after: Option<TenantId> = None;
        let mut done = 0;
        loop {
            let ids = absent_after(spool, after.take(), CHUNK).await?;
            let Some(last) = ids.last() else { return Ok(()) };
            after = Some(last.clone());
            let mut ids = ids.into_iter();
            let mut running = JoinSet::new();
            loop {
                while running.len() < AT_ONCE
                    && let Some(id) = ids.next()
                {
                    let (store, dry_run, since) = (self.syncer.store.clone(), self.options.dry_run, self.since);
                    running.spawn(async move {
                        let gone = if dry_run { Ok(true) } else { changes::delete(&store, &id, since).await };
                        (id, gone)
                    });
                }
                let Some(result) = running.join_next().await else { break };
                let (id, gone) = result.map_err(|e| Error::internal("a deletion did not finish").with_source(e))?;
                done += 1;
                match gone {
                    Ok(true) => report.deleted.add(&id),
                    Ok(false) => report.unchanged += 1,
                    Err(error) => report.errors.add(&format!("{id}: {error}")),
                }
            }
            self.turn.at(Phase::Deleting, done, absent);
        }
    }

    /// What is legal and worth a look.
    async fn look_around(&self, report: &mut Report) -> Result<()> {
        self.turn.at(Phase::Reporting, 0, 0);
        let mut after = String::new();
        loop {
            let from = after.clone();
            let shared =
                self.syncer.store.catalog().query(move |conn| runs::shared_emails(conn, &from, SHARED)).await?;
            let Some(last) = shared.last() else { return Ok(()) };
            after.clone_from(&last.email);
            // Not the address: reports are kept for longer than the people they are about.
            for one in &shared {
                let more = one.users - one.some.len() as u64;
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                report.shared_emails.add(&format!("{}{more}", one.some.join(", ")));
            }
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

async fn absent_after(spool: &Spool, after: Option<TenantId>, limit: usize) -> Result<Vec<TenantId>> {
    let spool = spool.clone();
    blocking(move || spool.absent(after.as_ref(), u32::try_from(limit).unwrap_or(1))).await
}

async fn each_absent(spool: &Spool, chunk: usize, mut each: impl FnMut(&[TenantId])) -> Result<()> {
    let mut after = None;
    loop {
        let ids = absent_after(spool, after.take(), chunk).await?;
        each(&ids);
        match ids.last() {
            None => return Ok(()),
            Some(last) => after = Some(last.clone()),
        }
    }
}
