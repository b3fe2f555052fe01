//! Counts, starts and stops runs, one at a time.

use std::{
    collections::BTreeSet,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use rusqlite::Transaction;

use super::{
    report::{Action, Filter, Order, Outcome, Preview, Report, Selection, Status},
    under_way::{End, Guard, UnderWay},
};
use crate::{
    catalog::{
        audit::Author,
        model::State,
        queries::{
            bulk,
            search::{Cursor, LONGEST, Listing},
        },
    },
    clock::rfc3339,
    error::{Error, ErrorKind, Result},
    reconcile::runs::new_name,
    tenants::{id::TenantId, store::Store},
};

/// Changes many tenants of a store, in runs.
pub struct Bulks {
    store: Store,
    /// Whether callers' requests are in flight.
    is_busy: Box<dyn Fn() -> bool + Send + Sync>,
    under_way: Arc<UnderWay>,
}

/// Why a run is not started.
#[derive(Debug)]
pub enum Refusal {
    /// Another one is under way.
    Running(Error),
    /// More match now than were confirmed.
    Grew(Error),
    /// Something else is wrong.
    Other(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Tenants listed together, and handled at once.
const PAGE: u32 = 500;
const JOBS: usize = 4;

/// Tenants that a preview names.
const NAMED: usize = 10;

/// How often the progress is recorded.
const RECORD: Duration = Duration::from_secs(1);

/// While callers' requests are in flight, a change is followed by a rest of so many times its own length, within bounds.
const REST: u32 = 3;
const SHORTEST_REST: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_secs(2);

/// How long a stop waits for the tenants that are being changed.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The action of a stop in the audit trail.
const STOP: &str = "bulk stop";

impl Bulks {
    /// Changes tenants of `store`; `is_busy` says whether callers' requests are in flight.
    pub fn new(store: Store, is_busy: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { store, is_busy: Box::new(is_busy), under_way: Arc::default() })
    }

    /// The newest run.
    pub async fn newest(&self) -> Result<Option<Report>> {
        if let Some(report) = self.under_way.report() {
            return Ok(Some(report));
        }
        let Some(text) = self.store.catalog().query(bulk::newest).await? else { return Ok(None) };
        // It may have begun meanwhile.
        if let Some(report) = self.under_way.report() {
            return Ok(Some(report));
        }
        let report = serde_json::from_str(&text);
        let mut report: Report = report.map_err(|e| Error::internal("a recorded report").with_source(e))?;
        if report.status.is_under_way() {
            report.status = Status::Interrupted;
            report.why = Some(CUT_SHORT.to_owned());
        }
        Ok(Some(report))
    }

    /// Counts whom a run would be about. Changes nothing.
    pub async fn preview(&self, action: Action, selection: &Selection) -> Result<Preview> {
        let as_of = self.store.catalog().query(bulk::newest_tenant).await?;
        let names = |ids: &[TenantId]| ids.iter().take(NAMED).map(ToString::to_string).collect();
        match selection {
            Selection::Ids(ids) => {
                let (given, looked) = (ids.clone(), ids.clone());
                let unknown = self.store.catalog().query(move |conn| bulk::unknown(conn, &looked)).await?;
                let (count, unknown) = (given.len() as u64, names(&unknown));
                Ok(Preview { action, count, as_of, some: names(&given), unknown })
            }
            Selection::Matching(filter) => {
                let (count, first) = self.count(filter, as_of).await?;
                Ok(Preview { action, count, as_of, some: names(&first), unknown: Vec::new() })
            }
        }
    }

    /// Starts a run.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn start(self: &Arc<Self>, order: Order, author: Author) -> Result<Report, Refusal> {
        let now = self.store.clock().now();
        let by = author.origin.as_ref().map_or(author.actor.clone(), |from| format!("{}, {from}", author.actor));
        let report = Report::new(new_name(), &order, by, rfc3339(now).to_string());
        let guard = self.under_way.begin(report.clone()).map_err(Refusal::Running)?;
        if let Selection::Matching(filter) = &order.selection {
            let (count, _) = self.count(filter, order.as_of).await?;
            if count > order.count {
                let why = format!(
                    "{count} users match now, more than the {} that were confirmed; nothing was changed. Count again, and \
                     confirm that number",
                    order.count
                );
                return Err(Refusal::Grew(Error::new(ErrorKind::Conflict, why)));
            }
        }
        let (text, name, by) = (as_text(&report)?, report.run.clone(), author.clone());
        let begin = move |tx: &Transaction| {
            by.record(tx, now, order.action.in_trail(), name.as_str(), "started")?;
            bulk::begin(tx, &name, now, &text)
        };
        let id = self.store.catalog().write(begin).await?;
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.handle_all(&guard, id, &order, &author).await {
                guard.fail(error.detail());
            }
            this.conclude(&guard, id, order.action, author).await;
            // Whoever waits for the end of the run may open the store anew.
            drop(this);
            drop(guard);
        });
        Ok(report)
    }

    /// Stops a run, or whichever there is: it begins no further tenant. Waits a little for those that it has begun. None if it is
    /// not under way.
    pub async fn stop(&self, run: Option<&str>, author: Author) -> Result<Option<Report>> {
        let Some(mut over) = self.under_way.ask(run, End::Stopped(author)) else { return Ok(None) };
        // Closed at the end: nothing is ever sent.
        let _ = tokio::time::timeout(STOP_WAIT, over.changed()).await;
        self.newest().await
    }

    /// Ends the run that is under way, before the store is closed. Returns when it has finished what it had begun.
    pub async fn end(&self) {
        if let Some(mut over) = self.under_way.ask(None, End::Interrupted) {
            let _ = over.changed().await;
        }
    }

    /// How many match, and the first of them.
    async fn count(&self, filter: &Filter, as_of: i64) -> Result<(u64, Vec<TenantId>)> {
        let mut cursor = None;
        let (mut count, mut first) = (0, Vec::new());
        loop {
            let (ids, next) = self.page(filter, cursor, as_of).await?;
            count += ids.len() as u64;
            let room = NAMED.saturating_sub(first.len());
            first.extend(ids.into_iter().take(room));
            cursor = next;
            if cursor.is_none() {
                return Ok((count, first));
            }
            // The catalog has the numbers by state; those that a search finds are counted one by one.
            if filter.q.is_none() {
                let state = filter.state;
                let all = self.store.catalog().query(move |conn| bulk::count(conn, state, as_of)).await?;
                return Ok((all, first));
            }
        }
    }

    async fn page(
        &self,
        filter: &Filter,
        cursor: Option<Cursor>,
        as_of: i64,
    ) -> Result<(Vec<TenantId>, Option<Cursor>)> {
        let listing =
            Listing { text: filter.q.clone(), state: filter.state, cursor, limit: PAGE, ..Listing::default() };
        self.store.catalog().query(move |conn| bulk::page(conn, &listing, as_of)).await
    }

    async fn handle_all(&self, guard: &Guard, id: i64, order: &Order, author: &Author) -> Result<()> {
        let filter = match &order.selection {
            Selection::Ids(ids) => return self.handle(guard, id, ids.clone(), order, author).await,
            Selection::Matching(filter) => filter,
        };
        let mut cursor = None;
        loop {
            let (ids, next) = self.page(filter, cursor, order.as_of).await?;
            self.handle(guard, id, ids, order, author).await?;
            cursor = next;
            if cursor.is_none() || guard.end().is_some() {
                return Ok(());
            }
        }
    }

    async fn handle(&self, guard: &Guard, id: i64, some: Vec<TenantId>, order: &Order, author: &Author) -> Result<()> {
        let begun = stream::iter(some).take_while(|_| future::ready(guard.may_begin()));
        let mut handled = begun.map(|tenant| self.change(guard, tenant, order, author)).buffered(JOBS);
        let mut recorded = Instant::now();
        while let Some((tenant, outcome)) = handled.next().await {
            guard.add(&tenant, outcome);
            if recorded.elapsed() >= RECORD {
                let text = guard.report().as_ref().map(as_text).transpose()?.unwrap_or_default();
                self.store.catalog().write(move |tx| bulk::save(tx, id, None, &text)).await?;
                recorded = Instant::now();
            }
        }
        Ok(())
    }

    async fn change(&self, guard: &Guard, id: TenantId, order: &Order, author: &Author) -> (TenantId, Outcome) {
        let began = Instant::now();
        let outcome = match self.change_one(&id, order, author).await {
            Ok(outcome) => outcome,
            Err(error) if error.kind() == ErrorKind::UnknownTenant => Outcome::Gone,
            Err(error) => {
                // Each further one would fail, too.
                if error.kind() == ErrorKind::DiskFull {
                    guard.fail(error.detail());
                }
                Outcome::Failed(error.detail())
            }
        };
        if (self.is_busy)() {
            tokio::time::sleep((began.elapsed() * REST).clamp(SHORTEST_REST, LONGEST_REST)).await;
        }
        (id, outcome)
    }

    async fn change_one(&self, id: &TenantId, order: &Order, author: &Author) -> Result<Outcome> {
        let Some(row) = self.store.find(id).await? else { return Ok(Outcome::Gone) };
        if let Selection::Matching(Filter { state: Some(state), .. }) = &order.selection
            && row.state != *state
        {
            return Ok(Outcome::Unchanged);
        }
        let changed = match (order.action, row.state) {
            (Action::Delete, State::Deleted) | (Action::Resume, State::Active) => return Ok(Outcome::Unchanged),
            (_, State::Deleted) => return Ok(Outcome::Gone),
            (Action::Suspend, State::Suspended) if row.reason.as_deref() == Some(order.reason.as_str()) => {
                return Ok(Outcome::Unchanged);
            }
            (Action::Suspend, _) => self.store.suspend(id, &order.reason, author).await.map(drop),
            (Action::Resume, _) => self.store.resume(id, author).await.map(drop),
            (Action::Delete, _) => self.store.delete(id, author).await.map(drop),
            (Action::Migrate, _) => match self.store.migrate(id, author).await {
                Ok(None) => return Ok(Outcome::Unchanged),
                done => done.map(drop),
            },
        };
        // Deleted between the look and the change.
        match changed {
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(Outcome::Gone),
            done => done.map(|()| Outcome::Changed),
        }
    }

    /// Says in the report how the run ended, and records it.
    async fn conclude(&self, guard: &Guard, id: i64, action: Action, author: Author) {
        let started = action.in_trail();
        // Whoever stops a run that has handled all is late.
        let is_complete = guard.report().is_some_and(|report| report.handled >= report.total);
        let end = guard.end().filter(|end| !is_complete || matches!(end, End::Failed(_)));
        let (status, action, by, why) = match end {
            None => (Status::Done, started, author, None),
            Some(End::Stopped(by)) => {
                let why = format!(
                    "stopped by {}{}",
                    by.actor,
                    by.origin.as_deref().map_or(String::new(), |from| format!(", {from}"))
                );
                (Status::Stopped, STOP, by, Some(why))
            }
            Some(End::Failed(why)) => (Status::Stopped, started, author, Some(why)),
            Some(End::Interrupted) => (Status::Interrupted, started, author, Some(ENDED.to_owned())),
        };
        let now = self.store.clock().now();
        let Some(mut report) = guard.report() else { return };
        (report.status, report.why, report.ended) = (status, why, Some(rfc3339(now).to_string()));
        tracing::info!(
            run = report.run,
            action = report.action.as_str(),
            status = status.as_str(),
            changed = report.changed,
            failed = report.failed,
            handled = report.handled,
            total = report.total,
            why = report.why,
            "a change of many users is over"
        );
        let recorded = async {
            let (text, name) = (as_text(&report)?, report.run.clone());
            let save = move |tx: &Transaction| {
                by.record(tx, now, action, name.as_str(), status.as_str())?;
                bulk::save(tx, id, Some(now), &text)
            };
            self.store.catalog().write(save).await
        };
        if let Err(error) = recorded.await {
            tracing::error!(error = %error, "the report of a change of many users could not be recorded");
        }
    }
}

/// What is told of a run that its server did not survive, and of one that ended with it in order.
const CUT_SHORT: &str = "the server ended before the run did, without time to say how far it was: the numbers are from up to a \
                         second before, and the audit trail has each change. Start it again for the others";
const ENDED: &str = "the server ended before the run did; start it again for the others";

/// The ids of a run, each once, in the order they were given.
pub fn distinct(ids: Vec<TenantId>) -> Vec<TenantId> {
    let mut seen = BTreeSet::new();
    ids.into_iter().filter(|id| seen.insert(id.clone())).collect()
}

/// A filter as it was sent: an empty text is none.
///
/// # Errors
/// If the text is too long.
pub fn filter(state: Option<State>, q: Option<String>) -> Result<Filter> {
    let q = q.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    if q.as_ref().is_some_and(|text| text.chars().count() > LONGEST) {
        return Err(Error::invalid("q", format!("a text of at most {LONGEST} characters")));
    }
    Ok(Filter { state, q })
}

fn as_text(report: &Report) -> Result<String> {
    serde_json::to_string(report).map_err(|e| Error::internal("a report").with_source(e))
}
