//! What a guest asks for and is answered.

use std::{borrow::Cow, ops::Deref, sync::Arc, time::Duration};

pub use rusqlite::types::{Value, ValueRef};

use crate::error::Error;

/// What a guest may do, and how much of everything.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "permissions, any of which may be given")]
pub struct Rules {
    /// Statements may only read.
    pub read_only: bool,
    /// The schema may be changed.
    pub ddl: bool,
    /// Temporary tables may be made, and settings last beyond the [`guard`](super::guard()): only on the connection of an
    /// interactive transaction, which nobody else gets.
    pub temp: bool,
    /// Whether foreign keys are enforced. In a transaction `PRAGMA foreign_keys` changes nothing.
    pub foreign_keys: bool,
    /// The memory that SQLite may take beyond what the connection has, in bytes; also for preparing.
    pub memory: usize,
    /// How long all statements of one guard may take together.
    pub time: Duration,
    /// The longest statement, in bytes.
    pub sql_bytes: i32,
    /// The longest string, blob or row, in bytes; what the connection allows if that is less.
    pub value_bytes: i32,
    /// The most arguments of a statement.
    pub arguments: i32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            read_only: false,
            ddl: false,
            temp: false,
            foreign_keys: true,
            memory: 64 << 20,
            time: Duration::from_secs(5),
            sql_bytes: 1 << 20,
            value_bytes: 5 << 20,
            arguments: 32_766,
        }
    }
}

/// The text of a statement.
#[derive(Debug, Clone)]
pub enum Sql<'s> {
    /// Somebody else's.
    Borrowed(&'s str),
    /// One that many statements have.
    Shared(Arc<str>),
}

impl Deref for Sql<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(sql) => sql,
            Self::Shared(sql) => sql,
        }
    }
}

impl PartialEq for Sql<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<'s> From<Cow<'s, str>> for Sql<'s> {
    fn from(sql: Cow<'s, str>) -> Self {
        match sql {
            Cow::Borrowed(sql) => Self::Borrowed(sql),
            Cow::Owned(sql) => Self::Shared(sql.into()),
        }
    }
}

/// A statement and its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement<'s> {
    /// One statement; comments and a semicolon may follow.
    pub sql: Sql<'s>,
    /// Arguments by their position.
    pub positional: Vec<Value>,
    /// Arguments by name, with or without `:`, `@` or `$` before it. A name that the statement does not have is ignored.
    pub named: Vec<(String, Value)>,
    /// Whether the rows are wanted.
    pub want_rows: bool,
}

impl<'s> Statement<'s> {
    /// A statement without arguments.
    pub fn new(sql: impl Into<Cow<'s, str>>) -> Self {
        Self { sql: sql.into().into(), positional: Vec::new(), named: Vec::new(), want_rows: true }
    }
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, or that of its alias.
    pub name: String,
    /// The type that the table declares for it.
    pub decltype: Option<String>,
}

/// Receives an answer. An error ends the statement and is its error.
pub trait Sink {
    /// Called once, before the rows, also where these are not wanted.
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError>;
    /// One row. Texts may have any bytes.
    fn row(&mut self, values: &[ValueRef<'_>]) -> Result<(), SqlError>;
}

/// A [`Sink`] for statements whose rows nobody wants.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoRows;

impl Sink for NoRows {
    fn columns(&mut self, _: &[Column]) -> Result<(), SqlError> {
        Ok(())
    }

    fn row(&mut self, _: &[ValueRef<'_>]) -> Result<(), SqlError> {
        Ok(())
    }
}

/// What a statement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Rows that it inserted, changed or deleted, without those of triggers.
    pub affected: u64,
    /// The rowid of the connection's last insertion.
    pub last_insert_rowid: i64,
    /// Rows of the answer, and steps of scans of whole tables.
    pub rows_read: u64,
    /// Rows that it wrote, with those of triggers.
    pub rows_written: u64,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// Why a statement failed.
#[derive(Debug, Clone)]
pub struct SqlError {
    /// A sentence for the guest.
    pub message: String,
    /// The name of SQLite's base code, such as `SQLITE_CONSTRAINT`.
    pub code: &'static str,
    /// The closure that runs the guest must return this error, and no further statement may run: storage failed, the time
    /// is over, or SQLite has rolled back the whole transaction.
    pub fatal: Option<Error>,
}

impl SqlError {
    /// An error of the caller's own.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { message: shorten(message.into()), code, fatal: None }
    }
}

/// The longest message, in bytes: it may repeat names, which are as long as a statement may be.
const LONGEST_MESSAGE: usize = 1 << 10;

/// A message with its end left out if it is too long.
pub(super) fn shorten(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        message.push('…');
        message.shrink_to_fit();
    }
    message
}

impl std::fmt::Display for SqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for SqlError {}

/// How a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `BEGIN`, `BEGIN DEFERRED`.
    Deferred,
    /// `BEGIN IMMEDIATE`.
    Immediate,
    /// `BEGIN EXCLUSIVE`.
    Exclusive,
    /// `BEGIN TRANSACTION READONLY`: to SQLite, a deferred one with a name. That it does not write is up to the caller.
    ReadOnly,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: comments and semicolons.
    Empty,
    /// It changes nothing in the file.
    Read,
    /// It may change the file.
    Write,
    /// It begins a transaction.
    Begin(Mode),
    /// `COMMIT`, `END`.
    Commit,
    /// `ROLLBACK`, of the whole transaction.
    Rollback,
    /// `SAVEPOINT`.
    Savepoint,
    /// `RELEASE`.
    Release,
    /// `ROLLBACK TO`.
    RollbackTo,
}

/// What a statement is, without running it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Its parameters in order, with the character before the name; none for one without a name.
    pub parameters: Vec<Option<String>>,
    /// The columns of its answer.
    pub columns: Vec<Column>,
    /// Whether it begins with `EXPLAIN`.
    pub is_explain: bool,
    /// Whether it changes nothing in the file.
    pub is_readonly: bool,
}
