//! The console: reads statements, runs them one after the other, and prints what they answer.

use std::{
    io::{self, BufWriter, Stdout},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use tokio::signal;

use super::{
    format::{Mode, Printer},
    input::{Input, Line},
    queries,
    stream::{Failure, Sink, SqlError, Stream},
};
use crate::{
    cli::shared::unknown,
    error::{Error, ErrorKind, Result},
    http::text::{shown, shown_lines},
    sqlite::guest::{Kind, Value, text},
    tenants::id::TenantId,
};

/// How often an open transaction is kept from being given up while the next line is waited for.
const STAY: Duration = Duration::from_secs(1);

/// The longest text that is waited with for its semicolon, in bytes; statements may not have as many.
const LONGEST: usize = 4 << 20;

const HELP: &str = "\
Statements end with a semicolon and may have several lines.
  .tables              tables and views
  .schema [TABLE]      how they were made
  .mode [NAME]         how rows are printed: table, json or csv
  .help                this
  .quit, .exit         leave; so does Ctrl-D
Ctrl-C drops what is typed, or stops waiting for a statement. Each statement is committed by itself, but between
BEGIN and COMMIT; a transaction that is open at the end is rolled back.";

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Leave,
}

/// A console.
pub struct Console<'t> {
    id: TenantId,
    stream: Stream<'t>,
    input: Input,
    printer: Printer<BufWriter<Stdout>>,
    read_only: bool,
    /// What was read and is not yet a whole statement, and in which line it begins.
    begun: String,
    line: usize,
    /// The number of the last statement that was run.
    number: usize,
    /// A statement was committed.
    committed: bool,
    /// The line in which the open transaction began.
    transaction: Option<usize>,
    /// The server did not answer the statement that ends it: whether it is committed is not known.
    in_doubt: bool,
    /// Why it ended while the next line was waited for: the next statement must not run without it.
    lost: Option<Error>,
}

/// Said of a transaction whose end was not answered.
const IN_DOUBT: &str = "whether the transaction is committed, the data shows; look before you run it again";

/// Whether a statement may commit what is open.
fn ends_transaction(statement: &str) -> bool {
    matches!(text::transaction_verb(statement), Some(Kind::Commit | Kind::Release))
}

impl<'t> Console<'t> {
    /// For a user's database.
    pub fn new(id: TenantId, stream: Stream<'t>, input: Input, mode: Mode, read_only: bool) -> Self {
        Self {
            id,
            stream,
            input,
            printer: Printer::new(BufWriter::new(io::stdout()), mode),
            read_only,
            begun: String::new(),
            line: 1,
            number: 0,
            committed: false,
            transaction: None,
            in_doubt: false,
            lost: None,
        }
    }

    /// Runs all there is. A reader of the output that has gone (`| head`) ends it, which is no error.
    pub async fn run(mut self) -> Result<ExitCode> {
        // Says at once that a user is unknown or suspended.
        self.stream.stay().await.map_err(|error| named(error, &self.id))?;
        if self.input.is_prompt() {
            println!("SQL for {}. Statements end with a semicolon; .help says what else there is.", self.id);
        }
        let ended = self.lines().await;
        let open = self.stream.in_transaction();
        let closed = self.stream.close().await;
        match ended {
            Ok(()) if open && self.input.is_prompt() => eprintln!("note: the open transaction was rolled back"),
            Ok(()) if open => return Err(self.left_open()),
            Ok(()) => {}
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(Failure::Output(error)) => return Err(Error::io("standard output", error)),
            Err(failure) => return Err(self.explain(failure)),
        }
        closed.map(|()| ExitCode::SUCCESS)
    }

    async fn lines(&mut self) -> Result<(), Failure> {
        loop {
            match self.next_line().await? {
                Line::End => break,
                Line::Dropped => self.begun.clear(),
                Line::Text(line) if self.begun.is_empty() && line.trim_start().starts_with('.') => {
                    self.input.remember(&line);
                    let done = self.command(line.trim().trim_end_matches(';')).await;
                    if self.survives(done)? == Some(Then::Leave) {
                        return Ok(());
                    }
                    self.line += 1;
                }
                Line::Text(line) => {
                    let look = self.begun.is_empty() || line.contains(';');
                    self.begun.push_str(&line);
                    self.begun.push('\n');
                    if look {
                        self.statements(false).await?;
                    }
                    if self.begun.len() > LONGEST {
                        return Err(problem("a statement does not end: is a quote or a semicolon missing?").into());
                    }
                }
            }
        }
        if self.input.is_prompt() { Ok(()) } else { self.statements(true).await }
    }

    /// Waits for a line. An open transaction lasts meanwhile, as long as the server lets it.
    async fn next_line(&mut self) -> Result<Line, Failure> {
        let prompt = match (self.begun.is_empty(), self.stream.in_transaction()) {
            (true, false) => "cubby> ",
            (true, true) => "cubby*> ",
            (false, false) => "   ...> ",
            (false, true) => "    ...> ",
        };
        let mut line = pin!(self.input.next(prompt));
        loop {
            tokio::select! {
                line = &mut line => return Ok(line?),
                () = tokio::time::sleep(STAY), if self.stream.in_transaction() => {
                    self.lost = self.stream.stay().await.err();
                }
            }
        }
    }

    /// Runs the whole statements of what was read; at the end of all also one without a semicolon.
    async fn statements(&mut self, last: bool) -> Result<(), Failure> {
        let text = std::mem::take(&mut self.begun);
        let mut rest = text.as_str();
        loop {
            let length = match text::end_of_first(rest) {
                Some(length) => length,
                None if last && !text::is_empty(rest) => rest.len(),
                None => break,
            };
            let (statement, after) = rest.split_at(length);
            if !text::is_empty(statement) {
                let ran = self.statement(statement).await;
                if self.survives(ran)?.is_none() {
                    // What else is in the line was meant to follow it.
                    return Ok(());
                }
            }
            self.line += lines_in(statement);
            rest = after;
        }
        if is_between_statements(rest) {
            self.line += lines_in(rest);
        } else {
            rest.clone_into(&mut self.begun);
        }
        Ok(())
    }

    async fn statement(&mut self, statement: &str) -> Result<(), Failure> {
        self.input.remember(statement);
        self.number += 1;
        let before = text::first_word(statement).map_or(0, |word| word.as_ptr().addr() - statement.as_ptr().addr());
        let begins = self.line + lines_in(&statement[..before]);
        let statement = statement.trim();
        let ran = match (self.lost.take(), self.input.is_prompt()) {
            (Some(lost), _) => Err(lost.into()),
            (None, false) => self.stream.run(statement, &[], &mut self.printer).await,
            (None, true) => tokio::select! {
                ran = self.stream.run(statement, &[], &mut self.printer) => ran,
                _ = signal::ctrl_c() => Err(self.stopped(statement)?),
            },
        };
        if ran.is_err() {
            self.printer.cut()?;
        }
        match (ran, self.stream.in_transaction()) {
            (Ok(()), true) => self.transaction = self.transaction.or(Some(begins)),
            (Ok(()), false) => (self.committed, self.transaction) = (true, None),
            (Err(failure), _) => {
                self.in_doubt =
                    ends_transaction(statement) && matches!(failure, Failure::Request(_)) && self.transaction.is_some();
                // Where it stands, for whoever explains it.
                self.line = begins;
                return Err(failure);
            }
        }
        Ok(())
    }

    /// The person does not wait for a statement.
    fn stopped(&mut self, statement: &str) -> Result<Failure, Failure> {
        let ends = ends_transaction(statement);
        let open = self.stream.in_transaction();
        self.stream.forget();
        self.printer.cut()?;
        let rolled_back = if open && !ends { ", and the open transaction is rolled back within seconds" } else { "" };
        Ok(problem(&format!("not waited for; whether the statement is done, the data shows{rolled_back}")).into())
    }

    /// At the prompt an error is told, and the next line is asked for.
    fn survives<T>(&mut self, done: Result<T, Failure>) -> Result<Option<T>, Failure> {
        let failure = match done {
            Ok(done) => return Ok(Some(done)),
            Err(failure) if !self.input.is_prompt() || matches!(failure, Failure::Output(_)) => return Err(failure),
            Err(failure) => failure,
        };
        match failure {
            Failure::Sql(error) => eprintln!("error: {}", self.message(&error)),
            Failure::Request(error) => eprintln!("error: {}", shown_lines(error.message())),
            Failure::Output(_) => {}
        }
        if self.transaction.is_some() && !self.stream.in_transaction() {
            self.transaction = None;
            eprintln!("note: {}", if self.in_doubt { IN_DOUBT } else { "the transaction was rolled back" });
        }
        Ok(None)
    }

    /// An error, with the statement's place and what holds of those before it.
    fn explain(&self, failure: Failure) -> Error {
        let (kind, message) = match failure {
            Failure::Sql(error) => (ErrorKind::Conflict, self.message(&error)),
            Failure::Request(error) => (error.kind(), shown_lines(error.message())),
            Failure::Output(error) => return Error::io("standard output", error),
        };
        let at = match (&self.input, self.number) {
            (Input::Text(_), 0 | 1) => String::new(),
            _ => format!("line {}: ", self.line),
        };
        Error::new(kind, format!("{at}{message}{}", self.what_stays()))
    }

    fn what_stays(&self) -> String {
        match (self.transaction, self.committed) {
            _ if self.in_doubt => format!("\nIn doubt: {IN_DOUBT}. What comes after it was not run."),
            (Some(line), true) => format!(
                "\nThe transaction that began in line {line} is rolled back, and what comes after it was not run; what is \
                 before it is committed."
            ),
            (Some(line), false) => {
                format!(
                    "\nThe transaction that began in line {line} is rolled back, and what comes after it was not run."
                )
            }
            (None, true) => "\nWhat is before it is committed; what comes after it was not run.".to_owned(),
            (None, false) => String::new(),
        }
    }

    fn left_open(&self) -> Error {
        problem(&format!("the SQL ends inside of a transaction: end it with COMMIT.{}", self.what_stays()))
    }

    fn message(&self, error: &SqlError) -> String {
        let is = |what: &str| error.message.contains(what);
        let hint = match &*error.code {
            "SQLITE_READONLY" if self.read_only => "; this console only reads, without --read-only it may write",
            _ if is("no such table") || is("no such column") => "; .schema shows what there is",
            _ => "",
        };
        format!("{} ({}){hint}", shown(&error.message), shown(&error.code))
    }

    /// Does what a line that begins with a dot says.
    async fn command(&mut self, line: &str) -> Result<Then, Failure> {
        let mut words = line.split_whitespace();
        match (words.next().unwrap_or_default(), words.next(), words.next()) {
            (".quit" | ".exit", None, None) => return Ok(Then::Leave),
            (".help", None, None) => self.printer.line(HELP)?,
            (".tables", None, None) => self.stream.run(queries::TABLES, &[], &mut self.printer).await?,
            (".mode", None, None) => {
                let name = self.printer.mode.name();
                self.printer.line(name)?;
            }
            (".mode", Some(name), None) => {
                let mode = Mode::parse(name);
                self.printer.mode = mode.ok_or_else(|| problem("there are the modes table, json and csv"))?;
            }
            (".schema", table, None) => {
                let (sql, args) = table.map_or((queries::SCHEMA, vec![]), |table| (queries::SCHEMA_OF, vec![table]));
                let mut schema = Schema { printer: &mut self.printer, found: false };
                self.stream.run(sql, &args, &mut schema).await?;
                if let (Some(table), false) = (table, schema.found) {
                    return Err(problem(&format!("there is no table {}; .tables shows them", shown(table))).into());
                }
            }
            (word, ..) => return Err(problem(&format!("{} is no command here; .help lists them", shown(word))).into()),
        }
        self.printer.flush()?;
        Ok(Then::GoOn)
    }
}

/// Prints the statements of a schema.
struct Schema<'p> {
    printer: &'p mut Printer<BufWriter<Stdout>>,
    found: bool,
}

impl Sink for Schema<'_> {
    fn columns(&mut self, _: Vec<String>) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, values: Vec<Value>) -> io::Result<()> {
        self.found = true;
        match values.first() {
            Some(Value::Text(sql)) => self.printer.line(&format!("{};", shown_lines(sql))),
            _ => Ok(()),
        }
    }

    fn end(&mut self, _: &str, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn problem(why: &str) -> Error {
    Error::new(ErrorKind::Invalid, why.to_owned())
}

/// Names the user where the server does not.
fn named(error: Error, id: &TenantId) -> Error {
    match error.kind() {
        ErrorKind::UnknownTenant => unknown(id),
        ErrorKind::Suspended => {
            let why = format!("{}; `cubby tenants resume {id}` ends that", shown(error.message()));
            Error::new(ErrorKind::Suspended, why)
        }
        _ => error,
    }
}

fn lines_in(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// Whether nothing has begun: not even a comment of which the end is still to come.
fn is_between_statements(text: &str) -> bool {
    text::is_empty(text) && !text::is_empty(&format!("{text}\nx"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_that_does_not_end_is_waited_for() {
        for (text, between) in [
            ("", true),
            (" \n", true),
            ("-- x", true),
            ("/* x */\n", true),
            ("/* x", false),
            ("SELECT", false),
            ("'", false),
        ] {
            assert_eq!(is_between_statements(text), between, "{text:?}");
        }
    }
}
