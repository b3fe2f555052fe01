//! The past of users in a bucket, and the bucket itself, as an operator sees them: by the routes and the commands.

use std::{path::Path, process::Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Process, Server, cubby, eventually, run, stdout};

const ADMIN: &str = "an operator's key of some length";

fn url_of(bucket: &TempDir) -> String {
    format!("file://{}", bucket.path().canonicalize().unwrap().join("copies").display())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What an operator's command does, through a server.
fn ask(data: &Path, server: &Process, arguments: &[&str]) -> Output {
    let mut command = cubby();
    command.args(arguments).arg("--data").arg(data).env("ADMIN_API_KEY", ADMIN);
    command.env("CUBBY_URL", format!("http://{}", server.address)).output().unwrap()
}

/// Waits until the bucket has what a user has, and gives the time of the newest commit.
async fn copied(operator: &Client, user: &str) -> String {
    let mut at = None;
    eventually("the bucket has everything", async || {
        let body = json!({"at": "0s ago", "dry_run": true});
        let reply = operator.post(&format!("/api/admin/tenants/{user}/rewind"), body).await;
        if reply.status != 200 {
            return false;
        }
        let found = reply.json();
        let notes =
            found["tables"].as_array().unwrap().iter().find(|table| table["table"] == "notes").cloned().unwrap();
        at = Some(found["at"].as_str().unwrap().to_owned());
        notes["now"] == notes["then"]
    })
    .await;
    at.unwrap()
}

/// Waits until no temporary file is there: a base may just be made.
async fn nothing_is_left(server: &Server) {
    let tmp = server.app.store().layout().tmp();
    eventually("no file is left", async || std::fs::read_dir(&tmp).unwrap().count() == 0).await;
}

async fn rewind(operator: &Client, user: &str, at: &str) -> Value {
    operator.post(&format!("/api/admin/tenants/{user}/rewind"), json!({"at": at})).await.expect(200).json()
}

async fn history(operator: &Client, user: &str, query: &str) -> Value {
    operator.get(&format!("/api/admin/tenants/{user}/history{query}")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_put_back_to_a_moment_and_forward_again() {
    let bucket = TempDir::new().unwrap();
    let server = Server::with(&["--admin-api-key", ADMIN, "--replicate", &url_of(&bucket)]).await;
    let operator = server.client.bearing(ADMIN);
    server.client.note("ada", "first").await;
    let first = copied(&operator, "ada").await;
    server.client.note("ada", "second").await;
    let second = copied(&operator, "ada").await;
    assert!(first < second, "{first} {second}");

    let dry = operator.post("/api/admin/tenants/ada/rewind", json!({"at": first, "dry_run": true})).await;
    let dry = dry.expect(200).json();
    assert_eq!((&dry["dry_run"], &dry["at"], &dry["replaced"]), (&json!(true), &json!(first), &Value::Null));
    let tables = dry["tables"].as_array().unwrap();
    assert!(tables.contains(&json!({"table": "notes", "now": 2, "then": 1})), "{dry}");
    assert_eq!(server.client.texts("ada").await, ["first", "second"], "a dry run changes nothing");

    let back = rewind(&operator, "ada", &first).await;
    assert_eq!(server.client.texts("ada").await, ["first"]);
    assert!(Path::new(back["replaced"].as_str().unwrap()).exists(), "{back}");
    let trail = operator.get("/api/admin/audit?target=ada").await.expect(200).json();
    let line = &trail["audit"][0];
    assert_eq!((&line["action"], &line["result"]), (&json!("tenants rewind"), &json!("done")), "{trail}");

    rewind(&operator, "ada", &second).await;
    assert_eq!(server.client.texts("ada").await, ["first", "second"]);
    server.client.note("ada", "third").await;
    // In a chain of its own, which begins with a whole copy.
    let third = copied(&operator, "ada").await;
    assert!(second < third, "{second} {third}");
    nothing_is_left(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_are_listed_newest_first_by_page() {
    let bucket = TempDir::new().unwrap();
    let server = Server::with(&["--admin-api-key", ADMIN, "--replicate", &url_of(&bucket)]).await;
    let operator = server.client.bearing(ADMIN);
    for n in 0..3 {
        server.client.note("ada", &n.to_string()).await;
        copied(&operator, "ada").await;
    }
    let all = history(&operator, "ada", "").await;
    let moments = all["moments"].as_array().unwrap();
    assert!(moments.len() >= 3 && all["next_before"].is_null(), "{all}");
    assert!(moments.iter().all(|moment| moment["kind"] != "damaged" && moment["bytes"].as_u64().unwrap() > 0), "{all}");
    let times: Vec<&str> = moments.iter().map(|moment| moment["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|one, other| one >= other), "{times:?}");
    let (mut paged, mut query) = (Vec::new(), "?limit=1".to_owned());
    loop {
        let page = history(&operator, "ada", &query).await;
        paged.extend(page["moments"].as_array().unwrap().clone());
        let Some(before) = page["next_before"].as_str() else { break };
        query = format!("?limit=1&before={before}");
    }
    assert_eq!(&paged[paged.len() - moments.len()..], moments.as_slice());
    let path = "/api/admin/tenants/ada/history";
    for (query, status) in [("?limit=0", 400), ("?before=x", 400), ("?after=1-1", 422)] {
        operator.get(&format!("{path}{query}")).await.expect(status);
    }
    operator.get("/api/admin/tenants/nobody/history").await.expect(404);
    server.client.get(path).await.expect(401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_has_what_another_user_had_and_is_their_own() {
    let bucket = TempDir::new().unwrap();
    let server = Server::with(&["--admin-api-key", ADMIN, "--replicate", &url_of(&bucket)]).await;
    let operator = server.client.bearing(ADMIN);
    server.client.note("ada", "first").await;
    let first = copied(&operator, "ada").await;
    server.client.note("ada", "second").await;
    let fork = async |body: Value| operator.post("/api/admin/tenants/ada/fork", body).await;
    let then = fork(json!({"to": "then", "at": first})).await.expect(201).json();
    assert_eq!((&then["id"], &then["at"], &then["tenant"]["id"]), (&json!("ada"), &json!(first), &json!("then")));
    fork(json!({"to": "now"})).await.expect(201);
    assert_eq!(server.client.texts("then").await, ["first"]);
    assert_eq!(server.client.texts("now").await, ["first", "second"]);
    server.client.note("then", "own").await;
    assert_eq!(server.client.texts("then").await, ["first", "own"]);
    assert_eq!(server.client.texts("ada").await, ["first", "second"]);
    assert_eq!(fork(json!({"to": "now"})).await.expect(409).code(), "conflict");
    assert_eq!(fork(json!({"to": "ada"})).await.expect(409).code(), "conflict");
    assert_eq!(fork(json!({"to": "a/b"})).await.expect(422).code(), "invalid_field");
    let nobody = operator.post("/api/admin/tenants/nobody/fork", json!({"to": "x"})).await;
    assert_eq!(nobody.expect(404).code(), "unknown_user");
    // A fork has a past of its own.
    let own = copied(&operator, "then").await;
    assert!(first < own, "{first} {own}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_is_none_is_refused_and_nothing_is_changed() {
    let bucket = TempDir::new().unwrap();
    let server = Server::with(&["--admin-api-key", ADMIN, "--replicate", &url_of(&bucket)]).await;
    let operator = server.client.bearing(ADMIN);
    server.client.note("ada", "first").await;
    copied(&operator, "ada").await;
    for (at, word) in [
        ("2999-01-01T00:00:00Z", "has not come yet"),
        ("1980-01-01T00:00:00Z", "first moment"),
        ("yesterday", "20 minutes ago"),
    ] {
        let refused = operator.post("/api/admin/tenants/ada/rewind", json!({"at": at})).await.expect(422);
        assert_eq!((refused.code(), refused.json()["field"].as_str()), ("invalid_field".to_owned(), Some("at")));
        assert!(refused.json()["detail"].as_str().unwrap().contains(word), "{:?}", refused.json());
    }
    operator.post("/api/admin/tenants/nobody/rewind", json!({"at": "0s ago"})).await.expect(404);
    operator.delete("/api/admin/tenants/ada").await.expect(200);
    operator.post("/api/admin/tenants/ada/rewind", json!({"at": "0s ago"})).await.expect(409);
    operator.post("/api/admin/tenants/ada/restore", json!({})).await.expect(200);
    assert_eq!(server.client.texts("ada").await, ["first"]);
    server.stop().await;
}

#[tokio::test]
async fn without_a_bucket_there_is_no_past_and_the_answer_says_how_to_have_one() {
    let server = Server::with(&["--admin-api-key", ADMIN]).await;
    let operator = server.client.bearing(ADMIN);
    server.client.note("ada", "x").await;
    let replies = [
        operator.get("/api/admin/replica").await,
        operator.post("/api/admin/replica/verify", json!({})).await,
        operator.get("/api/admin/tenants/ada/history").await,
        operator.post("/api/admin/tenants/ada/rewind", json!({"at": "1m ago"})).await,
        operator.post("/api/admin/tenants/ada/fork", json!({"to": "eve"})).await,
    ];
    for reply in replies {
        let reply = reply.expect(409);
        assert_eq!(reply.code(), "not_replicated");
        assert!(reply.json()["detail"].as_str().unwrap().contains("CUBBY_REPLICATE"), "{:?}", reply.json());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_waits_and_a_verification_that_everybody_is_whole() {
    let bucket = TempDir::new().unwrap();
    let server = Server::with(&["--admin-api-key", ADMIN, "--replicate", &url_of(&bucket)]).await;
    let operator = server.client.bearing(ADMIN);
    for user in ["ada", "bob", "cy"] {
        for n in 0..5 {
            server.client.note(user, &format!("{n} {}", "long ".repeat(500))).await;
        }
    }
    let status = async || operator.get("/api/admin/replica").await.expect(200).json();
    eventually("the bucket has everything", async || {
        let status = status().await;
        status["behind_ms"] == 0 && status["batches"].as_u64().unwrap() > 0
    })
    .await;
    let status = status().await;
    assert_eq!((&status["bucket"], &status["mode"]), (&json!(url_of(&bucket)), &json!("async")));
    assert_eq!((&status["taken_over"], &status["encrypted_with"]), (&json!(false), &Value::Null));
    assert_eq!(status["shards"].as_array().unwrap().len(), 16);
    assert!(status["since_start"]["puts"].as_u64().unwrap() > 0, "{status}");
    assert!(status["last_minute"]["requests"].as_u64().unwrap() > 0, "{status}");

    let verify = async |body: Value| -> Vec<Value> {
        let reply = operator.post("/api/admin/replica/verify", body).await.expect(200);
        assert_eq!(reply.header("content-type"), "application/x-ndjson");
        let text = String::from_utf8(reply.body).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let lines = verify(json!({"all": true})).await;
    let last = lines.last().unwrap();
    assert_eq!((&last["is_over"], &last["error"]), (&json!(true), &Value::Null), "{last}");
    let found = [&last["total"], &last["checked"], &last["whole"], &last["different"], &last["broken"]];
    assert_eq!(found.map(|count| count.as_u64().unwrap()), [3, 3, 3, 0, 0], "{last}");
    assert!(lines[..lines.len() - 1].iter().all(|line| line["is_over"] == false), "{lines:?}");
    let some = verify(json!({"sample": "1"})).await;
    assert_eq!(some.last().unwrap()["checked"], 1);
    operator.post("/api/admin/replica/verify", json!({"sample": "1%", "all": true})).await.expect(422);
    operator.post("/api/admin/replica/verify", json!({"sample": "many"})).await.expect(422);
    nothing_is_left(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_do_it_through_a_server_and_a_folder_is_restored_without_one() {
    let (folder, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (data, url) = (folder.path().join("data"), url_of(&bucket));
    let server = Process::start(&data, &["--admin-api-key", ADMIN, "--replicate", &url]);
    let operator = server.client.bearing(ADMIN);
    server.client.note("ada", "first").await;
    let first = copied(&operator, "ada").await;
    server.client.note("ada", "second").await;
    let second = copied(&operator, "ada").await;

    let listed = stdout(&ask(&data, &server, &["tenants", "history", "ada", "--json"]));
    let moments: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!([&first, &second].iter().all(|at| moments.iter().any(|moment| moment["at"] == **at)), "{listed}");
    let table = stdout(&ask(&data, &server, &["tenants", "history", "ada", "--limit", "1"]));
    assert!(table.starts_with("time ") && table.lines().count() == 3 && table.ends_with("older ones\n"), "{table}");

    let dry = stdout(&ask(&data, &server, &["tenants", "rewind", "ada", "--at", &first, "--dry-run"]));
    assert!(dry.contains(&first) && dry.contains("Nothing was changed") && dry.contains("notes"), "{dry}");
    assert_eq!(server.client.texts("ada").await, ["first", "second"]);
    let back = stdout(&ask(&data, &server, &["tenants", "rewind", "ada", "--at", &first]));
    assert!(back.contains(&first) && back.contains("trash/replaced"), "{back}");
    assert_eq!(server.client.texts("ada").await, ["first"]);
    let future = ask(&data, &server, &["tenants", "rewind", "ada", "--at", "2999-01-01T00:00:00Z"]);
    assert!(!future.status.success() && stderr(&future).contains("has not come yet"), "{future:?}");
    let unknown = ask(&data, &server, &["tenants", "history", "nobody"]);
    assert!(!unknown.status.success() && stderr(&unknown).contains("\"nobody\" is unknown"), "{unknown:?}");

    let forked = stdout(&ask(&data, &server, &["tenants", "fork", "ada", "--to", "eve", "--at", &second]));
    assert!(forked.starts_with("eve is there, with what ada had at "), "{forked}");
    assert_eq!(server.client.texts("eve").await, ["first", "second"]);

    let status = stdout(&ask(&data, &server, &["replica", "status"]));
    assert!(status.starts_with(&format!("bucket          {url}\n")) && status.contains("\nshard "), "{status}");
    let status: Value = serde_json::from_str(&stdout(&ask(&data, &server, &["replica", "status", "--json"]))).unwrap();
    assert_eq!(status["mode"], "async");
    let verified = stdout(&ask(&data, &server, &["replica", "verify", "--all"]));
    assert!(verified.starts_with("2 users looked at: 2 whole, 0 different, 0 broken"), "{verified}");
    copied(&operator, "ada").await;
    copied(&operator, "eve").await;

    // Whoever reads the bucket takes nothing from the server.
    let mut tries = 0;
    eventually("the bucket has the catalog with both users", async || {
        tries += 1;
        let there = folder.path().join(format!("try-{tries}"));
        let output = run(&there, &["restore", "--from", &url, "--json"]);
        output.status.success() && serde_json::from_str::<Value>(&stdout(&output)).unwrap()["restored"] == 2
    })
    .await;
    server.client.note("ada", "last").await;
    server.signal("TERM");
    assert!(server.wait().success());

    let new = folder.path().join("new");
    let restored = stdout(&run(&new, &["restore", "--from", &url]));
    assert!(restored.contains(&url) && restored.contains("2 users"), "{restored}");
    let output = run(&new, &["restore", "--from", &url]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("is not empty"), "{output:?}");
    let output = run(&data, &["restore", "--from", &url]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("is not empty"), "{output:?}");
    let output = run(&data, &["tenants", "rewind", "ada", "--at", "1m ago"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("no server holds"), "{output:?}");
    let output = run(&data, &["replica", "status"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("CUBBY_REPLICATE"), "{output:?}");

    // It goes on with the bucket.
    let server = Process::start(&new, &["--admin-api-key", ADMIN, "--replicate", &url]);
    assert_eq!(server.client.texts("ada").await, ["first", "last"]);
    assert_eq!(server.client.texts("eve").await, ["first", "second"]);
    let operator = server.client.bearing(ADMIN);
    server.client.note("ada", "new").await;
    copied(&operator, "ada").await;
    rewind(&operator, "ada", &second).await;
    assert_eq!(server.client.texts("ada").await, ["first", "second"], "the past is older than the folder");
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn a_place_without_copies_is_told_before_anything_is_made() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let nothing = folder.path().join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    for (from, word) in [
        (nothing.to_str().unwrap().to_owned(), "nothing that cubby has written"),
        (folder.path().join("gone").to_str().unwrap().to_owned(), "is no folder"),
        ("ftp://host/x".to_owned(), "unknown kind"),
    ] {
        let output = run(&data, &["restore", "--from", &from]);
        assert!(output.status.code() == Some(2) && stderr(&output).contains(word), "{from}: {output:?}");
    }
    let output = run(&data, &["restore", "--from", nothing.to_str().unwrap(), "--at", "tomorrow"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("is no moment"), "{output:?}");
    assert!(!data.exists() && !folder.path().join("gone").exists());
}
