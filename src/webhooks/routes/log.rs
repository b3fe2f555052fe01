//! The log of deliveries, for operators. The router puts these behind the operator's key.

use axum::{
    Json, Router,
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    app::App,
    catalog::{
        model::Recorded,
        queries::deliveries::{self, Filter},
    },
    error::{Error, ErrorKind, Result},
    tenants::{id::TenantId, store::Store},
    webhooks::{
        apply::{self, Answer, Repeats},
        event,
    },
};

/// Some deliveries.
#[derive(Debug, Serialize, Deserialize)]
pub struct Deliveries {
    /// Newest first.
    pub deliveries: Vec<Recorded>,
}

/// One delivery and its body.
#[derive(Debug, Serialize, Deserialize)]
pub struct OneDelivery {
    /// What is known of it.
    #[serde(flatten)]
    pub recorded: Recorded,
    /// What was sent; none if it is no longer kept.
    pub body: Option<String>,
}

/// Deliveries in one answer, at most.
const PAGE: u32 = 1000;

/// The routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/api/admin/deliveries", get(index))
        .route("/api/admin/deliveries/{delivery_id}", get(show))
        .route("/api/admin/deliveries/{delivery_id}/replay", post(again))
}

/// One delivery, if it is kept.
pub async fn find(store: &Store, id: String) -> Result<OneDelivery> {
    let (of, named) = (id.clone(), id);
    let found =
        store.catalog().query(move |conn| Ok((deliveries::find(conn, &of)?, deliveries::body(conn, &of)?))).await?;
    let (Some(recorded), body) = found else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no delivery {named}; `cubby deliveries list` shows those that are kept"),
        ));
    };
    Ok(OneDelivery { recorded, body: body.map(|body| String::from_utf8_lossy(&body).into_owned()) })
}

/// Applies one once more, as if it had just come.
pub async fn replay(store: &Store, id: String) -> Result<Answer> {
    let OneDelivery { recorded, body } = find(store, id).await?;
    let body = body.ok_or_else(|| {
        let why = format!("the body of {} is no longer kept, so it cannot be replayed", recorded.svix_id);
        Error::new(ErrorKind::Conflict, why)
    })?;
    apply::apply(store, &recorded.svix_id, event::parse(body.as_bytes()), body.into(), Repeats::Apply).await
}

async fn index(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Deliveries>> {
    let (mut filter, mut limit) = (Filter::default(), 50);
    for pair in query.as_deref().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value: Vec<u8> = percent_encoding::percent_decode_str(value).collect();
        let text = std::str::from_utf8(&value).unwrap_or_default();
        match name {
            "outcome" => filter.outcome = Some(text.parse().map_err(|e: String| Error::malformed("outcome", e))?),
            "user" => {
                filter.tenant = Some(TenantId::parse(&value).map_err(|e| Error::malformed("user", e.to_string()))?);
            }
            "limit" => {
                let number = text.parse().ok().filter(|n| (1..=PAGE).contains(n));
                limit = number.ok_or_else(|| Error::malformed("limit", format!("limit is from 1 to {PAGE}")))?;
            }
            _ => {}
        }
    }
    let deliveries = app.store().catalog().query(move |conn| deliveries::list(conn, &filter, limit)).await?;
    Ok(Json(Deliveries { deliveries }))
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<OneDelivery>> {
    Ok(Json(find(app.store(), id).await?))
}

async fn again(State(app): State<App>, Path(id): Path<String>) -> Result<Response> {
    Ok(match replay(app.store(), id).await? {
        Answer::Done(answer) => Json(answer).into_response(),
        Answer::Rejected(error) => Json(json!({"status": "rejected", "error": error.message()})).into_response(),
    })
}
