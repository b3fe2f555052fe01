//! The command line, as operators and scripts use it.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Server, cubby, run, stdout};

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
        (&["tenants", "suspend", "nobody", "--reason", "x"], 1, "nobody is unknown"),
        (&["tenants", "delete", "nobody"], 1, "nobody is unknown"),
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
