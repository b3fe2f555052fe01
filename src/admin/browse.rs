//! Looking at users' databases: tables, rows by page, the answer to a SELECT. Nothing is changed by it, and each look is
//! written into the audit trail before anything is read.

use axum::{
    Json,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::call::{Call, read};
use crate::{
    app::App,
    error::{Error, ErrorKind, Result},
    http::{
        connection, download,
        problem::{Problem, brief},
        query::{Query, up_to},
        segment::UserPath,
    },
    sqlite::{
        browse::{self, Place, RowPage, Selected, TableList},
        guest::{Guest, SqlError},
    },
};

/// What a look is called in the audit trail, and how much of a statement is in it, in bytes.
const ACTION: &str = "tenants browse";
const TOLD: usize = 500;

/// Which rows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct RowsQuery {
    /// The table or view.
    table: String,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows on the page.
    #[serde(default = "fifty", deserialize_with = "up_to::<200, _>")]
    #[param(minimum = 1, maximum = 200)]
    limit: u32,
}

fn fifty() -> u32 {
    50
}

/// A statement.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectDraft {
    /// One SELECT.
    pub sql: String,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = SelectFormat)]
enum Format {
    /// Some rows, of long values the beginning.
    #[default]
    Json,
    /// All rows, whole.
    Csv,
}

/// How a statement is answered.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SelectQuery {
    /// JSON or CSV.
    #[serde(default)]
    #[param(inline)]
    format: Format,
    /// Rows in an answer that is JSON.
    #[serde(default = "hundred", deserialize_with = "up_to::<1000, _>")]
    #[param(minimum = 1, maximum = 1000)]
    limit: u32,
    /// Whether a text of CSV that a spreadsheet would take for a formula gets an apostrophe before it.
    #[serde(default)]
    spreadsheet: bool,
}

fn hundred() -> u32 {
    100
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(tables, select)).routes(routes!(rows))
}

/// The tables and views of a user's database, with columns and indexes.
#[utoipa::path(get, path = "/api/admin/tenants/{user_id}/browse", tag = "operators", params(UserPath),
    responses((status = 200, description = "The tables", body = TableList)))]
async fn tables(call: Call) -> Result<Json<TableList>, Problem> {
    let most = call.app.config().sql.answer();
    let list = look(&call, "its tables", move |guest| browse::list(guest, most)).await?;
    Ok(Json(list.map_err(|error| refusal("table", error))?))
}

/// Rows of a table or view, by page.
#[utoipa::path(get, path = "/api/admin/tenants/{user_id}/browse/rows", tag = "operators", params(UserPath, RowsQuery),
    responses((status = 200, description = "A page", body = RowPage)))]
async fn rows(call: Call, Query(query): Query<RowsQuery>) -> Result<Json<RowPage>, Problem> {
    let RowsQuery { table, cursor, limit } = query;
    let place = cursor.filter(|cursor| !cursor.is_empty()).map_or(Ok(Place::default()), |text| Place::parse(&text))?;
    let most = call.app.config().sql.answer();
    let what = format!("rows of {}", brief(&table, TOLD));
    let page = look(&call, &what, move |guest| browse::page(guest, &table, &place, limit, most)).await?;
    let unknown = || Error::new(ErrorKind::NotFound, "this user's database has no such table or view");
    Ok(Json(page.map_err(|error| refusal("table", error))?.ok_or_else(unknown)?))
}

/// The answer to one SELECT.
#[utoipa::path(post, path = "/api/admin/tenants/{user_id}/browse", tag = "operators", params(UserPath, SelectQuery),
    request_body = SelectDraft, responses((status = 200, description = "The answer",
        content((Selected = "application/json"), (String = "text/csv")))))]
async fn select(call: Call, Query(query): Query<SelectQuery>, body: Body) -> Result<Response, Problem> {
    let SelectDraft { sql } = read(&call.app, body).await?;
    let SelectQuery { format, limit, spreadsheet } = query;
    let what = brief(&sql, TOLD).into_owned();
    let most = call.app.config().sql.answer();
    if format == Format::Json {
        let found = look(&call, &what, move |guest| browse::select(guest, &sql, limit, most)).await?;
        return Ok(Json(found.map_err(|error| refusal("sql", error))?).into_response());
    }
    let found = look(&call, &what, move |guest| browse::csv(guest, &sql, spreadsheet, most)).await?;
    let text = found.map_err(|error| refusal("sql", error))?;
    connection::hold(text.len() as u64)?;
    let mut response = Body::from(text).into_response();
    let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let name = download::attachment(&format!("{}.csv", call.id));
    response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}

/// Reads a user's database, after the look is in the audit trail.
async fn look<T: Send + 'static>(
    Call { app, author, id }: &Call,
    what: &str,
    work: impl FnOnce(&Guest<'_>) -> Result<T, SqlError> + Send + 'static,
) -> Result<Result<T, SqlError>, Problem> {
    if !app.config().browse.admin_browse {
        let why =
            "users' data is not shown here, since CUBBY_ADMIN_BROWSE is false; whoever starts the server may set it";
        return Err(Problem::new(StatusCode::FORBIDDEN, "browse_off", why));
    }
    app.store().find(id).await?.ok_or_else(Error::unknown_tenant)?;
    let (now, target, by, result) = (app.clock().now(), id.clone(), author.clone(), format!("looked at {what}"));
    let write = move |tx: &Transaction| by.record(tx, now, ACTION, target.as_str(), &result);
    app.store().catalog().write(write).await?;
    let rules = app.config().sql.rules();
    Ok(app.store().look(id, rules.time, move |conn| browse::look(conn, &rules, work)).await?)
}

/// A statement's own error, as the fault of this part of the request.
fn refusal(field: &'static str, error: SqlError) -> Error {
    match error {
        SqlError { fatal: Some(fatal), .. } => fatal,
        SqlError { code: "SQLITE_NOMEM" | "SQLITE_TOOBIG", message, .. } => Error::new(ErrorKind::TooLarge, message),
        SqlError { message, .. } => Error::invalid(field, message),
    }
}
