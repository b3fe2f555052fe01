//! A user's database as a file, for an operator.

use std::sync::Arc;

use axum::{Extension, response::Response};
use rusqlite::Transaction;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::call::Call;
use crate::{
    app::App,
    error::{Error, Result},
    http::{
        download::{self, Downloads},
        query::Query,
        segment::UserPath,
    },
    sqlite::export,
    tenants::{copy::Form, disk::template::BOOKKEEPING},
};

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema, Default)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// A SQLite file.
    #[default]
    Sqlite,
    /// One JSON object a row and line.
    Ndjson,
    /// Statements that make it anew.
    Sql,
    /// RFC 4180.
    Csv,
}

impl Format {
    /// The form of text, its content type, and the ending of a file's name.
    fn parts(self) -> (Option<export::Form>, &'static str, &'static str) {
        match self {
            Self::Sqlite => (None, download::DATABASE, "db"),
            Self::Ndjson => (Some(export::Form::Ndjson), "application/x-ndjson", "ndjson"),
            Self::Sql => (Some(export::Form::Sql), "application/sql", "sql"),
            Self::Csv => (Some(export::Form::Csv), "text/csv; charset=utf-8", "csv"),
        }
    }
}

/// What to export.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ExportQuery {
    /// `sqlite` is the whole database as a file, and so is `sql`, as statements; `ndjson` and `csv` are the rows of one table.
    #[serde(default)]
    #[param(inline)]
    format: Format,
    /// Only this table; may be left out where there is only one.
    table: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(send)).layer(Extension(Arc::<Downloads>::default()))
}

/// A user's database as it is at one moment. The header `Repr-Digest` has its SHA-256.
#[utoipa::path(get, path = "/api/admin/tenants/{user_id}/export", tag = "operators", params(UserPath, ExportQuery),
    responses((status = 200, description = "The file, or text",
        content((Vec<u8> = "application/vnd.sqlite3"), (String = "application/sql"), (String = "application/x-ndjson"),
            (String = "text/csv")),
        headers(("Repr-Digest" = String, description = "SHA-256 of the content (RFC 9530)")))))]
async fn send(
    Call { app, author, id }: Call,
    Query(query): Query<ExportQuery>,
    Extension(downloads): Extension<Arc<Downloads>>,
) -> Result<Response> {
    let ExportQuery { format, table } = query;
    let (text, kind, ending) = format.parts();
    if text.is_none() && table.is_some() {
        return Err(Error::invalid("table", "a SQLite file has all tables; another format is of one table"));
    }
    app.store().find(&id).await?.ok_or_else(Error::unknown_tenant)?;
    let place = downloads.take(&id)?;
    // Written down before anything is read.
    let (now, target, result) = (app.clock().now(), id.clone(), format!("let out as {ending}"));
    let write = move |tx: &Transaction| author.record(tx, now, "tenants export", target.as_str(), &result);
    app.store().catalog().write(write).await?;
    let name = match &table {
        Some(table) => format!("{id}.{table}.{ending}"),
        None => format!("{id}.{ending}"),
    };
    let form = match text {
        None => Form::Database,
        Some(form) => Form::Written(Box::new(move |conn, out| {
            export::write(conn, form, table.as_deref(), |name| BOOKKEEPING.contains(&name), out)
        })),
    };
    let copy = app.store().export(&id, form, app.config().export.transfer_timeout).await?;
    Ok(download::answer(copy, place, kind, &name))
}
