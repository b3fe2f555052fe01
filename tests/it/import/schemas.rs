//! Imports into a schema with triggers, indexes for full-text search, and rows of its own.

use serde_json::Value;
use tempfile::TempDir;

use super::{ADMIN, Import};
use crate::harness::{Server, migrations, shell};

const SCHEMA: (&str, &str) = (
    "V3__search.sql",
    "CREATE TABLE kinds (name TEXT);
     INSERT INTO kinds VALUES ('first'), ('second');
     CREATE TABLE pages (id INTEGER PRIMARY KEY, body TEXT);
     CREATE VIRTUAL TABLE search USING fts5(body, content='pages', content_rowid='id');
     CREATE TRIGGER added AFTER INSERT ON pages BEGIN
        INSERT INTO search (rowid, body) VALUES (new.id, new.body); END;
     CREATE TRIGGER removed AFTER DELETE ON pages BEGIN
        INSERT INTO search (search, rowid, body) VALUES ('delete', old.id, old.body); END;
     CREATE VIRTUAL TABLE words USING fts5(body);
     CREATE VIRTUAL TABLE tokens USING fts5(body, content='');
     CREATE TABLE cards (id INTEGER, body TEXT);
     CREATE VIRTUAL TABLE by_card USING fts5(body, content='cards', content_rowid='id');
     CREATE TABLE Things (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
     CREATE TABLE Used (id INTEGER PRIMARY KEY AUTOINCREMENT);
     INSERT INTO Used VALUES (9);
     DELETE FROM Used;",
);

/// What a file has that was made without the schema's triggers and indexes.
const PAGES: &str = "CREATE TABLE pages (id INTEGER PRIMARY KEY, body TEXT);
    INSERT INTO pages VALUES (1, 'hello world'), (2, 'hello you')";

const FOUND: &str = "SELECT rowid FROM search WHERE search MATCH 'hello' ORDER BY rowid";

async fn start() -> (Import, TempDir) {
    let custom = migrations(&[SCHEMA]);
    let import = Import::with(&["--migrations", custom.path().to_str().unwrap()]).await;
    (import, custom)
}

/// A file that is made by SQL.
fn made(import: &Import, sql: &str) -> Vec<u8> {
    let file = import.folder.path().join("made.db");
    let conn = shell(&file);
    conn.execute_batch(sql).unwrap();
    conn.close().unwrap();
    let content = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    content
}

async fn write(import: &Import, id: &str, sql: &'static str) {
    let tenant = import.server.app.store().lease(&id.parse().unwrap()).await.unwrap();
    tenant.write(move |tx| Ok(tx.execute_batch(sql)?)).await.unwrap();
}

async fn numbers(import: &Import, id: &str, sql: &'static str) -> Vec<i64> {
    let tenant = import.server.app.store().lease(&id.parse().unwrap()).await.unwrap();
    let read = tenant.read(move |conn| {
        let found = conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
        Ok(found)
    });
    read.await.unwrap()
}

#[tokio::test]
async fn an_index_that_triggers_keep_is_built_from_rows_that_come_without_it() {
    let (import, _custom) = start().await;
    import.make("ben").await;
    let report = import.put("ben/import", made(&import, PAGES)).await.expect(200).json();
    assert_eq!((&report["rows"], &report["replaced"]), (&Value::from(2), &Value::Null));
    assert_eq!(numbers(&import, "ben", FOUND).await, [1, 2]);
    write(&import, "ben", "DELETE FROM pages WHERE id = 1; INSERT INTO pages VALUES (3, 'hello again')").await;
    write(&import, "ben", "INSERT INTO search (search, rank) VALUES ('integrity-check', 1)").await;
    assert_eq!(numbers(&import, "ben", FOUND).await, [2, 3]);

    // An index that comes with its rows may leave some out.
    let file = import.export("ben", "INSERT INTO search (search) VALUES ('delete-all')").await;
    import.put("ben/import?replace=true", file).await.expect(200);
    assert!(numbers(&import, "ben", FOUND).await.is_empty());
    assert_eq!(numbers(&import, "ben", "SELECT id FROM pages").await, [2, 3]);
    import.stop().await;
}

#[tokio::test]
async fn rows_of_which_an_index_cannot_be_built_are_refused() {
    let (import, _custom) = start().await;
    import.make("ben").await;
    let twice = "CREATE TABLE cards (id INTEGER, body TEXT); INSERT INTO cards VALUES (1, 'a b'), (1, 'c d')";
    let refused = import.put("ben/import", made(&import, twice)).await.expect(422).json();
    assert!(refused["detail"].as_str().unwrap().contains("\"by_card\""), "{refused}");
    assert_eq!(numbers(&import, "ben", "SELECT count(*) FROM cards").await, [0]);
    import.stop().await;
}

#[tokio::test]
async fn what_a_new_database_has_is_nothing_that_an_import_must_replace() {
    let (import, _custom) = start().await;
    for id in ["ada", "ben"] {
        import.make(id).await;
    }
    let file = import.export("ada", "").await;
    let report = import.put("ben/import", file).await.expect(200).json();
    assert_eq!(report["replaced"], Value::Null);
    assert_eq!(numbers(&import, "ben", "SELECT count(*) FROM kinds").await, [2]);
    for (id, sql) in [
        ("changed", "UPDATE kinds SET name = 'other' WHERE name = 'first'"),
        ("removed", "DELETE FROM kinds"),
        ("added", "INSERT INTO kinds VALUES ('third')"),
        ("indexed", "INSERT INTO words VALUES ('theirs')"),
        ("page", "INSERT INTO pages VALUES (1, 'theirs')"),
        ("table", "CREATE TABLE more (x); INSERT INTO more VALUES (1)"),
        ("empty", "CREATE TABLE more (x)"),
        ("viewed", "CREATE VIEW bodies AS SELECT body FROM pages"),
        ("keyed", "CREATE INDEX by_body ON pages (body)"),
    ] {
        import.make(id).await;
        write(&import, id, sql).await;
        let refused = import.put(&format!("{id}/import"), made(&import, PAGES)).await.expect(409);
        assert!(refused.json()["detail"].as_str().unwrap().contains("data of their own"), "{id}");
        let report = import.put(&format!("{id}/import?replace=true"), made(&import, PAGES)).await.expect(200).json();
        assert!(report["replaced"].is_string(), "{id}: {report}");
    }
    import.stop().await;
}

#[tokio::test]
async fn a_new_database_of_an_older_schema_is_nothing_that_an_import_must_replace() {
    let (data, custom) = (TempDir::new().unwrap(), migrations(&[SCHEMA]));
    let on = async |flags: &[&str]| Import {
        server: Server::on(data.path(), &[&["--admin-api-key", ADMIN], flags].concat()).await,
        folder: TempDir::new().unwrap(),
    };
    let old = on(&[]).await;
    for id in ["ben", "eve"] {
        old.make(id).await;
    }
    write(&old, "eve", "CREATE VIEW texts AS SELECT text FROM notes").await;
    old.stop().await;

    let import = on(&["--migrations", custom.path().to_str().unwrap()]).await;
    let report = import.put("ben/import", made(&import, PAGES)).await.expect(200).json();
    assert_eq!(report["replaced"], Value::Null);
    import.put("eve/import", made(&import, PAGES)).await.expect(409);
    import.stop().await;
}

#[tokio::test]
async fn an_index_that_the_file_makes_in_another_way_is_built_from_its_text() {
    let (import, _custom) = start().await;
    for id in ["ada", "ben"] {
        import.make(id).await;
    }
    write(&import, "ada", "INSERT INTO pages VALUES (1, 'hello world'), (2, 'hello you')").await;
    let other = "DROP TABLE search;
        CREATE VIRTUAL TABLE search USING fts5(body, content='pages', content_rowid='id', tokenize='trigram');
        INSERT INTO search (search) VALUES ('rebuild');
        DROP TABLE words;
        CREATE VIRTUAL TABLE words USING fts5(body, tokenize='trigram');
        INSERT INTO words (rowid, body) VALUES (7, 'kept text')";
    let report = import.put("ben/import", import.export("ada", other).await).await.expect(200).json();
    assert_eq!(report["rows"], 4, "two kinds and two pages, and nothing of the indexes: {report}");
    assert_eq!(numbers(&import, "ben", FOUND).await, [1, 2]);
    assert_eq!(numbers(&import, "ben", "SELECT rowid FROM words WHERE words MATCH 'kept'").await, [7]);
    let part = "SELECT rowid FROM words WHERE words MATCH 'ept'";
    assert!(numbers(&import, "ben", part).await.is_empty(), "that would be the file's tokenizer");
    write(&import, "ben", "DELETE FROM pages WHERE id = 1; DELETE FROM words WHERE rowid = 7").await;
    write(&import, "ben", "INSERT INTO search (search, rank) VALUES ('integrity-check', 1)").await;
    assert_eq!(numbers(&import, "ben", FOUND).await, [2]);

    // Of these there is no text to build them from.
    for (name, index) in [
        ("tokens", "CREATE VIRTUAL TABLE tokens USING fts5(body, content='', tokenize='trigram')"),
        ("words", "CREATE VIRTUAL TABLE words USING fts5(body, content='')"),
    ] {
        let file = import.export("ada", &format!("DROP TABLE {name}; {index}")).await;
        let refused = import.put("ben/import?replace=true", file).await.expect(422).json();
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("{name:?}")) && detail.contains("drop it in the file"), "{detail}");
        assert_eq!(numbers(&import, "ben", FOUND).await, [2]);
    }
    import.stop().await;
}

#[tokio::test]
async fn an_index_that_is_only_spelled_in_another_way_is_taken_as_it_is() {
    let (import, _custom) = start().await;
    for id in ["ada", "ben"] {
        import.make(id).await;
    }
    write(&import, "ada", "INSERT INTO pages VALUES (1, 'hello world')").await;
    // It leaves the page out.
    let spelled = "DROP TABLE search;
        create virtual table Search\n using FTS5( BODY , content = 'pages',content_rowid='id' )";
    import.put("ben/import", import.export("ada", spelled).await).await.expect(200);
    assert!(numbers(&import, "ben", FOUND).await.is_empty());
    assert_eq!(numbers(&import, "ben", "SELECT id FROM pages").await, [1]);
    import.stop().await;
}

#[tokio::test]
async fn numbers_that_were_used_are_not_given_again_however_the_file_spells_the_table() {
    let (import, _custom) = start().await;
    import.make("ben").await;
    let counted = "CREATE TABLE things (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
        CREATE TABLE USED (id INTEGER PRIMARY KEY AUTOINCREMENT);
        INSERT INTO things (name) VALUES ('a'), ('b'), ('c');
        DELETE FROM things WHERE id > 1;
        INSERT INTO used VALUES (4)";
    import.put("ben/import", made(&import, counted)).await.expect(200);
    assert_eq!(numbers(&import, "ben", "SELECT seq FROM sqlite_sequence ORDER BY seq").await, [3, 9]);
    write(&import, "ben", "INSERT INTO things (name) VALUES ('d'); INSERT INTO used DEFAULT VALUES").await;
    assert_eq!(numbers(&import, "ben", "SELECT id FROM things ORDER BY id").await, [1, 4]);
    assert_eq!(numbers(&import, "ben", "SELECT id FROM used ORDER BY id").await, [4, 10]);
    import.stop().await;
}
