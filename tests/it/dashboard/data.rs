//! A tenant's tables, rows and the answers to a SELECT, by the routes and on the pages: read, and never changed.

use cubby::http::segment::encode;
use serde_json::{Value, json};

use super::{ADMIN, Browser, FLAGS};
use crate::{
    harness::{Client, Reply, Server, author},
    migrations::{file, folder_with, v1},
};

const ROUTE: &str = "/api/admin/tenants/ada/browse";
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) ";

/// A server with ada, whose database this SQL has made something of.
async fn with(flags: &[&str], sql: &str) -> (Server, Client) {
    let server = Server::with(&[FLAGS, flags].concat()).await;
    server.client.note("ada", "of ada's own").await;
    fill(&server, sql).await;
    let operator = server.client.bearing(ADMIN);
    (server, operator)
}

async fn fill(server: &Server, sql: &str) {
    let (ada, sql) = (server.app.store().lease(&"ada".parse().unwrap()).await.unwrap(), sql.to_owned());
    ada.write(move |tx| Ok(tx.execute_batch(&sql)?)).await.unwrap();
}

async fn ask(operator: &Client, sql: &str) -> Reply {
    operator.post(ROUTE, json!({"sql": sql})).await
}

fn texts(rows: &Value) -> Vec<Vec<&str>> {
    let all = rows.as_array().unwrap().iter();
    all.map(|row| row.as_array().unwrap().iter().map(|cell| cell["text"].as_str().unwrap()).collect()).collect()
}

async fn trail(operator: &Client) -> Vec<String> {
    let trail = operator.get("/api/admin/audit?target=ada").await.expect(200).json();
    let lines = trail["audit"].as_array().unwrap().iter().filter(|line| line["action"] == "tenants browse");
    lines.map(|line| line["result"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn tables_rows_and_answers_are_those_of_the_database_and_each_look_is_in_the_trail() {
    let (server, operator) = with(
        &[],
        "CREATE TABLE parts (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x', size REAL, twice AS (size * 2));
         CREATE UNIQUE INDEX by_name ON parts (name, lower(name)) WHERE name <> '';
         CREATE VIEW names AS SELECT name FROM parts;
         CREATE VIEW broken AS SELECT absent FROM nowhere;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)
         INSERT INTO parts (name, size) SELECT 'part ' || i, i / 2.0 FROM n;
         UPDATE parts SET name = printf('%.9000c', 'é') WHERE id = 2;
         INSERT INTO parts (id, name) VALUES (9223372036854775807, CAST(x'ff00' AS TEXT))",
    )
    .await;
    let list = operator.get(ROUTE).await.expect(200).json();
    let of = |name: &str| list["tables"].as_array().unwrap().iter().find(|table| table["name"] == name).unwrap();
    let parts = of("parts");
    assert_eq!((&parts["kind"], &parts["rows"], &parts["more_rows"]), (&json!("table"), &json!(121), &json!(false)));
    let column =
        json!({"name": "name", "declared": "TEXT", "nullable": false, "default": "'x'", "key": 0, "computed": false});
    assert_eq!(parts["columns"][1], column);
    assert_eq!((&parts["columns"][0]["key"], &parts["columns"][3]["computed"]), (&json!(1), &json!(true)));
    let index = json!([{"name": "by_name", "columns": ["name", null], "unique": true, "partial": true}]);
    assert_eq!(parts["indexes"], index);
    assert_eq!((&of("names")["kind"], &of("names")["rows"]), (&json!("view"), &Value::Null));
    assert_eq!(of("broken")["columns"], json!([]));
    assert_eq!(of("notes")["rows"], 1);

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("{ROUTE}/rows?table=parts&limit=50{cursor}")).await.expect(200).json();
        assert_eq!(page["before"], seen.len());
        seen.extend(texts(&page["rows"]).into_iter().map(|row| (row[0].to_owned(), row[1].to_owned())));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let ids: Vec<&str> = seen.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!((ids.len(), ids[0], ids[119], ids[120]), (121, "1", "120", "9223372036854775807"));
    assert!(seen[1].1.len() < 600 && seen[120].1 == "\u{fffd}\0", "{seen:?}");
    let second = operator.get(&format!("{ROUTE}/rows?table=parts&limit=2")).await.expect(200).json();
    assert_eq!(second["rows"][1][1]["bytes"], 18_000);
    let views = operator.get(&format!("{ROUTE}/rows?table=names&limit=2")).await.expect(200).json();
    assert_eq!((&views["columns"], &views["rows"][0][0]["text"]), (&json!(["name"]), &json!("part 1")));
    assert_eq!(operator.get(&format!("{ROUTE}/rows?table=broken")).await.expect(422).json()["field"], "table");
    assert_eq!(operator.get(&format!("{ROUTE}/rows?table=nothing")).await.expect(404).code(), "not_found");
    for wrong in ["rows", "rows?table=parts&cursor=x", "rows?table=parts&limit=0", "rows?table=parts&limit=201"] {
        operator.get(&format!("{ROUTE}/{wrong}")).await.expect(400);
    }

    let found =
        ask(&operator, "SELECT name AS \"<n>\", x'00ff' FROM parts WHERE id < 4 ORDER BY id -- a comment").await;
    let found = found.expect(200).json();
    assert_eq!((&found["columns"][0], &found["more"]), (&json!("<n>"), &json!(false)));
    assert_eq!(texts(&found["rows"])[2], ["part 3", "00ff"]);
    assert_eq!(ask(&operator, "SELECT nothing").await.expect(422).json()["field"], "sql");
    let lines = trail(&operator).await;
    let last: Vec<&str> = lines.iter().take(3).map(String::as_str).collect();
    let asked = "looked at SELECT name AS \"<n>\", x'00ff' FROM parts WHERE id < 4 ORDER BY id -- a comment";
    assert_eq!(last, ["422 invalid_field", "looked at SELECT nothing", asked]);
    assert!(
        lines.contains(&"looked at rows of parts".to_owned()) && lines.contains(&"looked at its tables".to_owned())
    );
    let long = format!("SELECT '{}'", "x".repeat(20_000));
    ask(&operator, &long).await.expect(200);
    assert!(trail(&operator).await[0].len() < 600, "of a long statement the beginning");
    server.client.post(ROUTE, json!({"sql": "SELECT 1"})).await.expect(401);
    server.stop().await;
}

#[tokio::test]
async fn as_csv_values_are_as_they_are_unless_it_is_for_a_spreadsheet() {
    let (server, operator) = with(&[], "CREATE TABLE t (a, b)").await;
    let long = "y".repeat(9000);
    fill(&server, &format!("INSERT INTO t VALUES ('=1+1', -1), ('@x', NULL), ('a, \"b\"', '{long}')")).await;
    let csv = async |query: &str| {
        let reply = operator.post(&format!("{ROUTE}?format=csv{query}"), json!({"sql": "SELECT * FROM t"})).await;
        let reply = reply.expect(200);
        assert_eq!(reply.header("content-type"), "text/csv; charset=utf-8; header=present");
        assert_eq!(reply.header("content-disposition"), "attachment; filename=\"ada.csv\"");
        String::from_utf8(reply.body).unwrap()
    };
    assert_eq!(csv("").await, format!("a,b\r\n=1+1,-1\r\n@x,\r\n\"a, \"\"b\"\"\",{long}\r\n"));
    let inert = csv("&spreadsheet=true").await;
    assert_eq!(inert, format!("a,b\r\n'=1+1,-1\r\n'@x,\r\n\"a, \"\"b\"\"\",{long}\r\n"));
    server.stop().await;
}

/// What must not run, also where a SELECT is around it.
const WRITES: &[&str] = &[
    "",
    "-- nothing",
    "INSERT INTO notes VALUES ('a', 'b', 1, 1)",
    "WITH x AS (SELECT 1) DELETE FROM notes",
    "WITH x AS (SELECT 1) INSERT INTO notes SELECT 'a', 'b', 1, 1",
    "DELETE FROM notes RETURNING *",
    "EXPLAIN DELETE FROM notes",
    "SELECT 1; DELETE FROM notes",
    "CREATE TABLE t (x)",
    "CREATE TEMP TABLE t AS SELECT * FROM notes",
    "PRAGMA user_version = 9",
    "PRAGMA journal_mode = DELETE",
    "EXPLAIN PRAGMA journal_mode = DELETE",
    "SELECT * FROM pragma_wal_checkpoint",
    "ATTACH 'x.db' AS x",
    "EXPLAIN ATTACH 'x.db' AS x",
    "VACUUM",
    "VACUUM INTO 'x.db'",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "SAVEPOINT x",
    "REINDEX",
    "ANALYZE",
    "SELECT load_extension('x')",
    "SELECT writefile('x', 'y')",
    "SELECT readfile('/etc/passwd')",
    "SELECT 1\0; DELETE FROM notes",
];

#[tokio::test]
async fn nothing_that_writes_is_run_whatever_the_tenants_state() {
    let (server, operator) = with(&[], "CREATE TABLE t2 (x)").await;
    let path = server.app.store().layout().tenant(&"ada".parse().unwrap());
    for state in ["active", "suspended", "deleted"] {
        match state {
            "suspended" => {
                drop(operator.post("/api/admin/tenants/ada/suspend", json!({"reason": "x"})).await.expect(200))
            }
            "deleted" => drop(operator.delete("/api/admin/tenants/ada").await.expect(200)),
            _ => {}
        }
        let found = ask(&operator, "SELECT text FROM notes").await.expect(200).json();
        assert_eq!(texts(&found["rows"]), [["of ada's own"]], "{state}");
        let page = operator.get(&format!("{ROUTE}/rows?table=notes")).await.expect(200).json();
        assert_eq!(page["rows"].as_array().unwrap().len(), 1, "{state}");
        let file = || std::fs::read(if state == "deleted" { trashed(&server) } else { path.clone() }).unwrap();
        let before = file();
        for sql in WRITES {
            let reply = ask(&operator, sql).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (422, "invalid_field"),
                "{state}: {sql}: {}",
                reply.json()
            );
        }
        assert!(file() == before, "{state}: the file is as it was");
        let found = ask(&operator, "SELECT (SELECT count(*) FROM notes), (SELECT count(*) FROM sqlite_schema)").await;
        assert_eq!(texts(&found.expect(200).json()["rows"])[0][0], "1", "{state}");
        assert_eq!(operator.get("/api/admin/tenants/ada").await.expect(200).json()["state"], state);
    }
    assert!(!std::path::Path::new("x.db").exists());
    operator.post("/api/admin/tenants/ada/restore", json!({})).await.expect(200);
    operator.post("/api/admin/tenants/ada/resume", json!({})).await.expect(200);
    assert_eq!(server.client.texts("ada").await, ["of ada's own"]);
    server.client.note("ada", "and goes on").await;
    server.stop().await;
}

fn trashed(server: &Server) -> std::path::PathBuf {
    server.app.store().layout().trashed(&"ada".parse().unwrap())
}

#[tokio::test]
async fn of_whom_nothing_can_be_read_it_is_told_why() {
    let (server, operator) = with(&[], "").await;
    let quarantine = |tx: &rusqlite::Transaction| {
        tx.execute_batch("UPDATE tenants SET state = 'quarantined', reason = 'page 7 is torn' WHERE id = 'ada'")
    };
    server.app.store().catalog().write(quarantine).await.unwrap();
    for path in ["", "/rows?table=notes"] {
        let refused = operator.get(&format!("{ROUTE}{path}")).await.expect(409);
        assert!(refused.json()["detail"].as_str().unwrap().contains("page 7 is torn"), "{}", refused.json());
    }
    ask(&operator, "SELECT 1").await.expect(409);
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin/tenants/ada/data").await.expect(409).text;
    assert!(page.contains("page 7 is torn"), "{page}");
    assert!(!browser.get("/admin/tenants/ada").await.expect(200).text.contains("/data\""), "no link to it");
    operator.post("/api/admin/tenants/ada/resume", json!({})).await.expect(200);
    operator.delete("/api/admin/tenants/ada").await.expect(200);
    operator.post("/api/admin/tenants/ada/purge", json!({"yes": true})).await.expect(200);
    assert_eq!(operator.get(ROUTE).await.expect(409).code(), "conflict");
    for nobody in ["nobody", "a%2Fb"] {
        let path = format!("/api/admin/tenants/{nobody}/browse");
        assert_eq!(operator.get(&path).await.expect(404).code(), "unknown_user");
    }
    assert!(server.app.store().find(&"nobody".parse().unwrap()).await.unwrap().is_none(), "nobody is made");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_does_not_migrate_and_its_user_is_served_after_it() {
    let folder = folder_with(v1(), &[("ada", &["old"])]).await;
    let before = std::fs::read(file(folder.path(), "ada")).unwrap();
    let server = Server::on(folder.path(), FLAGS).await;
    let operator = server.client.bearing(ADMIN);
    let tables = operator.get(ROUTE).await.expect(200).json();
    let names: Vec<&Value> = tables["tables"].as_array().unwrap().iter().map(|table| &table["name"]).collect();
    assert!(names.contains(&&json!("notes")) && !names.contains(&&json!("idempotency_keys")), "{names:?}");
    let found = ask(&operator, "SELECT text FROM notes").await.expect(200).json();
    assert_eq!(texts(&found["rows"]), [["old"]]);
    let endless = ask(&operator, &format!("{ENDLESS} SELECT count(*) FROM n")).await;
    assert_eq!(endless.expect(503).code(), "query_timeout");
    assert_eq!(operator.get("/api/admin/tenants/ada").await.expect(200).json()["schema_version"], 1);
    assert!(std::fs::read(file(folder.path(), "ada")).unwrap() == before, "byte for byte as it was");
    assert_eq!(server.client.texts("ada").await, ["old"]);
    let version = ask(&operator, "SELECT user_version FROM pragma_user_version").await.expect(200).json();
    assert_eq!(texts(&version["rows"]), [["2"]], "its user's request has migrated it");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_end_or_measure_is_stopped() {
    let flags = ["--sql-time", "500ms", "--sql-memory", "2MiB", "--sql-answer", "20000"];
    let (server, operator) = with(&flags, "").await;
    for state in ["active", "suspended"] {
        if state == "suspended" {
            operator.post("/api/admin/tenants/ada/suspend", json!({"reason": "x"})).await.expect(200);
        }
        let some = ask(&operator, &format!("{ENDLESS} SELECT i FROM n")).await.expect(200).json();
        assert_eq!((some["rows"].as_array().unwrap().len(), &some["more"]), (100, &json!(true)));
        let fit = ask(&operator, &format!("{ENDLESS} SELECT printf('%.400c', 'x') FROM n")).await.expect(200).json();
        assert!(fit["more"] == true && fit["rows"].as_array().unwrap().len() < 60, "{fit}");
        for (sql, format, status, code) in [
            ("SELECT count(*) FROM n", "json", 503, "query_timeout"),
            ("SELECT group_concat(printf('%.100000c', 'x')) FROM (SELECT i FROM n LIMIT 99)", "json", 413, "too_large"),
            ("SELECT i FROM n", "csv", 413, "too_large"),
            ("SELECT printf('%.30000c', 'x')", "csv", 413, "too_large"),
        ] {
            let sql = format!("{ENDLESS} {sql}");
            let reply = operator.post(&format!("{ROUTE}?format={format}"), json!({"sql": sql})).await;
            assert_eq!((reply.status, reply.code().as_str()), (status, code), "{state}: {sql}");
        }
        let fault = operator.get("/api/admin/tenants/ada").await.expect(200).json()["fault"].clone();
        assert_eq!(fault, Value::Null, "an operator's statement is no fault of the file");
    }
    operator.post("/api/admin/tenants/ada/resume", json!({})).await.expect(200);
    assert_eq!(server.client.texts("ada").await, ["of ada's own"]);
    server.stop().await;
}

#[tokio::test]
async fn it_can_be_switched_off_and_then_no_link_leads_there() {
    let (server, operator) = with(&["--admin-browse=false"], "").await;
    for reply in [
        operator.get(ROUTE).await,
        operator.get(&format!("{ROUTE}/rows?table=notes")).await,
        ask(&operator, "SELECT 1").await,
    ] {
        let refused = reply.expect(403);
        assert_eq!(refused.code(), "browse_off");
        assert!(refused.json()["detail"].as_str().unwrap().contains("CUBBY_ADMIN_BROWSE"));
    }
    let browser = Browser::signed_in(server.address).await;
    let page = browser.get("/admin/tenants/ada").await.expect(200);
    assert!(!page.text.contains("Tables and rows"), "{}", page.text);
    assert!(browser.get("/admin/tenants/ada/data").await.expect(403).text.contains("CUBBY_ADMIN_BROWSE"));
    let sent = browser.submit(&page, "/admin/tenants/ada/data", &[("sql", "SELECT 1")]).await;
    assert!(sent.expect(403).text.contains("CUBBY_ADMIN_BROWSE"));
    server.stop().await;

    let (server, _) = with(&[], "").await;
    let browser = Browser::signed_in(server.address).await;
    assert!(browser.get("/admin/tenants/ada").await.expect(200).text.contains("href=\"/admin/tenants/ada/data\""));
    server.stop().await;
}

/// The addresses that a page links to under ada's data.
fn links(page: &str) -> Vec<String> {
    let all = page.split("href=\"/admin/tenants/ada/data").skip(1).map(|rest| rest.split('"').next().unwrap());
    all.map(|rest| format!("/admin/tenants/ada/data{}", rest.replace("&#38;", "&").replace("&amp;", "&"))).collect()
}

#[tokio::test]
async fn hostile_names_and_values_are_text_on_the_pages() {
    let harms = [
        "<script>alert(1)</script>",
        "\" autofocus onfocus=\"alert(1)",
        "</textarea></pre></title><img src=x onerror=alert(1)>",
        "abc\u{202e}txt.exe\u{2066}",
    ];
    let mut sql = String::new();
    for harm in harms.iter().copied().chain(["x".repeat(10_000).as_str()]) {
        let (name, value) = (harm.replace('"', "\"\""), harm.replace('\'', "''"));
        sql += &format!(
            "CREATE TABLE \"{name}\" (\"{name} a\" TEXT DEFAULT '{value}', b); CREATE INDEX \"{name} i\" ON \"{name}\" (b);
             INSERT INTO \"{name}\" VALUES ('{value}', '{value}' || char(0, 27) || '{value}'), (CAST('{value}' AS BLOB), 1);"
        );
    }
    let (server, _) = with(&[], "").await;
    // A statement's length is limited, that of all of them is not.
    for some in sql.split_inclusive(";\n") {
        fill(&server, some).await;
    }
    let browser = Browser::signed_in(server.address).await;
    let list = browser.get("/admin/tenants/ada/data").await.expect(200);
    let tables: Vec<String> = links(&list.text).into_iter().filter(|link| link.contains("?table=")).collect();
    assert!(tables.len() >= 6, "{tables:?}");
    let mut pages = vec![("the list".to_owned(), browser.get("/admin/tenants/ada/data").await)];
    for path in tables {
        pages.push((path.clone(), browser.get(&path).await.expect(200)));
    }
    for harm in harms {
        for sql in [format!("SELECT '{harm}' AS \"{}\"", harm.replace('"', "\"\"")), format!("SELECT {harm}")] {
            let page = browser.submit(&list, "/admin/tenants/ada/data", &[("sql", &sql)]).await;
            assert!(page.status == 200 || page.status == 422, "{sql}: {}", page.text);
            pages.push((sql, page));
        }
        pages.push((harm.to_owned(), browser.get(&format!("/admin/tenants/ada/data?table={}", encode(harm))).await));
    }
    pages.push(("audit".to_owned(), browser.get("/admin/audit").await.expect(200)));
    for (what, page) in pages {
        assert!(page.text.starts_with("<!doctype html>"), "{what}: {}", page.text);
        for harm in ["<script>", "<img", "onfocus=\"", " style=", "javascript:"] {
            assert!(!page.text.contains(harm), "{what} has {harm}: {}", page.text);
        }
        // What the operator has typed stays in its field.
        let shown: String =
            page.text.split("<textarea").map(|part| part.rsplit("</textarea>").next().unwrap()).collect();
        let hidden = shown.chars().find(|c| matches!(c, '\u{202e}' | '\u{2066}' | '\0' | '\u{1b}'));
        assert_eq!(hidden, None, "{what}");
        assert!(page.text.len() < 150_000, "{what} has {} bytes", page.text.len());
    }
    server.stop().await;
}

#[tokio::test]
async fn pages_lead_from_tables_to_rows_to_answers_and_files() {
    let (server, operator) = with(
        &[],
        "CREATE TABLE parts (id INTEGER PRIMARY KEY, name);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120) INSERT INTO parts SELECT i, NULL FROM n",
    )
    .await;
    let browser = Browser::signed_in(server.address).await;
    let list = browser.get("/admin/tenants/ada/data").await.expect(200);
    let mut path = links(&list.text).into_iter().find(|link| link.ends_with("?table=parts")).expect("a link");
    let mut seen = 0;
    let csv = loop {
        let page = browser.get(&path).await.expect(200).text;
        seen += page.matches("<td class=\"value gone\"><bdi>null</bdi>").count();
        match page.split("rel=\"next\" href=\"").nth(1) {
            Some(rest) => path = rest.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&"),
            None => {
                break page
                    .split("\">All of it as CSV")
                    .next()
                    .unwrap()
                    .rsplit('"')
                    .next()
                    .unwrap()
                    .replace("&#38;", "&");
            }
        }
    };
    assert_eq!(seen, 120);
    let whole = browser.get(&csv.replace("&amp;", "&")).await.expect(200);
    assert!(whole.text.starts_with("id,name\r\n1,\r\n") && whole.text.lines().count() == 121, "{}", whole.text);

    let form = "/admin/tenants/ada/data";
    let page = browser.submit(&list, form, &[("sql", "SELECT id + 1 AS next FROM parts LIMIT 2")]).await.expect(200);
    assert!(page.text.contains("<bdi>next</bdi>") && page.text.contains("SELECT id + 1"), "{}", page.text);
    let fields = [("sql", "SELECT '=1' AS a"), ("format", "csv"), ("spreadsheet", "true")];
    let file = browser.submit(&list, form, &fields).await.expect(200);
    assert_eq!(
        (file.text.as_str(), file.header("content-disposition")),
        ("a\r\n'=1\r\n", "attachment; filename=\"ada.csv\"")
    );
    let wrong = browser.submit(&list, form, &[("sql", "DELETE FROM parts"), ("format", "csv")]).await.expect(422);
    assert!(
        wrong.text.contains("only one SELECT is run") && wrong.text.contains("DELETE FROM parts"),
        "{}",
        wrong.text
    );
    browser.post(form, &[("sql", "SELECT 1"), ("csrf", "no")]).await.expect(403);
    let stranger = Browser::new(server.address);
    assert!(stranger.get(form).await.expect(303).location.starts_with("/admin/sign-in"));

    // Gone between two clicks.
    server.app.store().delete(&"ada".parse().unwrap(), &author()).await.unwrap();
    assert!(browser.get(&path).await.expect(200).text.contains("parts"), "in the trash it is still to be seen");
    operator.post("/api/admin/tenants/ada/purge", json!({"yes": true})).await.expect(200);
    for page in [browser.get(&path).await, browser.submit(&list, form, &[("sql", "SELECT 1")]).await] {
        assert!(page.expect(409).text.contains("nothing is left"));
    }
    server.stop().await;
}
