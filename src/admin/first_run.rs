//! `/api/admin/first-run`: what there is yet to do before users have databases, and a sample of one.

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::tenants::{Created, create};
use crate::{
    app::App,
    catalog::{
        audit::Author,
        model::Profile,
        queries::{self, deliveries},
    },
    error::{Error, Result},
    tenants::id::TenantId,
};

/// The id of the sample.
const SAMPLE: &str = "sample_tenant";

/// What is set up and what is not.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "each is a step that is done or is not")]
pub struct FirstRun {
    /// Whether there is something to do yet: there is no webhook secret, or nobody has a database.
    pub needed: bool,
    /// Whether `CLERK_WEBHOOK_SECRET` is set.
    pub webhook_secret: bool,
    /// Whether `HOOKDECK_SIGNING_SECRET` is set, so that deliveries must come through Hookdeck.
    pub hookdeck: bool,
    /// Whether `CLERK_SECRET_KEY` is set, so that Clerk can be asked who exists.
    pub provider: bool,
    /// Whether a delivery has come that was no test.
    pub delivered: bool,
    /// Tenants that are not deleted.
    pub tenants: u64,
    /// The id of the sample.
    pub sample: String,
    /// Whether the sample is there.
    pub sampled: bool,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(look)).routes(routes!(make))
}

fn sample() -> Result<TenantId> {
    TenantId::parse(SAMPLE.as_bytes()).map_err(|e| Error::internal(format!("the sample's id: {e}")))
}

/// What there is yet to do before users have databases.
#[utoipa::path(get, path = "/api/admin/first-run", tag = "operators",
    responses((status = 200, description = "What is set up and what is not", body = FirstRun)))]
async fn look(State(app): State<App>) -> Result<Json<FirstRun>> {
    let id = sample()?;
    let looked = app
        .store()
        .catalog()
        .query(move |conn| Ok((queries::counts(conn)?, deliveries::newest(conn)?, queries::find(conn, &id)?)));
    let (counts, newest, found) = looked.await?;
    let config = app.config();
    let tenants = counts.active + counts.suspended + counts.quarantined;
    let webhook_secret = config.webhooks.clerk_webhook_secret.is_some();
    Ok(Json(FirstRun {
        needed: !webhook_secret || tenants == 0,
        webhook_secret,
        hookdeck: config.webhooks.hookdeck_signing_secret.is_some(),
        provider: config.sync.provider.clerk_secret_key.is_some(),
        delivered: newest.is_some(),
        tenants,
        sample: SAMPLE.to_owned(),
        sampled: found.is_some(),
    }))
}

/// Makes a sample of a tenant, to look at. Nobody signs in as it, and a reconcile with the provider deletes it.
#[utoipa::path(post, path = "/api/admin/sample-tenants", tag = "operators", responses(
    (status = 201, description = "It is there now", body = Created), (status = 200, description = "It was there", body = Created)))]
async fn make(State(app): State<App>, Extension(author): Extension<Author>) -> Result<(StatusCode, Json<Created>)> {
    let profile = Profile {
        email: Some("sample@example.com".to_owned()),
        first_name: Some("Sample".to_owned()),
        last_name: Some("Tenant".to_owned()),
        ..Profile::default()
    };
    create(&app, &sample()?, profile, &author).await
}
