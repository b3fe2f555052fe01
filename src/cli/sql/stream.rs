//! A stream of SQL to a user's database (Hrana 3), over the routes of a [`Target`].

use std::io;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::{
    cli::target::{Answer, Target, segment},
    error::{Error, ErrorKind, Result},
    sql::value::Argument,
    sqlite::guest::{Value, text},
    tenants::id::TenantId,
};

/// An error of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SqlError {
    /// What is wrong.
    pub message: String,
    /// SQLite's name for it, or the protocol's.
    pub code: String,
}

/// Why a statement did not run to its end.
#[derive(Debug)]
pub enum Failure {
    /// The statement is at fault.
    Sql(SqlError),
    /// The request, the tenant or the storage; the stream has begun anew.
    Request(Error),
    /// What is read cannot be written out.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Request(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Receives the rows of a statement as they come.
pub trait Sink {
    /// Called once, before the rows; without columns there are none.
    fn columns(&mut self, names: Vec<String>) -> io::Result<()>;
    /// One row.
    fn row(&mut self, values: Vec<Value>) -> io::Result<()>;
    /// The end, and how many rows were changed.
    fn end(&mut self, sql: &str, changed: u64) -> io::Result<()>;
}

/// One value of an answer.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Entry {
    StepBegin {
        cols: Vec<Column>,
    },
    Row {
        row: Vec<Argument>,
    },
    StepEnd {
        affected_row_count: u64,
    },
    StepError {
        error: SqlError,
    },
    Error {
        error: SqlError,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Column {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    baton: Option<String>,
}

#[derive(Deserialize)]
struct Replies {
    baton: Option<String>,
    results: Vec<Json>,
}

/// A stream.
pub struct Stream<'t> {
    target: &'t Target,
    path: String,
    read_only: bool,
    baton: Option<String>,
    open: bool,
}

impl<'t> Stream<'t> {
    /// To a user's database.
    pub fn to(target: &'t Target, id: &TenantId, read_only: bool) -> Self {
        let path = format!("/api/admin/tenants/{}/sql/v3", segment(id.as_str()));
        Self { target, path, read_only, baton: None, open: false }
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.open
    }

    /// Runs a statement.
    pub async fn run(&mut self, sql: &str, args: &[&str], sink: &mut dyn Sink) -> Result<(), Failure> {
        let args: Vec<_> = args.iter().map(|text| json!({"type": "text", "value": text})).collect();
        let step = json!({"stmt": {"sql": sql, "args": args}});
        // Without its answer it cannot be gone on with.
        let baton = self.baton.take();
        let answer = self.ask("cursor", &json!({"baton": baton, "batch": {"steps": [step]}})).await;
        let mut lines = Lines { answer: answer.inspect_err(|_| self.open = false)?, buffer: Vec::new(), read: 0 };
        let ended = self.receive(&mut lines, sql, sink).await;
        match &ended {
            Err(Failure::Request(_)) => self.forget(),
            // Some errors end the transaction, too.
            Err(Failure::Sql(_)) if self.open => self.stay().await?,
            // What is done is done, whether that can be asked or not.
            Ok(()) if text::transaction_verb(sql).is_some() && self.stay().await.is_err() => self.forget(),
            _ => {}
        }
        ended
    }

    async fn receive(&mut self, lines: &mut Lines, sql: &str, sink: &mut dyn Sink) -> Result<(), Failure> {
        let head: Head = lines.next(self.target).await?.ok_or_else(broken_off)?;
        self.baton = head.baton;
        let mut result = Err(Failure::Request(broken_off()));
        while let Some(entry) = lines.next(self.target).await? {
            match entry {
                Entry::StepBegin { cols } => {
                    sink.columns(cols.into_iter().map(|column| column.name.unwrap_or_default()).collect())?;
                }
                Entry::Row { row } => sink.row(row.into_iter().map(|argument| argument.0).collect())?,
                Entry::StepEnd { affected_row_count } => {
                    sink.end(sql, affected_row_count)?;
                    result = Ok(());
                }
                Entry::StepError { error } | Entry::Error { error } => result = Err(Failure::Sql(error)),
                Entry::Other => {}
            }
        }
        result
    }

    /// Asks whether a transaction is open, which also tells the server that somebody is still there.
    pub async fn stay(&mut self) -> Result<()> {
        let results = self.pipeline("get_autocommit").await?;
        self.open = results.first().is_some_and(|result| result["response"]["is_autocommit"] == false);
        Ok(())
    }

    /// Goes on with a new stream. What is open in the old one ends by itself, since nobody continues it.
    pub fn forget(&mut self) {
        (self.open, self.baton) = (false, None);
    }

    /// Ends the stream. An open transaction is rolled back.
    pub async fn close(&mut self) -> Result<()> {
        if std::mem::take(&mut self.open) {
            self.pipeline("close").await?;
        }
        self.baton = None;
        Ok(())
    }

    async fn pipeline(&mut self, request: &str) -> Result<Vec<Json>> {
        let baton = self.baton.take();
        let answer = self.ask("pipeline", &json!({"baton": baton, "requests": [{"type": request}]})).await;
        let answer = answer.inspect_err(|_| self.open = false)?;
        let mut lines = Lines { answer, buffer: Vec::new(), read: 0 };
        let replies: Replies = lines.next(self.target).await?.ok_or_else(broken_off)?;
        self.baton = replies.baton;
        Ok(replies.results)
    }

    async fn ask(&self, route: &str, body: &Json) -> Result<Answer> {
        let read_only = self.read_only;
        self.target.open(&format!("{}/{route}?read_only={read_only}", self.path), body).await
    }
}

fn broken_off() -> Error {
    Error::new(ErrorKind::Unavailable, "the answer broke off; whether the statement was run, the data shows")
}

/// The lines of an answer.
struct Lines {
    answer: Answer,
    buffer: Vec<u8>,
    /// How much of the buffer was read.
    read: usize,
}

impl Lines {
    /// The value in the next line; none at the end.
    async fn next<T: for<'de> Deserialize<'de>>(&mut self, target: &Target) -> Result<Option<T>> {
        let mut searched = self.read;
        let line = loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = &self.buffer[self.read..searched + at];
                self.read = searched + at + 1;
                break line;
            }
            self.buffer.drain(..self.read);
            self.read = 0;
            searched = self.buffer.len();
            match self.answer.piece().await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.read = self.buffer.len();
                    break &self.buffer[..];
                }
            }
        };
        let parsed = serde_json::from_slice(line);
        parsed.map(Some).map_err(|e| target.other_program().with_source(e))
    }
}
