//! The transaction of a stream, as its client sees it.

use crate::sqlite::guest::{Guest, Kind, Mode, NoRows, SqlError, Statement, text};

/// On whose connection statements run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A read's: what writes stops the machine.
    Read,
    /// A job's of the combiner, in a transaction with others'.
    Job,
    /// A transaction's of its own, over several requests.
    Session,
}

/// The state of a stream that a client can tell.
#[derive(Debug, Clone)]
pub struct State {
    /// The transaction, if one is open.
    pub transaction: Option<Transaction>,
    /// Whether foreign keys are enforced.
    pub foreign_keys: bool,
    /// The transaction has changed the schema.
    pub changed_schema: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { transaction: None, foreign_keys: true, changed_schema: false }
    }
}

/// A transaction that a client began.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// It may not write.
    pub read_only: bool,
    /// It was begun by a savepoint, and ends with it.
    by_savepoint: bool,
    /// The client's savepoints.
    savepoints: Vec<String>,
}

impl Transaction {
    /// That a statement begins which does this.
    pub fn begun_by(kind: Kind) -> Self {
        Self {
            read_only: kind == Kind::Begin(Mode::ReadOnly),
            by_savepoint: kind == Kind::Savepoint,
            savepoints: Vec::new(),
        }
    }
}

/// What the machine does about a statement that controls the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// It is done.
    Done,
    /// The session is to be committed.
    Commits,
    /// The session is to be rolled back.
    RollsBack,
}

impl State {
    /// Runs a statement that controls the transaction.
    ///
    /// # Errors
    /// Those that SQLite has in the same state.
    pub fn control(&mut self, guest: &Guest<'_>, place: Place, kind: Kind, sql: &str) -> Result<Control, SqlError> {
        let run = |sql: &str| guest.execute(&Statement::new(sql), &mut NoRows).map(drop);
        let error = |message: String| SqlError::new("SQLITE_ERROR", message);
        let name = text::savepoint_name(sql).unwrap_or_default();
        let Some(open) = &mut self.transaction else {
            match kind {
                Kind::Begin(_) => guest.mark()?,
                Kind::Savepoint => {
                    guest.mark()?;
                    run(sql).or_else(|failed| guest.undo().and(Err(failed)))?;
                }
                Kind::Commit => return Err(error("cannot commit - no transaction is active".into())),
                Kind::Rollback => return Err(error("cannot rollback - no transaction is active".into())),
                _ => return Err(error(format!("no such savepoint: {name}"))),
            }
            let mut begun = Transaction::begun_by(kind);
            begun.savepoints.extend((kind == Kind::Savepoint).then_some(name));
            self.transaction = Some(begun);
            return Ok(Control::Done);
        };
        let found = open.savepoints.iter().rposition(|savepoint| *savepoint == name);
        let unknown = || error(format!("no such savepoint: {name}"));
        let ended = match kind {
            Kind::Begin(_) => return Err(error("cannot start a transaction within a transaction".into())),
            Kind::Commit => Control::Commits,
            Kind::Rollback => Control::RollsBack,
            Kind::Savepoint => {
                run(sql)?;
                open.savepoints.push(name);
                return Ok(Control::Done);
            }
            Kind::Release => {
                let found = found.ok_or_else(unknown)?;
                if !(open.by_savepoint && found == 0) {
                    run(sql)?;
                    open.savepoints.truncate(found);
                    return Ok(Control::Done);
                }
                Control::Commits
            }
            _ => {
                let found = found.ok_or_else(unknown)?;
                run(sql)?;
                open.savepoints.truncate(found + 1);
                return Ok(Control::Done);
            }
        };
        if ended == Control::Commits {
            guest.check_deferred()?;
        }
        if place == Place::Session {
            return Ok(ended);
        }
        if ended == Control::Commits {
            guest.keep()?;
        } else {
            guest.undo()?;
        }
        self.transaction = None;
        Ok(Control::Done)
    }
}
