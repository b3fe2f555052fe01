//! Users' databases, as an operator sees and changes them.

use std::path::PathBuf;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    call::{Call, read},
    guard::Target,
    quota::OwnQuota,
};
use crate::{
    app::App,
    catalog::{
        audit::Author,
        model::{Counts, Profile, Row, State as TenantState},
        queries::{
            self,
            search::{self, Cursor, Listing, Sort},
        },
    },
    error::{Error, ErrorKind, Result},
    http::{
        problem::Problem,
        query::{Query, up_to},
        segment::UserPath,
    },
    sqlite::{migrate::Step, wal::wal_of},
    tenants::{disk::path::TenantPaths, id::TenantId, store::Store},
};

/// A page of tenants.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Tenants {
    /// In the order that was asked for.
    pub tenants: Vec<Row>,
    /// How many there are in each state.
    pub counts: Counts,
    /// The `cursor` of the next page; none on the last one. A page of a search may have few users and a next one.
    pub next_cursor: Option<String>,
}

/// A tenant and its file.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OneTenant {
    /// What is known of it.
    #[serde(flatten)]
    pub row: Row,
    /// Where its file is.
    pub path: String,
    /// How large the file is; none if it is missing.
    pub file_bytes: Option<u64>,
    /// The newest schema there is.
    pub newest_schema: i32,
    /// What it may use, and who set that.
    pub may_use: OwnQuota,
    /// The files that it has, with write-ahead logs, what is in the trash, and what an import replaced.
    #[serde(default)]
    pub files: Vec<TenantFile>,
    /// The migrations of the schema, oldest first.
    #[serde(default)]
    pub migrations: Vec<TenantMigration>,
}

/// A file of a tenant.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TenantFile {
    /// Where it is.
    pub path: String,
    /// How large it is.
    pub bytes: u64,
}

/// A migration of the tenants' schema.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TenantMigration {
    /// Its version.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// Whether the tenant's file has it, as far as is known since it was last opened.
    pub ran: bool,
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
    /// What its user is told: 1 to 500 characters, without control characters.
    pub reason: String,
}

/// The longest reason, in characters.
const LONGEST_REASON: usize = 500;

/// A reason as it is kept, with each tenant that it is of: one line of some words.
pub(super) fn checked_reason(text: &str) -> Result<String> {
    let text = text.trim();
    if !(1..=LONGEST_REASON).contains(&text.chars().count()) || text.contains(char::is_control) {
        let why = format!("a line of 1 to {LONGEST_REASON} characters, none of them a control character");
        return Err(Error::invalid("reason", why));
    }
    Ok(text.to_owned())
}

/// The confirmation of a purge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    yes: bool,
}

/// Whose data is to be adopted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Adoption {
    from: String,
    #[serde(default)]
    replace: bool,
}

/// Which tenants to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TenantQuery {
    /// Only those in this state.
    #[param(inline)]
    state: Option<TenantState>,
    /// After this id, in the order of ids.
    #[param(inline)]
    after: Option<TenantId>,
    /// Whose id, address or name has this text; newest first. One or two characters are the beginning of an id.
    q: Option<String>,
    /// The order, where no text is searched for.
    #[param(inline)]
    #[serde(default)]
    sort: Sort,
    /// The `next_cursor` of the page before, with the same other parameters.
    cursor: Option<String>,
    /// Users on the page.
    #[serde(default = "most", deserialize_with = "up_to::<1000, _>")]
    #[param(minimum = 1, maximum = 1000)]
    limit: u32,
}

fn most() -> u32 {
    1000
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(index, make))
        .routes(routes!(show, remove))
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(restore))
        .routes(routes!(purge))
        .routes(routes!(revive))
        .routes(routes!(adopt))
}

/// Users' databases: all in some order, or those that a search finds.
#[utoipa::path(get, path = "/api/admin/tenants", tag = "operators", params(TenantQuery),
    responses((status = 200, description = "A page", body = Tenants)))]
async fn index(State(app): State<App>, Query(query): Query<TenantQuery>) -> Result<Json<Tenants>> {
    let listing = query.listing()?;
    let looked = app.store().catalog().query(move |conn| Ok((search::page(conn, &listing)?, queries::counts(conn)?)));
    let (found, counts) = looked.await?;
    let next_cursor = found.next.map(|cursor| cursor.to_string());
    Ok(Json(Tenants { tenants: found.rows, counts, next_cursor }))
}

impl TenantQuery {
    fn listing(self) -> Result<Listing> {
        let Self { state, after, q, sort, cursor, limit } = self;
        let text = q.filter(|text| !text.trim().is_empty());
        if text.as_ref().is_some_and(|text| text.chars().count() > search::LONGEST) {
            return Err(Error::invalid("q", format!("a text of at most {} characters", search::LONGEST)));
        }
        let cursor = cursor.map(|cursor| cursor.parse::<Cursor>().map_err(|why| Error::malformed("cursor", why)));
        let cursor = match (cursor.transpose()?, after) {
            (None, Some(_)) if sort != Sort::Id || text.is_some() => {
                return Err(Error::invalid("after", "an id is a place in the order of ids only; use cursor"));
            }
            (None, after) => after.as_ref().map(Cursor::after),
            (cursor, _) => cursor,
        };
        Ok(Listing { text, state, sort, cursor, limit })
    }
}

/// Creates a user's database.
#[utoipa::path(post, path = "/api/admin/tenants", tag = "operators", request_body = TenantDraft, responses(
    (status = 201, description = "It is there now", body = Created), (status = 200, description = "It was there", body = Created)))]
async fn make(
    State(app): State<App>,
    Extension(author): Extension<Author>,
    body: Body,
) -> Result<(StatusCode, Json<Created>), Response> {
    let TenantDraft { id, email } = read(&app, body).await.map_err(IntoResponse::into_response)?;
    let failed = |error: Error| (Extension(Target(id.clone())), error).into_response();
    let parsed = TenantId::parse(id.as_bytes()).map_err(|e| failed(Error::invalid("id", e.to_string())))?;
    create(&app, &parsed, Profile { email, ..Profile::default() }, &author).await.map_err(failed)
}

/// Creates a tenant, if it is not there.
pub(super) async fn create(
    app: &App,
    id: &TenantId,
    profile: Profile,
    author: &Author,
) -> Result<(StatusCode, Json<Created>)> {
    match app.store().create(id, profile, author).await {
        Ok((_, created)) => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            Ok((status, Json(Created { id: id.clone(), created })))
        }
        // To an operator a deleted tenant is no secret.
        Err(error) if error.kind() == ErrorKind::UnknownTenant => {
            let why = format!("{id} is deleted; `cubby tenants restore {id}` brings it back");
            Err(Error::new(ErrorKind::Conflict, why))
        }
        Err(error) => Err(error),
    }
}

/// All that is known of a user.
#[utoipa::path(get, path = "/api/admin/tenants/{user_id}", tag = "operators", params(UserPath),
    responses((status = 200, description = "The user", body = OneTenant)))]
async fn show(Call { app, id, .. }: Call) -> Result<Json<OneTenant>> {
    let store = app.store();
    let row = store.find(&id).await?.ok_or_else(Error::unknown_tenant)?;
    let live = store.layout().tenant(&id);
    let path = match row.state {
        TenantState::Deleted if !live.exists() => store.layout().trashed(&id),
        _ => live,
    };
    let file_bytes = std::fs::metadata(&path).map(|found| found.len()).ok();
    let path = path.display().to_string();
    let may_use = OwnQuota::of(store, &row);
    let (files, migrations) = (files(store, &id), migrations(store, &row));
    let newest_schema = store.schema().version();
    Ok(Json(OneTenant { row, path, file_bytes, newest_schema, may_use, files, migrations }))
}

fn files(store: &Store, id: &TenantId) -> Vec<TenantFile> {
    let TenantPaths { live, trashed, replaced } = store.layout().paths(id);
    let all = [live, trashed, replaced].into_iter().flat_map(|path| [path.clone(), wal_of(&path)]);
    let there = |path: PathBuf| {
        let bytes = std::fs::symlink_metadata(&path).ok()?.len();
        Some(TenantFile { path: path.display().to_string(), bytes })
    };
    all.filter_map(there).collect()
}

fn migrations(store: &Store, row: &Row) -> Vec<TenantMigration> {
    let known = row.schema_version.filter(|_| row.purged.is_none());
    let migration = |step: Step| TenantMigration {
        version: step.version,
        name: step.to_string(),
        ran: known.is_some_and(|version| step.version <= version),
    };
    store.schema().steps().into_iter().map(migration).collect()
}

/// Refuses a user's reads and writes.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/suspend", tag = "operators", params(UserPath),
    request_body = Reason, responses((status = 200, description = "The user", body = Row)))]
async fn suspend(Call { app, author, id }: Call, body: Body) -> Result<Json<Row>, Problem> {
    let Reason { reason } = read(&app, body).await?;
    Ok(Json(app.store().suspend(&id, &checked_reason(&reason)?, &author).await?))
}

/// Lets a suspended or quarantined user be served again.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/resume", tag = "operators", params(UserPath),
    responses((status = 200, description = "The user", body = Row)))]
async fn resume(Call { app, author, id }: Call) -> Result<Json<Row>> {
    Ok(Json(app.store().resume(&id, &author).await?))
}

/// Brings a deleted user back.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/restore", tag = "operators", params(UserPath),
    responses((status = 200, description = "The user", body = Row)))]
async fn restore(Call { app, author, id }: Call) -> Result<Json<Row>> {
    Ok(Json(app.store().restore(&id, &author).await?))
}

/// Deletes a user; the file is kept until its retention ends.
#[utoipa::path(delete, path = "/api/admin/tenants/{user_id}", tag = "operators", params(UserPath),
    responses((status = 200, description = "The user", body = Row)))]
async fn remove(Call { app, author, id }: Call) -> Result<Json<Row>> {
    Ok(Json(app.store().delete(&id, &author).await?))
}

/// Erases a user's data, for good.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/purge", tag = "operators", params(UserPath),
    request_body = Confirmation, responses((status = 200, description = "The user", body = Row)))]
async fn purge(Call { app, author, id }: Call, body: Body) -> Result<Json<Row>, Problem> {
    let Confirmation { yes } = read(&app, body).await?;
    if !yes {
        return Err(Error::invalid("yes", "true: this erases the user's data for good").into());
    }
    Ok(Json(app.store().purge(&id, &author).await?))
}

/// Lets a purged user's id be used again, empty.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/revive", tag = "operators", params(UserPath),
    responses((status = 200, description = "The user", body = Row)))]
async fn revive(Call { app, author, id }: Call) -> Result<Json<Row>> {
    Ok(Json(app.store().revive(&id, &author).await?))
}

/// Gives a user the data of another id.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/adopt", tag = "operators", params(UserPath),
    request_body = Adoption, responses((status = 200, description = "The user", body = Row)))]
async fn adopt(Call { app, author, id }: Call, body: Body) -> Result<Json<Row>, Problem> {
    let Adoption { from, replace } = read(&app, body).await?;
    let from = TenantId::parse(from.as_bytes()).map_err(|e| Error::invalid("from", e.to_string()))?;
    Ok(Json(app.store().adopt(&id, &from, replace, &author).await?))
}
