//! Bringing a file to the newest schema, or leaving it as it was.
//!
//! refinery decides what is to be run and keeps the history table; this module runs it: all pending
//! migrations, the history and `user_version` in **one** transaction, so that a file has the old
//! schema or the new one and never half. `user_version` equal to [`Schema::version`] is the fast
//! path: one pragma instead of refinery's table work.
//!
//! Bounds that are there for requests (the quota, the longest statement and value) are lifted meanwhile:
//! the operator wrote the migration, and one that fails keeps its user out.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use refinery::{Migration, Runner};
use refinery_core::traits::sync::{Migrate, Query, Transaction};
use rusqlite::{
    Connection, TransactionBehavior,
    hooks::{AuthAction, AuthContext, Authorization, TransactionOperation},
};
use sha2::{Digest, Sha256};

use super::open;
use crate::error::{Error, ErrorKind, Result, classify};

/// An ordered set of migrations: what a file's schema should be.
#[derive(Debug, Clone)]
pub struct Schema {
    migrations: Vec<Migration>,
    version: i32,
    digest: i64,
    folder: Option<PathBuf>,
}

/// One migration, by what tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its version.
    pub version: i32,
    /// Its name, without the version.
    pub name: String,
    /// refinery's, of version, name and SQL.
    pub checksum: u64,
}

impl Step {
    /// Reads one from the columns version, name and checksum.
    pub fn from_row(row: &rusqlite::Row) -> rusqlite::Result<Self> {
        let checksum: String = row.get(2)?;
        let checksum = checksum.parse().map_err(|e: std::num::ParseIntError| unreadable(2, e.into()))?;
        Ok(Self { version: row.get(0)?, name: row.get(1)?, checksum })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{}__{}", self.version, self.name)
    }
}

/// Why a schema cannot go on from the migrations that have run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Nothing of what ran is in it; this was the first.
    Other(Step),
    /// It ends before this one, the newest that ran.
    Older(Step),
    /// This one ran, and is not in it.
    Missing(Step),
    /// This one ran, and is another now.
    Edited(Step),
    /// `late` has not run, and `newest` has, which comes after it.
    Late {
        /// The one that has not run.
        late: Step,
        /// The newest that has.
        newest: Step,
    },
}

/// What [`Schema::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The file was at this schema already.
    Nothing,
    /// The file was brought here from this version.
    From(i32),
}

impl Schema {
    /// A schema from migrations already read. They must have distinct versions, starting at 1.
    pub fn new(mut migrations: Vec<Migration>) -> Result<Self> {
        migrations.sort();
        let Some(last) = migrations.last() else {
            return Err(Error::config("there is no migration: at least V1__….sql is needed"));
        };
        let version = last.version();
        if let Some([a, b]) = migrations.array_windows().find(|[a, b]| a.version() == b.version()) {
            return Err(Error::config(format!("two migrations have one version: {a} and {b}")));
        }
        if let Some(bad) = migrations.iter().find(|m| m.version() < 1 || m.prefix().to_string() != "V") {
            return Err(Error::config(format!("migration {bad}: versions are V1, V2, … (no zero, no U)")));
        }
        let mut hash = Sha256::new();
        for migration in &migrations {
            hash.update(migration.version().to_be_bytes());
            hash.update(migration.checksum().to_be_bytes());
        }
        let digest = hash.finalize();
        let digest = i64::from_be_bytes(std::array::from_fn(|i| digest[i]));
        Ok(Self { migrations, version, digest, folder: None })
    }

    /// A schema from a folder of `V<version>__<name>.sql` files.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let explain = |e: refinery::Error| {
            Error::config(format!("migrations in {}: {}", folder.display(), chain(&e))).with_source(e)
        };
        if !folder.is_dir() {
            return Err(Error::config(format!("migrations: {} is not a folder", folder.display())));
        }
        let schema = Self::new(refinery::load_sql_migrations(folder).map_err(explain)?)
            .map_err(|e| Error::config(format!("migrations in {}: {}", folder.display(), e.message())))?;
        Ok(Self { folder: Some(folder.to_owned()), ..schema })
    }

    /// The folder it was read from, if it was.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The newest version, which is also the `user_version` of a migrated file.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// A fingerprint of all migrations together. Kept in each file, it shows on every open that an
    /// applied migration was edited afterwards, which the version alone would hide.
    pub fn digest(&self) -> i64 {
        self.digest
    }

    /// The migrations up to `version`: an older schema.
    pub fn up_to(&self, version: i32) -> Result<Self> {
        Self::new(self.migrations.iter().filter(|m| m.version() <= version).cloned().collect())
    }

    /// Its migrations, in the order of their versions.
    pub fn steps(&self) -> Vec<Step> {
        let step = |m: &Migration| Step { version: m.version(), name: m.name().to_owned(), checksum: m.checksum() };
        self.migrations.iter().map(step).collect()
    }

    /// Whether every file that had some of `applied` can be brought to this schema.
    pub fn continues(&self, applied: &[Step]) -> std::result::Result<(), Mismatch> {
        let (Some(first), Some(newest)) = (applied.first(), applied.last()) else { return Ok(()) };
        let steps = self.steps();
        let now = |ran: &Step| steps.iter().find(|step| step.version == ran.version);
        let renamed = |ran: &Step| now(ran).is_none_or(|step| step.name != ran.name);
        if applied.iter().all(|ran| now(ran) != Some(ran)) && renamed(first) {
            return Err(Mismatch::Other(first.clone()));
        }
        for ran in applied {
            match now(ran) {
                Some(step) if step == ran => {}
                Some(step) if step.name == ran.name => return Err(Mismatch::Edited(ran.clone())),
                None if ran.version > self.version => return Err(Mismatch::Older(newest.clone())),
                Some(_) | None => return Err(Mismatch::Missing(ran.clone())),
            }
        }
        let late = steps.into_iter().find(|step| step.version < newest.version && !applied.contains(step));
        late.map_or(Ok(()), |late| Err(Mismatch::Late { late, newest: newest.clone() }))
    }

    /// Runs what is missing, in one transaction, then calls `finish` in that same transaction, right before
    /// it is committed.
    ///
    /// `verify` runs refinery's check of the history even when `user_version` is already right.
    pub fn apply(
        &self,
        conn: &mut Connection,
        verify: bool,
        finish: impl FnOnce(&rusqlite::Transaction) -> Result<()>,
    ) -> Result<Applied> {
        let found = user_version(conn)?;
        if found > self.version {
            return Err(Error::new(
                ErrorKind::Quarantined,
                format!(
                    "its schema is version {found}, newer than this program's {}; it was not touched",
                    self.version
                ),
            ));
        }
        if found == self.version && !verify {
            return Ok(Applied::Nothing);
        }
        // Rebuilding a table that others refer to works only with foreign keys off, and the pragma
        // does nothing inside a transaction (<https://sqlite.org/lang_altertable.html>). The check
        // before the commit catches what was broken meanwhile.
        conn.execute_batch("PRAGMA foreign_keys=OFF")?;
        let bounds = open::Bounds::lift(conn)?;
        let result = self.run(conn, &bounds, finish);
        let restored = bounds.restore(conn);
        conn.execute_batch("PRAGMA foreign_keys=ON")?;
        result?;
        restored?;
        open::confirm(conn)?;
        Ok(if found == self.version { Applied::Nothing } else { Applied::From(found) })
    }

    fn run(
        &self,
        conn: &mut Connection,
        bounds: &open::Bounds,
        finish: impl FnOnce(&rusqlite::Transaction) -> Result<()>,
    ) -> Result<()> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut target = InTransaction { tx, failed: None, forbidden: Arc::default() };
        let ran = Runner::new(&self.migrations).set_grouped(true).run(&mut target);
        if let Err(error) = ran {
            let forbidden = target.forbidden.lock().take();
            return Err(failed(error, self.name_of(target.failed.as_deref()), forbidden));
        }
        let tx = target.tx;
        let long: Option<String> = {
            let mut statement = tx.prepare("SELECT name FROM sqlite_schema WHERE octet_length(sql) > ?1")?;
            let mut rows = statement.query([bounds.sql_length()])?;
            rows.next()?.map(|row| row.get(0)).transpose()?
        };
        if let Some(name) = long {
            // SQLite parses it again at each open.
            return Err(Error::new(
                ErrorKind::Quarantined,
                format!(
                    "the statement that creates {name} is longer than {} bytes, its comments included; shorten it",
                    bounds.sql_length()
                ),
            ));
        }
        let broken: Option<String> = {
            let mut statement = tx.prepare("PRAGMA foreign_key_check")?;
            let mut rows = statement.query([])?;
            rows.next()?.map(|row| row.get(0)).transpose()?
        };
        if let Some(table) = broken {
            return Err(Error::new(
                ErrorKind::Quarantined,
                format!("after the migrations a row of {table} refers to a row that is not there"),
            ));
        }
        tx.pragma_update(None, "user_version", self.version)?;
        finish(&tx)?;
        Ok(tx.commit()?)
    }

    /// The migration with this SQL, for a message.
    fn name_of(&self, sql: Option<&str>) -> Option<String> {
        self.migrations.iter().find(|migration| migration.sql() == sql).map(ToString::to_string)
    }
}

/// The schema version a file says it has.
pub fn user_version(conn: &Connection) -> Result<i32> {
    Ok(conn.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// The migrations that a file has had, by its own history.
pub fn history(conn: &Connection) -> Result<Vec<Step>> {
    let sql = "SELECT version, name, checksum FROM refinery_schema_history ORDER BY version";
    let steps = conn.prepare(sql)?.query_map([], Step::from_row)?.collect::<rusqlite::Result<_>>()?;
    Ok(steps)
}

fn unreadable(column: usize, error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error)
}

/// A migration that fails quarantines the tenant; a disk that fails under it does not.
fn failed(error: refinery::Error, migration: Option<String>, forbidden: Option<String>) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(sqlite) = cause.downcast_ref::<rusqlite::Error>() {
            let (kind, message) = classify(sqlite);
            if kind != ErrorKind::Internal && kind != ErrorKind::TooLarge {
                return Error::new(kind, message).with_source(error);
            }
            if let Some(migration) = migration {
                let why = forbidden.unwrap_or_else(|| reason(sqlite));
                return Error::new(ErrorKind::Quarantined, format!("migration {migration} failed: {why}"));
            }
        }
        next = cause.source();
    }
    Error::new(ErrorKind::Quarantined, chain(&error))
}

/// What SQLite says, without the text of the whole migration.
fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        next = source.source();
    }
    text
}

/// refinery's driver, on a transaction that is already open. Its own driver for rusqlite commits
/// several times on the way, and panics on a history table it cannot read; a damaged tenant must
/// be an error.
struct InTransaction<'c> {
    tx: rusqlite::Transaction<'c>,
    /// The SQL that failed: refinery's error does not say which migration it was.
    failed: Option<String>,
    /// Why, if it is what no migration may do.
    forbidden: Arc<Mutex<Option<String>>>,
}

/// What no migration may do. The file would have half of it after a failure, or could not be opened again.
fn forbidden(action: AuthAction) -> Option<String> {
    match action {
        AuthAction::Transaction { operation } => {
            let word = match operation {
                TransactionOperation::Begin => "BEGIN",
                TransactionOperation::Rollback => "ROLLBACK",
                _ => "COMMIT (or END)",
            };
            Some(format!("it says {word}; the transaction it runs in must not be ended, remove that"))
        }
        AuthAction::Pragma { pragma_name, pragma_value: Some(value) } => {
            let pragma = pragma_name.to_ascii_lowercase();
            let kept = match pragma.as_str() {
                // What a file is, a hook of the server's, and bounds of the whole process.
                "application_id" | "locking_mode" | "query_only" | "wal_autocheckpoint" | "soft_heap_limit"
                | "hard_heap_limit" => true,
                "journal_mode" => !value.eq_ignore_ascii_case("wal"),
                _ => false,
            };
            kept.then(|| format!("it sets PRAGMA {pragma}, which is the server's; remove that"))
        }
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
            if table_name.starts_with("cubby_") =>
        {
            Some(format!("it changes the table {table_name}, which is the server's; remove that"))
        }
        // What is noted of a migration would go there, and be lost with the connection.
        AuthAction::CreateTempTable { table_name: name } | AuthAction::CreateTempView { view_name: name }
            if ["cubby_", "refinery_"].iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix)) =>
        {
            Some(format!("it makes a temporary {name}, which would hide the server's; give it another name"))
        }
        _ => None,
    }
}

impl Transaction for InTransaction<'_> {
    type Error = rusqlite::Error;

    fn execute<'a, T: Iterator<Item = &'a str>>(&mut self, queries: T) -> Result<usize, Self::Error> {
        let mut count = 0;
        let why = self.forbidden.clone();
        self.tx.authorizer(Some(move |context: AuthContext<'_>| match forbidden(context.action) {
            Some(reason) => {
                *why.lock() = Some(reason);
                Authorization::Deny
            }
            None => Authorization::Allow,
        }))?;
        let mut ran = Ok(());
        for query in queries {
            ran = self.tx.execute_batch(query).inspect_err(|_| self.failed = Some(query.to_owned()));
            if ran.is_err() {
                break;
            }
            count += 1;
        }
        self.tx.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
        ran.map(|()| count)
    }
}

impl Query<Vec<Migration>> for InTransaction<'_> {
    fn query(&mut self, query: &str) -> Result<Vec<Migration>, Self::Error> {
        let mut statement = self.tx.prepare(query)?;
        let rows = statement.query_map([], |row| {
            let applied_on: String = row.get(2)?;
            let applied_on = time::OffsetDateTime::parse(&applied_on, &time::format_description::well_known::Rfc3339)
                .map_err(|e| unreadable(2, e.into()))?;
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

    fn migration(name: &str, sql: &str) -> Migration {
        Migration::unapplied(name, sql).unwrap()
    }

    fn memory() -> Connection {
        super::super::open::in_memory().unwrap()
    }

    fn tables(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'refinery%'", [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn a_failing_migration_leaves_nothing_of_its_batch() {
        let schema = Schema::new(vec![
            migration("V1__a", "CREATE TABLE a (x)"),
            migration("V2__b", "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1)"),
        ])
        .unwrap();
        let mut conn = memory();
        let error = schema.apply(&mut conn, false, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Quarantined);
        assert_eq!(error.detail(), "migration V2__b failed: no such table: nowhere");
        assert_eq!((tables(&conn), user_version(&conn).unwrap()), (0, 0));
    }

    #[test]
    fn an_edited_migration_is_named() {
        let mut conn = memory();
        Schema::new(vec![migration("V1__a", "CREATE TABLE a (x)")])
            .unwrap()
            .apply(&mut conn, false, |_| Ok(()))
            .unwrap();
        let edited = Schema::new(vec![migration("V1__a", "CREATE TABLE a (y)")]).unwrap();
        assert_eq!(edited.apply(&mut conn, false, |_| Ok(())).unwrap(), Applied::Nothing, "the fast path trusts");
        let error = edited.apply(&mut conn, true, |_| Ok(())).unwrap_err();
        assert!(error.message().contains("V1__a"), "{error}");
    }

    #[test]
    fn a_schema_goes_on_from_what_ran_or_says_where_it_does_not() {
        let schema = |names: &[&str]| {
            Schema::new(names.iter().map(|name| migration(name, &format!("CREATE TABLE {name} (x)"))).collect())
                .unwrap()
        };
        let ran = schema(&["V1__a", "V3__c"]).steps();
        let (first, last) = (ran[0].clone(), ran[1].clone());
        assert_eq!(schema(&["V1__a", "V3__c"]).continues(&ran), Ok(()));
        assert_eq!(schema(&["V1__a", "V3__c", "V4__d"]).continues(&ran), Ok(()));
        assert_eq!(schema(&["V7__x"]).continues(&[]), Ok(()));
        assert_eq!(schema(&["V1__x", "V2__y"]).continues(&ran), Err(Mismatch::Other(first.clone())));
        assert_eq!(schema(&["V1__a", "V2__b"]).continues(&ran), Err(Mismatch::Older(last.clone())));
        assert_eq!(schema(&["V1__a", "V4__d"]).continues(&ran), Err(Mismatch::Missing(last.clone())));
        assert_eq!(schema(&["V1__a", "V3__x"]).continues(&ran), Err(Mismatch::Missing(last.clone())));
        let late = schema(&["V1__a", "V2__b", "V3__c"]);
        let [_, second, _] = &late.steps()[..] else { panic!("three") };
        assert_eq!(late.continues(&ran), Err(Mismatch::Late { late: second.clone(), newest: last }));
        // Also when it is the only one that ran.
        let edited = Schema::new(vec![migration("V1__a", "CREATE TABLE other (x)")]).unwrap();
        assert_eq!(edited.continues(&ran[..1]), Err(Mismatch::Edited(first)));
    }

    #[test]
    fn a_migration_cannot_end_its_transaction() {
        for end in ["COMMIT", "END", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"] {
            let mut conn = memory();
            let sql = format!("CREATE TABLE a (x); {end}; CREATE TABLE b (x)");
            let error =
                Schema::new(vec![migration("V1__a", &sql)]).unwrap().apply(&mut conn, false, |_| Ok(())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Quarantined);
            assert!(error.message().starts_with("migration V1__a failed: it says "), "{error}");
            assert_eq!((tables(&conn), conn.is_autocommit()), (0, true), "{end}");
            // What comes after is no migration.
            conn.execute_batch("BEGIN; CREATE TABLE c (x); COMMIT").unwrap();
        }
        let fine = "SAVEPOINT s; CREATE TABLE a (x); ROLLBACK TO s; CREATE TABLE b (x); RELEASE s";
        let mut conn = memory();
        Schema::new(vec![migration("V1__a", fine)]).unwrap().apply(&mut conn, false, |_| Ok(())).unwrap();
        conn.prepare("SELECT x FROM b").unwrap();
        conn.prepare("SELECT x FROM a").unwrap_err();
    }

    #[test]
    fn bounds_are_lifted_while_migrating_and_not_after() {
        use rusqlite::limits::Limit;
        let options = open::Options { max_bytes: 32 << 12, max_value_bytes: 1 << 20, ..open::Options::default() };
        let mut conn = open::in_memory_like(&options).unwrap();
        let bounds = |conn: &Connection| {
            let pages: i64 = conn.query_row("PRAGMA max_page_count", [], |row| row.get(0)).unwrap();
            let limit = |limit| conn.limit(limit).unwrap();
            (pages, limit(Limit::SQLITE_LIMIT_SQL_LENGTH), limit(Limit::SQLITE_LIMIT_LENGTH))
        };
        let before = bounds(&conn);
        let long = format!("CREATE TABLE a (x); SELECT '{}'", "x".repeat(2 << 20));
        for (sql, works) in [(long.as_str(), true), ("CREATE TABLE b (x); oops", false)] {
            let schema = Schema::new(vec![migration("V1__a", &long), migration("V2__b", sql)]);
            let schema = if works { schema.unwrap().up_to(1).unwrap() } else { schema.unwrap() };
            assert_eq!(schema.apply(&mut conn, false, |_| Ok(())).is_ok(), works);
            assert_eq!(bounds(&conn), before);
        }
        // Grown beyond its bound, a file cannot grow further.
        let grow = "CREATE TABLE big AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) SELECT \
                    zeroblob(4000) AS x FROM n";
        let schema = Schema::new(vec![migration("V1__a", &long), migration("V2__big", grow)]).unwrap();
        schema.apply(&mut conn, false, |_| Ok(())).unwrap();
        let full = conn.execute_batch("INSERT INTO big SELECT x FROM big").unwrap_err();
        assert_eq!(full.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
    }

    #[test]
    fn a_newer_file_is_refused_untouched() {
        let mut conn = memory();
        conn.pragma_update(None, "user_version", 7).unwrap();
        let schema = Schema::new(vec![migration("V1__a", "CREATE TABLE a (x)")]).unwrap();
        let error = schema.apply(&mut conn, false, |_| Ok(())).unwrap_err();
        assert!(error.message().contains("version 7"), "{error}");
        assert_eq!(tables(&conn), 0);
    }

    #[test]
    fn broken_references_do_not_commit() {
        let mut conn = memory();
        let schema = Schema::new(vec![migration(
            "V1__a",
            "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a REFERENCES a); INSERT INTO b VALUES (1)",
        )])
        .unwrap();
        assert!(schema.apply(&mut conn, false, |_| Ok(())).unwrap_err().message().contains("a row of b"));
        assert_eq!(tables(&conn), 0);
    }
}
