//! The command line, as operators and scripts use it.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Process, Server, cubby, run, stdout};

const ADMIN: &str = "an operator's key of some length";

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_users_life_from_the_command_line() {
    let folder = TempDir::new().unwrap();
    let data = folder.path();
    let state = |id: &str| json(&run(data, &["tenants", "show", id, "--json"]))["state"].clone();

    let made = run(data, &["tenants", "create", "ada", "--email", "ada@example.com", "--json"]);
    assert_eq!(json(&made), json!({"id": "ada", "created": true}));
    let again = run(data, &["tenants", "create", "ada", "--json"]);
    assert_eq!(json(&again), json!({"id": "ada", "created": false}));
    let row = json(&run(data, &["tenants", "show", "ada", "--json"]));
    assert_eq!(
        (&row["email"], &row["state"], &row["role"]),
        (&json!("ada@example.com"), &json!("active"), &json!("client"))
    );
    let path = stdout(&run(data, &["tenants", "path", "ada"]));
    assert_eq!(row["path"], json!(Path::new(path.trim()).canonicalize().unwrap()));

    let server = Server::on(data, &["--provisioning", "webhook"]).await;
    server.client.note("ada", "x").await;
    server.stop().await;

    assert!(stdout(&run(data, &["tenants", "suspend", "ada", "--reason", "overdue"])).contains("suspended: overdue"));
    assert_eq!(state("ada"), "suspended");
    let answered = |arguments: &[&str]| -> Value {
        serde_json::from_str(&stdout(&run(data, &[arguments, &["--json"]].concat()))).unwrap()
    };
    assert_eq!(answered(&["tenants", "suspend", "ada", "--reason", "again"])["reason"], "again");
    assert_eq!(answered(&["tenants", "resume", "ada"])["state"], "active");
    assert_eq!(state("ada"), "active");
    assert_eq!(answered(&["tenants", "delete", "ada"])["state"], "deleted");
    assert_eq!(state("ada"), "deleted");
    let refused = run(data, &["tenants", "create", "ada"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("cubby tenants restore ada"), "{}", stderr(&refused));
    assert_eq!(answered(&["tenants", "restore", "ada"])["state"], "active");

    let server = Server::on(data, &["--provisioning", "webhook"]).await;
    assert_eq!(server.client.texts("ada").await, ["x"]);
    server.stop().await;
}

#[test]
fn lists_are_ordered_filtered_and_limited() {
    let folder = TempDir::new().unwrap();
    let data = folder.path();
    for id in ["b", "a", "C", "d"] {
        stdout(&run(data, &["tenants", "create", id]));
    }
    stdout(&run(data, &["tenants", "suspend", "b", "--reason", "x"]));
    let ids = |flags: &[&str]| -> Vec<String> {
        let text = stdout(&run(data, &[&["tenants", "list", "--json"], flags].concat()));
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&[]), ["C", "a", "b", "d"]);
    assert_eq!(ids(&["--state", "suspended"]), ["b"]);
    assert_eq!(ids(&["--state", "active", "--limit", "2"]), ["C", "a"]);
    assert_eq!(ids(&["--after", "a"]), ["b", "d"]);
    assert!(ids(&["--state", "deleted"]).is_empty());
    let table = stdout(&run(data, &["tenants", "list"]));
    assert!(table.contains("3 active, 1 suspended, 0 deleted, 0 quarantined"), "{table}");
    let wrong = run(data, &["tenants", "list", "--state", "asleep"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("active, suspended, deleted or quarantined"));
}

#[test]
fn a_list_whose_reader_closes_the_pipe_ends_without_an_error() {
    let folder = TempDir::new().unwrap();
    stdout(&run(folder.path(), &["tenants", "create", "ada"]));
    for list in ["tenants", "keys", "deliveries"] {
        let mut command = cubby();
        command.args([list, "list", "--data"]).arg(folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{list}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{list}: {}", stderr(&output));
    }
}

#[test]
fn a_command_that_fails_says_why() {
    let folder = TempDir::new().unwrap();
    let data = folder.path();
    stdout(&run(data, &["tenants", "create", "ada"]));
    for (command, code, part) in [
        (&["tenants", "show", "nobody"][..], 1, "cubby tenants list"),
        (&["tenants", "suspend", "nobody", "--reason", "x"], 1, "\"nobody\" is unknown"),
        (&["tenants", "delete", "nobody"], 1, "\"nobody\" is unknown"),
        (&["export", "ada", "--to", "/no-such-folder/x.db"], 2, "mkdir -p /no-such-folder"),
        (&["tenants", "restore", "ada"], 1, "not deleted"),
        (&["tenants", "suspend", "ada"], 2, "--reason"),
        (&["tenants", "create", "a/b"], 2, "A-Z a-z 0-9"),
        (&["tenants", "create", ".."], 2, "reserved"),
        (&["tenants", "create", "admin"], 2, "reserved"),
        (&["tenants", "path", ""], 2, "1 to 128 bytes"),
        (&["migrate"], 2, "--all"),
        (&["migrate", "--all", "ada"], 2, "cannot be used with"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let output = run(data, command);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{command:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{command:?}");
    }
}

#[test]
fn a_wrong_folder_name_creates_no_folder() {
    let folder = TempDir::new().unwrap();
    let wrong = folder.path().join("dtaa");
    for command in
        [&["tenants", "list"][..], &["tenants", "show", "ada"], &["tenants", "delete", "ada"], &["migrate", "--all"]]
    {
        let output = run(&wrong, command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(stderr(&output).contains("CUBBY_DATA"), "{}", stderr(&output));
        assert!(!wrong.exists(), "{command:?}");
    }
    // The path of a user's file needs no folder.
    assert!(stdout(&run(&wrong, &["tenants", "path", "ada"])).contains("dtaa/tenants/"));
    assert!(!wrong.exists());
}

#[test]
fn settings_of_every_command_are_accepted_before_it_and_those_of_the_server_are_refused() {
    let folder = TempDir::new().unwrap();
    stdout(&run(folder.path(), &["tenants", "create", "ada"]));
    let before = cubby().arg("--data").arg(folder.path()).args(["--log", "warn", "tenants", "list"]).output().unwrap();
    assert!(stdout(&before).contains("ada"));
    let misplaced = cubby().args(["--max-open", "3", "tenants", "list"]).output().unwrap();
    assert_eq!(misplaced.status.code(), Some(2));
    assert!(stderr(&misplaced).contains("cubby serve --max-open"), "{}", stderr(&misplaced));
    // In the environment they are ignored by commands that do not need them.
    let mut command = cubby();
    command.env("CUBBY_LISTEN", "127.0.0.1:1").env("CUBBY_MAX_OPEN", "5").env("CUBBY_DATA", folder.path());
    assert!(stdout(&command.args(["tenants", "list"]).output().unwrap()).contains("ada"));
}

#[test]
fn every_command_has_help_with_examples() {
    for command in [&[][..], &["serve"], &["tenants"], &["migrate"]] {
        let output = cubby().args(command).arg("--help").output().unwrap();
        let text = stdout(&output);
        assert!(text.contains("Examples:") && text.contains("cubby "), "{command:?}: {text}");
    }
    assert!(stdout(&cubby().arg("--version").output().unwrap()).starts_with("cubby "));
}

#[test]
fn a_usage_line_does_not_show_what_a_variable_sets() {
    let mut command = cubby();
    command.env("ADMIN_API_KEY", ADMIN).env("CUBBY_DATA", "elsewhere");
    let output = command.args(["tenants", "suspend", "ada"]).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("Usage: cubby tenants suspend --reason <REASON> <ID>"), "{text}");
}

#[tokio::test]
async fn a_folder_in_use_ends_each_command_with_2_and_what_to_do_comes_first() {
    let folder = TempDir::new().unwrap();
    let data = folder.path();
    let server = Process::start(data, &["--admin-api-key", ADMIN]);
    server.client.note("ada", "x").await;
    let key = "Set ADMIN_API_KEY";
    for (command, remedy) in [
        (&["tenants", "list"][..], key),
        (&["keys", "list"], key),
        (&["sql", "ada", "SELECT 1"], key),
        (&["migrate", "--all"], key),
        (&["doctor"], "stop the server"),
    ] {
        let output = run(data, command);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {text}");
        let (before, _) = text.split_once("is in use by process").expect(&text);
        assert!(before.contains(remedy), "{command:?}: {text}");
    }
    assert_eq!(run(data, &["serve", "--listen", "127.0.0.1:0"]).status.code(), Some(2));

    let url = server.client.url("");
    let mut command = cubby();
    command.args(["tenants", "list", "--data"]).arg(data).env("CUBBY_URL", &url).env("ADMIN_API_KEY", "another key");
    let text = stderr(&command.output().unwrap());
    assert!(text.contains(&format!("the server at {url} has another ADMIN_API_KEY")), "{text}");
}

#[test]
fn the_line_at_start_says_who_makes_users_with_the_notes_api_and_without() {
    let migrations = TempDir::new().unwrap();
    std::fs::write(migrations.path().join("V1__todos.sql"), "CREATE TABLE todos (what TEXT) STRICT;").unwrap();
    let said = |flags: &[&str]| {
        let folder = TempDir::new().unwrap();
        let lines = Process::start(folder.path(), flags).log();
        let said = lines.iter().filter_map(|line| line["message"].as_str()).find(|text| text.contains("serving on"));
        said.expect("it says that it serves").to_owned()
    };
    let (with, without) = (said(&[]), said(&["--migrations", migrations.path().to_str().unwrap()]));
    assert!(with.contains("a first POST creates a user's database"), "{with}");
    assert!(without.contains("webhooks and operators") && without.contains("cubby tenants create ID"), "{without}");
    assert!(!without.contains("POST"), "{without}");
}

#[test]
fn a_list_of_clerks_that_cannot_be_read_is_not_told_as_an_empty_one() {
    let folder = TempDir::new().unwrap();
    stdout(&run(folder.path(), &["tenants", "create", "ada"]));
    // Nothing listens on this port.
    let clerk = ["--clerk-secret-key", "sk_test_0123456789", "--clerk-api-url", "http://127.0.0.1:1/v1"];
    let flags = [&["sync", "--dry-run", "--provider-retries", "0"][..], &clerk].concat();
    let output = run(folder.path(), &flags);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no users could be read from Clerk's list") && text.contains("stopped: "), "{text}");
    assert!(!text.contains("0 at Clerk"), "{text}");
}

#[tokio::test]
async fn a_log_line_of_a_failed_request_says_which_route_failed_and_how() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &[]);
    server.client.get("/api/admin/tenants/zoe?q=personal").await.expect(503);
    let line = &server.logged("failed").await[0];
    assert_eq!(
        (&line["method"], &line["route"], &line["code"], &line["status"]),
        (&json!("GET"), &json!("/api/admin/tenants/{user_id}"), &json!("admin_not_configured"), &json!(503))
    );
    assert!(!line.to_string().contains("zoe") && !line.to_string().contains("personal"), "{line}");
}

#[test]
fn a_migration_of_all_with_nobody_left_says_so() {
    let folder = TempDir::new().unwrap();
    stdout(&run(folder.path(), &["tenants", "create", "ada"]));
    for more in [&[][..], &["--dry-run"]] {
        let told = stdout(&run(folder.path(), &[&["migrate", "--all"][..], more].concat()));
        assert!(told.starts_with("everybody is at version ") && told.contains("of the schema already"), "{told}");
    }
}

#[tokio::test]
async fn a_caller_is_told_what_is_served_and_what_to_show() {
    let server = Server::with(&["--auth", "keys"]).await;
    for path in ["/", "/ada/notes/of/mine"] {
        let reply = server.client.get(path).await.expect(404);
        assert_eq!(reply.header("content-type"), "application/problem+json", "{path}");
        let problem = reply.json();
        assert!(problem["detail"].as_str().unwrap().starts_with("nothing is served at this path; "), "{problem}");
    }
    let problem = server.client.get("/ada").await.expect(401).json();
    assert_eq!(problem["detail"], "send an API key as Authorization: Bearer …");
    server.stop().await;
}
