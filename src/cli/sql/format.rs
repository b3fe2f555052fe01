//! Rows as text: a table, JSON or CSV.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::stream::Sink;
use crate::{
    http::text::shown,
    sqlite::{
        guest::{Value, ValueRef, text},
        rows,
    },
};

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Columns in line, for people.
    Table,
    /// One object a line.
    Json,
    /// RFC 4180, with the names in the first line.
    Csv,
}

impl Mode {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }

    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "table" => Self::Table,
            "json" => Self::Json,
            "csv" => Self::Csv,
            _ => return None,
        })
    }
}

/// How many rows, and bytes of them, the widths of a table's columns are taken from; they are held until then.
const MEASURED: usize = 1000;
const MEASURED_BYTES: usize = 1 << 20;

/// How many bytes of a blob a table shows.
const SHOWN_OF_BLOB: usize = 32;

/// Prints results as they come.
pub struct Printer<W> {
    /// How.
    pub mode: Mode,
    out: W,
    names: Vec<String>,
    rows: u64,
    table: Table,
    /// Results that were printed as CSV.
    results: u64,
}

impl<W: Write> Printer<W> {
    /// To `out`.
    pub fn new(out: W, mode: Mode) -> Self {
        Self { mode, out, names: Vec::new(), rows: 0, table: Table::default(), results: 0 }
    }

    /// Prints a line by itself.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")
    }

    /// Makes sure that all is written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The rows so far are all that come of this result.
    pub fn cut(&mut self) -> io::Result<()> {
        self.table.release(&mut self.out)?;
        self.out.flush()
    }
}

impl<W: Write> Sink for Printer<W> {
    fn columns(&mut self, names: Vec<String>) -> io::Result<()> {
        (self.names, self.rows) = (names, 0);
        self.table = Table::default();
        if self.names.is_empty() {
            return Ok(());
        }
        match self.mode {
            Mode::Table => self.table.begin(&self.names),
            Mode::Json => make_unique(&mut self.names),
            Mode::Csv => {
                if self.results > 0 {
                    self.out.write_all(b"\r\n")?;
                }
                let names: Vec<_> = self.names.iter().map(|name| Some(name.as_str().into())).collect();
                rows::write_csv(&mut self.out, &names)?;
            }
        }
        self.results += 1;
        Ok(())
    }

    fn row(&mut self, values: Vec<Value>) -> io::Result<()> {
        self.rows += 1;
        match self.mode {
            Mode::Table => self.table.row(&mut self.out, &values),
            Mode::Json => rows::write_json(&mut self.out, &self.names, values.iter().map(ValueRef::from)),
            Mode::Csv => {
                let fields: Vec<_> = values.iter().map(|value| rows::csv_field(value.into())).collect();
                rows::write_csv(&mut self.out, &fields)
            }
        }
    }

    fn end(&mut self, sql: &str, changed: u64) -> io::Result<()> {
        if self.mode == Mode::Table {
            self.table.release(&mut self.out)?;
            let count = |count, what: &str| format!("{count} row{}{what}", if count == 1 { "" } else { "s" });
            if !self.names.is_empty() {
                writeln!(self.out, "({})", count(self.rows, ""))?;
            } else if changed > 0 || !text::seems_to_read(sql) {
                writeln!(self.out, "{}", count(changed, " changed"))?;
            } else {
                writeln!(self.out, "ok")?;
            }
        }
        self.out.flush()
    }
}

/// A table of which the first rows are held until its columns' widths are known.
#[derive(Default)]
struct Table {
    held: Vec<Vec<Cell>>,
    bytes: usize,
    /// The widths, once rows were printed.
    widths: Option<Vec<usize>>,
}

struct Cell {
    text: String,
    to_the_right: bool,
}

impl Table {
    fn begin(&mut self, names: &[String]) {
        let head = |name: &String| Cell { text: shown(name), to_the_right: false };
        self.held.push(names.iter().map(head).collect());
    }

    fn row(&mut self, out: &mut impl Write, values: &[Value]) -> io::Result<()> {
        let row: Vec<Cell> = values.iter().map(cell).collect();
        if let Some(widths) = &self.widths {
            return write_row(out, &row, widths);
        }
        self.bytes += row.iter().map(|cell| cell.text.len()).sum::<usize>();
        self.held.push(row);
        if self.held.len() > MEASURED || self.bytes > MEASURED_BYTES { self.release(out) } else { Ok(()) }
    }

    /// Prints what is held.
    fn release(&mut self, out: &mut impl Write) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let Some(head) = held.first() else { return Ok(()) };
        let mut widths = vec![0; head.len()];
        for row in &held {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.text.width().max(*width);
            }
        }
        let rule = |width: &usize| Cell { text: "-".repeat(*width), to_the_right: false };
        let rule: Vec<Cell> = widths.iter().map(rule).collect();
        for (n, row) in held.iter().enumerate() {
            write_row(out, row, &widths)?;
            if n == 0 {
                write_row(out, &rule, &widths)?;
            }
        }
        self.widths = Some(widths);
        Ok(())
    }
}

fn write_row(out: &mut impl Write, row: &[Cell], widths: &[usize]) -> io::Result<()> {
    let mut line = String::new();
    for (n, (cell, width)) in row.iter().zip(widths).enumerate() {
        let space = " ".repeat(width.saturating_sub(cell.text.width()));
        let (before, after) = if cell.to_the_right { (&*space, "") } else { ("", &*space) };
        line.extend([if n == 0 { "" } else { "  " }, before, &cell.text, after]);
    }
    writeln!(out, "{}", line.trim_end_matches(' '))
}

fn cell(value: &Value) -> Cell {
    let (text, to_the_right) = match value {
        Value::Null => ("NULL".to_owned(), false),
        Value::Integer(number) => (number.to_string(), true),
        Value::Real(number) => (format!("{number:?}"), true),
        Value::Text(text) => (shown(text), false),
        Value::Blob(bytes) if bytes.len() <= SHOWN_OF_BLOB => (format!("x'{}'", hex::encode(bytes)), false),
        Value::Blob(bytes) => (format!("x'{}…' ({} bytes)", hex::encode(&bytes[..SHOWN_OF_BLOB]), bytes.len()), false),
    };
    Cell { text, to_the_right }
}

/// Gives the second and further columns of one name a number: an object has each name once.
fn make_unique(names: &mut [String]) {
    for n in 1..names.len() {
        let (before, rest) = names.split_at_mut(n);
        let name = &mut rest[0];
        let taken = |name: &String| before.contains(name);
        if taken(name) {
            let mut numbered = (2..).map(|number| format!("{name}_{number}"));
            *name = numbered.find(|name| !taken(name)).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use proptest::prelude::*;

    use super::*;

    fn printed(mode: Mode, names: &[&str], rows: Vec<Vec<Value>>) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, mode);
        printer.columns(names.iter().map(|name| (*name).to_owned()).collect()).unwrap();
        rows.into_iter().for_each(|row| printer.row(row).unwrap());
        printer.end("SELECT", 0).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn a_table_has_its_columns_in_line_and_nothing_a_terminal_acts_on() {
        let rows = vec![
            vec![Value::Integer(1), text("日本"), Value::Real(2.0)],
            vec![Value::Integer(-20), text("a\u{1b}[31m\nb"), Value::Null],
            vec![Value::Null, text(""), Value::Blob(vec![0, 255])],
        ];
        let wanted = [
            "id    na\\nme          x",
            "----  --------------  -------",
            "   1  日本                2.0",
            " -20  a\\u{1b}[31m\\nb  NULL",
            "NULL                  x'00ff'",
            "(3 rows)",
        ];
        let found = printed(Mode::Table, &["id", "na\nme", "x"], rows);
        assert_eq!(found.lines().collect::<Vec<_>>(), wanted);
        assert_eq!(printed(Mode::Table, &["a"], vec![vec![Value::Integer(1)]]), "a\n-\n1\n(1 row)\n");
        let long = printed(Mode::Table, &["a"], vec![vec![Value::Blob(vec![1; 100])]]);
        assert!(long.contains(&format!("\nx'{}…' (100 bytes)\n", "01".repeat(32))), "{long}");
    }

    #[test]
    fn a_long_table_is_not_held_to_its_end() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, Mode::Table);
        printer.columns(vec!["n".to_owned()]).unwrap();
        (0..5000).for_each(|n| printer.row(vec![Value::Integer(n)]).unwrap());
        assert!(printer.table.held.is_empty());
        printer.end("SELECT", 0).unwrap();
        drop(printer);
        assert_eq!(out.split(|byte| *byte == b'\n').count() - 1, 5003);
    }

    #[test]
    fn json_is_exact_and_has_each_name_once() {
        let names = ["id", "id", "id_2", "x"];
        let row = vec![Value::Integer(i64::MAX), Value::Real(f64::INFINITY), text("\u{0}\"é"), Value::Blob(vec![255])];
        let found = printed(Mode::Json, &names, vec![row]);
        let wanted = "{\"id\":9223372036854775807,\"id_2\":null,\"id_2_2\":\"\\u0000\\\"é\",\"x\":\"/w==\"}\n";
        assert_eq!(found, wanted);
        assert_eq!(printed(Mode::Json, &["a"], vec![]), "");
        assert_eq!(
            printed(Mode::Json, &["a"], vec![vec![Value::Real(0.1)], vec![Value::Null]]),
            "{\"a\":0.1}\n{\"a\":null}\n"
        );
    }

    #[test]
    fn csv_tells_null_from_an_empty_text() {
        let rows = vec![vec![Value::Null, text("")], vec![text("a,b"), text("c\"d\r\n")]];
        assert_eq!(printed(Mode::Csv, &["a", "b"], rows), "a,b\r\n,\"\"\r\n\"a,b\",\"c\"\"d\r\n\"\r\n");
        assert_eq!(printed(Mode::Csv, &["a"], vec![vec![Value::Null]]), "a\r\n\"\"\r\n");
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_map(Value::Real),
            "[a-c,\"\r\n \t'é\u{0}]{0,8}".prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..8).prop_map(Value::Blob),
        ]
    }

    proptest! {
        /// Another program reads what was written.
        #[test]
        fn csv_is_read_as_it_was_written(rows in prop::collection::vec(prop::collection::vec(value(), 3), 0..6), width in 1_usize..4) {
            let rows: Vec<Vec<Value>> = rows.into_iter().map(|row| row.into_iter().take(width).collect()).collect();
            let names = ["one", "two,", "three"];
            let found = printed(Mode::Csv, &names[..width], rows.clone());
            let mut reader = csv::ReaderBuilder::new().has_headers(true).from_reader(found.as_bytes());
            prop_assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), &names[..width]);
            let read: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), rows.len());
            for (record, row) in read.iter().zip(&rows) {
                let wanted: Vec<String> = row.iter().map(|v| rows::csv_field(v.into()).unwrap_or_default().into_owned()).collect();
                prop_assert_eq!(record.iter().collect::<Vec<_>>(), wanted);
            }
        }

        #[test]
        fn json_is_read_as_it_was_written(row in prop::collection::vec(value(), 1..4)) {
            let names: Vec<String> = (0..row.len()).map(|n| n.to_string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let found = printed(Mode::Json, &names, vec![row.clone()]);
            prop_assert_eq!(found.lines().count(), 1);
            let read: serde_json::Value = serde_json::from_str(&found).unwrap();
            for (name, value) in names.iter().zip(&row) {
                let found = &read[*name];
                match value {
                    Value::Null => prop_assert!(found.is_null()),
                    Value::Integer(number) => prop_assert_eq!(found.as_i64(), Some(*number)),
                    Value::Real(number) if number.is_finite() => {
                        prop_assert_eq!(found.as_f64().map(f64::to_bits), Some(number.to_bits()));
                    }
                    Value::Real(_) => prop_assert!(found.is_null()),
                    Value::Text(text) => prop_assert_eq!(found.as_str(), Some(&**text)),
                    Value::Blob(bytes) => {
                        prop_assert_eq!(BASE64_STANDARD.decode(found.as_str().unwrap()).unwrap(), bytes.clone());
                    }
                }
            }
        }
    }
}
