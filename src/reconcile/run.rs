//! One reconcile: list, compare, apply, ask for the absent by id, delete, report.

use std::{pin::pin, sync::Arc, time::Instant};

use futures_util::{Stream, TryStreamExt, stream};
use rusqlite::Transaction;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    apply::Apply,
    compare::compare,
    plan::{Digesting, PlanDigest, Step},
    provider_list::ProviderList,
    report::{Entries, Phase, Report, RunOutcome},
    runs::{Progress, RunGuard, RunStatus, Runs},
};
use crate::{
    catalog::{
        audit::Author,
        model::{Counts, Millis},
        queries::runs,
    },
    clock::rfc3339,
    config::provider::Part,
    error::{Error, ErrorKind, Result},
    identity::provider::{AMONG, Provider},
    telemetry::{metrics, trace},
    tenants::{id::TenantId, store::Store},
};

/// What a run may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Report what would be done, and change nothing.
    pub dry_run: bool,
    /// Delete any number of users.
    pub force: bool,
    /// Do exactly what a dry run with this digest told, or nothing.
    pub plan: Option<PlanDigest>,
}

/// Starts reconciles, one at a time.
pub struct Reconciler {
    store: Store,
    provider: Option<Arc<dyn Provider>>,
    max_delete: Part,
    runs: Arc<Runs>,
}

/// A run that was started.
pub struct Started {
    /// Its id.
    pub run: String,
    /// Its report. The run goes on if this is dropped.
    pub report: JoinHandle<Report>,
}

/// The action of a run in the audit trail.
const ACTION: &str = "sync";

/// Absent users handled together.
const CHUNK: usize = 500;

/// One part in so many of the users may be missing in the list, since some are deleted while it is read.
const SHORTFALL: u64 = 100;

/// Shared email addresses a page.
const SHARED: u32 = 1000;

impl Reconciler {
    /// Reconciles `store` with the provider, if one is configured.
    pub fn new(store: Store, provider: Option<Arc<dyn Provider>>, max_delete: Part) -> Arc<Self> {
        Arc::new(Self { store, provider, max_delete, runs: Arc::default() })
    }

    /// The id and the progress of the run that is under way.
    pub fn running(&self) -> Option<(String, Progress)> {
        self.runs.running()
    }

    /// The status of a run; none for an unknown id.
    pub async fn status(&self, run: &str) -> Result<Option<RunStatus>> {
        if let Some(status) = self.runs.find(run) {
            return Ok(Some(status));
        }
        let name = run.to_owned();
        let kept = self.store.catalog().query(move |conn| runs::find(conn, &name)).await?;
        Ok(match kept {
            None => None,
            Some(None) => Some(RunStatus::Lost),
            Some(Some(text)) => {
                let report = serde_json::from_str(&text);
                Some(RunStatus::Ended { report: report.map_err(|e| Error::internal("a kept report").with_source(e))? })
            }
        })
    }

    /// Starts a run.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] without a provider, [`ErrorKind::Conflict`] while another run is under way.
    pub fn start(self: &Arc<Self>, options: Options, author: Author) -> Result<Started> {
        let missing = || Error::config("set CLERK_SECRET_KEY: without it Clerk's users cannot be listed");
        let provider = self.provider.clone().ok_or_else(missing)?;
        let guard = self.runs.begin()?;
        let (this, run) = (self.clone(), guard.run.clone());
        let work = async move { this.run(guard, &*provider, options, author).await };
        Ok(Started { run, report: tokio::spawn(trace::root("reconcile", work)) })
    }

    async fn run(&self, guard: RunGuard, provider: &dyn Provider, options: Options, author: Author) -> Report {
        let (clock, started) = (Instant::now(), self.store.clock().now());
        let mut report = Report {
            run: guard.run.clone(),
            dry_run: options.dry_run,
            forced: options.force,
            started: rfc3339(started).to_string(),
            ..Report::default()
        };
        let mut kept_as = None;
        let work = async {
            if !options.dry_run {
                let (name, by) = (guard.run.clone(), author.clone());
                let begin = move |tx: &Transaction| {
                    by.record(tx, started, ACTION, name.as_str(), "started")?;
                    runs::begin(tx, &name, started)
                };
                kept_as = Some(self.store.catalog().write(begin).await?);
            }
            Run { reconciler: self, guard: &guard, provider, options, since: started }.reconcile(&mut report).await
        };
        if let Err(error) = work.await {
            tracing::error!(run = guard.run, phase = guard.phase().as_str(), error = %error, "a reconcile stopped");
            report.outcome = RunOutcome::Failed;
            report.stopped = Some(guard.phase());
            report.error = Some(error.detail());
        }
        report.duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        metrics::sync_run(report.outcome.as_str(), clock.elapsed());
        tracing::info!(
            run = guard.run,
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
        if let Some(id) = kept_as {
            let (now, outcome, name) = (self.store.clock().now(), report.outcome.as_str(), report.run.clone());
            let text = serde_json::to_string(&report).unwrap_or_default();
            let finish = move |tx: &Transaction| {
                author.record(tx, now, ACTION, name.as_str(), outcome)?;
                runs::finish(tx, id, now, outcome, &text)
            };
            if let Err(error) = self.store.catalog().write(finish).await {
                tracing::error!(error = %error, "the report of a reconcile could not be kept");
            }
        }
        guard.end(&report);
        report
    }
}

/// What a comparison is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// To say what would be done.
    Plan,
    /// To do what a plan says whose absent users are marked already.
    Confirmed,
    /// To do what is found.
    Only,
}

/// Why a plan was not applied.
const CHANGED: &str = "the catalog or Clerk changed since the dry run, so the plan is another one now; nothing was changed. \
                       Look at a new dry run, and apply that";

/// One run. The first request that the provider does not answer as it should ends it.
struct Run<'a> {
    reconciler: &'a Reconciler,
    guard: &'a RunGuard,
    provider: &'a dyn Provider,
    options: Options,
    since: Millis,
}

impl Run<'_> {
    async fn reconcile(&self, report: &mut Report) -> Result<()> {
        report.local_count = live(self.reconciler.store.counts().await?);
        let list = self.list(report).await?;
        let mut digesting = Digesting::default();
        let (absent, may_delete) = match self.options.plan {
            Some(confirmed) => {
                // All of the plan is made before anything is done. The provider is asked for the absent once.
                let mut plan = report.clone();
                let absent = self.compare(&list, Pass::Plan, &mut digesting, &mut plan).await?;
                let may_delete = self.may_delete(&list, absent, &mut digesting, &mut plan).await?;
                let made = digesting.finish();
                report.plan = Some(made.to_string());
                if made != confirmed {
                    report.outcome = RunOutcome::Changed;
                    report.error = Some(CHANGED.to_owned());
                    return Ok(());
                }
                (report.outcome, report.held, report.unlisted) = (plan.outcome, plan.held, plan.unlisted);
                self.compare(&list, Pass::Confirmed, &mut Digesting::default(), report).await?;
                (absent, may_delete)
            }
            None => {
                let pass = if self.options.dry_run { Pass::Plan } else { Pass::Only };
                let absent = self.compare(&list, pass, &mut digesting, report).await?;
                let may_delete = self.may_delete(&list, absent, &mut digesting, report).await?;
                if self.options.dry_run {
                    report.plan = Some(digesting.finish().to_string());
                }
                (absent, may_delete)
            }
        };
        if may_delete {
            self.delete(&list, absent, report).await?;
        }
        self.find_shared_emails(report).await
    }

    async fn list(&self, report: &mut Report) -> Result<ProviderList> {
        report.provider_count = self.provider.count().await?;
        let folder = self.reconciler.store.layout().tmp();
        let list = blocking(move || ProviderList::new(&folder)).await?;
        let mut next: Vec<String> = Vec::new();
        let mut seen = 0;
        loop {
            let page = self.provider.page(&next).await?;
            let new = on(&list, move |list| list.add(&page.users, &page.unusable)).await?;
            seen += new;
            self.guard.at(Phase::Listing, seen, report.provider_count);
            next = page.next;
            if next.is_empty() {
                break;
            }
            if new == 0 {
                return Err(provider_error("Clerk's list repeats its pages; nothing was changed"));
            }
        }
        let unusable = on(&list, |list| {
            let mut unusable = Entries::default();
            list.unusable(|id| unusable.add(id)).map(|()| unusable)
        });
        report.unusable_ids = unusable.await?;
        report.provider_listed = seen;
        let (listed, counted) = (report.provider_listed, report.provider_count);
        if listed + (counted / SHORTFALL).max(10) < counted || (listed == 0 && counted > 0) {
            let why = format!("Clerk listed {listed} of the {counted} users that it counts; nothing was changed");
            return Err(provider_error(why));
        }
        if listed == 0 && report.local_count > 0 && !self.options.force {
            return Err(provider_error(format!(
                "Clerk has no users and the catalog has {}: most likely CLERK_SECRET_KEY is another instance's. Nothing was \
                 changed; use force if it is right",
                report.local_count
            )));
        }
        Ok(list)
    }

    /// Compares both lists and applies all steps but deletions, unless it only plans. Marks absent users in the list, and
    /// returns their number.
    async fn compare(
        &self,
        list: &ProviderList,
        pass: Pass,
        digesting: &mut Digesting,
        report: &mut Report,
    ) -> Result<u64> {
        let total = report.local_count.max(report.provider_listed);
        self.guard.at(Phase::Applying, 0, total);
        let (steps, mut found) = mpsc::channel(CHUNK);
        let (store, of, since) = (self.reconciler.store.clone(), list.clone(), self.since);
        let compared = tokio::task::spawn_blocking(move || compare(&store, &of, since, &steps));
        let mut apply = self.apply(pass == Pass::Plan);
        let mut absent = Vec::new();
        let (mut done, mut count) = (0, 0);
        while let Some(step) = found.recv().await {
            done += 1;
            digesting.add(&step);
            match step {
                // Those of the plan are marked; of those nobody has confirmed there is none.
                Step::Delete(_) if pass == Pass::Confirmed => {}
                Step::Delete(id) => {
                    count += 1;
                    absent.push(id);
                    if absent.len() >= CHUNK {
                        let ids = std::mem::take(&mut absent);
                        on(list, move |list| list.set_absent(&ids)).await?;
                    }
                }
                step => apply.take(step, report).await,
            }
            if done % CHUNK as u64 == 0 {
                self.guard.at(Phase::Applying, done, total);
            }
        }
        apply.finish(report).await;
        on(list, move |list| list.set_absent(&absent)).await?;
        let compared = compared.await.map_err(|e| Error::internal("a comparison did not finish").with_source(e))?;
        let (unchanged, orphans) = compared?;
        report.unchanged += unchanged;
        report.orphan_files = orphans;
        Ok(count)
    }

    fn apply(&self, dry_run: bool) -> Apply<'_> {
        Apply::new(&self.reconciler.store, dry_run, self.since)
    }

    /// Whether absent users may be deleted: they are within the limit, and the provider, asked for each by id, has
    /// none of them. All are asked for before the first deletion, so that a run that stops has deleted nobody.
    async fn may_delete(
        &self,
        list: &ProviderList,
        absent: u64,
        digesting: &mut Digesting,
        report: &mut Report,
    ) -> Result<bool> {
        self.guard.at(Phase::Asking, 0, absent);
        let limit = self.reconciler.max_delete.of(report.local_count);
        if absent > limit && !self.options.force {
            tracing::warn!(absent, limit, "more users are absent at the provider than may be deleted");
            add_absent(list, &mut report.held).await?;
            report.outcome = RunOutcome::Held;
            digesting.hold();
            return Ok(false);
        }
        let mut asked = 0;
        let mut pages = pin!(absent_users(list, AMONG));
        while let Some(ids) = pages.try_next().await? {
            let there = match self.provider.among(&ids).await {
                Ok(there) => there,
                Err(error) => {
                    add_absent(list, &mut report.undone).await?;
                    return Err(error);
                }
            };
            asked += ids.len() as u64;
            let known: Vec<TenantId> = ids.into_iter().filter(|id| there.iter().any(|user| user.id == *id)).collect();
            known.iter().for_each(|id| report.unlisted.add(id));
            known.iter().for_each(|id| digesting.spare(id));
            on(list, move |list| list.unset_absent(&known)).await?;
            self.guard.at(Phase::Asking, asked, absent);
        }
        Ok(true)
    }

    async fn delete(&self, list: &ProviderList, absent: u64, report: &mut Report) -> Result<()> {
        self.guard.at(Phase::Deleting, 0, absent);
        let (mut apply, mut done) = (self.apply(self.options.dry_run), 0);
        let mut pages = pin!(absent_users(list, CHUNK));
        while let Some(ids) = pages.try_next().await? {
            done += ids.len() as u64;
            for id in ids {
                apply.take(Step::Delete(id), report).await;
            }
            apply.finish(report).await;
            self.guard.at(Phase::Deleting, done, absent);
        }
        Ok(())
    }

    /// Reports users that share an email address, which is legal.
    async fn find_shared_emails(&self, report: &mut Report) -> Result<()> {
        self.guard.at(Phase::Reporting, 0, 0);
        let mut after = String::new();
        loop {
            let from = after.clone();
            let shared =
                self.reconciler.store.catalog().query(move |conn| runs::shared_emails(conn, &from, SHARED)).await?;
            let Some(last) = shared.last() else { return Ok(()) };
            after.clone_from(&last.email);
            // Without the address: reports are kept for longer than the users are.
            for one in &shared {
                let more = one.users - one.some.len() as u64;
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                report.shared_emails.add(&format!("{}{more}", one.some.join(", ")));
            }
        }
    }
}

/// The number of tenants that are not deleted.
pub fn live(counts: Counts) -> u64 {
    counts.active + counts.suspended + counts.quarantined
}

/// An answer that cannot be true is a failed one.
fn provider_error(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Provider, why)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("work of a reconcile did not finish").with_source(e))?
}

/// Works with the list where that may block.
async fn on<T: Send + 'static>(
    list: &ProviderList,
    work: impl FnOnce(&ProviderList) -> Result<T> + Send + 'static,
) -> Result<T> {
    let list = list.clone();
    blocking(move || work(&list)).await
}

/// The users that are marked as absent, `chunk` at a time.
fn absent_users(list: &ProviderList, chunk: usize) -> impl Stream<Item = Result<Vec<TenantId>>> {
    stream::try_unfold(None, move |after: Option<TenantId>| async move {
        let limit = u32::try_from(chunk).unwrap_or(1);
        let ids = on(list, move |list| list.absent(after.as_ref(), limit)).await?;
        Ok(ids.last().cloned().map(|last| (ids, Some(last))))
    })
}

async fn add_absent(list: &ProviderList, entries: &mut Entries) -> Result<()> {
    let mut pages = pin!(absent_users(list, CHUNK));
    while let Some(ids) = pages.try_next().await? {
        ids.iter().for_each(|id| entries.add(id));
    }
    Ok(())
}
