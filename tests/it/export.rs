//! Users' databases as files, by the route and the command.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::harness::{
    Process, Server, cubby, eventually, migrations, run, shell, stdout,
    tokens::{SigningKey, flags},
};

const ADMIN: &str = "an operator's key of some length";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The notes in a file.
fn notes(file: &Path) -> Vec<String> {
    let conn = shell(file);
    let whole: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let mut notes = conn.prepare("SELECT text FROM notes ORDER BY text").unwrap();
    notes.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What an operator's command does, through a server.
fn ask(data: &Path, server: &Process, arguments: &[&str]) -> Output {
    let mut command = cubby();
    command.args(arguments).arg("--data").arg(data).env("ADMIN_API_KEY", ADMIN);
    command.env("CUBBY_URL", format!("http://{}", server.address)).output().unwrap()
}

#[tokio::test]
async fn an_export_has_its_digest_and_is_the_database_at_one_moment() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    for n in 0..300 {
        server.client.note("ada", &format!("{n:03} {}", "long ".repeat(200))).await;
    }
    let reply = operator.get("/api/admin/tenants/ada/export").await.expect(200);
    assert_eq!(reply.header("content-type"), "application/vnd.sqlite3");
    assert_eq!(reply.header("content-disposition"), "attachment; filename=\"ada.db\"");
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    let digest = format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(&reply.body)));
    assert_eq!(reply.header("repr-digest"), digest);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ada.db");
    std::fs::write(&file, &reply.body).unwrap();
    assert_eq!(notes(&file).len(), 300);
    assert_eq!(std::fs::read_dir(server.app.store().layout().tmp()).unwrap().count(), 0, "no copy is left");
    let trail = operator.get("/api/admin/audit").await.expect(200).json();
    let line = &trail["audit"][0];
    assert_eq!((&line["action"], &line["target"]), (&json!("tenants export"), &json!("ada")));
    assert_eq!(line["result"], "let out as db");
    server.stop().await;
}

#[tokio::test]
async fn text_is_of_one_table_or_the_whole_database() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    server.client.note("ada", "one, \"two\"").await;
    let get = async |query: &str| operator.get(&format!("/api/admin/tenants/ada/export{query}")).await;
    let lines = get("?format=ndjson&table=notes").await.expect(200);
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let row: Value = serde_json::from_slice(&lines.body).unwrap();
    assert_eq!(row["text"], "one, \"two\"");
    let csv = String::from_utf8(get("?format=csv&table=notes").await.expect(200).body).unwrap();
    assert!(csv.starts_with("id,text,") && csv.contains(",\"one, \"\"two\"\"\","), "{csv}");
    let sql = get("?format=sql").await.expect(200).body;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("new.db");
    shell(&file).execute_batch(&String::from_utf8(sql).unwrap()).unwrap();
    assert_eq!(notes(&file), ["one, \"two\""]);
    for query in ["?format=csv&table=other", "?format=sqlite&table=notes", "?table=notes", "?form=csv"] {
        assert_eq!(get(query).await.expect(422).code(), "invalid_field", "{query}");
    }
    assert_eq!(get("?format=xml").await.expect(400).code(), "malformed_request");
    server.stop().await;
}

#[tokio::test]
async fn one_table_as_sql_has_its_triggers_and_the_numbers_of_its_rows() {
    let search = "CREATE TABLE pages (id INTEGER PRIMARY KEY, body TEXT);
        CREATE TABLE bodies (body TEXT);
        CREATE TRIGGER added AFTER INSERT ON Pages BEGIN INSERT INTO bodies VALUES (new.body); END;
        CREATE VIRTUAL TABLE words USING fts5(body)";
    let custom = migrations(&[("V3__search.sql", search)]);
    let server = Server::with(&["--admin-api-key", ADMIN, "--migrations", custom.path().to_str().unwrap()]).await;
    let operator = server.client.bearing(ADMIN);
    operator.post("/api/admin/tenants", json!({"id": "ada"})).await.expect(201);
    let tenant = server.app.store().lease(&"ada".parse().unwrap()).await.unwrap();
    let rows = "INSERT INTO words (rowid, body) VALUES (7, 'seven'), (9, 'nine')";
    tenant.write(move |tx| Ok(tx.execute_batch(rows)?)).await.unwrap();
    drop(tenant);
    let sql = async |table: &str| {
        let path = format!("/api/admin/tenants/ada/export?format=sql&table={table}");
        String::from_utf8(operator.get(&path).await.expect(200).body).unwrap()
    };
    let pages = sql("pages").await;
    assert!(pages.contains("CREATE TRIGGER added AFTER INSERT ON Pages"), "{pages}");
    let folder = TempDir::new().unwrap();
    let copy = shell(&folder.path().join("words.db"));
    copy.execute_batch(&sql("words").await).unwrap();
    let find = "SELECT rowid FROM words WHERE words MATCH 'nine'";
    assert_eq!(copy.query_row(find, [], |row| row.get::<_, i64>(0)).unwrap(), 9);
    server.stop().await;
}

#[tokio::test]
async fn who_is_suspended_or_deleted_can_be_exported_and_stays_so() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ada.db");
    server.client.note("ada", "kept").await;
    let states = [("POST", "/suspend", "suspended"), ("DELETE", "", "deleted")];
    for (method, path, state) in states {
        let request = operator.request(method, &format!("/api/admin/tenants/ada{path}"));
        operator.send(request.json(&json!({"reason": "x"}))).await.expect(200);
        let reply = operator.get("/api/admin/tenants/ada/export").await.expect(200);
        std::fs::write(&file, &reply.body).unwrap();
        assert_eq!(notes(&file), ["kept"], "{state}");
        assert_eq!(operator.get("/api/admin/tenants/ada").await.expect(200).json()["state"], state);
    }
    operator.post("/api/admin/tenants/ada/purge", json!({"yes": true})).await.expect(200);
    assert_eq!(operator.get("/api/admin/tenants/ada/export").await.expect(409).code(), "conflict");
    assert_eq!(operator.get("/api/admin/tenants/nobody/export").await.expect(404).code(), "unknown_user");
    assert_eq!(operator.get("/api/admin/tenants/a%2Fb/export").await.expect(404).code(), "unknown_user");
    server.client.get("/api/admin/tenants/ada/export").await.expect(401);
    server.stop().await;
}

#[tokio::test]
async fn a_command_writes_a_file_with_a_server_and_without() {
    let folder = TempDir::new().unwrap();
    let (data, to) = (folder.path().join("data"), folder.path().join("ada.db"));
    let server = Process::start(&data, &["--admin-api-key", ADMIN]);
    server.client.note("ada", "x").await;
    let path = to.to_str().unwrap();
    let told = stdout(&ask(&data, &server, &["export", "ada", "--to", path]));
    assert!(told.contains("SHA-256"), "{told}");
    assert_eq!(notes(&to), ["x"]);
    let refused = ask(&data, &server, &["export", "ada", "--to", path]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--replace"), "{}", stderr(&refused));
    server.client.note("ada", "y").await;
    stdout(&ask(&data, &server, &["export", "ada", "--to", path, "--replace"]));
    assert_eq!(notes(&to), ["x", "y"]);
    server.kill();

    std::fs::remove_file(&to).unwrap();
    let told: Value = serde_json::from_str(&stdout(&run(&data, &["export", "ada", "--to", path, "--json"]))).unwrap();
    let bytes = std::fs::read(&to).unwrap();
    assert_eq!((&told["bytes"], &told["sha256"]), (&json!(bytes.len()), &json!(hex::encode(Sha256::digest(&bytes)))));
    let nobody = run(&data, &["export", "nobody", "--to", folder.path().join("nobody.db").to_str().unwrap()]);
    assert!(stderr(&nobody).contains("\"nobody\" is unknown"), "{}", stderr(&nobody));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing half-written is left: {left:?}");
}

#[test]
fn an_export_of_all_goes_on_where_it_stopped() {
    let folder = TempDir::new().unwrap();
    let (data, to) = (folder.path().join("data"), folder.path().join("all"));
    for id in ["ada", "ben", "eve"] {
        stdout(&run(&data, &["tenants", "create", id]));
    }
    stdout(&run(&data, &["tenants", "suspend", "eve", "--reason", "x"]));
    let all = || run(&data, &["export", "--all", "--to", to.to_str().unwrap(), "--json"]);
    let told = |output: &Output| -> Value { serde_json::from_str(&stdout(output)).unwrap() };
    let first = told(&all());
    assert_eq!((&first["exported"], &first["already_there"], &first["failed"]), (&json!(3), &json!(0), &json!(0)));
    let list = std::fs::read_to_string(to.join("cubby-export.ndjson")).unwrap();
    for line in list.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let bytes = std::fs::read(to.join(line["file"].as_str().unwrap())).unwrap();
        assert_eq!(line["sha256"], hex::encode(Sha256::digest(&bytes)));
        assert_eq!(line["bytes"], bytes.len());
    }
    // Killed: one file lost, one not in the list, the list's last line cut short, and half of a file.
    let lines: Vec<&str> = list.lines().collect();
    std::fs::write(to.join("cubby-export.ndjson"), format!("{}\n{}\n{}", lines[0], lines[1], &lines[2][..9])).unwrap();
    let lost: Value = serde_json::from_str(lines[0]).unwrap();
    std::fs::remove_file(to.join(lost["file"].as_str().unwrap())).unwrap();
    std::fs::write(to.join(".cubby-0123456789abcdef.part"), "half").unwrap();
    let second = told(&all());
    assert_eq!((&second["exported"], &second["already_there"]), (&json!(2), &json!(1)));
    let files: std::collections::BTreeSet<String> =
        std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files.into_iter().collect::<Vec<_>>(), ["ada.db", "ben.db", "cubby-export.ndjson", "eve.db"]);
    assert_eq!(told(&all())["already_there"], 3);

    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("ada.db"), "somebody's").unwrap();
    let refused = run(&data, &["export", "--all", "--to", other.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(other.join("ada.db")).unwrap(), "somebody's");
}

#[tokio::test]
async fn users_export_their_own_database_where_that_is_on_and_not_too_often() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all[1] = "jwt+keys".to_owned();
    all.extend(["--admin-api-key", ADMIN].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let ada = server.client.bearing(key.token("ada"));
    ada.note("ada", "x").await;
    assert_eq!(ada.get("/ada/export").await.expect(404).code(), "export_off");
    server.stop().await;

    all.extend(["--user-export", "2/h:2"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let ada = server.client.bearing(key.token("ada"));
    ada.note("ada", "x").await;
    server.client.bearing(key.token("eve")).note("eve", "y").await;
    let made = server.client.bearing(ADMIN).post("/api/admin/keys", json!({"name": "app"})).await.expect(201).json();
    let program = server.client.bearing(made["secret"].as_str().unwrap());
    assert_eq!(program.get("/ada/export").await.expect(403).code(), "export_not_allowed");
    assert_eq!(ada.get("/eve/export").await.expect(404).code(), "unknown_user");
    server.client.get("/ada/export").await.expect(401);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ada.db");
    for _ in 0..2 {
        std::fs::write(&file, ada.get("/ada/export").await.expect(200).body).unwrap();
        assert_eq!(notes(&file), ["x"]);
    }
    assert_eq!(ada.get("/ada/export").await.expect(429).code(), "rate_limited");
    server.stop().await;
}

#[tokio::test]
async fn who_is_told_to_come_again_has_used_up_none_of_their_exports() {
    let key = SigningKey::new("a");
    let mut all = flags(&key);
    all.extend(["--user-export", "1/h:2", "--max-note-bytes", "1MiB"].map(str::to_owned));
    let server = Server::with_flags(&all).await;
    let ada = server.client.bearing(key.token("ada"));
    // More than the sockets between the two hold.
    for _ in 0..24 {
        ada.note("ada", &"long ".repeat(180_000)).await;
    }
    let first = ada.request("GET", "/ada/export").send().await.unwrap();
    assert_eq!(first.status(), 200);
    for _ in 0..5 {
        assert_eq!(ada.get("/ada/export").await.expect(503).code(), "busy");
    }
    assert!(first.bytes().await.unwrap().len() > 20 << 20);
    let when_free = async || {
        let mut reply = ada.get("/ada/export").await;
        eventually("the place is free again", async || {
            if reply.status == 503 {
                reply = ada.get("/ada/export").await;
            }
            reply.status != 503
        })
        .await;
        reply
    };
    when_free().await.expect(200);
    assert_eq!(when_free().await.expect(429).code(), "rate_limited");
    server.stop().await;
}

/// An export of all that a server at this address holds, to `all` in a folder.
fn export_all(address: SocketAddr, folder: &Path) -> Child {
    let mut command = cubby();
    command.args(["export", "--all", "--admin-api-key", ADMIN]);
    command.arg("--to").arg(folder.join("all")).arg("--data").arg(folder.join("data"));
    command.env("CUBBY_URL", format!("http://{address}"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends a signal to an export, which says that it can be gone on with.
fn ends_by(signal: &str, child: Child) {
    assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{signal}: {output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("run it again to go on"), "{signal}: {output:?}");
}

#[test]
fn an_export_of_all_that_is_told_to_end_says_that_it_can_go_on() {
    let folder = TempDir::new().unwrap();
    for signal in ["-TERM", "-INT"] {
        // A server that takes the request, and does not answer.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let child = export_all(listener.local_addr().unwrap(), folder.path());
        let asked = listener.accept().unwrap();
        ends_by(signal, child);
        drop(asked);
    }
}

/// Answers as a server that has these users, and sends no more than the beginning of a file.
fn stall(mut socket: TcpStream, mut users: Value) {
    let mut lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(asked) = lines.next() else { return };
    lines.find(String::is_empty);
    if asked.contains("/export?") {
        let digest = BASE64_STANDARD.encode([0_u8; 32]);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\nrepr-digest: sha-256=:{digest}:\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(b"SQLite format 3").unwrap();
        // Until the client hangs up.
        lines.next();
    } else {
        if asked.contains("&after=") {
            users["tenants"] = json!([]);
        }
        let body = users.to_string();
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn an_export_of_all_that_is_told_to_end_does_not_wait_for_a_file_that_stalls() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    for id in ["ada", "ben"] {
        server.client.note(id, "x").await;
    }
    let users = server.client.bearing(ADMIN).get("/api/admin/tenants").await.expect(200).json();
    server.stop().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, users) = (socket.unwrap(), users.clone());
            std::thread::spawn(move || stall(socket, users));
        }
    });
    for signal in ["-TERM", "-INT"] {
        let folder = TempDir::new().unwrap();
        let files = || {
            let entries = std::fs::read_dir(folder.path().join("all")).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let child = export_all(address, folder.path());
        let parts = || files().iter().filter(|name| name.ends_with(".part")).count();
        eventually("both are under way", async || parts() == 2).await;
        ends_by(signal, child);
        assert_eq!(files(), ["cubby-export.ndjson"], "{signal}");
    }
}

#[test]
fn no_two_users_have_one_file_even_where_case_does_not_count() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let ids = ["ada", "Ada", "aDa", "ada.part", "ada.notes", "cubby-export", "Cubby-Export", "a:b|c", ".cubby-x.part"];
    for id in ids {
        stdout(&run(&data, &["tenants", "create", id]));
    }
    let to = folder.path().join("all");
    let arguments = ["export", "--all", "--to", to.to_str().unwrap(), "--json"];
    let notes = ["--format", "ndjson", "--table", "notes"];
    for (more, exported) in [(&[][..], ids.len()), (&notes, ids.len()), (&[], 0)] {
        let told: Value = serde_json::from_str(&stdout(&run(&data, &[&arguments[..], more].concat()))).unwrap();
        assert_eq!((&told["exported"], &told["failed"]), (&json!(exported), &json!(0)), "{more:?}");
    }
    let list = std::fs::read_to_string(to.join("cubby-export.ndjson")).unwrap();
    let mut names = std::collections::BTreeSet::from(["cubby-export.ndjson".to_owned()]);
    for line in list.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let file = line["file"].as_str().unwrap();
        assert!(names.insert(file.to_lowercase()), "{file} is there already, or its like");
        assert!(file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@+~,%".contains(&byte)), "{file}");
        assert!(to.join(file).is_file(), "{file}");
    }
    assert_eq!(names.len(), 2 * ids.len() + 1);
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), names.len());
}

#[test]
fn what_is_no_file_is_not_replaced_and_a_link_is_followed() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    stdout(&run(&data, &["tenants", "create", "ada"]));
    let path = |name: &str| folder.path().join(name);
    let export = |name: &str| run(&data, &["export", "ada", "--to", path(name).to_str().unwrap(), "--replace"]);

    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path("pipe"), FileType::Fifo, mode, 0).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    std::os::unix::fs::symlink("nowhere.db", path("dangling")).unwrap();
    for name in ["pipe", "folder", "dangling"] {
        let before = std::fs::symlink_metadata(path(name)).unwrap().file_type();
        let refused = export(name);
        assert!(!refused.status.success(), "{name}");
        assert!(stderr(&refused).contains(name), "{}", stderr(&refused));
        assert_eq!(std::fs::symlink_metadata(path(name)).unwrap().file_type(), before, "{name}");
    }
    assert!(!path("nowhere.db").exists());

    std::fs::create_dir(path("elsewhere")).unwrap();
    std::fs::write(path("elsewhere/real.db"), "old").unwrap();
    std::os::unix::fs::symlink("elsewhere/real.db", path("link")).unwrap();
    stdout(&export("link"));
    assert!(std::fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert!(notes(&path("elsewhere/real.db")).is_empty());
    assert_eq!(std::fs::read_dir(path("elsewhere")).unwrap().count(), 1, "nothing else is left");
}

#[tokio::test]
async fn an_export_says_of_itself_that_no_log_belongs_to_it() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    server.client.note("ada", "x").await;
    let file = server.client.bearing(ADMIN).get("/api/admin/tenants/ada/export").await.expect(200).body;
    // The versions of https://sqlite.org/fileformat2.html#file_format_version_numbers: 2 is a file with a log.
    assert_eq!(file[18..20], [1, 1]);
    server.stop().await;
}
