//! The log of deliveries, for operators. The router puts these behind the operator's key.

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::{
        audit::Author,
        model::{DeliveryOutcome, Recorded},
        queries::{
            deliveries::{self, Filter},
            search::Cursor,
        },
    },
    error::{Error, ErrorKind, Result},
    http::{
        query::{Query, up_to},
        segment::Segment,
    },
    tenants::{id::TenantId, store::Store},
    webhooks::{
        apply::{self, Answer},
        event,
    },
};

/// A page of deliveries.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Deliveries {
    /// Newest first.
    pub deliveries: Vec<Recorded>,
    /// The `cursor` of the next page; none on the last one.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// One delivery and its body.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OneDelivery {
    /// What is known of it.
    #[serde(flatten)]
    pub recorded: Recorded,
    /// What was sent; none if it is no longer kept.
    pub body: Option<String>,
}

/// Which deliveries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeliveryQuery {
    /// Only those of this outcome.
    #[param(inline)]
    outcome: Option<DeliveryOutcome>,
    /// Only those of this type, such as `user.created`.
    r#type: Option<String>,
    /// The `next_cursor` of the page before, with the same other parameters.
    cursor: Option<String>,
    /// Only those about this user.
    #[param(inline)]
    user: Option<TenantId>,
    /// Deliveries on the page.
    #[serde(default = "some", deserialize_with = "up_to::<1000, _>")]
    #[param(minimum = 1, maximum = 1000)]
    limit: u32,
}

fn some() -> u32 {
    50
}

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

/// Applies one once more, as if it had just arrived.
pub async fn replay(store: &Store, id: String, author: Author) -> Result<Answer> {
    let OneDelivery { recorded, body } = find(store, id).await?;
    let body = body.ok_or_else(|| {
        let why = format!("the body of {} is no longer kept, so it cannot be replayed", recorded.svix_id);
        Error::new(ErrorKind::Conflict, why)
    })?;
    apply::apply(store, &recorded.svix_id, event::parse(body.as_bytes()), body.into(), Some(author)).await
}

/// Deliveries that are kept, newest first.
#[utoipa::path(get, path = "/api/admin/deliveries", tag = "operators", params(DeliveryQuery),
    responses((status = 200, description = "A page", body = Deliveries)))]
async fn index(State(app): State<App>, Query(query): Query<DeliveryQuery>) -> Result<Json<Deliveries>> {
    let DeliveryQuery { outcome, user: tenant, r#type, cursor, limit } = query;
    let cursor = cursor.map(|cursor| cursor.parse::<Cursor>().map_err(|why| Error::malformed("cursor", why)));
    let kind = r#type.filter(|kind| !kind.is_empty());
    let filter = Filter { outcome, kind, tenant, cursor: cursor.transpose()? };
    let page = app.store().catalog().query(move |conn| deliveries::list(conn, &filter, limit + 1));
    let mut deliveries = page.await?;
    let more = deliveries.len() > limit as usize;
    deliveries.truncate(limit as usize);
    let place = |last: &Recorded| Cursor { key: last.received, id: last.svix_id.clone() }.to_string();
    let next_cursor = deliveries.last().filter(|_| more).map(place);
    Ok(Json(Deliveries { deliveries, next_cursor }))
}

/// One delivery and its body.
#[utoipa::path(get, path = "/api/admin/deliveries/{delivery_id}", tag = "operators",
    params(("delivery_id" = String, Path, description = "The svix-id of the message")),
    responses((status = 200, description = "The delivery", body = OneDelivery)))]
async fn show(State(app): State<App>, Segment(id): Segment) -> Result<Json<OneDelivery>> {
    Ok(Json(find(app.store(), id).await?))
}

/// Applies a delivery once more, as if it had just arrived.
#[utoipa::path(post, path = "/api/admin/deliveries/{delivery_id}/replay", tag = "operators",
    params(("delivery_id" = String, Path, description = "The svix-id of the message")),
    responses((status = 200, description = "What became of it", body = Object)))]
async fn again(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
) -> Result<Json<Value>> {
    Ok(Json(match replay(app.store(), id, author).await? {
        Answer::Done(answer) => answer,
        Answer::Rejected(error) => json!({"status": "rejected", "error": error.message()}),
    }))
}
