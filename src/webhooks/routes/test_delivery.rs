//! A test of the endpoint: a delivery signed with its own secret, sent through its own route. The router puts this behind the
//! operator's key.

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
};
use http_body_util::BodyExt as _;
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::{audit::Author, queries::deliveries::TEST},
    error::Error,
    http::problem::Problem,
    webhooks::sign,
};

/// What came of a test delivery.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TestDelivery {
    /// Its id, by which it is found among the deliveries, if it was taken.
    pub delivery_id: String,
    /// The status that the endpoint answered; 200 if all is well.
    pub status: u16,
    /// What it answered: the `status` is `ignored`, as that of all deliveries of a type that changes nobody.
    #[schema(value_type = Option<Object>)]
    pub answer: Option<Value>,
    /// The code of its problem.
    pub code: Option<String>,
    /// The problem.
    pub detail: Option<String>,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(send))
}

/// Signs a delivery with the configured secret, sends it through the endpoint's route and says what came of it.
///
/// It is recorded as any other, and changes nobody.
#[utoipa::path(post, path = "/api/admin/test-deliveries", tag = "operators",
    responses((status = 200, description = "What came of it, good or bad", body = TestDelivery)))]
async fn send(State(app): State<App>, Extension(author): Extension<Author>) -> Result<Json<TestDelivery>, Problem> {
    let delivery_id = format!("msg_test_{}", nanoid::nanoid!(16));
    let at = super::seconds_since_1970();
    let body = json!({"type": TEST, "object": "event", "timestamp": app.clock().now(), "data": {}}).to_string();
    let signed = sign::headers(&app.config().webhooks, &delivery_id, at, body.as_bytes())?;
    let signed = signed.ok_or_else(|| {
        let why = "set CLERK_WEBHOOK_SECRET to the endpoint's signing secret, and start the server again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "webhooks_not_configured", why)
    })?;
    let mut request = Request::post("/webhooks/clerk");
    for (name, value) in signed {
        request = request.header(name, value);
    }
    let request = request.body(Body::from(body)).map_err(|e| Error::internal("a request").with_source(e))?;
    let endpoint = Router::from(super::routes(&app)?).with_state(app.clone());
    let Ok(mut response) = endpoint.oneshot(request).await;
    let found = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => TestDelivery {
            delivery_id,
            status: problem.status.as_u16(),
            answer: None,
            code: Some(problem.code.to_owned()),
            detail: Some(problem.detail.clone()),
        },
        None => {
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|e| Error::internal("an answer").with_source(e))?;
            let answer = serde_json::from_slice(&body.to_bytes()).ok();
            TestDelivery { delivery_id, status, answer, code: None, detail: None }
        }
    };
    let (now, id) = (app.clock().now(), found.delivery_id.clone());
    let result = if found.status == 200 { "done".to_owned() } else { found.status.to_string() };
    let record = move |tx: &Transaction| author.record(tx, now, "deliveries test", id.as_str(), &result);
    app.store().catalog().write(record).await?;
    Ok(Json(found))
}
