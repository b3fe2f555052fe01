//! Runs a guest's statements.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::{Connection, StatementStatus, ffi};

use super::{
    authorize::{Refusal, names_no_protected, refuse_write},
    error::{Circumstances, failure, translate},
    functions, inline,
    model::{Description, Done, Kind, Rules, Sink, SqlError, Statement, shorten},
    prepared::{self, Held, Prepared, bind, columns, values},
    settings, text,
    watch::{self, Watch},
};
use crate::{
    error::{Error, ErrorKind, Result},
    sqlite::{authorizer, deadline, memory, touched},
};

/// The savepoint of [`Guest::mark`].
const MARK: &str = "cubby_guest";

/// A guest on a connection that [`guard()`] made safe for it.
pub struct Guest<'g> {
    conn: &'g Connection,
    rules: &'g Rules,
    watch: Arc<Mutex<Watch>>,
    until: Instant,
    /// It is on a thread that serves others too: what may take long is to run elsewhere.
    inline: bool,
}

/// Runs `work` with a guest on the connection. Authorizer, limits, memory budget and deadline are on meanwhile; after it
/// the connection is as before, but for what [`Rules::temp`] says.
///
/// # Errors
/// The connection cannot be set up for a guest; `work` was not called.
pub fn guard<T>(conn: &Connection, rules: &Rules, work: impl FnOnce(&Guest) -> T) -> Result<T> {
    // An unbounded time is a century.
    let until = Instant::now() + rules.time.min(Duration::from_secs(100 * 365 * 86_400));
    let inline = deadline::inline_until();
    let here = inline.map(|_| inline::reduce(rules));
    let rules = here.as_ref().unwrap_or(rules);
    let guest = Guest {
        conn,
        rules,
        watch: Arc::default(),
        until: inline.map_or(until, |inline| inline.min(until)),
        inline: inline.is_some(),
    };
    functions::install(conn)?;
    if rules.temp {
        settings::bound_temporary(conn, rules.memory)?;
    }
    let limits = settings::Limits::apply(conn, rules)?;
    let judge = watch::judge(guest.watch.clone(), rules.clone(), guest.inline);
    let result = settings::enforce_foreign_keys(conn, rules.foreign_keys).map(|()| {
        catch_unwind(AssertUnwindSafe(|| {
            authorizer::judged_by(conn, judge, || {
                memory::limited(rules.memory, || deadline::until(guest.until, || work(&guest)))
            })
        }))
    });
    let set = if rules.temp { Vec::new() } else { std::mem::take(&mut guest.watch.lock().set) };
    limits
        .restore(conn)
        .and_then(|()| settings::enforce_foreign_keys(conn, true))
        .and_then(|()| settings::reset(conn, &set))
        .map_err(|error| {
            // Nobody else may get it as it is.
            Error::new(ErrorKind::Unavailable, "a connection could not be set back after a statement")
                .with_source(error)
        })?;
    result?.map_or_else(|panic| resume_unwind(panic), Ok)
}

/// Makes a connection forget what its last caller inserted: `last_insert_rowid()` is 0 till the next one has.
pub fn forget_rowid(conn: &Connection) {
    // SAFETY: the handle is live for the length of the call.
    unsafe { ffi::sqlite3_set_last_insert_rowid(conn.handle(), 0) }
}

impl Guest<'_> {
    /// Prepares one statement that does not control the transaction.
    pub fn prepare(&self, sql: &str) -> Result<Prepared<'_>, SqlError> {
        let was_autocommit = self.conn.is_autocommit();
        self.prepare_one(sql).map(Prepared).map_err(|error| self.failed(error, was_autocommit))
    }

    /// Runs one statement.
    pub fn execute(&self, statement: &Statement<'_>, sink: &mut dyn Sink) -> Result<Done, SqlError> {
        self.run(self.prepare(&statement.sql)?, statement, sink)
    }

    /// Runs a statement that is prepared.
    pub fn run(
        &self,
        prepared: Prepared<'_>,
        statement: &Statement<'_>,
        sink: &mut dyn Sink,
    ) -> Result<Done, SqlError> {
        let writes = prepared.writes();
        let Some(mut prepared) = prepared.0 else {
            return Ok(Done { last_insert_rowid: self.conn.last_insert_rowid(), ..Done::default() });
        };
        let result = self.step(&mut prepared, writes, statement, sink);
        prepared.finish();
        result
    }

    fn step(
        &self,
        prepared: &mut Held<'_>,
        writes: bool,
        statement: &Statement<'_>,
        sink: &mut dyn Sink,
    ) -> Result<Done, SqlError> {
        let begun = Instant::now();
        let (was_autocommit, total) = (self.conn.is_autocommit(), self.conn.total_changes());
        let failed = |error| self.failed(error, was_autocommit);
        let mut done = Done::default();
        if writes {
            refuse_write(self.rules).map_err(|refusal| SqlError::new(refusal.code, refusal.message))?;
        }
        let most = usize::try_from(self.rules.arguments).unwrap_or(0);
        bind(prepared, statement, most, || self.in_time()).map_err(failed)?;
        // One that was kept has counted before.
        prepared.reset_status(StatementStatus::FullscanStep);
        let mut rows = prepared.raw_query();
        let mut told = false;
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    // Not before the first step: if the schema has changed, that prepares it anew.
                    if !std::mem::replace(&mut told, true) {
                        sink.columns(&columns(row.as_ref()))?;
                    }
                    done.rows_read += 1;
                    if statement.want_rows {
                        sink.row(&values(row).map_err(failed)?)?;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    drop(rows);
                    return Err(failed(error));
                }
            }
        }
        drop(rows);
        if !told {
            sink.columns(&columns(prepared))?;
        }
        done.rows_read += u64::try_from(prepared.get_status(StatementStatus::FullscanStep)).unwrap_or(0);
        done.rows_written = self.conn.total_changes() - total;
        // SQLite counts anew only for a statement that changes rows.
        done.affected = if writes && done.rows_written > 0 { self.conn.changes() } else { 0 };
        done.last_insert_rowid = self.conn.last_insert_rowid();
        done.micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(done)
    }

    /// Runs several statements without arguments, up to the first that fails. Those that control transactions fail: a
    /// caller that interprets them uses [`text::split`] and [`execute`](Self::execute).
    pub fn sequence(&self, sql: &str) -> Result<(), SqlError> {
        self.check_text(sql).map_err(|error| self.failed(error, self.conn.is_autocommit()))?;
        for sql in text::split(sql) {
            self.execute(&Statement { want_rows: false, ..Statement::new(sql) }, &mut super::NoRows)?;
        }
        Ok(())
    }

    /// What a statement is, also one that controls the transaction. It is prepared and does not run.
    pub fn describe(&self, sql: &str) -> Result<Description, SqlError> {
        let was_autocommit = self.conn.is_autocommit();
        let failed = |error| self.failed(error, was_autocommit);
        let controls = text::transaction_verb(sql).is_some();
        let prepared = if controls { self.as_own(|| self.prepare_any(sql)) } else { self.prepare_any(sql) };
        let Some(prepared) = prepared.map_err(failed)? else {
            return Ok(Description { is_readonly: true, ..Description::default() });
        };
        // SQLite looks each name up from the first one on.
        let name = |n| self.in_time().map(|()| prepared.parameter_name(n).map(str::to_owned));
        Ok(Description {
            parameters: (1..=prepared.parameter_count()).map(name).collect::<Result<_, _>>().map_err(failed)?,
            columns: columns(&prepared),
            is_explain: prepared.is_explain() != 0,
            is_readonly: prepared.readonly(),
        })
    }

    /// What a statement does. It is prepared, unless it controls a transaction, and does not run.
    pub fn kind(&self, sql: &str) -> Result<Kind, SqlError> {
        if let Some(kind) = text::transaction_verb(sql) {
            return Ok(kind);
        }
        let prepared = self.prepare(sql)?;
        Ok(match (&prepared.0, prepared.writes()) {
            (None, _) => Kind::Empty,
            (_, true) => Kind::Write,
            (_, false) => Kind::Read,
        })
    }

    /// Whether no transaction is open.
    pub fn is_autocommit(&self) -> bool {
        self.conn.is_autocommit()
    }

    /// The rules it was given.
    pub fn rules(&self) -> &Rules {
        self.rules
    }

    /// What the guest's last `PRAGMA foreign_keys` asked for. In a transaction SQLite ignores it; a caller that remembers
    /// it gives it to the next guard in [`Rules::foreign_keys`].
    pub fn foreign_keys_asked(&self) -> Option<bool> {
        self.watch.lock().foreign_keys
    }

    /// Begins what [`undo`](Self::undo) takes back and [`keep`](Self::keep) does not: a savepoint of this program's own.
    pub fn mark(&self) -> Result<(), SqlError> {
        self.own(&format!("SAVEPOINT {MARK}"))?;
        touched::mark();
        Ok(())
    }

    /// Takes back everything since the last [`mark`](Self::mark).
    pub fn undo(&self) -> Result<(), SqlError> {
        self.own(&format!("ROLLBACK TO {MARK}; RELEASE {MARK}"))?;
        touched::undo();
        Ok(())
    }

    /// Keeps everything since the last [`mark`](Self::mark).
    pub fn keep(&self) -> Result<(), SqlError> {
        self.own(&format!("RELEASE {MARK}"))?;
        touched::keep();
        Ok(())
    }

    /// Whether the transaction could be committed as far as deferred foreign keys are concerned. A guest whose
    /// transaction is shared with others is asked this at its end: a commit that fails would fail for all.
    pub fn check_deferred(&self) -> Result<(), SqlError> {
        let (mut unresolved, mut highest) = (0, 0);
        // SAFETY: the handle is live for the length of the call, which writes two ints.
        let code = unsafe {
            ffi::sqlite3_db_status(
                self.conn.handle(),
                ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
                &raw mut unresolved,
                &raw mut highest,
                0,
            )
        };
        match (code, unresolved) {
            (ffi::SQLITE_OK, 0) => Ok(()),
            _ => Err(SqlError::new("SQLITE_CONSTRAINT", "FOREIGN KEY constraint failed")),
        }
    }

    fn own(&self, sql: &str) -> Result<(), SqlError> {
        let was_autocommit = self.conn.is_autocommit();
        self.as_own(|| self.conn.execute_batch(sql)).map_err(|error| self.failed(error, was_autocommit))
    }

    /// Does something that the authorizer allows whatever it is.
    fn as_own<T>(&self, work: impl FnOnce() -> T) -> T {
        self.watch.lock().own = true;
        let result = work();
        self.watch.lock().own = false;
        result
    }

    fn prepare_one(&self, sql: &str) -> rusqlite::Result<Option<Held<'_>>> {
        let vacuum = text::first_word(sql).is_some_and(|word| word.eq_ignore_ascii_case("VACUUM"));
        if vacuum {
            return Err(misuse(
                "VACUUM is not available here: it cannot run in a transaction, and INTO would write a file",
            ));
        }
        if text::makes_trigger_or_alters(sql) {
            names_no_protected(sql).map_err(|why| failure(ffi::SQLITE_AUTH, &why))?;
        }
        let refused = match self.prepare_or_find(sql, true) {
            Err(error) => error,
            prepared => return prepared,
        };
        let table = self.watch.lock().refusal.as_ref().and_then(|refusal| refusal.unless_exists.clone());
        if let Some(table) = table
            && self.as_own(|| self.conn.table_exists(Some("main"), table.as_str()))?
        {
            self.watch.lock().exists = Some(table);
            return self.prepare_any(sql);
        }
        Err(refused)
    }

    fn prepare_any(&self, sql: &str) -> rusqlite::Result<Option<Held<'_>>> {
        self.prepare_or_find(sql, false)
    }

    /// What runs may have been kept. SQLite sees that a schema has changed only when a statement runs.
    fn prepare_or_find(&self, sql: &str, runs: bool) -> rusqlite::Result<Option<Held<'_>>> {
        self.check_text(sql)?;
        let mut statements = text::split(sql);
        let Some(sql) = statements.next() else { return Ok(None) };
        if statements.next().is_some() {
            return Err(rusqlite::Error::MultipleStatement);
        }
        self.in_time()?;
        self.forget_failures();
        if runs
            && !self.rules.temp
            && !touched::is_heard()
            && let Some(kept) = prepared::keep(self.conn, sql, (self.rules.read_only, self.inline))?
        {
            return Ok(Some(Held::Kept(kept)));
        }
        self.forget_failures();
        self.conn.prepare(sql).map(|prepared| Some(Held::Once(prepared)))
    }

    /// What an earlier statement lacked is not the next one's fault.
    fn forget_failures(&self) {
        let mut watch = self.watch.lock();
        (watch.refusal, watch.elsewhere, watch.calls) = (None, false, (0, 0));
        memory::take_exceeded();
    }

    fn in_time(&self) -> rusqlite::Result<()> {
        match Instant::now() >= self.until {
            true => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None)),
            false => Ok(()),
        }
    }

    fn check_text(&self, sql: &str) -> rusqlite::Result<()> {
        if self.inline && sql.len() > inline::LONGEST {
            return Err(failure(ffi::SQLITE_TOOBIG, "the SQL is long"));
        }
        if sql.contains('\0') {
            return Err(misuse("the SQL has a character NUL"));
        }
        match usize::try_from(self.rules.sql_bytes).is_ok_and(|most| sql.len() > most) {
            true => Err(misuse(&format!("the SQL is longer than {} bytes", self.rules.sql_bytes))),
            false => Ok(()),
        }
    }

    fn failed(&self, error: rusqlite::Error, was_autocommit: bool) -> SqlError {
        let circumstances = Circumstances {
            out_of_budget: memory::take_exceeded(),
            rolled_back: !was_autocommit && self.conn.is_autocommit(),
        };
        let (refusal, elsewhere) = {
            let mut watch = self.watch.lock();
            (watch.refusal.take(), std::mem::take(&mut watch.elsewhere))
        };
        let base = error.sqlite_error().map_or(0, |error| error.extended_code & 0xff);
        let short_of = circumstances.out_of_budget || matches!(base, ffi::SQLITE_NOMEM | ffi::SQLITE_TOOBIG);
        if self.inline && (elsewhere || short_of) {
            return translate(
                rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None),
                &Circumstances { out_of_budget: false, ..circumstances },
            );
        }
        let mut failed = translate(error, &circumstances);
        if let Some(Refusal { message, code, .. }) = refusal.filter(|_| failed.fatal.is_none()) {
            (failed.message, failed.code) = (shorten(message), code);
        }
        failed
    }
}

fn misuse(message: &str) -> rusqlite::Error {
    failure(ffi::SQLITE_ERROR, message)
}

/// What a closure of the store returns for a guest's fatal error: see [`SqlError::fatal`].
impl From<SqlError> for Error {
    fn from(error: SqlError) -> Self {
        let SqlError { message, fatal, .. } = error;
        fatal.unwrap_or_else(|| Error::new(ErrorKind::Invalid, message))
    }
}
