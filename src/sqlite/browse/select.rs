//! The answer to one SELECT: as cells, some rows of it, or as CSV, all of it.

use std::borrow::Cow;

use super::{
    ask::{enough, run},
    cell::Cell,
    model::Selected,
};
use crate::sqlite::{
    guest::{Column, Guest, Sink, SqlError, Statement, ValueRef, text::first_word},
    rows::{csv_field, write_csv},
};

/// What a statement begins with that may be asked. The authorizer refuses those that write all the same.
const WORDS: [&str; 4] = ["SELECT", "WITH", "VALUES", "EXPLAIN"];

/// Runs a SELECT; up to `limit` rows of its answer, and no more than `most` bytes of them.
///
/// # Errors
/// That of the statement; that a single row is larger.
pub fn select(guest: &Guest<'_>, sql: &str, limit: u32, most: usize) -> Result<Selected, SqlError> {
    let mut answer = Answer {
        selected: Selected { columns: Vec::new(), rows: Vec::new(), more: false },
        limit: limit as usize,
        left: most,
        most,
    };
    let whole = ask(guest, sql, &mut answer)?;
    Ok(Selected { more: !whole, ..answer.selected })
}

/// The same, all rows as CSV with the names in the first line. With `for_spreadsheets` a text that such a program would take
/// for a formula has an apostrophe before it.
///
/// # Errors
/// Those of the statement; that the answer is larger than `most` bytes.
pub fn csv(guest: &Guest<'_>, sql: &str, for_spreadsheets: bool, most: usize) -> Result<Vec<u8>, SqlError> {
    let mut text = Text { out: Vec::new(), for_spreadsheets, most };
    ask(guest, sql, &mut text)?;
    Ok(text.out)
}

fn ask(guest: &Guest<'_>, sql: &str, sink: &mut dyn Sink) -> Result<bool, SqlError> {
    let first = first_word(sql).unwrap_or_default();
    if !WORDS.iter().any(|word| word.eq_ignore_ascii_case(first)) {
        let why = "here only one SELECT is run: a statement that begins with SELECT, WITH, VALUES or EXPLAIN";
        return Err(SqlError::new("SQLITE_READONLY", why));
    }
    run(guest, &Statement::new(sql), sink)
}

struct Answer {
    selected: Selected,
    limit: usize,
    left: usize,
    most: usize,
}

impl Answer {
    fn take(&mut self, bytes: usize) -> Result<(), SqlError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None if self.selected.rows.is_empty() => Err(too_large(self.most)),
            None => Err(enough()),
        }
    }
}

impl Sink for Answer {
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
        self.take(columns.iter().map(|column| column.name.len()).sum())?;
        self.selected.columns = columns.iter().map(|column| column.name.clone()).collect();
        Ok(())
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if self.selected.rows.len() == self.limit {
            return Err(enough());
        }
        let row: Vec<Cell> = values.iter().map(|value| Cell::of(*value)).collect();
        self.take(row.iter().map(Cell::length).sum())?;
        self.selected.rows.push(row);
        Ok(())
    }
}

struct Text {
    out: Vec<u8>,
    for_spreadsheets: bool,
    most: usize,
}

impl Text {
    fn shown<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        if self.for_spreadsheets { inert(text) } else { text }
    }

    fn field<'v>(&self, value: ValueRef<'v>) -> Option<Cow<'v, str>> {
        match value {
            ValueRef::Text(_) => csv_field(value).map(|text| self.shown(text)),
            _ => csv_field(value),
        }
    }

    fn write(&mut self, fields: &[Option<Cow<'_, str>>]) -> Result<(), SqlError> {
        let failed = |error: std::io::Error| SqlError::new("SQLITE_ERROR", error.to_string());
        write_csv(&mut self.out, fields).map_err(failed)?;
        if self.out.len() > self.most { Err(too_large(self.most)) } else { Ok(()) }
    }
}

impl Sink for Text {
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
        let name = |column: &Column| Cow::Owned(column.name.clone());
        let names: Vec<_> = columns.iter().map(|column| Some(self.shown(name(column)))).collect();
        self.write(&names)
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> Result<(), SqlError> {
        let length = |value: &ValueRef<'_>| match value {
            ValueRef::Text(text) => text.len(),
            ValueRef::Blob(bytes) => bytes.len() / 3 * 4,
            _ => 0,
        };
        // Before any of it is copied: a row may have thousands of the largest values.
        if self.out.len() + values.iter().map(length).sum::<usize>() > self.most {
            return Err(too_large(self.most));
        }
        let fields: Vec<_> = values.iter().map(|value| self.field(*value)).collect();
        self.write(&fields)
    }
}

/// A text that no spreadsheet takes for a formula (<https://owasp.org/www-community/attacks/CSV_Injection>).
fn inert(text: Cow<'_, str>) -> Cow<'_, str> {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) {
        true => Cow::Owned(format!("'{text}")),
        false => text,
    }
}

fn too_large(most: usize) -> SqlError {
    let why = format!(
        "the answer is larger than {most} bytes; ask for fewer rows at once, with LIMIT, or have CUBBY_SQL_ANSWER raised"
    );
    SqlError::new("SQLITE_TOOBIG", why)
}
