//! A guest's statement that is prepared: what it does, its arguments and its rows.

use std::{
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use rusqlite::{CachedStatement, Connection, Statement as Compiled, StatementStatus, ffi};

use super::model::{Column, Statement, ValueRef};
use crate::sqlite::memory;

/// A statement that was prepared on a guest's connection; nothing if there was none in the text.
pub struct Prepared<'g>(pub(super) Option<Held<'g>>);

/// A statement that is prepared: for this once, or kept by its connection for the next time.
pub(super) enum Held<'g> {
    Once(Compiled<'g>),
    Kept(CachedStatement<'g>),
}

impl<'g> Deref for Held<'g> {
    type Target = Compiled<'g>;

    fn deref(&self) -> &Compiled<'g> {
        match self {
            Self::Once(statement) => statement,
            Self::Kept(statement) => statement,
        }
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Once(statement) => statement,
            Self::Kept(statement) => statement,
        }
    }
}

impl Held<'_> {
    /// Ends its use. A statement that is kept may have been prepared anew when it ran, because the schema had changed, and
    /// take more memory than it did.
    pub(super) fn finish(self) {
        if let Self::Kept(statement) = self
            && statement.reset_status(StatementStatus::RePrepare) > 0
            && i64::from(statement.get_status(StatementStatus::MemUsed)) > LARGEST_KEPT
        {
            statement.discard();
        }
    }
}

/// The longest statement that a connection keeps, in bytes, and the memory that it may take.
const LONGEST_KEPT: usize = 1 << 10;
const LARGEST_KEPT: i64 = 16 << 10;

/// Prepares a statement that its connection keeps: the most usual ones, which were judged by the rules of everybody who
/// finds them there. None if it is not to be kept, or is wrong; an error if it takes more memory than there is.
///
/// The comment before it keeps guests' statements and this program's own apart, and those that were judged otherwise.
pub(super) fn keep<'g>(
    conn: &'g Connection,
    sql: &str,
    (read_only, inline): (bool, bool),
) -> rusqlite::Result<Option<CachedStatement<'g>>> {
    const KEPT: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
    let Some(first) = super::text::first_word(sql) else { return Ok(None) };
    let is_usual = sql.len() <= LONGEST_KEPT && KEPT.iter().any(|word| word.eq_ignore_ascii_case(first));
    // The cache cuts off what Unicode takes for spaces, some of which are letters in SQLite.
    let is_trimmed_alike = sql.trim_end() == sql.trim_end_matches(|c: char| c.is_ascii_whitespace());
    if !is_usual || !is_trimmed_alike || !memory::is_limited() {
        return Ok(None);
    }
    // By whose rules it was judged.
    let who = if read_only { "reads" } else { "writes" };
    let place = if inline { "here" } else { "apart" };
    let before = memory::left();
    let statement = match conn.prepare_cached(&format!("/* guest, {who}, {place} */ {sql}")) {
        Ok(statement) => statement,
        // It took its time, and would again.
        Err(error) if memory::has_exceeded() => return Err(error),
        Err(_) => return Ok(None),
    };
    if before.zip(memory::left()).is_none_or(|(before, after)| before - after > LARGEST_KEPT) {
        statement.discard();
        return Ok(None);
    }
    Ok(Some(statement))
}

impl Prepared<'_> {
    /// Whether it may change the file. SQLite says so.
    pub fn writes(&self) -> bool {
        self.0.as_ref().is_some_and(|prepared| !prepared.readonly())
    }

    /// Whether it may have rows.
    pub fn has_columns(&self) -> bool {
        self.0.as_ref().is_some_and(|prepared| prepared.column_count() > 0)
    }
}

/// Gives a prepared statement its arguments. `in_time` is asked again and again: SQLite looks names up one by one.
pub(super) fn bind(
    prepared: &mut rusqlite::Statement<'_>,
    statement: &Statement<'_>,
    most: usize,
    in_time: impl Fn() -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let out_of_range = |message: String| Err(super::error::failure(ffi::SQLITE_RANGE, &message));
    let (given, has) = (statement.positional.len(), prepared.parameter_count());
    if given > has {
        return out_of_range(format!("{given} arguments were given, and the statement has {has} parameters"));
    }
    if statement.named.len() > most {
        return out_of_range(format!("more than {most} arguments were given by name"));
    }
    for (n, value) in statement.positional.iter().enumerate() {
        prepared.raw_bind_parameter(n + 1, value)?;
    }
    for (name, value) in &statement.named {
        in_time()?;
        let candidates = match name.starts_with([':', '@', '$']) {
            true => vec![name.clone()],
            false => [":", "@", "$"].iter().map(|prefix| format!("{prefix}{name}")).collect(),
        };
        for candidate in candidates {
            if let Some(index) = prepared.parameter_index(&candidate)? {
                prepared.raw_bind_parameter(index, value)?;
            }
        }
    }
    Ok(())
}

pub(super) fn columns(prepared: &rusqlite::Statement<'_>) -> Vec<Column> {
    let column = |column: &rusqlite::Column<'_>| Column {
        name: column.name().to_owned(),
        decltype: column.decl_type().map(str::to_owned),
    };
    prepared.columns().iter().map(column).collect()
}

/// The values of a row. Where SQLite has no memory for a text's terminator, rusqlite panics.
pub(super) fn values<'r>(row: &'r rusqlite::Row<'_>) -> rusqlite::Result<Vec<ValueRef<'r>>> {
    let count = row.as_ref().column_count();
    let collect = AssertUnwindSafe(|| (0..count).map(|n| row.get_ref(n)).collect());
    match catch_unwind(collect) {
        Ok(values) => values,
        Err(_) if memory::has_exceeded() => Err(super::error::failure(ffi::SQLITE_NOMEM, "out of memory")),
        Err(panic) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sqlite::{
        deadline,
        guest::{Column, Guest, NoRows, Rules, Sink, SqlError, Value, guard},
        open,
        touched::{Touched, Written},
    };

    #[derive(Debug, Default)]
    struct Answer(Vec<String>, Vec<Vec<Value>>);

    impl Sink for Answer {
        fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
            self.0 = columns.iter().map(|column| column.name.clone()).collect();
            Ok(())
        }

        fn row(&mut self, values: &[ValueRef<'_>]) -> Result<(), SqlError> {
            self.1.push(values.iter().map(|value| Value::try_from(*value).unwrap()).collect());
            Ok(())
        }
    }

    fn database() -> Connection {
        let conn = open::in_memory().unwrap();
        conn.set_prepared_statement_cache_capacity(16);
        conn.execute_batch("CREATE TABLE notes (id INTEGER PRIMARY KEY, text); CREATE TABLE cubby_meta (x)").unwrap();
        conn
    }

    /// On a thread that serves others, where statements are kept; with the rows that it read.
    fn run(conn: &Connection, rules: &Rules, sql: &str) -> Result<(Answer, u64), SqlError> {
        let mut answer = Answer::default();
        let execute = || guard(conn, rules, |guest| guest.execute(&Statement::new(sql), &mut answer)).unwrap();
        let done = deadline::inline(Duration::from_secs(60), execute)?;
        Ok((answer, done.rows_read))
    }

    fn is_kept(conn: &Connection, sql: &str, rules: &str) -> bool {
        // One that is kept is not prepared, so that nothing is taken for it.
        memory::limited(1 << 20, || {
            let before = memory::left().unwrap();
            drop(conn.prepare_cached(&format!("/* guest, {rules}, here */ {sql}")).unwrap());
            before == memory::left().unwrap()
        })
    }

    #[test]
    fn a_statement_that_is_kept_sees_the_schema_as_it_is() {
        let (conn, rules) = (database(), Rules::default());
        conn.execute_batch("INSERT INTO notes VALUES (1, 'one')").unwrap();
        let all = "SELECT * FROM notes";
        for _ in 0..2 {
            assert_eq!(run(&conn, &rules, all).unwrap().0.0, ["id", "text"]);
        }
        assert!(is_kept(&conn, all, "writes"));
        conn.execute_batch("ALTER TABLE notes ADD COLUMN more DEFAULT 7").unwrap();
        let (answer, read) = run(&conn, &rules, all).unwrap();
        assert_eq!((answer.0.len(), answer.1[0].len()), (3, 3));
        // Each run counts its own rows.
        assert_eq!(run(&conn, &rules, all).unwrap().1, read);
        conn.execute_batch("DELETE FROM notes; ALTER TABLE notes ADD COLUMN last").unwrap();
        assert_eq!(run(&conn, &rules, all).unwrap().0.0.len(), 4);
        conn.execute_batch("DROP TABLE notes").unwrap();
        assert!(run(&conn, &rules, all).unwrap_err().message.contains("no such table"));
    }

    #[test]
    fn a_statement_that_has_grown_since_it_was_kept_is_kept_no_longer() {
        let (conn, rules) = (database(), Rules::default());
        conn.execute_batch("CREATE VIEW all_notes AS SELECT id FROM notes").unwrap();
        let read = "SELECT * FROM all_notes";
        run(&conn, &rules, read).unwrap();
        assert!(is_kept(&conn, read, "writes"));
        let many = vec!["id"; 300].join(",");
        conn.execute_batch(&format!("DROP VIEW all_notes; CREATE VIEW all_notes AS SELECT {many} FROM notes")).unwrap();
        run(&conn, &rules, read).unwrap();
        assert!(!is_kept(&conn, read, "writes"));
    }

    #[test]
    fn what_one_may_and_another_may_not_is_judged_for_each() {
        let (conn, rules) = (database(), Rules::default());
        let reader = Rules { read_only: true, ..rules.clone() };
        let insert = "INSERT INTO notes (text) VALUES ('x')";
        for _ in 0..2 {
            run(&conn, &rules, insert).unwrap();
            assert_eq!(run(&conn, &reader, insert).unwrap_err().code, "SQLITE_READONLY");
        }
        assert!(is_kept(&conn, insert, "writes"));
        // This program's own statement is not the guest's, though its text is the same.
        let own = "DELETE FROM cubby_meta";
        conn.prepare_cached(own).unwrap().execute([]).unwrap();
        for _ in 0..2 {
            assert!(run(&conn, &rules, own).unwrap_err().message.contains("the server's"));
        }
    }

    #[test]
    fn a_listener_hears_of_each_use() {
        let (conn, rules) = (database(), Rules::default());
        let insert = "INSERT INTO notes (id) VALUES (1)";
        run(&conn, &rules, insert).unwrap();
        let mut touched = Touched::default();
        let twice = |guest: &Guest<'_>| {
            let write = || guest.execute(&Statement::new("DELETE FROM notes"), &mut NoRows).unwrap();
            guest.mark().unwrap();
            write();
            guest.undo().unwrap();
            write();
        };
        let work = || deadline::inline(Duration::from_secs(60), || guard(&conn, &rules, twice).unwrap());
        conn.execute_batch("BEGIN").unwrap();
        touched.during(&conn, work).unwrap();
        assert_eq!(touched.written(), Written::Tables(vec!["notes".to_owned()]));
    }

    #[test]
    fn what_is_described_is_as_it_is_now() {
        let (conn, rules) = (database(), Rules::default());
        let describe = || {
            let describe = || guard(&conn, &rules, |guest| guest.describe("SELECT * FROM notes")).unwrap();
            deadline::inline(Duration::from_secs(60), describe).map(|found| found.columns.len())
        };
        run(&conn, &rules, "SELECT * FROM notes").unwrap();
        assert_eq!(describe().unwrap(), 2);
        conn.execute_batch("ALTER TABLE notes ADD COLUMN more").unwrap();
        assert_eq!(describe().unwrap(), 3);
        conn.execute_batch("DROP TABLE notes").unwrap();
        describe().unwrap_err();
    }

    #[test]
    fn what_is_large_or_long_is_not_kept() {
        let (conn, rules) = (database(), Rules::default());
        let large = format!("SELECT {}", vec!["id"; 300].join(","));
        let large = format!("{large} FROM notes");
        let long = format!("SELECT id FROM notes -- {}", "x".repeat(LONGEST_KEPT));
        let small = "SELECT id FROM notes";
        let spaced = "SELECT id FROM notes\u{a0}";
        assert!(run(&conn, &rules, spaced).unwrap_err().message.contains("no such table"));
        for sql in [&large, &long, small] {
            run(&conn, &rules, sql).unwrap();
            run(&conn, &rules, sql).unwrap();
        }
        assert!(
            !is_kept(&conn, &large, "writes") && !is_kept(&conn, &long, "writes") && is_kept(&conn, small, "writes")
        );
    }
}
