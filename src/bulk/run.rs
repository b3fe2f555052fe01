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
    digest::digest,
    ended::{Ended, as_text},
    find::{Found, NAMED, Walk, find},
    report::{Action, Filter, Order, Outcome, Preview, Report, Selection, Status},
    under_way::{End, Guard, UnderWay},
};
use crate::{
    catalog::{
        audit::Author,
        model::State,
        queries::{
            bulk,
            search::{LONGEST, Sought},
        },
    },
    clock::rfc3339,
    error::{Error, ErrorKind, Result},
    rate::pause_after,
    reconcile::runs::new_name,
    tenants::{id::TenantId, store::Store},
};

/// Changes many tenants of a store, in runs.
pub struct Bulks {
    store: Store,
    /// Whether callers' requests are in flight.
    is_busy: Box<dyn Fn() -> bool + Send + Sync>,
    under_way: Arc<UnderWay>,
    /// The newest run, while its end could not be recorded.
    ended: tokio::sync::Mutex<Option<Ended>>,
}

/// Why a run is not started.
#[derive(Debug)]
pub enum Refusal {
    /// Another one is under way.
    Running(Error),
    /// More match now than were confirmed.
    Grew(Error),
    /// Others match now than were confirmed, or another run was started since.
    Changed(Error),
    /// Something else is wrong.
    Other(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Tenants that are handled at once.
const JOBS: usize = 4;

/// How often the progress is recorded.
const RECORD: Duration = Duration::from_secs(1);

/// How long a stop waits for the tenants that are being changed.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The action of a stop in the audit trail.
const STOP: &str = "bulk stop";

impl Bulks {
    /// Changes tenants of `store`; `is_busy` says whether callers' requests are in flight.
    pub fn new(store: Store, is_busy: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Self> {
        let (under_way, ended) = (Arc::default(), tokio::sync::Mutex::default());
        Arc::new(Self { store, is_busy: Box::new(is_busy), under_way, ended })
    }

    /// The newest run.
    pub async fn newest(&self) -> Result<Option<Report>> {
        if let Some(report) = self.under_way.report() {
            return Ok(Some(report));
        }
        if let Some((report, _)) = self.unrecorded().await {
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

    /// Counts whom a run would be about. Changes nothing.
    pub async fn preview(&self, action: Action, selection: &Selection) -> Result<Preview> {
        let newest = self.store.catalog().query(|conn| Ok((bulk::newest_tenant(conn)?, bulk::newest_name(conn)?)));
        let (as_of, newest_run) = newest.await?;
        let (found, unknown) = match selection {
            Selection::Ids(ids) => self.look(action, ids).await?,
            Selection::Matching(filter) => (find(&self.store, action, filter, as_of).await?, Vec::new()),
        };
        let Found { count, left_out, first, all } = found;
        let digest = digest(action, selection, as_of, count, all.as_deref(), newest_run.as_deref());
        let names = |ids: &[TenantId]| ids.iter().take(NAMED).map(ToString::to_string).collect();
        Ok(Preview { action, count, left_out, as_of, digest, some: names(&first), unknown: names(&unknown) })
    }

    /// Those that are named, all of whom count; and of them those that nobody is.
    async fn look(&self, action: Action, ids: &[TenantId]) -> Result<(Found, Vec<TenantId>)> {
        let looked = ids.to_vec();
        let states = self.store.catalog().query(move |conn| bulk::states(conn, &looked)).await?;
        let passed = states.iter().flatten().filter(|state| !action.states().contains(state)).count();
        let unknown = ids.iter().zip(&states).filter(|(_, state)| state.is_none()).map(|(id, _)| id.clone()).collect();
        let (count, first) = (ids.len() as u64, ids.iter().take(NAMED).cloned().collect());
        Ok((Found { count, left_out: passed as u64, first, all: None }, unknown))
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
        // There is one such run at most, and it is the newest.
        if let Some((_, error)) = self.unrecorded().await {
            return Err(error.into());
        }
        let listed = self.confirm(&order).await?;
        let (text, name, by) = (as_text(&report)?, report.run.clone(), author.clone());
        let begin = move |tx: &Transaction| {
            by.record(tx, now, order.action.in_trail(), name.as_str(), "started")?;
            bulk::begin(tx, &name, now, &text)
        };
        let id = self.store.catalog().write(begin).await?;
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.handle_all(&guard, id, &order, listed, &author).await {
                guard.fail(error.detail());
            }
            this.conclude(&guard, id, order.action, author).await;
            // Whoever waits for the end of the run may open the store anew.
            drop(this);
            drop(guard);
        });
        Ok(report)
    }

    /// Whether a run may start as it was confirmed. Gives those that match its filter, unless they are too many.
    async fn confirm(&self, order: &Order) -> Result<Option<Vec<TenantId>>, Refusal> {
        let Order { action, selection, as_of, .. } = order;
        let (count, all) = match selection {
            Selection::Ids(ids) => (ids.len() as u64, None),
            Selection::Matching(filter) => {
                let Found { count, all, .. } = find(&self.store, *action, filter, *as_of).await?;
                (count, all)
            }
        };
        if count > order.count {
            let why = format!(
                "{count} users match now, more than the {} that were confirmed; nothing was changed. Count again, and \
                 confirm that number",
                order.count
            );
            return Err(Refusal::Grew(Error::new(ErrorKind::Conflict, why)));
        }
        let Some(confirmed) = &order.digest else { return Ok(all) };
        // No other run starts meanwhile: there is one at a time.
        let newest_run = self.store.catalog().query(bulk::newest_name).await?;
        if *confirmed != digest(*action, selection, *as_of, count, all.as_deref(), newest_run.as_deref()) {
            let why = "other users match now than were counted, or a run was started since; nothing was changed. Look \
                       again, and confirm what is there now";
            return Err(Refusal::Changed(Error::new(ErrorKind::Conflict, why)));
        }
        Ok(all)
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
        drop(self.unrecorded().await);
    }

    async fn handle_all(
        &self,
        guard: &Guard,
        id: i64,
        order: &Order,
        listed: Option<Vec<TenantId>>,
        author: &Author,
    ) -> Result<()> {
        let filter = match (&order.selection, listed) {
            (Selection::Ids(ids), _) => return self.handle(guard, id, ids.clone(), order, author).await,
            (Selection::Matching(_), Some(ids)) => return self.handle(guard, id, ids, order, author).await,
            (Selection::Matching(filter), None) => filter,
        };
        let mut walk = Walk::new(&self.store, order.action, filter, order.as_of);
        while guard.end().is_none()
            && let Some(page) = walk.page().await?
        {
            self.handle(guard, id, page.ids, order, author).await?;
        }
        Ok(())
    }

    async fn handle(&self, guard: &Guard, id: i64, some: Vec<TenantId>, order: &Order, author: &Author) -> Result<()> {
        let begun = stream::iter(some).take_while(|_| future::ready(guard.may_begin()));
        let mut handled = begun.map(|tenant| self.change(guard, tenant, order, author)).buffered(JOBS);
        let (mut recorded, mut failed) = (Instant::now(), None);
        // To the end whatever happens: what was begun is to be counted.
        while let Some((tenant, outcome)) = handled.next().await {
            guard.add(&tenant, outcome);
            if failed.is_none() && recorded.elapsed() >= RECORD {
                if let Err(error) = self.record(guard, id).await {
                    guard.fail(error.detail());
                    failed = Some(error);
                }
                recorded = Instant::now();
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Records the progress.
    async fn record(&self, guard: &Guard, id: i64) -> Result<()> {
        let Some(report) = guard.report() else { return Ok(()) };
        let text = as_text(&report)?;
        self.store.catalog().write(move |tx| bulk::save(tx, id, None, &text)).await
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
            tokio::time::sleep(pause_after(began.elapsed())).await;
        }
        (id, outcome)
    }

    async fn change_one(&self, id: &TenantId, order: &Order, author: &Author) -> Result<Outcome> {
        let sought = match &order.selection {
            Selection::Matching(Filter { q: Some(q), .. }) => Sought::new(q),
            _ => None,
        };
        let looked = id.clone();
        let found = self.store.catalog().query(move |conn| bulk::look(conn, &looked, sought.as_ref())).await?;
        let Some((row, is_found)) = found else { return Ok(Outcome::Gone) };
        if let Some(outcome) = settled(order, row.state, row.reason.as_deref(), is_found) {
            return Ok(outcome);
        }
        let changed = match order.action {
            Action::Suspend => self.store.suspend(id, &order.reason, author).await.map(drop),
            Action::Resume => self.store.resume(id, author).await.map(drop),
            Action::Delete => self.store.delete(id, author).await.map(drop),
            Action::Migrate => match self.store.migrate(id, author).await {
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
        let at = self.store.clock().now();
        // It is under way until this is in the catalog, or kept.
        let Some(mut report) = guard.report() else { return };
        (report.status, report.why, report.ended) = (status, why, Some(rfc3339(at).to_string()));
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
        let ended = Ended { id, report, at, action, by };
        if let Err(error) = ended.record(self.store.catalog()).await {
            tracing::error!(error = %error, "the report of a change of many users could not be recorded");
            *self.ended.lock().await = Some(ended);
        }
    }
}

/// What is told of a run that its server did not survive, and of one that ended with it in order.
const CUT_SHORT: &str = "the server ended before the run did, without time to say how far it was: the numbers are from up to a \
                         second before, and the audit trail has each change. Start it again for the others";
const ENDED: &str = "the server ended before the run did; start it again for the others";

/// What comes of a tenant that is not to be changed, by how it is when it is reached; `is_found` says whether the run's search
/// finds it still. None if it is to be changed.
fn settled(order: &Order, state: State, reason: Option<&str>, is_found: bool) -> Option<Outcome> {
    let matches = match &order.selection {
        Selection::Ids(_) => true,
        Selection::Matching(filter) => is_found && filter.state.is_none_or(|wanted| wanted == state),
    };
    let is_so = order.action == Action::Suspend && state == State::Suspended && reason == Some(order.reason.as_str());
    if !matches || is_so {
        return Some(Outcome::Unchanged);
    }
    match state {
        _ if order.action.states().contains(&state) => None,
        State::Deleted if order.action != Action::Delete => Some(Outcome::Gone),
        _ => Some(Outcome::Unchanged),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn order(action: Action, selection: Selection) -> Order {
        Order { action, reason: "late".into(), selection, count: 1, as_of: 0, digest: None }
    }

    #[test]
    fn whoever_does_not_match_any_more_or_cannot_be_changed_is_left_alone() {
        use Outcome::{Gone, Unchanged};
        use State::{Active, Deleted, Quarantined, Suspended};
        let named = |action| order(action, Selection::Ids(Vec::new()));
        let filtered = |action, state, q: Option<&str>| {
            order(action, Selection::Matching(Filter { state, q: q.map(str::to_owned) }))
        };
        for (order, state, reason, is_found, expected) in [
            (named(Action::Delete), Active, None, true, None),
            (named(Action::Delete), Deleted, None, true, Some(Unchanged)),
            (named(Action::Suspend), Deleted, None, true, Some(Gone)),
            (named(Action::Migrate), Deleted, None, true, Some(Gone)),
            (named(Action::Migrate), Quarantined, None, true, None),
            (named(Action::Resume), Deleted, None, true, Some(Gone)),
            (named(Action::Resume), Active, None, true, Some(Unchanged)),
            (named(Action::Resume), Quarantined, None, true, None),
            (named(Action::Suspend), Suspended, Some("late"), true, Some(Unchanged)),
            (named(Action::Suspend), Suspended, Some("rude"), true, None),
            (named(Action::Suspend), Active, Some("late"), true, None),
            (filtered(Action::Delete, Some(Suspended), None), Suspended, None, true, None),
            (filtered(Action::Delete, Some(Suspended), None), Active, None, true, Some(Unchanged)),
            (filtered(Action::Suspend, Some(Active), None), Deleted, None, true, Some(Unchanged)),
            (filtered(Action::Delete, None, Some("ada")), Active, None, true, None),
            (filtered(Action::Delete, None, Some("ada")), Active, None, false, Some(Unchanged)),
        ] {
            assert_eq!(settled(&order, state, reason, is_found), expected, "{order:?} {state} {reason:?} {is_found}");
        }
    }
}
