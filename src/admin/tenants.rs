//! Users' databases, as an operator sees and changes them.

use std::path::PathBuf;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::guard::Target;
use crate::{
    app::App,
    catalog::model::{Counts, Profile, Row, State as TenantState},
    error::{Error, ErrorKind, Result},
    http::{body, problem::Problem},
    tenants::{id::TenantId, store::Store},
};

/// A page of tenants.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tenants {
    /// In the order of ids.
    pub tenants: Vec<Row>,
    /// How many there are in each state.
    pub counts: Counts,
}

/// A tenant and its file.
#[derive(Debug, Serialize, Deserialize)]
pub struct OneTenant {
    /// What is known of it.
    #[serde(flatten)]
    pub row: Row,
    /// Where its file is.
    pub path: PathBuf,
    /// How large the file is; none if it is missing.
    pub file_bytes: Option<u64>,
    /// The newest schema there is.
    pub newest_schema: i32,
}

/// A tenant to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantDraft {
    /// Its id.
    pub id: String,
    /// Its user's email address.
    #[serde(default)]
    pub email: Option<String>,
}

/// A tenant that is there now.
#[derive(Debug, Serialize, Deserialize)]
pub struct Created {
    /// Its id.
    pub id: TenantId,
    /// Whether it was not there before.
    pub created: bool,
}

/// Why a tenant is suspended.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
pub async fn create(store: &Store, draft: TenantDraft) -> Result<Created> {
    let id = TenantId::parse(draft.id.as_bytes()).map_err(|e| Error::invalid("id", e.to_string()))?;
    let made = store.create(&id, Profile { email: draft.email, ..Profile::default() }).await;
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

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/admin/tenants", get(index).post(make))
        .route("/api/admin/tenants/{user_id}", get(show).delete(remove))
        .route("/api/admin/tenants/{user_id}/suspend", post(suspend))
        .route("/api/admin/tenants/{user_id}/resume", post(resume))
        .route("/api/admin/tenants/{user_id}/restore", post(restore))
}

async fn index(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Tenants>> {
    let (mut state, mut after, mut limit) = (None, None, PAGE);
    for pair in query.as_deref().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value: Vec<u8> = percent_encoding::percent_decode_str(value).collect();
        let text = std::str::from_utf8(&value).unwrap_or_default();
        match name {
            "state" => state = Some(text.parse::<TenantState>().map_err(|e| Error::malformed("state", e))?),
            "after" => {
                after = Some(TenantId::parse(&value).map_err(|e| Error::malformed("after", e.to_string()))?);
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

async fn make(State(app): State<App>, body: Body) -> Result<Response, Problem> {
    let draft: TenantDraft = body::parse(&super::read(&app, body).await?)?;
    let target = Target(draft.id.clone());
    let mut response = match create(app.store(), draft).await {
        Ok(made) => {
            let status = if made.created { StatusCode::CREATED } else { StatusCode::OK };
            (status, Json(made)).into_response()
        }
        Err(error) => error.into_response(),
    };
    response.extensions_mut().insert(target);
    Ok(response)
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<OneTenant>> {
    Ok(Json(describe(app.store(), &parse(&id)?).await?))
}

async fn suspend(State(app): State<App>, Path(id): Path<String>, body: Body) -> Result<Json<Row>, Problem> {
    let id = parse(&id)?;
    let Reason { reason } = body::parse(&super::read(&app, body).await?)?;
    Ok(Json(app.store().suspend(&id, &reason).await?))
}

async fn resume(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Row>> {
    Ok(Json(app.store().resume(&parse(&id)?).await?))
}

async fn restore(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Row>> {
    Ok(Json(app.store().restore(&parse(&id)?).await?))
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Row>> {
    Ok(Json(app.store().delete(&parse(&id)?).await?))
}

fn parse(id: &str) -> Result<TenantId> {
    TenantId::parse(id.as_bytes()).map_err(|_| Error::unknown_tenant())
}
