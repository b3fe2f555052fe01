//! Applying a delivery: its change and its record are one catalog commit.

use std::{borrow::Cow, ops::ControlFlow, sync::Arc, time::Instant};

use bytes::Bytes;
use rusqlite::{Connection, Transaction};
use serde_json::{Value, json};

use super::{
    decide::{Effect, Standing, decide},
    event::{Event, Parsed},
};
use crate::{
    catalog::{
        audit::Author,
        model::{Delivery, DeliveryOutcome, Millis},
        queries::{
            self,
            deliveries::{self, First},
            tombstones,
        },
    },
    clock::millis,
    error::{Error, ErrorKind, Result},
    telemetry::{metrics, trace},
    tenants::store::Store,
};

/// The answer to a delivery.
#[derive(Debug)]
pub enum Answer {
    /// Applied; the sender must not send it again.
    Done(Value),
    /// It can never be applied; the sender must not send it again.
    Rejected(Error),
}

/// Applies a verified delivery and records it. One that was answered before is answered the same again, unless
/// an operator replays it. `Err` means that storage failed, and that the sender should try again.
pub async fn apply(
    store: &Store,
    svix_id: &str,
    parsed: Parsed,
    body: Bytes,
    replay: Option<Author>,
) -> Result<Answer> {
    let (event, rejected) = match parsed.event {
        Ok(event) => (event, None),
        Err(error) => (Event::Other(None), Some(error)),
    };
    let received = store.clock().now();
    let mut job = Job {
        delivery: Delivery {
            svix_id: svix_id.to_owned(),
            tenant: event.tenant().cloned(),
            kind: parsed.kind,
            received,
            outcome: DeliveryOutcome::Failed,
            duration_us: 0,
            error: None,
            answer: None,
            body: Some(body),
        },
        event: Arc::new(event),
        rejected,
        started: Instant::now(),
        purge_after: received.saturating_add(millis(store.retention())),
        schema: store.schema().version(),
        replay,
    };
    let result = trace::during("delivery", job.run(store)).await;
    // A replay that fails leaves what is recorded of the delivery as it was.
    if let Err(error) = &result
        && job.replay.is_none()
    {
        job.delivery.error = Some(error.detail());
        job.delivery.duration_us = microseconds(job.started);
        metrics::delivery(&job.delivery.kind, DeliveryOutcome::Failed.as_str(), job.started.elapsed());
        let record = move |tx: &Transaction| {
            drop_body_of_purged(tx, &mut job.delivery)?;
            deliveries::record(tx, &job.delivery)
        };
        if let Err(error) = store.catalog().write(record).await {
            tracing::error!(svix_id, error = %error, "the failed delivery could not be recorded");
        }
    }
    result
}

/// Tries of a delivery whose tenant changes between the decision and the commit.
const ROUNDS: usize = 16;

/// What a transaction did.
enum Done {
    Applied(DeliveryOutcome, Value),
    Answered(First),
    /// Nothing: the tenant has changed since this was planned.
    Changed,
}

#[derive(Clone)]
struct Job {
    delivery: Delivery,
    event: Arc<Event>,
    /// Why it can never be applied.
    rejected: Option<Error>,
    started: Instant,
    purge_after: Millis,
    schema: i32,
    replay: Option<Author>,
}

impl Job {
    async fn run(&self, store: &Store) -> Result<Answer> {
        for _ in 0..ROUNDS {
            let planned = match self.plan(store).await? {
                ControlFlow::Break(first) => return Ok(again(first)),
                ControlFlow::Continue(effect) => effect,
            };
            let job = self.clone();
            let commit = move |tx: &Transaction| job.commit(tx, planned);
            let done = match (planned, self.event.subject()) {
                (Effect::Create, Some(id)) => store.create_with(id, commit).await?,
                // A tombstone, too: it must not race a creation of the same user.
                (Effect::Delete | Effect::InsertTombstone, Some(id)) => store.delete_with(id, commit).await?,
                _ => store.catalog().write(commit).await?,
            };
            match (done, &self.rejected) {
                (Done::Changed, _) => {}
                (Done::Answered(first), _) => return Ok(again(first)),
                (Done::Applied(outcome, answer), rejected) => {
                    self.event.subject().into_iter().for_each(|id| store.apply_metadata_quota(id));
                    metrics::delivery(&self.delivery.kind, outcome.as_str(), self.started.elapsed());
                    let Some(error) = rejected else { return Ok(Answer::Done(answer)) };
                    let svix_id = &self.delivery.svix_id;
                    tracing::warn!(svix_id, error = %error, "a delivery can never be applied");
                    return Ok(Answer::Rejected(error.clone()));
                }
            }
        }
        Err(Error::new(ErrorKind::Busy, "the user kept changing while the delivery was applied"))
    }

    /// Decides on a snapshot, so that files are prepared before the commit, or finds the answer of before. The
    /// decision that counts is made in the transaction.
    async fn plan(&self, store: &Store) -> Result<ControlFlow<First, Effect>> {
        let Some(id) = self.event.subject().cloned() else { return Ok(ControlFlow::Continue(Effect::None)) };
        let job = self.clone();
        let plan = store.catalog().query(move |conn| {
            if let Some(first) = job.answered(conn)? {
                return Ok(ControlFlow::Break(first));
            }
            let known = queries::find(conn, &id)?.as_ref().map(Standing::from);
            Ok(ControlFlow::Continue(decide(known.as_ref(), &*job.dated(conn)?).effect))
        });
        plan.await
    }

    fn commit(mut self, tx: &Transaction, planned: Effect) -> rusqlite::Result<Done> {
        if let Some(first) = self.answered(tx)? {
            return Ok(Done::Answered(first));
        }
        drop_body_of_purged(tx, &mut self.delivery)?;
        let (outcome, answer) = match &self.rejected {
            Some(error) => {
                self.delivery.error = Some(error.message().to_owned());
                (DeliveryOutcome::Rejected, Value::Null)
            }
            None => match self.change(tx, planned)? {
                None => return Ok(Done::Changed),
                Some(outcome) => (outcome, self.answer(outcome)),
            },
        };
        self.delivery.outcome = outcome;
        self.delivery.answer = (!answer.is_null()).then(|| answer.to_string());
        self.delivery.duration_us = microseconds(self.started);
        deliveries::record(tx, &self.delivery)?;
        if let Some(author) = &self.replay {
            let (id, at) = (self.delivery.svix_id.as_str(), self.delivery.received);
            author.record(tx, at, "deliveries replay", id, outcome.as_str())?;
        }
        Ok(Done::Applied(outcome, answer))
    }

    /// Decides and writes the tenant's row. `None` if the effect is not the one that was planned.
    fn change(&self, tx: &Transaction, planned: Effect) -> rusqlite::Result<Option<DeliveryOutcome>> {
        let Some(id) = self.event.subject() else { return Ok(Some(DeliveryOutcome::Ignored)) };
        let known = queries::find(tx, id)?.as_ref().map(Standing::from);
        let event = self.dated(tx)?;
        let decision = decide(known.as_ref(), &event);
        let now = self.delivery.received;
        match (decision.effect, &decision.standing) {
            (Effect::Create | Effect::Delete | Effect::InsertTombstone, _) if decision.effect != planned => {
                return Ok(None);
            }
            (Effect::Create, Some(standing)) => {
                queries::insert(tx, id, now, self.schema, &standing.profile)?;
            }
            (Effect::Write, Some(standing)) => {
                queries::set_profile(tx, id, &standing.profile)?;
            }
            (Effect::Delete, _) => {
                queries::mark_deleted(tx, id, now, self.purge_after)?;
            }
            (Effect::InsertTombstone, _) => {
                tombstones::insert_tombstone(tx, id, now, self.purge_after)?;
            }
            // A reconcile that is running with an older list must not restore the user.
            (Effect::None, _) if matches!(*event, Event::Gone { .. }) => {
                tombstones::record_reported_deletion(tx, id, now)?;
            }
            _ => {}
        }
        Ok(Some(decision.outcome))
    }

    /// How the delivery was answered before. One that failed is tried again, and so is a replay.
    fn answered(&self, conn: &Connection) -> rusqlite::Result<Option<First>> {
        let first = deliveries::first(conn, &self.delivery.svix_id)?;
        Ok(first.filter(|first| self.replay.is_none() && first.outcome != DeliveryOutcome::Failed))
    }

    /// The event with a time: a deletion without one happened before it was first delivered, which matters when it is
    /// delivered again.
    fn dated(&self, conn: &Connection) -> rusqlite::Result<Cow<'_, Event>> {
        let Event::Gone { id, at: None } = &*self.event else { return Ok(Cow::Borrowed(&self.event)) };
        let at = deliveries::first_received(conn, &self.delivery.svix_id)?;
        Ok(Cow::Owned(Event::Gone { id: id.clone(), at }))
    }

    fn answer(&self, outcome: DeliveryOutcome) -> Value {
        match self.event.subject() {
            Some(id) => json!({"status": outcome.as_str(), "user_id": id}),
            None => json!({"status": outcome.as_str(), "type": self.delivery.kind}),
        }
    }
}

/// Drops the body of a delivery about a purged user: it is personal data.
fn drop_body_of_purged(conn: &Connection, delivery: &mut Delivery) -> rusqlite::Result<()> {
    let Some(id) = &delivery.tenant else { return Ok(()) };
    if queries::find(conn, id)?.is_some_and(|row| row.purged.is_some()) {
        delivery.body = None;
    }
    Ok(())
}

/// The answer to a retry of a delivery that was answered.
fn again(first: First) -> Answer {
    if first.outcome == DeliveryOutcome::Rejected {
        let why = first.error.unwrap_or_else(|| "it was rejected before".to_owned());
        return Answer::Rejected(Error::invalid("body", why));
    }
    let first: Value = first.answer.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    Answer::Done(json!({"status": "duplicate", "first": first}))
}

fn microseconds(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX)
}
