//! Starts, pauses and resumes runs, one at a time.

use std::{
    collections::BTreeMap,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use rusqlite::Transaction;

use super::{
    ended::{Ended, as_recorded, as_text, failed_since},
    report::{Options, Outcome, Phase, Report, Status},
    under_way::{End, Guard, UnderWay},
};
use crate::{
    catalog::{
        audit::Author,
        model::State,
        queries::rollouts::{self, Share},
    },
    clock::rfc3339,
    error::{Error, ErrorKind, Result},
    rate::pause_after,
    reconcile::runs::new_name,
    tenants::{id::TenantId, store::Store},
};

/// Migrates all tenants of a store, in runs.
pub struct Rollouts {
    store: Store,
    /// Whether callers' requests are in flight.
    is_busy: Box<dyn Fn() -> bool + Send + Sync>,
    under_way: Arc<UnderWay>,
    /// Held while one is started or resumed.
    starting: tokio::sync::Mutex<()>,
    /// The newest run, while its end could not be recorded.
    ended: tokio::sync::Mutex<Option<Ended>>,
}

/// The actions of runs in the audit trail.
const ACTION: &str = "migrate";
const PAUSE: &str = "migrate pause";
const RESUME: &str = "migrate resume";

/// How often others are chosen for the canary, if those chosen had the schema already.
const CANARY_ROUNDS: u32 = 5;

/// Tenants listed together.
const PAGE: u32 = 500;

/// How often the progress is recorded.
const RECORD: Duration = Duration::from_secs(1);

/// How long a pause waits for the tenants that are being migrated.
const PAUSE_WAIT: Duration = Duration::from_secs(5);

impl Rollouts {
    /// Migrates the tenants of `store`; `is_busy` says whether callers' requests are in flight.
    pub fn new(store: Store, is_busy: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            store,
            is_busy: Box::new(is_busy),
            under_way: Arc::default(),
            starting: tokio::sync::Mutex::default(),
            ended: tokio::sync::Mutex::default(),
        })
    }

    /// How many tenants have each version of the schema.
    pub async fn shares(&self) -> Result<Vec<Share>> {
        self.store.catalog().query(rollouts::shares).await
    }

    /// The newest run.
    pub async fn newest(&self) -> Result<Option<Report>> {
        self.look(None).await
    }

    /// One run.
    pub async fn find(&self, run: &str) -> Result<Option<Report>> {
        self.look(Some(run)).await
    }

    async fn look(&self, run: Option<&str>) -> Result<Option<Report>> {
        let is_it = |report: &Report| run.is_none_or(|run| report.run == run);
        if let Some(report) = self.under_way.report().filter(is_it) {
            return Ok(Some(report));
        }
        if let Some((report, _)) = self.unrecorded().await
            && is_it(&report)
        {
            return Ok(Some(report));
        }
        let name = run.map(str::to_owned);
        let look = self.store.catalog().query(move |conn| match &name {
            Some(name) => rollouts::find(conn, name),
            None => rollouts::newest(conn),
        });
        let recorded = look.await?;
        // It may have been started or resumed meanwhile, and is not interrupted.
        if let Some(report) = self.under_way.report().filter(is_it) {
            return Ok(Some(report));
        }
        recorded.as_ref().map(as_recorded).transpose()
    }

    /// Records the end of a run again that could not be recorded. Gives its report and the reason if it still cannot.
    async fn unrecorded(&self) -> Option<(Report, Error)> {
        let mut ended = self.ended.lock().await;
        let recorded = ended.as_ref()?.record(self.store.catalog()).await;
        match recorded {
            Ok(()) => {
                *ended = None;
                None
            }
            Err(error) => ended.as_ref().map(|ended| (ended.report.clone(), error)),
        }
    }

    /// Starts a run.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while another one is under way.
    pub async fn start(self: &Arc<Self>, options: Options, author: Author) -> Result<Report> {
        let _starting = self.starting.try_lock().map_err(|_| being_started())?;
        let (now, schema) = (self.store.clock().now(), self.store.schema());
        let report = Report::new(new_name(), schema.version(), options, rfc3339(now).to_string());
        let guard = self.under_way.begin(report.clone())?;
        // There is one such run at most, and it is the newest.
        if let Some((_, error)) = self.unrecorded().await {
            return Err(error);
        }
        let report = self.counted(&guard, report).await?;
        let (text, digest) = (as_text(&report)?, schema.digest());
        let (name, by) = (report.run.clone(), author.clone());
        let begin = move |tx: &Transaction| {
            by.record(tx, now, ACTION, name.as_str(), "started")?;
            rollouts::begin(tx, &name, digest, now, &text)
        };
        let id = self.store.catalog().write(begin).await?;
        self.clone().go_on(guard, id, author);
        Ok(report)
    }

    /// Resumes the newest run, if it was paused, stopped or interrupted. Its failures so far are forgiven.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown run, [`ErrorKind::Conflict`] for one that cannot be resumed.
    pub async fn resume(self: &Arc<Self>, run: &str, author: Author) -> Result<Report> {
        let conflict = |why: String| Error::new(ErrorKind::Conflict, why);
        // What is found below is so until the run is under way.
        let _starting = self.starting.try_lock().map_err(|_| being_started())?;
        // Before the look at the catalog, which has an older report of it.
        if let Some(running) = self.under_way.report() {
            return Err(conflict(format!("a migration is running already ({})", running.run)));
        }
        if let Some((_, error)) = self.unrecorded().await {
            return Err(error);
        }
        let name = run.to_owned();
        let looked =
            self.store.catalog().query(move |conn| Ok((rollouts::find(conn, &name)?, rollouts::newest(conn)?)));
        let (found, newest) = looked.await?;
        let found = found.ok_or_else(unknown)?;
        let mut report = as_recorded(&found)?;
        if newest.is_some_and(|newest| newest.id != found.id) {
            return Err(conflict(format!("{run} is not the newest run; resume that one, or start a new one")));
        }
        if report.status == Status::Done {
            return Err(conflict(format!("{run} is done; start a new one")));
        }
        if found.digest != self.store.schema().digest() {
            let why = format!("{run} was for another schema than this server's; start a new one");
            return Err(conflict(why));
        }
        (report.status, report.ended, report.reason) = (Status::Running, None, None);
        let guard = self.under_way.begin(report.clone())?;
        let report = self.counted(&guard, report).await?;
        let (now, text, by) = (self.store.clock().now(), as_text(&report)?, author.clone());
        let failed: Vec<String> = failed_since(&found)?.into_iter().map(|(tenant, _)| tenant).collect();
        let (name, failed) = (report.run.clone(), as_text(&failed)?);
        let begin = move |tx: &Transaction| {
            by.record(tx, now, RESUME, name.as_str(), "started")?;
            rollouts::save(tx, found.id, None, &text, &failed)
        };
        self.store.catalog().write(begin).await?;
        self.clone().go_on(guard, found.id, author);
        Ok(report)
    }

    /// Pauses a run: it begins no further tenant, and its report is recorded when those that it has begun are finished. Waits
    /// for that a little.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown run, [`ErrorKind::Conflict`] for one that is not under way.
    pub async fn pause(&self, run: &str, author: Author) -> Result<Report> {
        match self.under_way.ask(Some(run), End::Paused(author)) {
            Some(mut over) => {
                // Closed at the end: nothing is ever sent.
                let _ = tokio::time::timeout(PAUSE_WAIT, over.changed()).await;
                self.find(run).await?.ok_or_else(unknown)
            }
            None => {
                let report = self.find(run).await?.ok_or_else(unknown)?;
                Err(Error::new(ErrorKind::Conflict, format!("{run} is not running: it is {}", report.status.as_str())))
            }
        }
    }

    /// Interrupts the run that is under way, since the server ends: migrations that have not committed are rolled back, and
    /// left to whoever resumes the run.
    pub fn interrupt(&self) {
        self.under_way.ask(None, End::Interrupted);
    }

    /// The same, before the store is closed. Returns when the run is over and recorded.
    pub async fn end(&self) {
        if let Some(mut over) = self.under_way.ask(None, End::Interrupted) {
            let _ = over.changed().await;
        }
        drop(self.unrecorded().await);
    }

    /// Counts who is left.
    async fn counted(&self, guard: &Guard, mut report: Report) -> Result<Report> {
        let (version, after) = (report.schema, report.after.clone().unwrap_or_default());
        let left = self.store.catalog().query(move |conn| rollouts::count_left(conn, version, &after)).await?;
        report.total = report.handled + left;
        guard.with(|under_way| under_way.total = report.total);
        Ok(report)
    }

    fn go_on(self: Arc<Self>, guard: Guard, id: i64, author: Author) {
        tokio::spawn(async move {
            if let Err(error) = self.handle_all(&guard, id).await {
                guard.stop(error.detail());
            }
            self.conclude(&guard, id, author).await;
            // Whoever waits for the end of the run may open the store anew.
            drop(self);
            drop(guard);
        });
    }

    /// Says in the report how the run ended, and records it.
    async fn conclude(&self, guard: &Guard, id: i64, author: Author) {
        let (status, action, by, reason) = match guard.end() {
            None => (Status::Done, ACTION, author, None),
            Some(End::Paused(by)) => (Status::Paused, PAUSE, by, None),
            Some(End::Stopped(why)) => (Status::Stopped, ACTION, author, Some(why)),
            Some(End::Interrupted) => (Status::Interrupted, ACTION, author, None),
        };
        let at = self.store.clock().now();
        // It is under way until this is in the catalog, or kept: only then may it be resumed.
        let Some((mut report, failed)) = guard.to_record() else { return };
        (report.status, report.reason, report.ended) = (status, reason, Some(rfc3339(at).to_string()));
        tracing::info!(
            run = report.run,
            status = status.as_str(),
            schema = report.schema,
            migrated = report.migrated,
            failed = report.failed,
            handled = report.handled,
            total = report.total,
            reason = report.reason,
            "a run of migrations is over"
        );
        let ended = Ended { id, report, failed, at, action, by };
        if let Err(error) = ended.record(self.store.catalog()).await {
            tracing::error!(error = %error, "the report of a migration could not be recorded");
            *self.ended.lock().await = Some(ended);
        }
    }

    async fn handle_all(&self, guard: &Guard, id: i64) -> Result<()> {
        let Some(report) = guard.with(|report| report.clone()) else { return Ok(()) };
        let (version, catalog) = (report.schema, self.store.catalog());
        if report.phase == Phase::Canary {
            for _ in 0..CANARY_ROUNDS {
                let tried = guard.with(|report| report.migrated + report.failed).unwrap_or_default();
                let left = u64::from(report.options.canary).saturating_sub(tried);
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                let first = catalog.query(move |conn| rollouts::spread(conn, version, left)).await?;
                if first.is_empty() {
                    break;
                }
                self.handle(guard, id, first).await?;
                if guard.end().is_some() {
                    return Ok(());
                }
            }
            guard.with(|report| report.phase = Phase::All);
        }
        loop {
            let after = guard.with(|report| report.after.clone()).flatten().unwrap_or_default();
            let page = catalog.query(move |conn| rollouts::next(conn, version, &after, PAGE)).await?;
            if guard.end().is_some() {
                return Ok(());
            }
            if page.is_empty() {
                return self.handle_left(guard, id, version).await;
            }
            self.handle(guard, id, page).await?;
        }
    }

    /// Tries those again who are left and not quarantined, once: what failed was not their file, or they came back behind
    /// the run, from the trash say. What comes of it counts in the place of the failure; whoever is left then stops the run.
    async fn handle_left(&self, guard: &Guard, id: i64, version: i32) -> Result<()> {
        let catalog = self.store.catalog();
        let mut after = String::new();
        loop {
            let from = after.clone();
            let page = catalog.query(move |conn| rollouts::next_unquarantined(conn, version, &from, PAGE)).await?;
            if page.is_empty() && after.is_empty() {
                return Ok(());
            }
            let Some((last, _)) = page.last() else { break };
            last.as_str().clone_into(&mut after);
            guard.try_also(page.iter().map(|(tenant, _)| tenant.as_str()));
            self.handle(guard, id, page).await?;
            if guard.end().is_some() {
                return Ok(());
            }
        }
        let left = catalog.query(move |conn| rollouts::next_unquarantined(conn, version, "", 1)).await?;
        if let Some((tenant, _)) = left.first() {
            let why = guard.why(tenant.as_str());
            let why = why.map_or(String::new(), |why| format!(" ({why})"));
            guard.stop(format!("somebody is left who is not quarantined: {tenant}{why}"));
        }
        Ok(())
    }

    /// Migrates some, begun in their order and done in any.
    async fn handle(&self, guard: &Guard, id: i64, some: Vec<(TenantId, State)>) -> Result<()> {
        let jobs = guard.with(|report| report.options.jobs).unwrap_or(1).max(1);
        let begun = stream::iter(some.into_iter().enumerate()).take_while(|_| future::ready(guard.end().is_none()));
        let migrated = begun.map(|(place, (tenant, state))| async move {
            let outcome = self.migrate(guard, id, &tenant, state).await;
            (place, tenant, outcome)
        });
        let mut handled = migrated.buffer_unordered(jobs as usize);
        let (mut recorded, mut failed) = (Instant::now(), None);
        // Those after the first that is not done.
        let (mut first, mut ahead) = (0, BTreeMap::new());
        // To the end whatever happens: what was begun is to be counted.
        while let Some((place, tenant, outcome)) = handled.next().await {
            let Some(outcome) = outcome else { continue };
            guard.add(tenant.as_str(), outcome);
            ahead.insert(place, tenant);
            while let Some(tenant) = ahead.remove(&first) {
                first += 1;
                guard.with(|report| report.reached(tenant.as_str()));
            }
            if failed.is_none() && recorded.elapsed() >= RECORD {
                if let Err(error) = self.record(guard, id).await {
                    guard.stop(error.detail());
                    failed = Some(error);
                }
                recorded = Instant::now();
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Records the progress.
    async fn record(&self, guard: &Guard, id: i64) -> Result<()> {
        let Some((report, failed)) = guard.to_record() else { return Ok(()) };
        let (text, names) = (as_text(&report)?, as_text(&failed)?);
        self.store.catalog().write(move |tx| rollouts::save(tx, id, None, &text, &names)).await?;
        guard.recorded(failed.len());
        Ok(())
    }

    /// Migrates one; none if it was cut short, and is as it was.
    async fn migrate(&self, guard: &Guard, run: i64, id: &TenantId, state: State) -> Option<Outcome> {
        let began = Instant::now();
        let outcome = match self.store.migrate_one_of_many(id, run, guard.cut()).await {
            Ok(Some(_)) => Outcome::Migrated,
            Ok(None) => Outcome::Current,
            Err(error) => match error.kind() {
                ErrorKind::UnknownTenant | ErrorKind::Conflict => Outcome::Gone,
                ErrorKind::Quarantined | ErrorKind::Damaged if state == State::Quarantined => Outcome::StillQuarantined,
                ErrorKind::Timeout => return None,
                kind => {
                    // Each further one would fail, too.
                    if kind == ErrorKind::DiskFull {
                        guard.stop(error.detail());
                    }
                    Outcome::Failed(error.detail())
                }
            },
        };
        if (self.is_busy)() {
            let _ = tokio::time::timeout(pause_after(began.elapsed()), guard.asked()).await;
        }
        Some(outcome)
    }
}

fn being_started() -> Error {
    Error::new(ErrorKind::Conflict, "a migration is being started; look at it with `cubby migrate status`")
}

fn unknown() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such run, or it is not remembered any more")
}
