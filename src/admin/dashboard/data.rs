//! A tenant's tables: what there is, rows by page, the answer to a SELECT. The routes write each look into the audit trail.

use askama::Template;
use axum::{
    body::Body,
    http::{Method, StatusCode},
    response::Response,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    operator::{Asked, Change, Operator},
    page::{Frame, html},
    view,
};
use crate::{
    admin::browse::SelectDraft,
    http::{
        problem::Problem,
        segment::{Segment, encode, parameters},
    },
    sqlite::browse::{Cell, ColumnInfo, IndexInfo, RowPage, Selected, TableInfo, TableKind, TableList},
};

/// Rows on a page, and of an answer.
const ROWS: u32 = 50;
const ANSWER: u32 = 200;

/// What each of these pages has: whose data it is, and the form for a SELECT.
struct Head {
    id: String,
    /// The tenant's page, and that of its tables.
    tenant: String,
    data: String,
    sql: String,
}

impl Head {
    fn of(id: &str, sql: &str) -> Self {
        let tenant = format!("/admin/tenants/{}", encode(id));
        let data = format!("{tenant}/data");
        // What a browser cannot send back.
        Self { id: view::cell(id), tenant, data, sql: sql.replace('\0', "\u{fffd}") }
    }

    fn route(&self) -> String {
        format!("/api{}/browse", self.tenant)
    }
}

/// A table in the list.
struct Line {
    href: String,
    name: String,
    kind: &'static str,
    columns: String,
    indexes: String,
    rows: String,
}

#[derive(Template)]
#[template(path = "data.html")]
struct Tables {
    frame: Frame,
    head: Head,
    lines: Vec<Line>,
    more: bool,
}

/// A value in a row.
struct Shown {
    text: String,
    /// The class of its cell.
    class: &'static str,
    /// How long the whole value is, where it is not all here.
    length: String,
}

#[derive(Template)]
#[template(path = "data_rows.html")]
struct RowsPage {
    frame: Frame,
    head: Head,
    name: String,
    kind: &'static str,
    made_by: String,
    about: Vec<Column>,
    indexes: Vec<Index>,
    columns: Vec<String>,
    rows: Vec<Vec<Shown>>,
    first: u64,
    next: Option<String>,
    /// The first page, on others.
    begin: Option<String>,
    /// All of the table as CSV; none of a view, which is no table of an export.
    csv: Option<String>,
}

struct Column {
    name: String,
    declared: String,
    notes: String,
}

struct Index {
    name: String,
    columns: String,
    notes: String,
}

#[derive(Template)]
#[template(path = "data_answer.html")]
struct Answer {
    frame: Frame,
    head: Head,
    /// Why there is no answer.
    failed: String,
    columns: Vec<String>,
    rows: Vec<Vec<Shown>>,
    more: bool,
}

/// Which table, and from where on.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    table: String,
    #[serde(default)]
    cursor: String,
}

/// `GET /admin/tenants/{user_id}/data`: the tables, or the rows of one.
pub(super) async fn page(
    operator: Operator,
    Segment(id): Segment,
    Asked(wanted): Asked<Wanted>,
) -> Result<Response, Problem> {
    let head = Head::of(&id, "");
    if wanted.table.is_empty() {
        let list: TableList = operator.get(&head.route()).await?;
        let lines = list.tables.iter().map(|table| line(&head, table)).collect();
        let frame = operator.frame(format!("{} · data", head.id), "/admin/tenants");
        return Ok(html(StatusCode::OK, &Tables { frame, lines, more: list.more, head }));
    }
    let place = parameters(&[("cursor", wanted.cursor.as_str())]);
    let route = format!("{}/rows?limit={ROWS}&table={}{place}", head.route(), encode(&wanted.table));
    let found: RowPage = operator.get(&route).await?;
    Ok(html(StatusCode::OK, &rows(&operator, head, found)))
}

fn rows(operator: &Operator, head: Head, found: RowPage) -> RowsPage {
    let RowPage { table, columns, rows, before, next_cursor } = found;
    let page = format!("{}?table={}", head.data, encode(&table.name));
    let is_exported = matches!(table.kind, TableKind::Table | TableKind::Virtual);
    RowsPage {
        frame: operator.frame(format!("{} · {}", view::cell(&table.name), head.id), "/admin/tenants"),
        name: view::cell(&table.name),
        kind: kind(table.kind),
        made_by: view::lines(table.sql.as_deref().unwrap_or_default()),
        about: table.columns.iter().map(column).collect(),
        indexes: table.indexes.iter().map(index).collect(),
        columns: columns.iter().map(|name| view::cell(name)).collect(),
        first: before + u64::from(!rows.is_empty()),
        rows: rows.iter().map(|row| row.iter().map(shown).collect()).collect(),
        next: next_cursor.map(|next| format!("{page}&cursor={}", encode(&next))),
        begin: (before > 0).then_some(page),
        csv: is_exported.then(|| format!("{}/export?format=csv&table={}", head.tenant, encode(&table.name))),
        head,
    }
}

fn line(head: &Head, table: &TableInfo) -> Line {
    let rows = match (table.rows, table.more_rows) {
        (None, _) => String::new(),
        (Some(rows), false) => view::number(rows),
        (Some(rows), true) => format!("more than {}", view::number(rows)),
    };
    let count = |n: usize| view::number(n as u64);
    Line {
        href: format!("{}?table={}", head.data, encode(&table.name)),
        name: view::cell(&table.name),
        kind: kind(table.kind),
        columns: count(table.columns.len()),
        indexes: count(table.indexes.len()),
        rows,
    }
}

fn kind(of: TableKind) -> &'static str {
    match of {
        TableKind::Table => "table",
        TableKind::View => "view",
        TableKind::Virtual => "virtual table",
        TableKind::Shadow => "content of a virtual table",
    }
}

fn column(of: &ColumnInfo) -> Column {
    let key = if of.key > 0 { format!("primary key, {}", of.key) } else { String::new() };
    let default = of.default.as_deref().map(|sql| format!("default {}", view::cell(sql))).unwrap_or_default();
    let [null, computed] = [(of.nullable, "", "not null"), (of.computed, "computed", "")]
        .map(|(is, yes, no)| if is { yes } else { no }.to_owned());
    let notes = [key, null, default, computed].into_iter().filter(|note| !note.is_empty());
    Column {
        name: view::cell(&of.name),
        declared: view::cell(&of.declared),
        notes: notes.collect::<Vec<_>>().join(", "),
    }
}

fn index(of: &IndexInfo) -> Index {
    let columns = of.columns.iter().map(|name| name.as_deref().unwrap_or("(an expression)"));
    let notes = [(of.unique, "unique"), (of.partial, "of some rows")];
    Index {
        name: view::cell(&of.name),
        columns: view::cell(&columns.collect::<Vec<_>>().join(", ")),
        notes: notes.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect::<Vec<_>>().join(", "),
    }
}

fn shown(cell: &Cell) -> Shown {
    let length = cell.bytes.map(|bytes| format!("… {} in all", view::size(bytes))).unwrap_or_default();
    let (text, class) = match cell.kind.as_str() {
        "null" => ("null".to_owned(), "gone"),
        "integer" | "real" => (cell.text.clone(), "n"),
        "blob" => (format!("x'{}'", cell.text), "blob"),
        _ => (view::value(&cell.text), ""),
    };
    Shown { text, class, length }
}

/// The form for a SELECT.
#[derive(Deserialize)]
pub(super) struct Statement {
    #[serde(default)]
    sql: String,
    #[serde(default)]
    format: String,
    #[serde(default)]
    spreadsheet: bool,
}

/// `POST /admin/tenants/{user_id}/data`: the answer as a page, or as a file. A post, so that a statement is in no address.
pub(super) async fn select(
    Segment(id): Segment,
    Change { operator, form }: Change<Statement>,
) -> Result<Response, Problem> {
    let head = Head::of(&id, &form.sql);
    let draft = json!(SelectDraft { sql: form.sql });
    let asked = if form.format == "csv" {
        let route = format!("{}?format=csv&spreadsheet={}", head.route(), form.spreadsheet);
        operator.pass(Method::POST, &route, Body::from(draft.to_string())).await
    } else {
        let route = format!("{}?limit={ANSWER}", head.route());
        let found = operator.call::<Selected>(Method::POST, &route, Some(draft)).await;
        found.map(|found| answer(&operator, Head::of(&id, &head.sql), &found))
    };
    asked.or_else(|problem| {
        // What is wrong with the statement is told beside it.
        let is_the_statements = problem.field.as_deref() == Some("sql")
            || matches!(problem.code, "too_large" | "query_timeout" | "malformed_request" | "invalid_field");
        if !is_the_statements {
            return Err(problem);
        }
        let page = Answer {
            frame: frame(&operator, &head),
            head,
            failed: view::long(&problem.detail),
            columns: Vec::new(),
            rows: Vec::new(),
            more: false,
        };
        Ok(html(problem.status, &page))
    })
}

fn frame(operator: &Operator, head: &Head) -> Frame {
    operator.frame(format!("{} · answer", head.id), "/admin/tenants")
}

fn answer(operator: &Operator, head: Head, found: &Selected) -> Response {
    let page = Answer {
        frame: frame(operator, &head),
        head,
        failed: String::new(),
        columns: found.columns.iter().map(|name| view::cell(name)).collect(),
        rows: found.rows.iter().map(|row| row.iter().map(shown).collect()).collect(),
        more: found.more,
    };
    html(StatusCode::OK, &page)
}
