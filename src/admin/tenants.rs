//! Users' databases, as an operator sees and changes them.

use std::path::PathBuf;

use axum::{
    Extension, Json,
    body::Body,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::guard::Target;
use crate::{
    app::App,
    catalog::{
        audit::Author,
        model::{Counts, Profile, Row, State as TenantState},
    },
    error::{Error, ErrorKind, Result},
    http::{body, problem::Problem, query::parameters, segment::Segment},
    tenants::{id::TenantId, store::Store},
};

/// A page of tenants.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Tenants {
    /// In the order of ids.
    pub tenants: Vec<Row>,
    /// How many there are in each state.
    pub counts: Counts,
}

/// A tenant and its file.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OneTenant {
    /// What is known of it.
    #[serde(flatten)]
    pub row: Row,
    /// Where its file is.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// How large the file is; none if it is missing.
    pub file_bytes: Option<u64>,
    /// The newest schema there is.
    pub newest_schema: i32,
}

/// A tenant to be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantDraft {
    /// Its id.
    pub id: String,
    /// Its user's email address.
    #[serde(default)]
    pub email: Option<String>,
}

/// A tenant that is there now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Created {
    /// Its id.
    #[schema(value_type = String)]
    pub id: TenantId,
    /// Whether it was not there before.
    pub created: bool,
}

/// Why a tenant is suspended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// What its user is told.
    pub reason: String,
}

/// Tenants on a page, at most and unless said otherwise.
const PAGE: u32 = 1000;

/// A tenant with where its file is.
pub async fn describe(store: &Store, id: &TenantId) -> Result<OneTenant> {
    let row = store.find(id).await?.ok_or_else(Error::unknown_tenant)?;
    let live = store.layout().tenant(id);
    let path = match row.state {
        TenantState::Deleted if !live.exists() => store.layout().trashed(id),
        _ => live,
    };
    let file_bytes = std::fs::metadata(&path).map(|found| found.len()).ok();
    Ok(OneTenant { row, path, file_bytes, newest_schema: store.schema().version() })
}

/// Creates a tenant, or finds it there.
pub async fn create(store: &Store, draft: TenantDraft, author: &Author) -> Result<Created> {
    let id = TenantId::parse(draft.id.as_bytes()).map_err(|e| Error::invalid("id", e.to_string()))?;
    let made = store.create(&id, Profile { email: draft.email, ..Profile::default() }, author).await;
    match made {
        Ok((_, created)) => Ok(Created { id, created }),
        // To an operator a deleted tenant is no secret.
        Err(error) if error.kind() == ErrorKind::UnknownTenant => Err(Error::new(
            ErrorKind::Conflict,
            format!("{id} is deleted; `cubby tenants restore {id}` brings it back"),
        )),
        Err(error) => Err(error),
    }
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(index, make))
        .routes(routes!(show, remove))
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(restore))
}

#[utoipa::path(get, path = "/api/admin/tenants", tag = "operators", description = "Users' databases, in the order of ids", params(("state" = Option<TenantState>, Query, description = "Only those in this state"), ("after" = Option<String>, Query, description = "After this id", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$"), ("limit" = Option<u32>, Query, description = "Users on the page", minimum = 1, maximum = 1000)), responses((status = 200, description = "A page", body = Tenants)))]
async fn index(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Tenants>> {
    let (mut state, mut after, mut limit) = (None, None, PAGE);
    for (name, value) in parameters(query.as_deref()) {
        let text = value.unwrap_or_default();
        match name.as_ref() {
            "state" => state = Some(text.parse::<TenantState>().map_err(|e| Error::malformed("state", e))?),
            "after" => {
                after = Some(TenantId::parse(text.as_bytes()).map_err(|e| Error::malformed("after", e.to_string()))?);
            }
            "limit" => {
                let number = text.parse().ok().filter(|n| (1..=PAGE).contains(n));
                limit = number.ok_or_else(|| Error::malformed("limit", format!("limit is from 1 to {PAGE}")))?;
            }
            _ => {}
        }
    }
    let tenants = app.store().list(state, after, limit).await?;
    Ok(Json(Tenants { tenants, counts: app.store().counts().await? }))
}

#[utoipa::path(post, path = "/api/admin/tenants", tag = "operators", description = "Creates a user's database", request_body = TenantDraft, responses((status = 201, description = "It is there now", body = Created), (status = 200, description = "It was there", body = Created)))]
async fn make(State(app): State<App>, Extension(author): Extension<Author>, body: Body) -> Result<Response, Problem> {
    let draft: TenantDraft = body::parse(&super::read(&app, body).await?)?;
    let target = Target(draft.id.clone());
    let mut response = match create(app.store(), draft, &author).await {
        Ok(made) => {
            let status = if made.created { StatusCode::CREATED } else { StatusCode::OK };
            (status, Json(made)).into_response()
        }
        Err(error) => error.into_response(),
    };
    response.extensions_mut().insert(target);
    Ok(response)
}

#[utoipa::path(get, path = "/api/admin/tenants/{user_id}", tag = "operators", description = "All that is known of a user", params(("user_id" = String, Path, description = "The user", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$")), responses((status = 200, description = "It", body = OneTenant)))]
async fn show(State(app): State<App>, Segment(id): Segment) -> Result<Json<OneTenant>> {
    Ok(Json(describe(app.store(), &parse(&id)?).await?))
}

#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/suspend", tag = "operators", description = "Refuses a user's reads and writes", params(("user_id" = String, Path, description = "The user", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$")), request_body = Reason, responses((status = 200, description = "The user as it is then", body = Row)))]
async fn suspend(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
    body: Body,
) -> Result<Json<Row>, Problem> {
    let id = parse(&id)?;
    let Reason { reason } = body::parse(&super::read(&app, body).await?)?;
    Ok(Json(app.store().suspend(&id, &reason, &author).await?))
}

#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/resume", tag = "operators", description = "Lets a user be served again", params(("user_id" = String, Path, description = "The user", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$")), responses((status = 200, description = "The user as it is then", body = Row)))]
async fn resume(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
) -> Result<Json<Row>> {
    Ok(Json(app.store().resume(&parse(&id)?, &author).await?))
}

#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/restore", tag = "operators", description = "Brings a deleted user back", params(("user_id" = String, Path, description = "The user", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$")), responses((status = 200, description = "The user as it is then", body = Row)))]
async fn restore(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
) -> Result<Json<Row>> {
    Ok(Json(app.store().restore(&parse(&id)?, &author).await?))
}

#[utoipa::path(delete, path = "/api/admin/tenants/{user_id}", tag = "operators", description = "Deletes a user; the file is kept until its retention ends", params(("user_id" = String, Path, description = "The user", pattern = "^[A-Za-z0-9_.@:|+-]{1,128}$")), responses((status = 200, description = "The user as it is then", body = Row)))]
async fn remove(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    Segment(id): Segment,
) -> Result<Json<Row>> {
    Ok(Json(app.store().delete(&parse(&id)?, &author).await?))
}

fn parse(id: &str) -> Result<TenantId> {
    TenantId::parse(id.as_bytes()).map_err(|_| Error::unknown_tenant())
}
