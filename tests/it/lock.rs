//! One process for a data folder.

use tempfile::TempDir;

use crate::harness::{Process, run, stdout};

#[tokio::test]
async fn a_second_server_on_the_folder_is_refused_and_the_first_goes_on() {
    let folder = TempDir::new().unwrap();
    let first = Process::start(folder.path(), &[]);
    first.client.note("ada", "x").await;
    let second = run(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(2), "{text}");
    for part in ["in use by process", &first.id().to_string(), "cubby.lock", "Stop that process", "--data"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    first.client.note("ada", "y").await;
    assert_eq!(first.client.texts("ada").await, ["x", "y"]);
}

#[tokio::test]
async fn commands_that_need_the_folder_say_who_has_it_and_those_that_do_not_work() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &[]);
    server.client.note("ada", "x").await;
    for command in [
        &["tenants", "list"][..],
        &["tenants", "show", "ada"],
        &["tenants", "create", "ben"],
        &["tenants", "suspend", "ada", "--reason", "x"],
        &["tenants", "delete", "ada"],
        &["migrate", "--all"],
    ] {
        let output = run(folder.path(), command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{command:?}: {text}");
        assert!(text.contains(&format!("process {}", server.id())) && text.contains("Stop that process"), "{text}");
    }
    let path = stdout(&run(folder.path(), &["tenants", "path", "ada"]));
    assert!(std::path::Path::new(path.trim()).is_file(), "{path}");
    assert_eq!(server.client.texts("ada").await, ["x"]);
}

#[test]
fn a_killed_server_leaves_no_lock_behind() {
    let folder = TempDir::new().unwrap();
    Process::start(folder.path(), &[]).kill();
    stdout(&run(folder.path(), &["tenants", "list"]));
}

#[test]
fn the_lock_says_what_holds_it_but_not_the_rest_of_the_command_line() {
    let folder = TempDir::new().unwrap();
    let _server = Process::start(folder.path(), &["--clerk-webhook-secret", "whsec_c2VjcmV0IHdvcmRz"]);
    let lock = std::fs::read_to_string(folder.path().join("cubby.lock")).unwrap();
    assert!(lock.contains("cubby serve") && !lock.contains("whsec_") && !lock.contains("--"), "{lock}");
}
