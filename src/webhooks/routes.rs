//! The endpoint of deliveries.

pub mod log;
pub mod test_delivery;

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    apply::{self, Answer},
    event,
    verify::{Hookdeck, Refusal, Verifier, verifiers},
};
use crate::{
    app::App,
    error::Result,
    http::{body, limits::Limits, problem::Problem},
};

/// The largest delivery, in bytes. Clerk's metadata is at most 8 kB each of three.
const MAX_BODY: usize = 256 << 10;

/// The two paths at which endpoints have been set up in the wild.
pub fn routes(app: &App) -> Result<OpenApiRouter<App>> {
    let (verifier, hookdeck) = verifiers(&app.config().webhooks)?;
    let endpoint = Endpoint { app: app.clone(), verifier: verifier.map(Arc::new), hookdeck: hookdeck.map(Arc::new) };
    let mut routes = OpenApiRouter::new().routes(routes!(receive)).route("/api/webhooks/clerk", post(receive));
    // The document has both.
    let paths = &mut routes.get_openapi_mut().paths.paths;
    if let Some(again) = paths.get("/webhooks/clerk").cloned() {
        paths.insert("/api/webhooks/clerk".to_owned(), again);
    }
    Ok(routes.with_state(endpoint))
}

#[derive(Clone)]
struct Endpoint {
    app: App,
    verifier: Option<Arc<Verifier>>,
    hookdeck: Option<Arc<Hookdeck>>,
}

/// The headers of a signed delivery.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct SignatureHeaders {
    /// The id of the message.
    #[param(rename = "svix-id")]
    pub id: Option<String>,
    /// When it was signed.
    #[param(rename = "svix-timestamp")]
    pub timestamp: Option<String>,
    /// The signature.
    #[param(rename = "svix-signature")]
    pub signature: Option<String>,
}

/// A signed delivery of the identity provider.
#[utoipa::path(post, path = "/webhooks/clerk", tag = "webhooks", params(SignatureHeaders), request_body = Object,
    responses((status = 200, description = "What became of it", body = Object)))]
async fn receive(State(endpoint): State<Endpoint>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let Some(verifier) = &endpoint.verifier else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "webhooks_not_configured",
            "set CLERK_WEBHOOK_SECRET to the endpoint's signing secret",
        ));
    };
    // The sender is unknown until the body is verified, so the headers are checked first, and a slow body
    // loses its delivery slot to a newer request.
    let looked = match &endpoint.hookdeck {
        None => Verifier::look(&headers, Some(seconds_since_1970())),
        Some(_) => Hookdeck::look(&headers).and_then(|()| Verifier::look(&headers, None)),
    };
    looked.map_err(refuse)?;
    let mut place = endpoint.app.door().limits.delivery()?;
    let lost = || Limits::no_delivery_slot().with_header(header::CONNECTION, HeaderValue::from_static("close"));
    // The raw bytes: the signature is over them, not over what they mean.
    let body = tokio::select! {
        biased;
        body = body::read(body, MAX_BODY, endpoint.app.config().limits.body_timeout) => body?,
        () = place.lost() => return Err(lost()),
    };
    // Hookdeck retries deliveries for days, so the timestamp is not checked; its own signature is.
    if let Some(hookdeck) = &endpoint.hookdeck {
        hookdeck.verify(&headers, &body).map_err(refuse)?;
    }
    let svix_id = verifier.verify(&headers, &body, endpoint.hookdeck.is_some()).map_err(refuse)?;
    if !place.settle() {
        return Err(lost());
    }
    let parsed = event::parse(&body);
    match apply::apply(endpoint.app.store(), &svix_id, parsed, body, None).await {
        Ok(Answer::Done(answer)) => Ok(Json(answer).into_response()),
        Ok(Answer::Rejected(error)) => {
            let mut problem = Problem::from(error);
            problem.status = StatusCode::UNPROCESSABLE_ENTITY;
            problem.code = "delivery_rejected";
            Err(problem.with_header(DELIVERY, HeaderValue::from_static("abort-message")))
        }
        Err(error) => {
            // Always 500: the sender retries.
            tracing::error!(svix_id, error = %error, "delivery failed");
            Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "delivery_failed",
                "the delivery could not be stored; send it again",
            ))
        }
    }
}

/// By the machine's clock, which the signature's check uses, too.
fn seconds_since_1970() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Tells Svix not to retry what can never succeed.
const DELIVERY: HeaderName = HeaderName::from_static("webhook-delivery");

fn refuse(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Headers(why) => Problem::new(StatusCode::BAD_REQUEST, "signature_headers", why),
        Refusal::Stale => Problem::new(
            StatusCode::UNAUTHORIZED,
            "stale_timestamp",
            "the timestamp is more than five minutes away from this server's clock",
        ),
        Refusal::Signature => {
            Problem::new(StatusCode::UNAUTHORIZED, "bad_signature", "no configured secret made this signature")
        }
    }
}
