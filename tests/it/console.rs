//! `cubby sql`, on the folder and through a server.

pub mod prompt;

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    harness::{Process, cubby, run, stdout},
    sql::migrations,
};

const ADMIN: &str = "an-operators-key-of-some-length";

/// A data folder with the users ada and eve and the tables of [`migrations`].
pub struct Folder {
    data: TempDir,
    migrations: TempDir,
}

impl Folder {
    pub fn new() -> Self {
        let folder = Self { data: TempDir::new().unwrap(), migrations: migrations() };
        for user in ["ada", "eve"] {
            let made = folder.cubby(&["tenants", "create", user]).output().unwrap();
            stdout(&made);
        }
        folder
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn cubby(&self, arguments: &[&str]) -> Command {
        let mut command = cubby();
        command.args(arguments).arg("--data").arg(self.data()).arg("--migrations").arg(self.migrations.path());
        command
    }

    fn serve(&self, flags: &[&str]) -> Process {
        let migrations = self.migrations.path().to_str().unwrap();
        Process::start(self.data(), &[&["--admin-api-key", ADMIN, "--migrations", migrations], flags].concat())
    }
}

/// The folder, perhaps behind a server.
struct Place {
    folder: Folder,
    server: Option<Process>,
}

impl Place {
    fn both() -> [Self; 2] {
        let served = Folder::new();
        let server = Some(served.serve(&[]));
        [Self { folder: Folder::new(), server: None }, Self { folder: served, server }]
    }

    fn sql(&self, arguments: &[&str]) -> Command {
        let mut command = self.folder.cubby(&[&["sql"], arguments].concat());
        if let Some(server) = &self.server {
            command.env("CUBBY_URL", format!("http://{}", server.address)).env("ADMIN_API_KEY", ADMIN);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.sql(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What is printed of SQL that succeeds.
    fn ask(&self, sql: &str) -> String {
        stdout(&self.run(&["ada", sql]))
    }

    /// A file on standard input.
    fn file(&self, sql: &[u8]) -> Output {
        self.file_with(&["ada"], sql)
    }

    fn file_with(&self, arguments: &[&str], sql: &[u8]) -> Output {
        let mut command = self.sql(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sql = sql.to_owned();
        // It may stop reading at an error.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&sql)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// What SQL that fails says.
    fn refused(&self, sql: &str) -> String {
        failed(&self.run(&["ada", sql]))
    }
}

fn failed(output: &Output) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let lines = error.lines().skip_while(|line| !line.starts_with("error: "));
    lines.collect::<Vec<_>>().join("\n")
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn the_folder_and_a_server_answer_the_same() {
    let both = Place::both();
    let said = |place: &Place| {
        let mut said = Vec::new();
        for arguments in [
            &["ada", "INSERT INTO items (name, price, data) VALUES ('tea', 2, x'00ff'), ('a,\"b\"', NULL, NULL)"][..],
            &["ada", "SELECT * FROM items"],
            &["ada", "SELECT * FROM items", "--csv"],
            &["ada", "SELECT * FROM items", "--table"],
            &["ada", "SELECT 9223372036854775807 AS a, 0.1 AS a, '' AS b; SELECT 1 WHERE false; SELECT NULL"],
            &["ada", "UPDATE items SET price = 3 RETURNING id, price"],
            &["ada", "BEGIN; DELETE FROM items; ROLLBACK; SELECT count(*) AS n FROM items"],
            &["ada", ".tables"],
            &["ada", ".schema ITEMS"],
            &["ada", ".schema none"],
            &["ada", ".nonsense"],
            &["ada", ""],
            &["ada", "/* nothing */"],
            &["ada", "SELEC 1"],
            &["ada", "SELECT * FROM absent"],
            &["ada", "SELECT 1; INSERT INTO items (name) VALUES ('tea'); SELECT 2"],
            &["ada", "BEGIN"],
            &["ada", "COMMIT"],
            &["ada", "ATTACH 'x.db' AS x"],
            &["ada", "CREATE TABLE mine (x)"],
            &["ada", "DELETE FROM cubby_meta"],
            &["ada", "DELETE FROM refinery_schema_history"],
            &["ada", "PRAGMA journal_mode = delete"],
            &["ada", "PRAGMA database_list"],
            &["ada", "VACUUM INTO 'copy.db'"],
            &["ada", "SELECT load_extension('x')"],
            &["ada", "SELECT randomblob(900000000)"],
            &["ada", "SELECT 1e999"],
            &["ada", "DELETE FROM items", "--read-only"],
            &["ada", "BEGIN; DELETE FROM items; COMMIT", "--read-only"],
            &["ada", "SELECT count(*) AS n FROM items", "--read-only"],
            &["nobody", "SELECT 1"],
        ] {
            let output = place.run(arguments);
            let out = String::from_utf8(output.stdout.clone()).unwrap();
            let error = if output.status.success() { String::new() } else { failed(&output) };
            said.push((arguments.join(" "), output.status.code(), out, error));
        }
        said
    };
    let [folder, server] = both.each_ref().map(said);
    for (in_folder, by_server) in folder.iter().zip(&server) {
        assert_eq!(in_folder, by_server);
    }
    let of = |start: &str| {
        let exact = folder.iter().find(|(arguments, ..)| arguments == start);
        exact.or_else(|| folder.iter().find(|(arguments, ..)| arguments.starts_with(start))).unwrap()
    };
    let table = "id  name   price  data\n--  -----  -----  -------\n 1  tea      2.0  x'00ff'\n 2  a,\"b\"  NULL   NULL\n(2 rows)\n";
    assert_eq!(of("ada SELECT * FROM items --table").2, table);
    let csv = "id,name,price,data\r\n1,tea,2.0,AP8=\r\n2,\"a,\"\"b\"\"\",,\r\n";
    assert_eq!(of("ada SELECT * FROM items --csv").2, csv);
    assert_eq!(
        rows(&of("ada SELECT * FROM items").2),
        [
            json!({"id": 1, "name": "tea", "price": 2.0, "data": "AP8="}),
            json!({"id": 2, "name": "a,\"b\"", "price": null, "data": null})
        ]
    );
    assert_eq!(
        of("ada SELECT 9223372036854775807").2,
        "{\"a\":9223372036854775807,\"a_2\":0.1,\"b\":\"\"}\n{\"NULL\":null}\n"
    );
    assert_eq!(of("ada BEGIN; DELETE FROM items; ROLLBACK").2, "{\"n\":2}\n");
    assert!(of("ada .schema ITEMS").2.starts_with("CREATE TABLE items (id INTEGER PRIMARY KEY"));
    for (start, wanted) in [
        ("ada .schema none", "there is no table none"),
        ("ada .nonsense", ".nonsense is no command here"),
        ("ada SELECT * FROM absent", "no such table: absent (SQLITE_ERROR); .schema shows what there is"),
        ("ada BEGIN", "ends inside of a transaction"),
        ("ada COMMIT", "no transaction is active"),
        ("ada ATTACH", "ATTACH and DETACH are not available"),
        ("ada CREATE", "migrations"),
        ("ada DELETE FROM cubby_meta", "cubby_meta"),
        ("ada DELETE FROM refinery", "refinery_schema_history"),
        ("ada PRAGMA journal_mode", "SQLITE_AUTH"),
        ("ada DELETE FROM items --read-only", "without --read-only it may write"),
        ("ada BEGIN; DELETE FROM items; COMMIT --read-only", "without --read-only it may write"),
        ("nobody", "\"nobody\" is unknown; `cubby tenants list` shows who is"),
    ] {
        let (arguments, code, _, error) = of(start);
        assert!(error.contains(wanted), "{arguments}: {error}");
        assert_eq!(*code, Some(1), "{arguments}");
    }
    assert!(!both[0].folder.data().join("tenants").read_dir().unwrap().any(|entry| {
        let file = entry.unwrap().path();
        walk(&file).iter().any(|file| file.to_string_lossy().contains("nobody"))
    }));
}

fn walk(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    path.read_dir().unwrap().flat_map(|entry| walk(&entry.unwrap().path())).collect()
}

#[test]
fn a_file_stops_at_the_first_error_and_says_what_is_committed() {
    for place in Place::both() {
        let output = place.file(
            b"-- the first\nINSERT INTO items (name) VALUES ('a');\n\n/* two\n lines; */ INSERT INTO items (name)\n  VALUES ('b');\n\
              INSERT INTO items (name) VALUES ('c'); SELECT name\nFROM items;\n\n  INSERT INTO items (name)\n VALUES ('a');\n\
              INSERT INTO items (name) VALUES ('d');\n",
        );
        assert_eq!(
            failed(&output),
            "error: line 10: UNIQUE constraint failed: items.name (SQLITE_CONSTRAINT)\nWhat is before it is committed; what \
             comes after it was not run."
        );
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "{\"name\":\"a\"}\n{\"name\":\"b\"}\n{\"name\":\"c\"}\n");

        let output = place.file(
            b"INSERT INTO items (name) VALUES ('d');\nBEGIN;\nINSERT INTO items (name) VALUES ('e');\nINSERT INTO items \
              (name) VALUES ('d');\nCOMMIT;",
        );
        assert_eq!(
            failed(&output),
            "error: line 4: UNIQUE constraint failed: items.name (SQLITE_CONSTRAINT)\nThe transaction that began in line 2 \
             is rolled back, and what comes after it was not run; what is before it is committed."
        );
        let output = place.file(b"BEGIN;\nINSERT INTO items (name) VALUES ('e');\n");
        assert_eq!(
            failed(&output),
            "error: the SQL ends inside of a transaction: end it with COMMIT.\nThe transaction that began in line 1 is rolled \
             back, and what comes after it was not run."
        );
        // The last statement needs no semicolon, and a trigger's semicolons end nothing.
        let output = place.file(
            b"BEGIN;INSERT INTO items (name) VALUES ('e;');\nEND\n;SELECT group_concat(name) AS all_of FROM items",
        );
        assert_eq!(stdout(&output), "{\"all_of\":\"a,b,c,d,e;\"}\n");
        assert!(failed(&place.file(b"SELECT 1;\n\xff;\n")).contains("line 2 of the input is not UTF-8"));
        assert!(failed(&place.file(b"SELECT 1;\nSELECT 'open;\n")).contains("line 2: "));
        assert_eq!(stdout(&place.file(b"")), "");
        assert_eq!(
            stdout(&place.file(b".mode csv\nSELECT 1 AS a;\n.mode table\nSELECT 2 AS b;")),
            "a\r\n1\r\nb\n-\n2\n(1 row)\n"
        );
    }
}

#[test]
fn a_transaction_that_is_open_while_the_next_line_is_waited_for_goes_on() {
    for place in Place::both() {
        let mut command = place.sql(&["ada", "--table"]);
        // Shorter than the pauses of people, longer than the console's.
        command.env("CUBBY_SQL_IDLE", "5s");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, mut lines) =
            (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let mut say = |text: &str| writeln!(stdin, "{text}").unwrap();
        let mut hear = || lines.next().unwrap().unwrap();
        say("BEGIN;");
        assert_eq!(hear(), "ok");
        say("INSERT INTO items (name) VALUES ('a'), ('b');");
        assert_eq!(hear(), "2 rows changed");
        say("ROLLBACK;");
        assert_eq!(hear(), "ok");
        say("BEGIN; INSERT INTO items (name) VALUES ('c'); CREATE TEMP TABLE t (x); SELECT x FROM t; COMMIT;");
        let heard: Vec<_> = std::iter::repeat_with(&mut hear).take(7).collect();
        assert_eq!(heard, ["ok", "1 row changed", "0 rows changed", "x", "-", "(0 rows)", "ok"]);
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert_eq!(place.ask("SELECT name FROM items"), "{\"name\":\"c\"}\n");
    }
}

#[test]
fn what_data_has_is_not_acted_on_by_a_terminal() {
    for place in Place::both() {
        place.ask("INSERT INTO items (name) VALUES (char(27) || '[2J' || char(10) || char(155) || char(8238))");
        let table = stdout(&place.run(&["ada", "--table", "SELECT name AS \"a\u{1b}b\" FROM items"]));
        assert!(table.chars().all(|c| c == '\n' || !c.is_control()) && !table.contains('\u{202e}'), "{table:?}");
        assert!(table.contains("\\u{1b}[2J\\n\\u{9b}\\u{202e}") && table.starts_with("a\\u{1b}b\n"), "{table:?}");
        let error = place.refused("SELECT \"\u{1b}[2J\u{7}\" FROM items WHERE x('\u{1b}')");
        assert!(error.chars().all(|c| c == '\n' || !c.is_control()), "{error:?}");
        let csv = stdout(&place.run(&["ada", "--csv", "SELECT name FROM items"]));
        assert_eq!(csv, "name\r\n\"\u{1b}[2J\n\u{9b}\u{202e}\"\r\n");
    }
}

/// More than an answer may have over HTTP.
const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000) SELECT i, \
                    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' AS x FROM n";

#[test]
fn a_long_result_comes_whole_and_a_reader_that_leaves_is_no_error() {
    for place in Place::both() {
        for mode in ["--json", "--csv", "--table"] {
            let output = place.run(&["ada", mode, MANY]);
            let lines = stdout(&output).lines().count();
            assert_eq!(lines, if mode == "--json" { 150_000 } else { lines.max(150_001) }, "{mode}");
            assert!(lines < 150_005);
        }
        let mut command = place.sql(&["ada", MANY]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().starts_with("{\"i\":1,"));
        drop(lines);
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(child.wait().unwrap().success(), "{error}");
        assert!(!error.contains("error") && !error.contains("panic"), "{error}");
    }
}

#[test]
fn suspended_and_unknown_users_and_wrong_folders_are_said_clearly() {
    for place in Place::both() {
        let mut suspend = place.folder.cubby(&["tenants", "suspend", "eve", "--reason", "overdue"]);
        if let Some(server) = &place.server {
            suspend.env("CUBBY_URL", format!("http://{}", server.address)).env("ADMIN_API_KEY", ADMIN);
        }
        stdout(&suspend.output().unwrap());
        let error = failed(&place.run(&["eve", "SELECT 1"]));
        assert_eq!(error, "error: this user is suspended: overdue; `cubby tenants resume eve` ends that");
        assert!(failed(&place.run(&["nobody"])).contains("\"nobody\" is unknown"), "before anything is read");
    }
    let nowhere = TempDir::new().unwrap();
    let output = run(&nowhere.path().join("dtaa"), &["sql", "ada", "SELECT 1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no data folder"));
    assert!(!nowhere.path().join("dtaa").exists());
}

#[test]
fn a_server_must_have_sql_and_be_asked_with_the_operators_key() {
    let folder = Folder::new();
    let place = Place { server: Some(folder.serve(&["--sql", "off"])), folder };
    let error = place.refused("SELECT 1");
    assert!(error.contains("SQL over HTTP is off here"), "{error}");
    let output = place.sql(&["ada", "SELECT 1"]).env("ADMIN_API_KEY", "another-key").output().unwrap();
    assert!(failed(&output).contains("401"), "{}", failed(&output));
    let output = place.sql(&["ada", "SELECT 1"]).env_remove("ADMIN_API_KEY").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Set ADMIN_API_KEY"));
}

#[test]
fn that_an_operator_looked_is_in_the_audit_trail() {
    for place in Place::both() {
        place.ask("SELECT 1; SELECT 2; BEGIN; SELECT 3; COMMIT");
        place.run(&["ada", "--read-only", "SELECT 1"]);
        place.run(&["nobody", "SELECT 1"]);
        drop(place.server);
        let catalog = place.folder.data().join("catalog.db");
        let conn = crate::harness::shell(&catalog);
        let mut statement =
            conn.prepare("SELECT action, target, result FROM audit WHERE action = 'tenants sql' ORDER BY id").unwrap();
        let found: Vec<(String, String, String)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let line = |target: &str, result: &str| ("tenants sql".to_owned(), target.to_owned(), result.to_owned());
        assert_eq!(found, [line("ada", "let in"), line("ada", "let in to read"), line("nobody", "404 unknown_user")]);
    }
}

#[test]
fn in_the_folder_the_settings_of_sql_are_those_of_the_environment() {
    let place = Place { folder: Folder::new(), server: None };
    let ask = |sql: &str, name: &str, value: &str| place.sql(&["ada", sql]).env(name, value).output().unwrap();
    stdout(&ask("CREATE TABLE mine (x)", "CUBBY_SQL_DDL", "allow"));
    let shown = stdout(&place.folder.cubby(&["tenants", "show", "ada"]).output().unwrap());
    assert!(shown.contains("drifted"), "{shown}");
    assert!(failed(&ask("SELECT zeroblob(2000)", "CUBBY_SQL_VALUE", "1KB")).contains("longer than is allowed"));
    let wrong = ask("SELECT 1", "CUBBY_SQL_DDL", "perhaps");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--sql-ddl"), "{wrong:?}");
}
