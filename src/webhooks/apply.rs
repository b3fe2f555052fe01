//! Applying a delivery: its change and its record are one catalog commit.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;
use rusqlite::{Connection, Transaction};
use serde_json::{Value, json};

use super::{
    decide::{Effect, Standing, decide, subject},
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
    telemetry::metrics,
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
    let started = Instant::now();
    let Parsed { kind, event } = parsed;
    let mut delivery = Delivery {
        svix_id: svix_id.to_owned(),
        tenant: event.as_ref().ok().and_then(|event| event.tenant().cloned()),
        kind,
        received: store.clock().now(),
        outcome: DeliveryOutcome::Failed,
        duration_us: 0,
        error: None,
        answer: None,
        body: Some(body),
    };
    let result = try_apply(store, &delivery, event, started, replay.as_ref()).await;
    // A replay that fails leaves what is recorded of the delivery as it was.
    if let Err(error) = &result
        && replay.is_none()
    {
        delivery.error = Some(error.detail());
        delivery.duration_us = microseconds(started);
        metrics::delivery(&delivery.kind, DeliveryOutcome::Failed.as_str(), started.elapsed());
        let record = move |tx: &Transaction| {
            drop_body_of_purged(tx, &mut delivery)?;
            deliveries::record(tx, &delivery)
        };
        if let Err(error) = store.catalog().write(record).await {
            tracing::error!(svix_id, error = %error, "the failed delivery could not be recorded");
        }
    }
    result
}

/// Tries of a delivery whose tenant changes between the decision and the commit.
const ROUNDS: usize = 16;

async fn try_apply(
    store: &Store,
    delivery: &Delivery,
    event: Result<Event>,
    started: Instant,
    replay: Option<&Author>,
) -> Result<Answer> {
    let event = Arc::new(event);
    for _ in 0..ROUNDS {
        let effect = match plan(store, &delivery.svix_id, &event, replay.is_some()).await? {
            Planned::Answered(first) => return Ok(again(first)),
            Planned::Effect(effect) => effect,
        };
        let job = Job {
            delivery: delivery.clone(),
            event: event.clone(),
            started,
            purge_after: delivery.received.saturating_add(millis(store.retention())),
            schema: store.schema().version(),
            planned: effect,
            replay: replay.cloned(),
        };
        let done = match (effect, event.as_ref().as_ref().ok().and_then(subject)) {
            (Effect::Create, Some(id)) => store.create_with(id, move |tx| job.commit(tx)).await?,
            // A tombstone, too: it must not race a creation of the same user.
            (Effect::Delete | Effect::InsertTombstone, Some(id)) => {
                store.delete_with(id, move |tx| job.commit(tx)).await?
            }
            _ => store.catalog().write(move |tx| job.commit(tx)).await?,
        };
        match done {
            Done::Applied(outcome, answer) => {
                metrics::delivery(&delivery.kind, outcome.as_str(), started.elapsed());
                return Ok(match event.as_ref() {
                    Err(error) => {
                        tracing::warn!(svix_id = delivery.svix_id, error = %error, "a delivery can never be applied");
                        Answer::Rejected(error.clone())
                    }
                    Ok(_) => Answer::Done(answer),
                });
            }
            Done::Answered(first) => return Ok(again(first)),
            Done::Changed => {}
        }
    }
    Err(Error::new(ErrorKind::Busy, "the user kept changing while the delivery was applied"))
}

/// What the commit is expected to do.
enum Planned {
    Answered(First),
    Effect(Effect),
}

/// Decides on a snapshot, so that files are prepared before the commit. The decision that counts is made in
/// the transaction.
async fn plan(store: &Store, svix_id: &str, event: &Arc<Result<Event>>, replay: bool) -> Result<Planned> {
    if event.as_ref().as_ref().ok().and_then(subject).is_none() {
        return Ok(Planned::Effect(Effect::None));
    }
    let (svix_id, event) = (svix_id.to_owned(), event.clone());
    store
        .catalog()
        .query(move |conn| {
            if !replay && let Some(first) = deliveries::first(conn, &svix_id)?.filter(answered) {
                return Ok(Planned::Answered(first));
            }
            let Ok(event) = event.as_ref() else { return Ok(Planned::Effect(Effect::None)) };
            let Some(id) = subject(event) else { return Ok(Planned::Effect(Effect::None)) };
            let known = queries::find(conn, id)?.as_ref().map(Standing::from);
            let event = dated(conn, &svix_id, event)?;
            Ok(Planned::Effect(decide(known.as_ref(), &event).effect))
        })
        .await
}

/// What a transaction did.
#[derive(Debug, Clone)]
enum Done {
    Applied(DeliveryOutcome, Value),
    Answered(First),
    /// Nothing: the tenant has changed since this was planned.
    Changed,
}

struct Job {
    delivery: Delivery,
    event: Arc<Result<Event>>,
    started: Instant,
    purge_after: Millis,
    schema: i32,
    planned: Effect,
    replay: Option<Author>,
}

impl Job {
    fn commit(mut self, tx: &Transaction) -> rusqlite::Result<Done> {
        if self.replay.is_none()
            && let Some(first) = deliveries::first(tx, &self.delivery.svix_id)?.filter(answered)
        {
            return Ok(Done::Answered(first));
        }
        let event = self.event.clone();
        drop_body_of_purged(tx, &mut self.delivery)?;
        let (outcome, answer) = match event.as_ref() {
            Err(error) => {
                self.delivery.error = Some(error.message().to_owned());
                (DeliveryOutcome::Rejected, Value::Null)
            }
            Ok(event) => match self.change(tx, event)? {
                None => return Ok(Done::Changed),
                Some(outcome) => (outcome, answer(&self.delivery, event, outcome)),
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
    fn change(&self, tx: &Transaction, event: &Event) -> rusqlite::Result<Option<DeliveryOutcome>> {
        let Some(id) = subject(event) else { return Ok(Some(DeliveryOutcome::Ignored)) };
        let known = queries::find(tx, id)?.as_ref().map(Standing::from);
        let event = dated(tx, &self.delivery.svix_id, event)?;
        let decision = decide(known.as_ref(), &event);
        let now = self.delivery.received;
        match (decision.effect, &decision.standing) {
            (Effect::Create | Effect::Delete | Effect::InsertTombstone, _) if decision.effect != self.planned => {
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
}

/// Drops the body of a delivery about a purged user: it is personal data.
fn drop_body_of_purged(conn: &Connection, delivery: &mut Delivery) -> rusqlite::Result<()> {
    let Some(id) = &delivery.tenant else { return Ok(()) };
    if queries::find(conn, id)?.is_some_and(|row| row.purged.is_some()) {
        delivery.body = None;
    }
    Ok(())
}

/// The event with a time: a deletion without one happened before it was first delivered, which matters
/// when it is delivered again.
fn dated<'e>(conn: &Connection, svix_id: &str, event: &'e Event) -> rusqlite::Result<Cow<'e, Event>> {
    let Event::Gone { id, at: None } = event else { return Ok(Cow::Borrowed(event)) };
    let at = deliveries::first_received(conn, svix_id)?;
    Ok(Cow::Owned(Event::Gone { id: id.clone(), at }))
}

fn answer(delivery: &Delivery, event: &Event, outcome: DeliveryOutcome) -> Value {
    match subject(event) {
        Some(id) => json!({"status": outcome.as_str(), "user_id": id}),
        None => json!({"status": outcome.as_str(), "type": delivery.kind}),
    }
}

/// Whether a retry gets the answer of before. A failed delivery is tried again.
fn answered(first: &First) -> bool {
    first.outcome != DeliveryOutcome::Failed
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
