//! What is written is read again as it was.

use rusqlite::types::Value;

use super::*;
use crate::{ErrorKind, sqlite::open};

const SCHEMA: &str = "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text, twice AS (text || text));
    CREATE TABLE \"odd \"\"name\" (\"a \"\"column\" BLOB);
    CREATE VIRTUAL TABLE words USING fts5(text, content='notes', content_rowid='id');
    CREATE INDEX by_text ON notes (text);
    CREATE TRIGGER added AFTER INSERT ON notes BEGIN INSERT INTO words(rowid, text) VALUES (new.id, new.text); END;
    CREATE VIEW texts AS SELECT text FROM notes;
    INSERT INTO notes (text) VALUES ('it''s'), (NULL), ('third');
    DELETE FROM notes WHERE id = 3;
    INSERT INTO \"odd \"\"name\" VALUES (X'00ff'), (CAST(X'ff' AS TEXT)), (9e999), ('');
    PRAGMA user_version=7";

fn database() -> Connection {
    let conn = open::in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    conn
}

fn text(conn: &Connection, form: Form, table: Option<&str>) -> Result<String> {
    let mut out = Vec::new();
    write(conn, form, table, |name| name.starts_with("words"), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn what_was_dumped_is_made_anew_with_everything() {
    let conn = database();
    let dump = text(&conn, Form::Sql, None).unwrap();
    let copy = open::in_memory().unwrap();
    copy.execute_batch(&dump).unwrap();
    assert_eq!(text(&copy, Form::Sql, None).unwrap(), dump);
    let found: i64 = copy.query_row("SELECT rowid FROM words WHERE words MATCH 'it'", [], |row| row.get(0)).unwrap();
    assert_eq!(found, 1);
    copy.execute_batch("INSERT INTO notes (text) VALUES ('new')").unwrap();
    let next: i64 = copy.query_row("SELECT max(id) FROM notes", [], |row| row.get(0)).unwrap();
    assert_eq!(next, 4, "a number that was used is not used again");
}

#[test]
fn a_statement_ends_whatever_comment_is_behind_it() {
    let conn = database();
    for sql in [
        "CREATE TABLE tags (tag TEXT DEFAULT '-- none /* at all') STRICT -- of notes",
        "CREATE INDEX by_tag ON tags (tag) -- newest last",
        "CREATE INDEX by_length ON tags (length(tag)) /* no end",
        "CREATE VIEW newest AS SELECT text FROM notes -- newest; last /*",
        "CREATE VIEW strings AS SELECT '-- no comment; /* nor this' AS \"--\" /* no end",
        "CREATE VIEW both AS SELECT '*/' AS two /* no end -- at all",
        "CREATE VIEW whole AS SELECT 1 AS one /* with an end */",
        "CREATE TRIGGER changed AFTER UPDATE ON tags BEGIN SELECT 1; END -- of it",
    ] {
        conn.execute_batch(sql).unwrap();
    }
    conn.execute_batch("INSERT INTO tags VALUES ('-- a tag'), ('/*')").unwrap();
    let read = |conn: &Connection| {
        let sql = "SELECT type, name, tbl_name, rtrim(sql, '*/' || char(10)) FROM sqlite_schema ORDER BY 1, 2";
        let mut found = Vec::new();
        for sql in [sql, "SELECT * FROM newest", "SELECT * FROM strings, both, whole", "SELECT * FROM tags"] {
            let mut statement = conn.prepare(sql).unwrap();
            let count = statement.column_count();
            let row = |row: &rusqlite::Row| (0..count).map(|n| row.get(n)).collect::<rusqlite::Result<Vec<Value>>>();
            found.extend(statement.query_map([], row).unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap());
        }
        found
    };
    for table in [None, Some("tags")] {
        let dump = text(&conn, Form::Sql, table).unwrap();
        assert!(dump.contains("-- newest last\n;") && dump.contains("no end*/;"), "{dump}");
        let copy = open::in_memory().unwrap();
        copy.execute_batch(&dump).unwrap();
        match table {
            None => assert_eq!(read(&copy), read(&conn)),
            Some(_) => {
                assert_eq!(text(&copy, Form::Csv, None).unwrap(), text(&conn, Form::Csv, table).unwrap());
            }
        }
    }
}

#[test]
fn rows_keep_the_numbers_that_no_column_has() {
    let conn = open::in_memory().unwrap();
    conn.execute_batch(
        "CREATE TABLE plain (text);
         INSERT INTO plain VALUES ('one'), ('two'), ('three');
         DELETE FROM plain WHERE text = 'one';
         CREATE VIRTUAL TABLE words USING fts5(text, content='plain');
         INSERT INTO words (words) VALUES ('rebuild');
         CREATE TABLE down (id INTEGER PRIMARY KEY DESC, text);
         CREATE TABLE named (rowid, \"OID\", text);
         CREATE TABLE taken (rowid, oid, _rowid_);
         CREATE TABLE apart (a, b, PRIMARY KEY (b)) WITHOUT ROWID;
         CREATE TABLE own (id INTEGER PRIMARY KEY, text);
         INSERT INTO down (_rowid_, id, text) VALUES (7, 1, 'x'), (9, 2, 'y');
         INSERT INTO named (_rowid_, rowid, oid) VALUES (-5, 'a', 'b');
         INSERT INTO taken VALUES (1, 2, 3);
         INSERT INTO apart VALUES (1, 2);
         INSERT INTO own VALUES (3, 'x')",
    )
    .unwrap();
    let dump = text(&conn, Form::Sql, None).unwrap();
    assert!(dump.contains("INSERT INTO \"own\"(\"id\",\"text\") VALUES(3,'x');"), "{dump}");
    let copy = open::in_memory().unwrap();
    copy.execute_batch(&dump).unwrap();
    assert_eq!(text(&copy, Form::Sql, None).unwrap(), dump);
    for sql in [
        "SELECT group_concat(rowid) FROM plain",
        "SELECT group_concat(_rowid_ || id) FROM down",
        "SELECT group_concat(_rowid_ || rowid) FROM named",
        "SELECT group_concat(rowid || text) FROM words WHERE words MATCH 'two OR three'",
    ] {
        let [there, here] = [&conn, &copy].map(|conn| conn.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap());
        assert_eq!(there, here, "{sql}");
    }
}

#[test]
fn numbers_with_a_point_are_read_to_their_last_digit() {
    let conn = open::in_memory().unwrap();
    conn.execute_batch("CREATE TABLE numbers (n REAL)").unwrap();
    let mut bits = 88_172_645_463_325_252_u64;
    conn.execute_batch("BEGIN").unwrap();
    for number in [0.1, 5e-324, f64::MIN_POSITIVE, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY] {
        conn.execute("INSERT INTO numbers VALUES (?1)", [number]).unwrap();
    }
    for _ in 0..6000 {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        conn.execute("INSERT INTO numbers VALUES (?1)", [f64::from_bits(bits)]).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
    let copy = open::in_memory().unwrap();
    copy.execute_batch(&text(&conn, Form::Sql, None).unwrap()).unwrap();
    let read = |conn: &Connection| {
        let mut statement = conn.prepare("SELECT n FROM numbers ORDER BY rowid").unwrap();
        let read = |row: &rusqlite::Row| Ok(row.get::<_, Option<f64>>(0)?.map(f64::to_bits));
        statement.query_map([], read).unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap()
    };
    assert_eq!(read(&copy), read(&conn));
}

#[test]
fn a_table_is_rows_of_its_own() {
    let conn = database();
    let json = text(&conn, Form::Ndjson, Some("notes")).unwrap();
    assert_eq!(json, "{\"id\":1,\"text\":\"it's\",\"twice\":\"it'sit's\"}\n{\"id\":2,\"text\":null,\"twice\":null}\n");
    let csv = text(&conn, Form::Csv, Some("odd \"name")).unwrap();
    assert_eq!(csv, "\"a \"\"column\"\r\nAP8=\r\n\u{fffd}\r\ninf\r\n\"\"\r\n");
    let sql = text(&conn, Form::Sql, Some("notes")).unwrap();
    assert!(sql.contains("INSERT INTO \"notes\"(\"id\",\"text\") VALUES(1,'it''s');"), "{sql}");
    assert!(sql.contains("CREATE INDEX by_text") && !sql.contains("CREATE VIEW"), "{sql}");
}

#[test]
fn a_table_that_is_not_said_or_not_there_is_an_error_that_names_all() {
    let conn = database();
    for table in [None, Some("other"), Some("sqlite_schema")] {
        let error = text(&conn, Form::Csv, table).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.message(), "say which table; there are: notes, odd \"name");
    }
    conn.execute_batch("DROP TABLE \"odd \"\"name\"").unwrap();
    assert!(text(&conn, Form::Csv, None).unwrap().starts_with("id,text,twice\r\n"));
}
