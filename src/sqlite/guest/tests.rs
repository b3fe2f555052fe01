//! What guests are refused, what they cannot do to the process, and what they leave.

use std::time::Duration;

use rusqlite::Connection;

use super::*;
use crate::sqlite::open;

/// Keeps the answers' rows.
#[derive(Default)]
struct Rows {
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
}

impl Sink for Rows {
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
        self.columns = columns.to_vec();
        Ok(())
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.rows.push(values.iter().map(|value| Value::try_from(*value).unwrap_or(Value::Null)).collect());
        Ok(())
    }
}

fn database() -> Connection {
    let conn = open::in_memory_like(&open::Options::default()).unwrap();
    crate::sqlite::deadline::Deadline::none().watch(&conn).unwrap();
    let tables = "CREATE TABLE cubby_meta (key); CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT UNIQUE); \
                  CREATE TABLE __drizzle_migrations (id); INSERT INTO notes VALUES (1, 'one')";
    conn.execute_batch(tables).unwrap();
    conn
}

fn run(conn: &Connection, rules: &Rules, sql: &str) -> Result<Rows, SqlError> {
    let mut rows = Rows::default();
    guard(conn, rules, |guest| guest.execute(&Statement::new(sql), &mut rows)).unwrap()?;
    Ok(rows)
}

/// In a transaction, as a write's closure is.
fn refused(rules: &Rules, sql: &str) -> SqlError {
    let conn = database();
    conn.execute_batch("BEGIN").unwrap();
    let error = run(&conn, rules, sql).err().unwrap_or_else(|| panic!("{sql} was not refused"));
    let kept = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((kept, conn.is_autocommit()), (4, false), "{sql}");
    error
}

#[test]
fn what_is_not_the_guests_is_refused_with_a_reason() {
    for (sql, says) in [
        ("ATTACH 'x.db' AS x", "ATTACH"),
        ("ATTACH ':memory:' AS x", "ATTACH"),
        ("DETACH main", "DETACH"),
        ("VACUUM", "VACUUM"),
        ("/* */ vacuum INTO 'x.db'", "VACUUM"),
        ("COMMIT", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("BEGIN", "BEGIN"),
        ("END", "COMMIT"),
        ("RELEASE cubby_write", "cubby_"),
        ("ROLLBACK TO CUBBY_write", "cubby_"),
        ("SELECT load_extension('x')", "load_extension"),
        ("SELECT fts3_tokenizer('x')", "fts3_tokenizer"),
        ("DELETE FROM cubby_meta", "the server's"),
        ("UPDATE Cubby_Meta SET key = 1", "the server's"),
        ("INSERT INTO __drizzle_migrations VALUES (1)", "the server's"),
        ("CREATE TABLE x (y)", "CUBBY_MIGRATIONS"),
        ("ALTER TABLE notes ADD COLUMN x", "CUBBY_MIGRATIONS"),
        ("DROP TABLE notes", "CUBBY_MIGRATIONS"),
        ("CREATE INDEX i ON notes (text)", "CUBBY_MIGRATIONS"),
        ("CREATE VIEW v AS SELECT 1", "CUBBY_MIGRATIONS"),
        ("CREATE TRIGGER t AFTER INSERT ON notes BEGIN SELECT 1; END", "CUBBY_MIGRATIONS"),
        ("CREATE TEMP TABLE x (y)", "interactive transaction"),
        ("PRAGMA journal_mode", "journal_mode"),
        ("PRAGMA journal_mode=DELETE", "journal_mode"),
        ("PRAGMA main.synchronous=OFF", "synchronous"),
        ("PRAGMA synchronous(0)", "synchronous"),
        ("PRAGMA wal_checkpoint(TRUNCATE)", "wal_checkpoint"),
        ("PRAGMA locking_mode=NORMAL", "locking_mode"),
        ("PRAGMA writable_schema=ON", "writable_schema"),
        ("PRAGMA query_only=OFF", "query_only"),
        ("PRAGMA max_page_count=1", "max_page_count"),
        ("PRAGMA wal_autocheckpoint=1", "wal_autocheckpoint"),
        ("PRAGMA user_version=7", "user_version"),
        ("PRAGMA database_list", "database_list"),
        ("SELECT * FROM pragma_database_list", ""),
        ("SELECT * FROM pragma_wal_checkpoint", ""),
        ("SELECT * FROM pragma_journal_mode", ""),
        ("SELECT 1; SELECT 2", "more than one"),
        ("SELECT '\0'", "NUL"),
        ("UPDATE sqlite_schema SET sql = ''", ""),
    ] {
        let error = refused(&Rules::default(), sql);
        assert!(error.message.contains(says), "{sql}: {error}");
        assert!(error.fatal.is_none(), "{sql}: {error}");
        assert!(!error.message.contains("CUBBY_MIGRATIONS") || error.code == "SQLITE_AUTH");
    }
    let ddl = Rules { ddl: true, ..Rules::default() };
    for sql in [
        "DROP TABLE cubby_meta",
        "ALTER TABLE cubby_meta RENAME TO mine",
        "CREATE TRIGGER t AFTER INSERT ON cubby_meta BEGIN SELECT 1; END",
        "CREATE TABLE cubby_new (x)",
        "DROP TABLE __drizzle_migrations",
        "CREATE VIRTUAL TABLE v USING dbstat",
    ] {
        assert_eq!(refused(&ddl, sql).code, "SQLITE_AUTH", "{sql}");
    }
}

#[test]
fn a_trigger_of_the_guest_writes_no_more_than_the_guest() {
    let ddl = Rules { ddl: true, temp: true, ..Rules::default() };
    for sql in [
        "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM cubby_meta; END",
        "CREATE TRIGGER t AFTER INSERT ON notes BEGIN UPDATE \"Cubby_Meta\" SET key = 1; END",
        "CREATE TEMP TRIGGER IF NOT EXISTS t AFTER INSERT ON notes BEGIN INSERT INTO [__drizzle_migrations] VALUES (1); END",
        "ALTER TABLE notes RENAME TO _prisma_migrations",
        "ALTER TABLE notes RENAME TO cubby_notes",
    ] {
        assert_eq!(refused(&ddl, sql).code, "SQLITE_AUTH", "{sql}");
    }
    // One that was there before.
    let conn = database();
    conn.execute_batch("CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM cubby_meta; END").unwrap();
    let error = run(&conn, &ddl, "INSERT INTO notes VALUES (2, 'x')").err().unwrap();
    assert!(error.message.contains("cubby_meta"), "{error}");
}

#[test]
fn who_may_only_read_is_refused_every_write() {
    let rules = Rules { read_only: true, ddl: true, temp: true, ..Rules::default() };
    for sql in [
        "INSERT INTO notes VALUES (2, 'x')",
        "UPDATE notes SET text = 'x' RETURNING *",
        "DELETE FROM notes",
        "WITH x AS (SELECT 1) REPLACE INTO notes SELECT 1, 'x' FROM x",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "DROP TABLE notes",
        "REINDEX",
        "ANALYZE",
        "PRAGMA optimize",
    ] {
        assert_eq!(refused(&rules, sql).code, "SQLITE_READONLY", "{sql}");
    }
    run(&database(), &rules, "SELECT * FROM notes, cubby_meta, __drizzle_migrations").unwrap();
    run(&database(), &rules, "EXPLAIN QUERY PLAN SELECT * FROM notes").unwrap();
}

#[test]
fn what_clients_ask_for_is_allowed() {
    let conn = database();
    for sql in [
        "PRAGMA table_info(notes)",
        "PRAGMA main.table_xinfo('notes')",
        "SELECT * FROM pragma_table_info('notes')",
        "PRAGMA foreign_keys=OFF",
        "PRAGMA foreign_keys",
        "PRAGMA user_version",
        "PRAGMA integrity_check",
        "PRAGMA optimize",
        "ANALYZE",
        "REINDEX",
        "SAVEPOINT a",
        "RELEASE a",
        "SELECT 1; -- and a comment",
        "-- nothing",
        "SELECT * FROM json_each('[1,2]')",
    ] {
        run(&conn, &Rules::default(), sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let ddl = Rules { ddl: true, ..Rules::default() };
    for sql in
        ["CREATE TABLE x (y)", "ALTER TABLE x RENAME COLUMN y TO z", "ALTER TABLE x ADD COLUMN a", "DROP TABLE x"]
    {
        run(&conn, &ddl, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    run(&conn, &ddl, "CREATE VIRTUAL TABLE f USING fts5(a)").unwrap();
    run(&conn, &Rules::default(), "INSERT INTO f VALUES ('words')").unwrap();
}

#[test]
fn a_tool_finds_its_history_and_makes_none() {
    let conn = database();
    let make = |name: &str| format!("CREATE TABLE IF NOT EXISTS \"{name}\" (id INTEGER, hash text)");
    for ddl in [false, true] {
        let rules = Rules { ddl, ..Rules::default() };
        run(&conn, &rules, &make("__drizzle_migrations")).unwrap();
        run(&conn, &rules, &make("__Drizzle_Migrations")).unwrap();
        assert_eq!(run(&conn, &rules, &make("_prisma_migrations")).err().unwrap().code, "SQLITE_AUTH");
        assert_eq!(run(&conn, &rules, "DROP TABLE __drizzle_migrations").err().unwrap().code, "SQLITE_AUTH");
        let reads = Rules { read_only: true, ..rules };
        assert_eq!(run(&conn, &reads, &make("__drizzle_migrations")).err().unwrap().code, "SQLITE_READONLY");
    }
}

#[test]
fn a_thread_that_serves_others_runs_only_what_surely_takes_no_time() {
    use crate::{error::ErrorKind, sqlite::deadline};
    let conn = database();
    conn.execute_batch(
        "UPDATE notes SET text = printf('%.100000c', 'x') WHERE id = 1; INSERT INTO notes VALUES (2, 'b')",
    )
    .unwrap();
    let rules = Rules { ddl: true, ..Rules::default() };
    let inline = |statement: &Statement<'_>| {
        let run = || guard(&conn, &rules, |guest| guest.execute(statement, &mut Rows::default())).unwrap();
        deadline::inline(Duration::from_secs(60), run)
    };
    for sql in [
        "SELECT text FROM notes WHERE id = 2",
        "SELECT lower(text), max(id) FROM notes WHERE id > 1 ORDER BY text",
        "INSERT INTO notes VALUES (3, 'c') RETURNING id",
        "UPDATE notes SET text = 'd' WHERE id = 3",
        "DELETE FROM notes WHERE id = 3",
        "PRAGMA table_info(notes)",
    ] {
        inline(&Statement::new(sql)).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let long = Statement { positional: vec![Value::Text("x".repeat(100_000))], ..Statement::new("SELECT ?") };
    let mut slow: Vec<Statement<'_>> = [
        "SELECT count(*) FROM notes",
        "SELECT id FROM notes WHERE text LIKE '%b%'",
        "SELECT printf('%d', 1)",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n LIMIT 3) SELECT x FROM n",
        "SELECT text FROM notes WHERE id = 1",
        "SELECT length(text) FROM notes WHERE id = 1",
        "CREATE TABLE more (x)",
        "CREATE INDEX i ON notes (text)",
        "DROP TABLE notes",
        "PRAGMA integrity_check",
    ]
    .map(Statement::new)
    .into();
    slow.extend([Statement::new(bomb(18)), Statement::new(format!("SELECT '{}'", "x".repeat(9_000))), long]);
    for statement in slow {
        let error = inline(&statement).unwrap_err();
        let kind = error.fatal.as_ref().map(crate::Error::kind);
        assert_eq!(kind, Some(ErrorKind::Timeout), "{:.60}: {error}", &*statement.sql);
    }
    // What is wrong anywhere is said at once.
    assert_eq!(inline(&Statement::new("SELEC")).unwrap_err().code, "SQLITE_ERROR");
}

#[test]
fn arguments_by_name_are_bounded_in_number_and_time() {
    let conn = database();
    let rules = Rules { time: Duration::from_millis(500), ..Rules::default() };
    let sql = format!(
        "SELECT 1 WHERE :a IN ({}:z)",
        (0..5_000).map(|n| format!(":p{n}")).collect::<Vec<_>>().join(",") + ","
    );
    let named = |count: usize| Statement {
        named: (0..count).map(|n| (format!("q{n}"), Value::Null)).collect(),
        ..Statement::new(sql.clone())
    };
    let execute = |rules: &Rules, statement: &Statement<'_>| {
        guard(&conn, rules, |guest| guest.execute(statement, &mut NoRows)).unwrap()
    };
    assert_eq!(execute(&rules, &named(40_000)).unwrap_err().code, "SQLITE_RANGE");
    // Done in time, or stopped.
    let began = cpu_time();
    let _ = execute(&rules, &named(32_766));
    assert!(cpu_time().saturating_sub(began) < Duration::from_secs(3));
    execute(&Rules { time: Duration::from_secs(60), ..rules }, &named(10)).unwrap();
}

#[test]
fn a_name_in_a_message_is_cut() {
    let conn = database();
    let error = run(&conn, &Rules::default(), &format!("SELECT * FROM é{}", "x".repeat(900_000))).err().unwrap();
    assert!(error.message.starts_with("no such table: éxx") && error.message.len() < 2_000, "{}", error.message.len());
}

/// Common tables that each use the one before twice.
fn bomb(levels: usize) -> String {
    let tables: Vec<String> = (1..levels).map(|n| format!("t{n} AS (SELECT a.x FROM t{0} a, t{0} b)", n - 1)).collect();
    format!("WITH t0 AS (SELECT 1 AS x), {} SELECT count(*) FROM t{}", tables.join(", "), levels - 1)
}

/// What this thread has used of a processor: others may be busy on it.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes one `timespec`.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

#[test]
fn a_statement_has_a_budget_of_memory_and_time() {
    let conn = database();
    let rules = Rules { time: Duration::from_millis(900), ..Rules::default() };
    let deep = format!("SELECT {}1{}", "(1+".repeat(10_000), ")".repeat(10_000));
    let flat = format!("SELECT 1{}", "+1".repeat(10_000));
    let sort = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) \
                SELECT hex(randomblob(1000)) FROM n ORDER BY 1";
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT count(*) FROM n";
    let long = format!("SELECT '{}'", "x".repeat(2 << 20));
    for (what, sql) in [
        ("bomb of 12", bomb(12)),
        ("bomb of 18", bomb(18)),
        ("bomb of 30", bomb(30)),
        ("blob", "SELECT length(randomblob(900000000))".to_owned()),
        ("zeroes", "SELECT zeroblob(900000000)".to_owned()),
        ("printf", "SELECT length(printf('%900000000d', 1))".to_owned()),
        (
            "group_concat",
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT group_concat(x) FROM n".to_owned(),
        ),
        ("sort", sort.to_owned()),
        ("endless", endless.to_owned()),
        ("deep", deep),
        ("flat", flat),
        ("long", long),
        ("union", format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(100))),
        ("like", format!("SELECT 'x' LIKE '{}'", "%x".repeat(20_000))),
    ] {
        let began = cpu_time();
        let result = run(&conn, &rules, &sql);
        let took = cpu_time().saturating_sub(began);
        println!("{what}: {took:?}, {:?}", result.as_ref().err().map(ToString::to_string));
        assert!(took < Duration::from_secs(2), "{what} took {took:?}");
        // Of 12 levels, SQLite makes something that runs.
        assert!(result.is_err() || what == "bomb of 12", "{what} was not refused");
    }
    conn.query_row("SELECT 1 FROM notes", [], |_| Ok(())).unwrap();
}

#[test]
fn a_connection_is_as_before_when_the_guest_has_gone() {
    let conn = database();
    let limits = || -> Vec<i32> {
        use rusqlite::limits::Limit;
        [
            Limit::SQLITE_LIMIT_LENGTH,
            Limit::SQLITE_LIMIT_SQL_LENGTH,
            Limit::SQLITE_LIMIT_EXPR_DEPTH,
            Limit::SQLITE_LIMIT_VDBE_OP,
        ]
        .iter()
        .map(|limit| conn.limit(*limit).unwrap())
        .collect()
    };
    let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
    let before = limits();
    let sql = "PRAGMA foreign_keys=OFF; PRAGMA recursive_triggers=1; PRAGMA case_sensitive_like=ON; \
               PRAGMA read_uncommitted=ON; PRAGMA defer_foreign_keys=ON";
    let asked = guard(&conn, &Rules::default(), |guest| {
        guest.sequence(sql).unwrap();
        guest.foreign_keys_asked()
    });
    assert_eq!(asked.unwrap(), Some(false));
    assert_eq!(limits(), before);
    let settings = ["foreign_keys", "recursive_triggers", "read_uncommitted", "defer_foreign_keys"];
    assert_eq!(settings.map(pragma), [1, 0, 0, 0]);
    assert_eq!(conn.query_row("SELECT 'A' LIKE 'a'", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    // The authorizer is gone, also after a panic.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        guard(&conn, &Rules::default(), |_| panic!("in a guest")).unwrap()
    }));
    assert!(panicked.is_err());
    conn.execute_batch("CREATE TABLE mine (x); DROP TABLE mine").unwrap();
    assert_eq!(limits(), before);
}

#[test]
fn foreign_keys_are_as_the_rules_say_in_a_transaction_too() {
    let conn = database();
    conn.execute_batch("CREATE TABLE child (note REFERENCES notes DEFERRABLE INITIALLY DEFERRED); BEGIN").unwrap();
    let off = Rules { foreign_keys: false, ..Rules::default() };
    let insert = Statement::new("INSERT INTO child VALUES (99)");
    let check = |rules: &Rules| {
        guard(&conn, rules, |guest| {
            guest.execute(&insert, &mut NoRows).unwrap();
            guest.check_deferred()
        })
        .unwrap()
    };
    check(&off).unwrap();
    assert_eq!(check(&Rules::default()).unwrap_err().code, "SQLITE_CONSTRAINT");
}

#[test]
fn arguments_answers_and_counts_are_right() {
    let conn = database();
    let rules = Rules::default();
    let insert = Statement {
        positional: vec![Value::Integer(i64::MAX)],
        named: vec![("text".into(), Value::Text("two".into())), (":none".into(), Value::Null)],
        ..Statement::new("INSERT INTO notes VALUES (?1, $text) RETURNING id AS key;")
    };
    let mut rows = Rows::default();
    let done = guard(&conn, &rules, |guest| guest.execute(&insert, &mut rows)).unwrap().unwrap();
    assert_eq!((done.affected, done.last_insert_rowid, done.rows_written), (1, i64::MAX, 1));
    assert_eq!(rows.rows, [[Value::Integer(i64::MAX)]]);
    assert_eq!(rows.columns, [Column { name: "key".into(), decltype: Some("INTEGER".into()) }]);
    let done = guard(&conn, &rules, |guest| guest.execute(&Statement::new("SELECT * FROM notes"), &mut rows));
    assert_eq!(done.unwrap().unwrap().affected, 0);
    let many = Statement { positional: vec![Value::Null; 2], ..Statement::new("SELECT ?") };
    let error = guard(&conn, &rules, |guest| guest.execute(&many, &mut NoRows)).unwrap().unwrap_err();
    assert_eq!(error.code, "SQLITE_RANGE");
    let twice = run(&conn, &rules, "INSERT INTO notes VALUES (1, 'again')").err().unwrap();
    assert_eq!((twice.code, twice.message.as_str()), ("SQLITE_CONSTRAINT", "UNIQUE constraint failed: notes.id"));
    let rows = run(&conn, &rules, "SELECT CAST(x'ff00' AS TEXT)").unwrap();
    assert_eq!(rows.rows.len(), 1, "text of any bytes is a row");
}

#[test]
fn statements_are_described_and_told_apart_without_running() {
    let conn = database();
    guard(&conn, &Rules::default(), |guest| {
        let kind = |sql| guest.kind(sql).unwrap();
        assert_eq!(kind("SELECT 1"), Kind::Read);
        assert_eq!(kind("DELETE FROM notes"), Kind::Write);
        assert_eq!(kind(" -- nothing"), Kind::Empty);
        assert_eq!(kind("BEGIN TRANSACTION READONLY"), Kind::Begin(Mode::ReadOnly));
        let described = guest.describe("INSERT INTO notes VALUES (?, :text) RETURNING id").unwrap();
        assert_eq!(described.parameters, [None, Some(":text".into())]);
        assert_eq!((described.columns.len(), described.is_explain, described.is_readonly), (1, false, false));
        assert!(guest.describe("EXPLAIN SELECT 1").unwrap().is_explain);
        assert_eq!(guest.describe("SELEC 1").unwrap_err().code, "SQLITE_ERROR");
    })
    .unwrap();
    assert_eq!(conn.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[test]
fn marks_take_back_what_came_after_them() {
    let conn = database();
    conn.execute_batch("BEGIN").unwrap();
    guard(&conn, &Rules::default(), |guest| {
        guest.mark().unwrap();
        guest.sequence("DELETE FROM notes; SAVEPOINT a; INSERT INTO notes VALUES (5, 'x')").unwrap();
        guest.undo().unwrap();
        guest.mark().unwrap();
        guest.sequence("INSERT INTO notes VALUES (6, 'x')").unwrap();
        guest.keep().unwrap();
    })
    .unwrap();
    conn.execute_batch("COMMIT").unwrap();
    let ids = conn.query_row("SELECT group_concat(id) FROM notes", [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(ids, "1,6");
}
