//! Which tables the statements of a transaction write to.
//!
//! SQLite's authorizer is asked when a statement is prepared, about everything that the statement may do: what its
//! triggers and foreign keys write to, tables without a rowid, a `DELETE` without `WHERE`. The update hook misses the
//! last two. So a table whose rows change is always named; one may be named whose rows did not change, if a trigger did
//! not fire or no row matched. Not seen is incremental blob I/O.

use std::{cell::RefCell, rc::Rc};

use rusqlite::{
    Connection,
    hooks::{AuthAction, AuthContext, Authorization},
};

use super::authorizer;
use crate::error::Result;

/// The table that stands for the schema.
const SCHEMA: &str = "sqlite_schema";

/// The most tables of one commit, and bytes of their names; of more it is not known which they are.
const MOST_TABLES: usize = 64;
const MOST_BYTES: usize = 4096;

thread_local! {
    /// Of the transaction that runs on this thread, if its tables are of interest to somebody.
    static CURRENT: RefCell<Option<Touched>> = const { RefCell::new(None) };
}

/// The tables that a transaction has written to so far.
#[derive(Debug, Default)]
pub struct Touched {
    tables: Vec<String>,
    bytes: usize,
    too_many: bool,
    /// Some were rolled back.
    undone: bool,
    /// How many there were at each savepoint of a guest.
    marks: Vec<usize>,
}

/// What a transaction that was committed has written to.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// These tables.
    Tables(Vec<String>),
    /// None: all that was written was rolled back before the commit.
    Nothing,
    /// It is not known what.
    Unknown,
}

impl Touched {
    /// Runs `work`, which prepares what it runs on this connection, and adds the tables that it writes to.
    ///
    /// # Errors
    /// The connection cannot be watched; `work` was not called.
    pub fn during<T>(&mut self, conn: &Connection, work: impl FnOnce() -> T) -> Result<T> {
        // Statements that are cached are prepared anew after this, and so asked about again.
        authorizer::install(conn)?;
        let current = Current::enter(std::mem::take(self));
        let judge = |context: &AuthContext<'_>| {
            note(context);
            Authorization::Allow
        };
        let result = authorizer::judged_by(conn, Rc::new(judge), work);
        *self = CURRENT.take().unwrap_or_default();
        drop(current);
        Ok(result)
    }

    /// How many there are, to go back to.
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// Forgets all but the first `length`: what came after was rolled back.
    pub fn truncate(&mut self, length: usize) {
        self.undone |= self.tables.len() > length;
        self.tables.truncate(length);
        self.bytes = self.tables.iter().map(String::len).sum();
        self.marks.clear();
    }

    /// What a commit has written to that left something in the write-ahead log.
    pub fn written(self) -> Written {
        match self {
            Self { too_many: true, .. } => Written::Unknown,
            Self { tables, .. } if !tables.is_empty() => Written::Tables(tables),
            Self { undone: true, .. } => Written::Nothing,
            // It was made in a way that is not seen.
            _ => Written::Unknown,
        }
    }

    fn add(&mut self, table: &str) {
        if self.too_many || self.tables.iter().any(|known| known == table) {
            return;
        }
        self.bytes += table.len();
        self.too_many = self.tables.len() >= MOST_TABLES || self.bytes > MOST_BYTES;
        self.tables.push(table.to_owned());
    }
}

/// Takes the tables off the thread, also when a panic unwinds.
struct Current;

impl Current {
    fn enter(touched: Touched) -> Self {
        CURRENT.set(Some(touched));
        Self
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

fn with(change: impl FnOnce(&mut Touched)) {
    CURRENT.with_borrow_mut(|current| {
        if let Some(touched) = current {
            change(touched);
        }
    });
}

/// Tells of an action that is authorized. A judge that takes the place of [`Touched::during`]'s calls this.
pub(super) fn note(context: &AuthContext<'_>) {
    let table = match context.action {
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => table_name,
        AuthAction::AlterTable { .. } | AuthAction::Reindex { .. } | AuthAction::CreateVtable { .. } => SCHEMA,
        _ => return,
    };
    if !context.database_name.is_some_and(|name| name.eq_ignore_ascii_case("temp")) {
        // The name by which the authorizer knows it.
        let table = if table == "sqlite_master" { SCHEMA } else { table };
        with(|touched| touched.add(table));
    }
}

/// Whether somebody wants to know what this thread's statements write to. A statement is asked about when it is
/// prepared, so one that is used again in the same transaction is not heard of.
pub(super) fn is_heard() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// A guest begins what it may take back.
pub(super) fn mark() {
    with(|touched| touched.marks.push(touched.tables.len()));
}

/// A guest takes back all since the last [`mark`].
pub(super) fn undo() {
    with(|touched| {
        let mut marks = std::mem::take(&mut touched.marks);
        if let Some(length) = marks.pop() {
            touched.truncate(length);
        }
        touched.marks = marks;
    });
}

/// A guest keeps all since the last [`mark`].
pub(super) fn keep() {
    with(|touched| {
        touched.marks.pop();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(touched: &mut Touched, conn: &Connection, sql: &str) {
        touched.during(conn, || conn.execute_batch(sql).unwrap()).unwrap();
    }

    #[test]
    fn every_way_to_write_to_a_table_names_it() {
        let conn = crate::sqlite::open::in_memory().unwrap();
        conn.execute_batch(
            "PRAGMA foreign_keys = on;
             CREATE TABLE a (id INTEGER PRIMARY KEY, x UNIQUE);
             CREATE TABLE clustered (id TEXT PRIMARY KEY) WITHOUT ROWID;
             CREATE TABLE child (a REFERENCES a ON DELETE CASCADE ON UPDATE SET NULL);
             CREATE TABLE log (x);
             CREATE TRIGGER t AFTER INSERT ON clustered BEGIN INSERT INTO log VALUES (new.id); END;
             CREATE TEMP TABLE own (x);",
        )
        .unwrap();
        for (sql, tables) in [
            ("INSERT INTO a VALUES (1, 1)", "a"),
            ("INSERT INTO clustered VALUES ('x')", "clustered log"),
            ("UPDATE clustered SET id = 'y'", "clustered"),
            ("DELETE FROM clustered", "clustered"),
            ("DELETE FROM log", "log"),
            ("INSERT OR REPLACE INTO a VALUES (2, 1)", "a child"),
            ("DELETE FROM a WHERE id = 2", "a child"),
            ("INSERT INTO log SELECT 1", "log"),
            ("WITH w AS (SELECT 1) INSERT INTO log SELECT * FROM w RETURNING x", "log"),
            ("INSERT INTO own VALUES (1)", ""),
            ("SELECT * FROM a", ""),
            ("CREATE TABLE new (x)", "sqlite_schema"),
            ("ALTER TABLE new ADD COLUMN y", "sqlite_schema"),
            ("CREATE INDEX i ON new (x)", "sqlite_schema"),
            ("DROP TABLE new", "new sqlite_schema"),
        ] {
            let mut touched = Touched::default();
            written(&mut touched, &conn, sql);
            let mut found = touched.tables;
            found.sort();
            assert_eq!(found.join(" "), tables, "{sql}");
        }
    }

    #[test]
    fn a_statement_that_is_cached_names_its_table_each_time() {
        let conn = crate::sqlite::open::in_memory().unwrap();
        conn.execute_batch("CREATE TABLE a (x)").unwrap();
        for _ in 0..3 {
            let mut touched = Touched::default();
            let write = || conn.prepare_cached("DELETE FROM a").and_then(|mut delete| delete.execute([])).unwrap();
            touched.during(&conn, write).unwrap();
            assert_eq!(touched.written(), Written::Tables(vec!["a".to_owned()]));
        }
    }

    #[test]
    fn what_was_rolled_back_is_forgotten_and_too_many_are_unknown() {
        let conn = crate::sqlite::open::in_memory().unwrap();
        conn.execute_batch("CREATE TABLE a (x); CREATE TABLE b (x)").unwrap();
        let mut touched = Touched::default();
        let during = |sql: &'static str| {
            mark();
            conn.execute_batch(sql).unwrap();
        };
        let work = || {
            during("DELETE FROM a");
            keep();
            during("DELETE FROM b");
            undo();
        };
        touched.during(&conn, work).unwrap();
        assert_eq!(touched.tables, ["a"]);
        touched.truncate(0);
        assert_eq!(touched.written(), Written::Nothing);
        assert_eq!(Touched::default().written(), Written::Unknown);

        let mut touched = Touched::default();
        (0..=MOST_TABLES).for_each(|n| touched.add(&format!("t{n}")));
        assert_eq!(touched.written(), Written::Unknown);
        let mut touched = Touched::default();
        touched.add(&"t".repeat(MOST_BYTES + 1));
        assert_eq!(touched.written(), Written::Unknown);
    }
}
