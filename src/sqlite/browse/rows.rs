//! Rows by page: after the key of the last one, where there is a key, so that no page costs more than the first.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    ask::{Each, all, enough, run, text},
    cell::Cell,
    model::{RowPage, TableInfo, TableKind},
    tables,
};
use crate::{
    error::{Error, Result},
    sqlite::{
        guest::{Guest, SqlError, Statement, Value, ValueRef},
        rows::{quoted, rowid_beside},
    },
};

/// The longest key in a cursor, in bytes; behind a longer one rows are counted off.
const LONGEST_KEY: usize = 1 << 10;

/// Where a page begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Rows on the pages before.
    n: u64,
    /// The key of the last of them; empty if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    k: Vec<Part>,
}

/// A value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Null,
    Integer(i64),
    /// Its bits, since JSON has no infinity.
    Real(u64),
    Text(String),
    /// A text that is no UTF-8, in hexadecimal.
    Bytes(String),
    Blob(String),
}

impl Place {
    /// Of a cursor.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if it is none.
    pub fn parse(cursor: &str) -> Result<Self> {
        let read = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|json| serde_json::from_slice(&json).ok());
        let read = read.filter(|place: &Self| i64::try_from(place.n).is_ok());
        read.ok_or_else(|| Error::malformed("cursor", "cursor: the next_cursor of the page before"))
    }

    fn cursor(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl Part {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number.to_bits()),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(text.to_owned()),
                Err(_) => Self::Bytes(hex::encode(bytes)),
            },
            ValueRef::Blob(bytes) => Self::Blob(hex::encode(bytes)),
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Text(text) | Self::Bytes(text) | Self::Blob(text) => text.len(),
            _ => 8,
        }
    }

    /// The parameter of this number, and its value.
    fn bound(&self, number: usize) -> (String, Value) {
        let bytes = |text: &String| Value::Blob(hex::decode(text).unwrap_or_default());
        let value = match self {
            Self::Null => Value::Null,
            Self::Integer(number) => Value::Integer(*number),
            Self::Real(bits) => Value::Real(f64::from_bits(*bits)),
            Self::Text(text) => Value::Text(text.clone()),
            Self::Bytes(text) => return (format!("CAST(?{number} AS TEXT)"), bytes(text)),
            Self::Blob(text) => bytes(text),
        };
        (format!("?{number}"), value)
    }
}

/// Up to `limit` rows of a table or view from a place on, and no more than `most` bytes of them; none if there is no such
/// table.
///
/// # Errors
/// Those of statements; that a single row is larger.
pub fn page(
    guest: &Guest<'_>,
    name: &str,
    place: &Place,
    limit: u32,
    most: usize,
) -> Result<Option<RowPage>, SqlError> {
    let Some((table, is_keyless)) = tables::find(guest, name)? else { return Ok(None) };
    let key = if is_keyless { primary_key(guest, &table.name)? } else { rowid(&table) };
    let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let statement = statement(&table, &key, place, limit);
    let (mut rows, mut last, mut taken) = (Vec::new(), Vec::new(), 0);
    let mut sink = Each(|values: &[ValueRef<'_>]| {
        if rows.len() == limit as usize {
            return Err(enough());
        }
        let (shown, keys) = values.split_at(columns.len().min(values.len()));
        let row: Vec<Cell> = shown.iter().map(|value| Cell::of(*value)).collect();
        taken += row.iter().map(Cell::length).sum::<usize>();
        if taken > most {
            return match rows.is_empty() {
                true => Err(SqlError::new("SQLITE_TOOBIG", format!("a row is larger than {most} bytes"))),
                false => Err(enough()),
            };
        }
        last = keys.iter().map(|value| Part::of(*value)).collect();
        rows.push(row);
        Ok(())
    });
    let whole = run(guest, &statement, &mut sink)?;
    let next = Place { n: place.n.saturating_add(rows.len() as u64), k: last };
    let next = match next.k.iter().map(Part::length).sum::<usize>() > LONGEST_KEY {
        true => Place { k: Vec::new(), ..next },
        false => next,
    };
    Ok(Some(RowPage { table, columns, rows, before: place.n, next_cursor: (!whole).then(|| next.cursor()) }))
}

/// What the rows of a table without a rowid are in order by. The key may compare otherwise than its columns do.
fn primary_key(guest: &Guest<'_>, table: &str) -> Result<Vec<String>, SqlError> {
    let sql = "SELECT x.name, x.coll FROM pragma_index_list(?1) AS l, pragma_index_xinfo(l.name) AS x WHERE l.origin = \
               'pk' AND x.key ORDER BY x.seqno";
    let column = |row: &[ValueRef<'_>]| format!("{} COLLATE {}", quoted(&text(row[0])), quoted(&text(row[1])));
    all(guest, sql, vec![Value::Text(table.to_owned())], column)
}

/// What the rows of other tables are in order by; none where there is nothing that is surely unique.
fn rowid(table: &TableInfo) -> Vec<String> {
    if table.kind == TableKind::View || table.kind == TableKind::Virtual {
        return Vec::new();
    }
    let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    rowid_beside(&columns).map(str::to_owned).into_iter().collect()
}

fn statement(table: &TableInfo, key: &[String], place: &Place, limit: u32) -> Statement<'static> {
    let shown = table.columns.iter().map(|column| quoted(&column.name));
    let wanted: Vec<String> = shown.chain(key.iter().cloned()).collect();
    // A view whose columns cannot be told says why.
    let wanted = if wanted.is_empty() { "*".to_owned() } else { wanted.join(", ") };
    let (keys, name) = (key.join(", "), quoted(&table.name));
    let order = if key.is_empty() { String::new() } else { format!("ORDER BY {keys}") };
    let one_more = Value::Integer(i64::from(limit) + 1);
    if place.k.is_empty() || place.k.len() != key.len() {
        let skipped = Value::Integer(i64::try_from(place.n).unwrap_or(i64::MAX));
        let sql = format!("SELECT {wanted} FROM {name} {order} LIMIT ?1 OFFSET ?2");
        return Statement { positional: vec![one_more, skipped], ..Statement::new(sql) };
    }
    let (bound, mut values): (Vec<String>, Vec<Value>) =
        place.k.iter().zip(1..).map(|(part, number)| part.bound(number)).unzip();
    let sql = format!(
        "SELECT {wanted} FROM {name} WHERE ({keys}) > ({}) {order} LIMIT ?{}",
        bound.join(", "),
        values.len() + 1
    );
    values.push(one_more);
    Statement { positional: values, ..Statement::new(sql) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{browse::look, guest::Rules, open};

    /// The first column of all pages of a table, and how many pages there are.
    fn pages(schema: &str, table: &str) -> (Vec<String>, usize) {
        let conn = open::in_memory().unwrap();
        conn.execute_batch(schema).unwrap();
        let (mut found, mut place, mut count) = (Vec::new(), Place::default(), 0);
        loop {
            let one = |guest: &Guest<'_>| page(guest, table, &place, 3, 1 << 20);
            let page = look(&conn, &Rules::default(), one).unwrap().unwrap().unwrap();
            assert_eq!(page.before, found.len() as u64);
            found.extend(page.rows.into_iter().map(|row| row[0].text.clone()));
            count += 1;
            match page.next_cursor {
                Some(next) => place = Place::parse(&next).unwrap(),
                None => return (found, count),
            }
        }
    }

    const SEVEN: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 7)";

    #[test]
    fn each_row_is_on_one_page_whatever_the_key_is() {
        let all = (1..=7).map(|n| n.to_string()).collect::<Vec<_>>();
        for (schema, table) in [
            (format!("CREATE TABLE t (a); {SEVEN} INSERT INTO t SELECT i FROM n"), "t"),
            (format!("CREATE TABLE t (a INTEGER PRIMARY KEY); {SEVEN} INSERT INTO t SELECT i FROM n"), "t"),
            (format!("CREATE TABLE t (a, rowid, oid, \"_ROWID_\"); {SEVEN} INSERT INTO t (a) SELECT i FROM n"), "t"),
            (
                format!(
                    "CREATE TABLE t (a, b TEXT, c, PRIMARY KEY (c, b)) WITHOUT ROWID;
                     {SEVEN} INSERT INTO t SELECT i, CAST(X'ff' || i AS TEXT), i / 4 FROM n"
                ),
                "t",
            ),
            (
                format!(
                    "CREATE TABLE t (a, b, PRIMARY KEY (b)) WITHOUT ROWID;
                     {SEVEN} INSERT INTO t SELECT i, printf('%.2000c%d', 'x', i) FROM n"
                ),
                "t",
            ),
            (
                "CREATE TABLE t (a, b TEXT COLLATE NOCASE, PRIMARY KEY (b COLLATE BINARY)) WITHOUT ROWID;
                 INSERT INTO t VALUES (1, 'A'), (2, 'B'), (3, 'C'), (4, 'D'), (5, 'a'), (6, 'b'), (7, 'c')"
                    .to_owned(),
                "t",
            ),
            (
                "CREATE TABLE t (a, b, PRIMARY KEY (b)) WITHOUT ROWID;
                 INSERT INTO t VALUES (1, -9e999), (2, 1), (3, 1.5), (4, 9e999), (5, ''), (6, 'x'), (7, x'00')"
                    .to_owned(),
                "t",
            ),
            (
                format!("CREATE TABLE b (a); {SEVEN} INSERT INTO b SELECT i FROM n; CREATE VIEW t AS SELECT * FROM b"),
                "t",
            ),
            (format!("CREATE VIRTUAL TABLE t USING fts5(a); {SEVEN} INSERT INTO t SELECT i FROM n"), "t"),
            (
                format!(
                    "CREATE TABLE \"a \"\"b' --\" (\"c\"\"d\"); {SEVEN} INSERT INTO \"a \"\"b' --\" SELECT i FROM n"
                ),
                "a \"b' --",
            ),
        ] {
            assert_eq!(pages(&schema, table), (all.clone(), 3), "{schema}");
        }
    }

    #[test]
    fn a_cursor_that_was_made_up_is_refused_or_begins_anew() {
        let far = BASE64_URL_SAFE_NO_PAD.encode(r#"{"n":18446744073709551613,"k":[]}"#);
        for text in ["x", "", "bm9uZQ", "🦆", &far] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
        let place = Place { n: 2, k: vec![Part::Text("a".into()), Part::Null] };
        assert_eq!(Place::parse(&place.cursor()).unwrap(), place);
    }
}
