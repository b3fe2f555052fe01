//! What users used, by day: for bills.

use std::fmt::Write as _;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    catalog::{
        Catalog, queries,
        usage::{DayUse, KEPT_DAYS},
    },
    clock::day::Day,
    error::{Error, Result},
    http::query::Query,
    tenants::id::TenantId,
};

/// Rows that are in memory at once for one answer.
const PAGE: u32 = 1000;

/// The first line of the CSV.
const HEADING: &str = "day,user_id,bytes,requests,writes\r\n";

/// What users used, by day.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// In the order of days and ids. A user who was not used on a day has no row of it.
    pub usage: Vec<DayUse>,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// One object.
    #[default]
    Json,
    /// A line of names, then a line for each row.
    Csv,
}

/// Which days, and whose.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UsageQuery {
    /// The first day, in UTC; the first of this month if not given.
    #[param(value_type = Option<String>, example = "2026-11-01")]
    from: Option<Day>,
    /// The last day, which is in the answer, too; today if not given.
    #[param(value_type = Option<String>, example = "2026-11-30")]
    to: Option<Day>,
    /// Only this user's.
    #[param(inline)]
    user: Option<TenantId>,
    /// JSON or CSV.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(index))
}

/// What users used, by day: the size of the database, requests that reached it, and writes.
#[utoipa::path(get, path = "/api/admin/usage", tag = "operators", params(UsageQuery),
    responses((status = 200, description = "The days. An answer that is cut off has not all of them: JSON without its end, \
        and CSV without the end of the message", content((Usage = "application/json"), (String = "text/csv")))))]
async fn index(State(app): State<App>, Query(query): Query<UsageQuery>) -> Result<Response> {
    let today = Day::of(app.clock().now());
    let to = query.to.unwrap_or(today);
    let from = query.from.unwrap_or_else(|| to.first_of_month());
    if from > to {
        return Err(Error::invalid("from", format!("from: {from} is after {to}, the last day")));
    }
    if to.number() - from.number() > KEPT_DAYS {
        return Err(Error::invalid(
            "from",
            format!("from: at most {KEPT_DAYS} days before the last one; ask for a part"),
        ));
    }
    let rows = Rows { catalog: app.store().catalog().clone(), user: query.user, next: Some((from, String::new())), to };
    // A failure before the first byte is an answer of its own.
    let (first, rows) = rows.page().await?;
    let writer = Writer { format: query.format, begun: false, comma: false };
    let kind = match query.format {
        Format::Json => HeaderValue::from_static("application/json"),
        Format::Csv => HeaderValue::from_static("text/csv; charset=utf-8; header=present"),
    };
    let name = HeaderValue::try_from(format!("attachment; filename=\"usage-{from}-{to}.csv\""));
    let mut response = Body::from_stream(pieces(writer, first, rows)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if let (Format::Csv, Ok(name)) = (query.format, name) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// The rows of an answer that are still to be read.
struct Rows {
    catalog: Catalog,
    user: Option<TenantId>,
    /// After which day and id the next page begins; none after the last.
    next: Option<(Day, String)>,
    to: Day,
}

impl Rows {
    /// The next page, and the rest. Each page is a look of its own into the catalog: nothing is held open for a client
    /// that reads slowly.
    async fn page(mut self) -> Result<(Vec<DayUse>, Self)> {
        let Some((day, id)) = self.next.take() else { return Ok((Vec::new(), self)) };
        let (user, to) = (self.user.clone(), self.to);
        let found = self.catalog.query(move |conn| match user {
            // One search a day, and so at most a page of rows.
            Some(user) => (day.number()..=to.number())
                .filter_map(|day| queries::usage::of_day(conn, Day::from_number(day), &user).transpose())
                .collect(),
            None => queries::usage::page(conn, (day, &id), to, PAGE),
        });
        let rows = found.await?;
        if self.user.is_none() && rows.len() == PAGE as usize {
            self.next = rows.last().map(|last| (last.day, last.user_id.to_string()));
        }
        Ok((rows, self))
    }
}

/// Writes rows as CSV, or as one JSON object.
struct Writer {
    format: Format,
    begun: bool,
    comma: bool,
}

impl Writer {
    fn piece(&mut self, rows: &[DayUse], is_last: bool) -> Bytes {
        let mut text = String::with_capacity(rows.len() * 96);
        if !std::mem::replace(&mut self.begun, true) {
            text.push_str(if self.format == Format::Csv { HEADING } else { "{\"usage\":[" });
        }
        for row in rows {
            match self.format {
                Format::Json => {
                    if std::mem::replace(&mut self.comma, true) {
                        text.push(',');
                    }
                    text.push_str(&serde_json::to_string(row).unwrap_or_default());
                }
                // An id has neither commas nor quotes.
                Format::Csv => {
                    let DayUse { day, user_id, bytes, count } = row;
                    let _ = write!(text, "{day},{user_id},{bytes},{},{}\r\n", count.requests, count.writes);
                }
            }
        }
        if is_last && self.format == Format::Json {
            text.push_str("]}\n");
        }
        text.into()
    }
}

/// The answer's body, a page of rows at a time. An error cuts it off, so that no part is taken for all.
fn pieces(writer: Writer, first: Vec<DayUse>, rows: Rows) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    stream::try_unfold(Some((writer, Some(first), rows)), |state| async move {
        let Some((mut writer, first, rows)) = state else { return Ok(None) };
        let (page, rows) = match first {
            Some(page) => (page, rows),
            None => rows.page().await.map_err(|error| {
                tracing::error!(error = %error, "an answer with usage was cut off");
                std::io::Error::other(error)
            })?,
        };
        let is_last = rows.next.is_none();
        let piece = writer.piece(&page, is_last);
        Ok(Some((piece, (!is_last).then_some((writer, None, rows)))))
    })
}
