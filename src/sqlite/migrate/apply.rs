//! Running the migrations that a file lacks, in one transaction.

use std::{rc::Rc, sync::Arc};

use parking_lot::Mutex;
use refinery::{Migration, Runner};
use refinery_core::traits::sync::{Migrate, Query, Transaction};
use rusqlite::{
    Connection, OptionalExtension, TransactionBehavior,
    hooks::{AuthContext, Authorization},
    params,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    authorize::refusal,
    history::{unreadable, user_version},
    ledger::Ledger,
    schema::{Schema, chain},
};
use crate::{
    error::{Error, ErrorKind, Result, classify},
    sqlite::{authorizer, limits, wal},
};

impl Schema {
    /// Runs the migrations that the file lacks, in one transaction, and calls `finish` in it right before the commit.
    /// Returns the version that the file had, or none if that was the newest.
    pub fn apply(
        &self,
        conn: &mut Connection,
        finish: impl FnOnce(&rusqlite::Transaction) -> Result<()>,
    ) -> Result<Option<i32>> {
        let found = user_version(conn)?;
        if found > self.version() {
            return Err(Error::new(
                ErrorKind::Quarantined,
                format!(
                    "its schema is version {found}, newer than this program's {}; it was not touched",
                    self.version()
                ),
            ));
        }
        // Rebuilding a table that others refer to works only with foreign keys off, and the pragma
        // does nothing inside a transaction (<https://sqlite.org/lang_altertable.html>). Broken references
        // are found by the check before the commit.
        conn.execute_batch("PRAGMA foreign_keys=OFF")?;
        let lifted = limits::Lifted::lift(conn)?;
        let result = self.run(conn, lifted.sql_length(), finish);
        let restored = lifted.restore(conn);
        conn.execute_batch("PRAGMA foreign_keys=ON")?;
        result?;
        restored?;
        wal::confirm(conn)?;
        Ok(Some(found).filter(|found| *found != self.version()))
    }

    fn run(
        &self,
        conn: &mut Connection,
        sql_length: i32,
        finish: impl FnOnce(&rusqlite::Transaction) -> Result<()>,
    ) -> Result<()> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let had = self.adopt(&tx)?;
        let mut target = InTransaction { tx, history: self.form().table(), failed: None, refused: Arc::default() };
        let ran = Runner::new(&self.migrations).set_grouped(true).run(&mut target);
        if let Err(error) = ran {
            let refused = target.refused.lock().take();
            let sql = target.failed.as_deref().unwrap_or_default();
            return Err(failed(error, sql, self.name_of(sql), refused));
        }
        let tx = target.tx;
        if let Some(mut ledger) = Ledger::of(self.form(), &tx)? {
            ledger.add(self.records_after(had))?;
        }
        let long = "SELECT name FROM sqlite_schema WHERE octet_length(sql) > ?1";
        if let Some(name) = tx.query_row(long, [sql_length], |row| row.get::<_, String>(0)).optional()? {
            // SQLite parses it at each open, with the limit in force.
            return Err(Error::new(
                ErrorKind::Quarantined,
                format!(
                    "the statement that creates {name} is longer than {sql_length} bytes, its comments included; \
                     shorten it"
                ),
            ));
        }
        let broken = tx.query_row("PRAGMA foreign_key_check", [], |row| row.get::<_, String>(0)).optional()?;
        if let Some(table) = broken {
            return Err(Error::new(
                ErrorKind::Quarantined,
                format!("after the migrations a row of {table} refers to a row that is not there"),
            ));
        }
        tx.pragma_update(None, "user_version", self.version())?;
        finish(&tx)?;
        Ok(tx.commit()?)
    }
}

impl Schema {
    /// Takes over which of the next migrations the tool of their form has run on this file itself. Returns the version
    /// that the file has then.
    fn adopt(&self, tx: &rusqlite::Transaction) -> Result<i32> {
        let version = user_version(tx)?;
        let Some(ledger) = Ledger::of(self.form(), tx)? else { return Ok(version) };
        let (steps, mut had) = (self.steps(), version);
        for (step, record) in steps.iter().skip_while(|step| step.version <= version).zip(self.records_after(version)) {
            if !ledger.has(record)? {
                break;
            }
            let now = OffsetDateTime::now_utc().format(&Rfc3339).map_err(|e| Error::internal(e.to_string()))?;
            tx.execute(
                "INSERT INTO main.refinery_schema_history (version, name, applied_on, checksum) VALUES (?1, ?2, ?3, ?4)",
                params![step.version, step.name, now, step.checksum.to_string()],
            )?;
            had = step.version;
        }
        Ok(had)
    }
}

/// A failed migration quarantines the tenant; a failed disk does not.
fn failed(error: refinery::Error, sql: &str, migration: Option<String>, refused: Option<String>) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(sqlite) = cause.downcast_ref::<rusqlite::Error>() {
            let (kind, message) = classify(sqlite);
            if kind != ErrorKind::Internal && kind != ErrorKind::TooLarge {
                return Error::new(kind, message).with_source(error);
            }
            if let Some(migration) = migration {
                let why = refused.unwrap_or_else(|| reason(sqlite, sql));
                return Error::new(ErrorKind::Quarantined, format!("migration {migration} failed: {why}"));
            }
        }
        next = cause.source();
    }
    Error::new(ErrorKind::Quarantined, chain(&error))
}

/// SQLite's message, without the SQL of the migration.
fn reason(error: &rusqlite::Error, sql: &str) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. }
            if msg.contains("syntax error") && sql.to_ascii_uppercase().contains(" ALTER COLUMN ") =>
        {
            format!(
                "{msg}: ALTER COLUMN is libSQL's, and SQLite lacks it; have the migration written for SQLite (with \
                 Drizzle, dialect \"sqlite\" in drizzle.config.ts)"
            )
        }
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
    }
}

/// refinery's driver, on a transaction that is already open. Its own driver for rusqlite commits
/// several times, and panics on a history table it cannot read, which here is an error of one tenant.
struct InTransaction<'c> {
    tx: rusqlite::Transaction<'c>,
    /// The tool's table of what has run, which migrations must not change.
    history: Option<&'static str>,
    /// The SQL that failed: refinery's error does not say which migration it was.
    failed: Option<String>,
    /// Why, if [`refusal`] refused it.
    refused: Arc<Mutex<Option<String>>>,
}

impl Transaction for InTransaction<'_> {
    type Error = rusqlite::Error;

    fn execute<'a, T: Iterator<Item = &'a str>>(&mut self, queries: T) -> Result<usize, Self::Error> {
        let mut count = 0;
        let (refused, history) = (self.refused.clone(), self.history);
        authorizer::install(&self.tx)?;
        let judge = move |context: &AuthContext<'_>| match refusal(context.action, history) {
            Some(reason) => {
                *refused.lock() = Some(reason);
                Authorization::Deny
            }
            None => Authorization::Allow,
        };
        authorizer::judged_by(&self.tx, Rc::new(judge), || {
            for query in queries {
                self.tx.execute_batch(query).inspect_err(|_| self.failed = Some(query.to_owned()))?;
                count += 1;
            }
            Ok(count)
        })
    }
}

impl Query<Vec<Migration>> for InTransaction<'_> {
    fn query(&mut self, query: &str) -> Result<Vec<Migration>, Self::Error> {
        let mut statement = self.tx.prepare(query)?;
        let rows = statement.query_map([], |row| {
            let applied_on: String = row.get(2)?;
            let applied_on = OffsetDateTime::parse(&applied_on, &Rfc3339).map_err(|e| unreadable(2, e.into()))?;
            let checksum: String = row.get(3)?;
            let checksum = checksum.parse().map_err(|e: std::num::ParseIntError| unreadable(3, e.into()))?;
            Ok(Migration::applied(row.get(0)?, row.get(1)?, applied_on, checksum))
        })?;
        rows.collect()
    }
}

impl Migrate for InTransaction<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open;

    fn apply(conn: &mut Connection, migrations: &[(&str, &str)]) -> Result<Option<i32>> {
        Schema::from_sql(migrations).unwrap().apply(conn, |_| Ok(()))
    }

    fn memory() -> Connection {
        open::in_memory().unwrap()
    }

    fn tables(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'refinery%'", [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn a_failed_migration_rolls_back_all_pending_ones() {
        let mut conn = memory();
        let second = "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1)";
        let error = apply(&mut conn, &[("V1__a", "CREATE TABLE a (x)"), ("V2__b", second)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Quarantined);
        assert_eq!(error.detail(), "migration V2__b failed: no such table: nowhere");
        assert_eq!((tables(&conn), user_version(&conn).unwrap()), (0, 0));
    }

    #[test]
    fn an_edited_migration_is_named() {
        let mut conn = memory();
        apply(&mut conn, &[("V1__a", "CREATE TABLE a (x)")]).unwrap();
        let error = apply(&mut conn, &[("V1__a", "CREATE TABLE a (y)")]).unwrap_err();
        assert!(error.message().contains("V1__a"), "{error}");
    }

    #[test]
    fn a_migration_may_use_savepoints() {
        let fine = "SAVEPOINT s; CREATE TABLE a (x); ROLLBACK TO s; CREATE TABLE b (x); RELEASE s";
        let mut conn = memory();
        apply(&mut conn, &[("V1__a", fine)]).unwrap();
        conn.prepare("SELECT x FROM b").unwrap();
        conn.prepare("SELECT x FROM a").unwrap_err();
    }

    #[test]
    fn a_broken_reference_prevents_the_commit() {
        let mut conn = memory();
        let sql = "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a REFERENCES a); INSERT INTO b VALUES (1)";
        assert!(apply(&mut conn, &[("V1__a", sql)]).unwrap_err().message().contains("a row of b"));
        assert_eq!(tables(&conn), 0);
    }
}
