//! What becomes of a delivery.

use serde_json::{Value, json};

use super::event::{Event, Parsed};
use crate::{
    app::App,
    catalog::{
        model::{Delivery, Outcome},
        queries,
    },
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

/// The answer to a delivery.
#[derive(Debug)]
pub enum Answer {
    /// Done; the sender must not send it again.
    Done(Value),
    /// It can never be applied; the sender must not send it again.
    Rejected(Error),
}

/// Applies a verified delivery and records it. `Err` means that storage failed, and that the
/// sender should try again.
pub async fn apply(app: &App, svix_id: &str, parsed: Parsed, body: &[u8]) -> Result<Answer> {
    let started = std::time::Instant::now();
    if let Some(answer) = answered_before(app, svix_id).await? {
        return Ok(answer);
    }
    let Parsed { kind, event } = parsed;
    let mut delivery = Delivery {
        svix_id: svix_id.to_owned(),
        kind,
        tenant: None,
        received: app.clock().now(),
        outcome: Outcome::Failed,
        duration_us: 0,
        error: None,
        answer: None,
        body: body.to_vec(),
    };
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            delivery.outcome = Outcome::Rejected;
            delivery.error = Some(error.message().to_owned());
            record(app, delivery, started).await?;
            tracing::warn!(svix_id, error = %error, "a delivery can never be applied");
            return Ok(Answer::Rejected(error));
        }
    };
    let applied = match event {
        Event::Other => Ok((Outcome::Ignored, None)),
        Event::Created(id, profile) => {
            delivery.tenant = Some(id.clone());
            created(app, &id, profile).await.map(|outcome| (outcome, Some(id)))
        }
    };
    match applied {
        Ok((outcome, id)) => {
            let answer = match id {
                Some(id) => json!({"status": outcome.as_str(), "user_id": id}),
                None => json!({"status": outcome.as_str(), "type": delivery.kind}),
            };
            delivery.outcome = outcome;
            delivery.answer = Some(answer.to_string());
            record(app, delivery, started).await?;
            Ok(Answer::Done(answer))
        }
        Err(error) => {
            delivery.error = Some(error.detail());
            tracing::error!(svix_id, error = %error, "a delivery failed");
            // The failure itself is what matters; that it may not be recorded either is logged.
            if let Err(error) = record(app, delivery, started).await {
                tracing::error!(svix_id, error = %error, "the failed delivery could not be recorded");
            }
            Err(error)
        }
    }
}

async fn created(app: &App, id: &TenantId, profile: crate::catalog::model::Profile) -> Result<Outcome> {
    match app.store().create(id, profile).await {
        Ok((_, true)) => Ok(Outcome::Created),
        Ok((_, false)) => Ok(Outcome::Exists),
        Err(error) => match error.kind() {
            // Deleted before: a late creation does not bring a user back.
            ErrorKind::UnknownTenant => Ok(Outcome::Ignored),
            // It is there, and out of service for a reason that this message does not change.
            ErrorKind::Suspended | ErrorKind::Quarantined => Ok(Outcome::Exists),
            _ => Err(error),
        },
    }
}

/// A retry of what was answered is not applied again.
async fn answered_before(app: &App, svix_id: &str) -> Result<Option<Answer>> {
    let id = svix_id.to_owned();
    let before = app.store().catalog().query(move |conn| queries::delivery(conn, &id)).await?;
    Ok(match before {
        None | Some((Outcome::Failed, _)) => None,
        Some((Outcome::Rejected, _)) => {
            Some(Answer::Rejected(Error::invalid("body", "this delivery was rejected before and can never be applied")))
        }
        Some((_, answer)) => {
            let first: Value = answer.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
            Some(Answer::Done(json!({"status": "duplicate", "first": first})))
        }
    })
}

async fn record(app: &App, mut delivery: Delivery, started: std::time::Instant) -> Result<()> {
    delivery.duration_us = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
    app.store().catalog().write(move |tx| queries::record_delivery(tx, &delivery)).await
}
