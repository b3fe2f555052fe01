//! The log of deliveries, for operators. The router puts these behind the operator's key.

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::{
        audit::Author,
        model::Recorded,
        queries::deliveries::{self, Filter},
    },
    error::{Error, ErrorKind, Result},
    http::{query::parameters, segment::Segment},
    tenants::{id::TenantId, store::Store},
    webhooks::{
        apply::{self, Answer},
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
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(index)).routes(routes!(show)).routes(routes!(again))
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
pub async fn replay(store: &Store, id: String, author: Author) -> Result<Answer> {
    let OneDelivery { recorded, body } = find(store, id).await?;
    let body = body.ok_or_else(|| {
        let why = format!("the body of {} is no longer kept, so it cannot be replayed", recorded.svix_id);
        Error::new(ErrorKind::Conflict, why)
    })?;
    apply::apply(store, &recorded.svix_id, event::parse(body.as_bytes()), body.into(), Some(author)).await
}

#[utoipa::path(get, path = "/api/admin/deliveries", tag = "operators", description = "Deliveries that are kept, newest first", responses((status = 200, description = "Some of them", body = Object)))]
async fn index(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Deliveries>> {
    let (mut filter, mut limit) = (Filter::default(), 50);
    for (name, value) in parameters(query.as_deref()) {
        let text = value.unwrap_or_default();
        match name.as_ref() {
            "outcome" => filter.outcome = Some(text.parse().map_err(|e: String| Error::malformed("outcome", e))?),
            "user" => {
                filter.tenant =
                    Some(TenantId::parse(text.as_bytes()).map_err(|e| Error::malformed("user", e.to_string()))?);
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

#[utoipa::path(get, path = "/api/admin/deliveries/{delivery_id}", tag = "operators", description = "One delivery and its body", params(("delivery_id" = String, Path, description = "The message's svix-id")), responses((status = 200, description = "It", body = Object)))]
async fn show(State(app): State<App>, Segment(id): Segment) -> Result<Json<OneDelivery>> {
    Ok(Json(find(app.store(), id).await?))
}

#[utoipa::path(post, path = "/api/admin/deliveries/{delivery_id}/replay", tag = "operators", description = "Applies a delivery once more", params(("delivery_id" = String, Path, description = "The message's svix-id")), responses((status = 200, description = "What became of it", body = Object)))]
async fn again(State(app): State<App>, Extension(author): Extension<Author>, Segment(id): Segment) -> Result<Response> {
    Ok(match replay(app.store(), id, author).await? {
        Answer::Done(answer) => Json(answer).into_response(),
        Answer::Rejected(error) => Json(json!({"status": "rejected", "error": error.message()})).into_response(),
    })
}
