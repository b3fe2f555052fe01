//! Runs a program on a connection that is lent to it, as far as that connection goes.
//!
//! A request is one of three kinds of work, and it is not known before which: it may only read; it may write, and then it
//! is one job of the tenant's combiner and shares a commit with others; or it leaves a transaction open for the next
//! request. So a machine runs as far as it gets where it is, and says why it stopped ([`Stop`]). What it has written is
//! in its [`Answer`]; [`Machine::save`] and [`Machine::restore`] let a connection that could not finish be left without
//! a trace.
//!
//! A job is in a transaction already, and a read on the one connection of all, so `BEGIN` and `COMMIT` are savepoints
//! there ([`Guest::mark`]). What a client can tell apart is kept: deferred foreign keys are checked where `COMMIT` is,
//! and a statement outside of a transaction that fails takes back what it did.

mod batch;

use std::sync::Arc;

use super::{
    answer::{Answer, Form, Mark, TOO_LARGE},
    program::{Order, Program},
    state::{Control, Place, State, Transaction},
};
use crate::sqlite::guest::{Done, Guest, Kind, SqlError, Statement, text};

/// Why a machine stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The program is at its end.
    End,
    /// The next statement writes.
    Writes,
    /// The next statement begins a transaction, and [`Machine::stops_at_begin`].
    Begins(Kind),
    /// The next statement commits the session; [`Machine::resume`] goes on after it.
    Commits,
    /// The next statement rolls the session back.
    RollsBack,
    /// `PRAGMA foreign_keys` has changed what the next statements need.
    ForeignKeys,
    /// The answer is larger than is allowed yet.
    Large,
}

/// How a step of a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Error,
    Skipped,
}

/// Where in its program a machine is.
#[derive(Debug, Clone, Default)]
struct At {
    order: usize,
    /// Something of the order is in the answer.
    begun: bool,
    /// How the steps of the batch ended; the next is as many.
    outcomes: Vec<Outcome>,
    /// The errors of these, in their order.
    errors: Vec<SqlError>,
    /// How far in a sequence, in bytes.
    offset: usize,
}

/// What [`Machine::restore`] goes back to.
#[derive(Debug, Clone)]
pub struct Saved(At, State, Mark);

/// A program, how far it is, and its answer so far.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says another thing, and any of them may be true")]
pub struct Machine {
    program: Arc<Program>,
    at: At,
    /// The end of what is answered of statements that have ended.
    whole: Mark,
    changed_foreign_keys: bool,
    /// The state of the stream.
    pub state: State,
    /// What is answered.
    pub answer: Answer,
    /// The caller may only read.
    pub read_only: bool,
    /// A transaction is not begun here, since it will be open at the end.
    pub stops_at_begin: bool,
    /// An answer that is too large stops the machine: it will be allowed more.
    pub may_grow: bool,
    /// The job must be undone: its only statement failed at its end.
    pub undo: bool,
    /// Statements that rolled back their whole job (`OR ROLLBACK`), where they are and why. By themselves they would have
    /// taken back nothing but their own work, so the job is run again without them.
    ruinous: Vec<(usize, usize, usize, SqlError)>,
    /// There is one more of these.
    pub runs_again: bool,
}

/// So many statements may make their job run again.
const RUINOUS: usize = 4;

enum Ran {
    Done(Result<(), SqlError>),
    Stop(Stop),
}

/// An error is fatal to the connection: see [`SqlError::fatal`].
type Fatal<T> = Result<T, SqlError>;

/// An error that only its statement has.
fn survived(error: SqlError) -> Fatal<SqlError> {
    if error.fatal.is_some() { Err(error) } else { Ok(error) }
}

impl Machine {
    /// At the beginning.
    pub fn new(program: Arc<Program>, state: State, answer: Answer, read_only: bool) -> Self {
        Self {
            stops_at_begin: program.leaves_open(),
            program,
            at: At::default(),
            whole: answer.mark(),
            changed_foreign_keys: false,
            state,
            answer,
            read_only,
            may_grow: true,
            undo: false,
            ruinous: Vec::new(),
            runs_again: false,
        }
    }

    /// Where it is, to go back to.
    pub fn save(&self) -> Saved {
        Saved(self.at.clone(), self.state.clone(), self.answer.mark())
    }

    /// Goes back.
    pub fn restore(&mut self, saved: &Saved) {
        let Saved(at, state, mark) = saved.clone();
        (self.at, self.state, self.whole) = (at, state, mark);
        (self.changed_foreign_keys, self.undo, self.runs_again) = (false, false, false);
        self.answer.back_to(mark);
    }

    /// Whether all that is left looks as if it only read.
    pub fn seems_to_read(&self) -> bool {
        self.program.seems_to_read(self.at.order)
    }

    /// Whether a transaction that the client began is open.
    pub fn in_transaction(&self) -> bool {
        self.state.transaction.is_some()
    }

    /// Runs as far as it can.
    pub fn run(&mut self, guest: &Guest<'_>, place: Place) -> Fatal<Stop> {
        let program = self.program.clone();
        while let Some(order) = program.orders.get(self.at.order) {
            self.begin(order);
            let stop = match order {
                Order::Execute(statement) => self.execute(guest, place, statement)?,
                Order::Batch(steps) => self.batch(guest, place, steps)?,
                Order::Sequence(sql) => self.sequence(guest, place, sql)?,
                Order::Describe(sql) => self.describe(guest, place, sql)?,
                _ => self.at_once(order),
            };
            if let Some(stop) = stop {
                return Ok(stop);
            }
            self.next_order();
            if std::mem::take(&mut self.changed_foreign_keys) {
                return Ok(Stop::ForeignKeys);
            }
        }
        Ok(Stop::End)
    }

    /// Answers a program of which nothing needs a connection.
    pub fn run_idle(&mut self) {
        let program = self.program.clone();
        for order in &program.orders {
            self.begin(order);
            self.at_once(order);
            self.next_order();
        }
    }

    /// The session was begun for the transaction that the next statement begins.
    pub fn begun(&mut self, kind: Kind) {
        self.state.transaction = Some(Transaction::begun_by(kind));
        // A savepoint is made in it, too.
        if matches!(kind, Kind::Begin(_)) {
            self.ran_elsewhere(Ok(()));
        }
    }

    /// The session has ended as the next statement says, or that failed.
    pub fn resume(&mut self, ended: Result<(), SqlError>) {
        if ended.is_ok() {
            self.state.transaction = None;
        }
        self.ran_elsewhere(ended);
    }

    /// The next statement has failed and rolled back the transaction: what comes after it runs outside of one.
    pub fn rolled_back(&mut self, error: SqlError) {
        self.state.transaction = None;
        self.answer.back_to(self.whole);
        self.ran_elsewhere(Err(error));
    }

    /// Answers all that is left with an error; what statements have answered that have ended stays.
    pub fn fail_rest(&mut self, error: &SqlError) {
        self.answer.back_to(self.whole);
        let program = self.program.clone();
        if self.answer.form() == Form::Cursor {
            self.answer.fail(error);
            self.at.order = program.orders.len();
        }
        while let Some(order) = program.orders.get(self.at.order) {
            match order {
                Order::Batch(steps) if self.at.begun && !self.at.outcomes.is_empty() => {
                    if self.at.outcomes.len() < steps.len() {
                        self.report_step(Err(error.clone()));
                    }
                    while self.at.outcomes.len() < steps.len() {
                        self.skip();
                    }
                    self.close_batch();
                }
                Order::Execute(_) | Order::Batch(_) | Order::Sequence(_) | Order::Describe(_) => {
                    self.separate();
                    self.answer.fail(error);
                }
                _ => {
                    self.separate();
                    self.at_once(order);
                }
            }
            self.next_order();
        }
    }

    fn separate(&mut self) {
        if !std::mem::replace(&mut self.at.begun, true) {
            self.answer.separate();
        }
    }

    fn begin(&mut self, order: &Order) {
        self.separate();
        if !matches!(order, Order::Batch(_)) || self.at.outcomes.is_empty() {
            self.whole = self.answer.mark();
        }
    }

    fn next_order(&mut self) {
        self.at = At { order: self.at.order + 1, ..At::default() };
        self.whole = self.answer.mark();
    }

    fn at_once(&mut self, order: &Order) -> Option<Stop> {
        match order {
            Order::Done(kind) => self.answer.say(kind),
            Order::Autocommit => self.answer.autocommit(self.state.transaction.is_none()),
            Order::Failed(error) => self.answer.fail(error),
            _ => {}
        }
        None
    }

    fn describe(&mut self, guest: &Guest<'_>, place: Place, sql: &str) -> Fatal<Option<Stop>> {
        let mark = self.answer.mark();
        let Err(error) = guest.describe(sql).and_then(|description| self.answer.describe(&description)) else {
            return Ok(None);
        };
        self.answer.back_to(mark);
        match self.failed(place, error)? {
            Ran::Stop(stop) => return Ok(Some(stop)),
            Ran::Done(Err(error)) => self.answer.fail(&error),
            Ran::Done(Ok(())) => {}
        }
        Ok(None)
    }

    fn execute(&mut self, guest: &Guest<'_>, place: Place, statement: &Statement<'_>) -> Fatal<Option<Stop>> {
        let mark = self.answer.mark();
        self.answer.open_result("execute");
        match self.statement(guest, place, statement, 0)? {
            Ran::Done(Ok(())) => self.answer.close(),
            Ran::Done(Err(error)) => {
                self.answer.back_to(mark);
                self.answer.fail(&error);
            }
            Ran::Stop(stop) => {
                self.answer.back_to(mark);
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }

    fn sequence(&mut self, guest: &Guest<'_>, place: Place, sql: &str) -> Fatal<Option<Stop>> {
        while let Some(one) = text::split(&sql[self.at.offset..]).next() {
            let mark = self.answer.mark();
            let ran = self.statement(guest, place, &Statement { want_rows: false, ..Statement::new(one) }, 0)?;
            self.answer.back_to(mark);
            match ran {
                Ran::Done(Ok(())) => self.at.offset += first_length(&sql[self.at.offset..]),
                Ran::Done(Err(error)) => {
                    self.answer.fail(&error);
                    return Ok(None);
                }
                Ran::Stop(stop) => return Ok(Some(stop)),
            }
            if std::mem::take(&mut self.changed_foreign_keys) {
                return Ok(Some(Stop::ForeignKeys));
            }
        }
        self.answer.say("sequence");
        Ok(None)
    }

    /// The next statement has run where this machine is not.
    fn ran_elsewhere(&mut self, ran: Result<(), SqlError>) {
        let program = self.program.clone();
        match (program.orders.get(self.at.order), ran) {
            (Some(Order::Batch(_)), ran) => return self.report_step(ran),
            (Some(Order::Sequence(sql)), Ok(())) => {
                self.at.offset += first_length(&sql[self.at.offset..]);
                return;
            }
            (Some(Order::Execute(_)), Ok(())) => {
                self.answer.open_result("execute");
                // What has no rows fits, or the next one will say so.
                let _ = self.answer.result(0).finish(&Done::default());
                self.answer.close();
            }
            (Some(_), Err(error)) => self.answer.fail(&error),
            _ => {}
        }
        self.next_order();
    }

    /// Whether a statement failed only because this is a read.
    fn is_for_a_writer(&self, place: Place, error: &SqlError) -> bool {
        let forbidden = self.read_only || self.state.transaction.as_ref().is_some_and(|open| open.read_only);
        place == Place::Read && !forbidden && error.code == "SQLITE_READONLY"
    }

    fn statement(&mut self, guest: &Guest<'_>, place: Place, statement: &Statement<'_>, step: usize) -> Fatal<Ran> {
        let Some(kind) = text::transaction_verb(&statement.sql) else {
            return self.plain(guest, place, statement, step);
        };
        // What SQLite is not asked to run must be what it would: with nothing after it.
        if let Err(error) = guest.describe(&statement.sql) {
            return Ok(Ran::Done(Err(survived(error)?)));
        }
        let begins = matches!(kind, Kind::Begin(_) | Kind::Savepoint) && self.state.transaction.is_none();
        if begins && self.stops_at_begin {
            return Ok(Ran::Stop(Stop::Begins(kind)));
        }
        Ok(match self.state.control(guest, place, kind, &statement.sql) {
            Ok(Control::Done) => Ran::Done(self.answer.result(step).finish(&Done::default())),
            Ok(Control::Commits) => Ran::Stop(Stop::Commits),
            Ok(Control::RollsBack) => Ran::Stop(Stop::RollsBack),
            Err(error) => Ran::Done(Err(survived(error)?)),
        })
    }

    /// A statement that does not control the transaction.
    fn plain(&mut self, guest: &Guest<'_>, place: Place, statement: &Statement<'_>, step: usize) -> Fatal<Ran> {
        let sql = &*statement.sql;
        let here = (self.at.order, self.at.outcomes.len(), self.at.offset);
        let known = self.ruinous.iter().find(|(order, step, offset, _)| (*order, *step, *offset) == here);
        if let Some((.., error)) = known {
            return Ok(Ran::Done(Err(error.clone())));
        }
        let transaction = self.state.transaction.as_ref();
        let outside = transaction.is_none();
        let prepared = match guest.prepare(sql) {
            Ok(prepared) => prepared,
            Err(error) => return self.failed(place, error),
        };
        if place != Place::Read && prepared.writes() && transaction.is_some_and(|open| open.read_only) {
            let why = "the transaction was begun to read only, and the statement writes";
            return Ok(Ran::Done(Err(SqlError::new("SQLITE_READONLY", why))));
        }
        // By itself, it is undone with its job. With columns, whose names are answered too, it may fail after it wrote.
        let writes = place != Place::Read && prepared.writes();
        let may_fail = prepared.has_columns();
        let marked = writes && ((outside && !self.program.is_single()) || may_fail);
        if marked {
            guest.mark().or_else(|error| Err(survived(error)?))?;
        }
        let mut rows = self.answer.result(step);
        let ran = match guest.run(prepared, statement, &mut rows) {
            Ok(done) => rows.finish(&done),
            Err(error) => Err(error),
        };
        let ran = ran.and_then(|()| if outside && writes { guest.check_deferred() } else { Ok(()) });
        let Err(error) = ran else {
            if marked {
                guest.keep()?;
            }
            if outside && text::is_pragma(sql) {
                let asked = guest.foreign_keys_asked().unwrap_or(self.state.foreign_keys);
                self.changed_foreign_keys = asked != self.state.foreign_keys;
                self.state.foreign_keys = asked;
            }
            return Ok(Ran::Done(Ok(())));
        };
        let ruins = error.fatal.is_some() && error.code == "SQLITE_CONSTRAINT";
        if ruins && outside && place == Place::Job && self.ruinous.len() < RUINOUS {
            self.ruinous.push((here.0, here.1, here.2, SqlError::new(error.code, error.message.clone())));
            self.runs_again = true;
        }
        let error = survived(error)?;
        match marked {
            true => guest.undo()?,
            false => self.undo |= outside && writes,
        }
        self.failed(place, error)
    }

    /// What is done about a statement's error that changed nothing.
    fn failed(&self, place: Place, error: SqlError) -> Fatal<Ran> {
        let error = survived(error)?;
        if self.is_for_a_writer(place, &error) {
            return Ok(Ran::Stop(Stop::Writes));
        }
        if error.code == TOO_LARGE && self.may_grow {
            return Ok(Ran::Stop(Stop::Large));
        }
        Ok(Ran::Done(Err(error)))
    }
}

/// The length of the first statement, with what is before it.
fn first_length(sql: &str) -> usize {
    let first = text::split(sql).next().map_or("", |first| first);
    first.as_ptr().addr() - sql.as_ptr().addr() + first.len()
}
