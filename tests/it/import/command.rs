//! What `cubby import` says when something is in its way.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use super::{ADMIN, changed};
use crate::harness::{cubby, run, stdout};

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_named_pipe_is_refused_and_not_waited_for() {
    let folder = TempDir::new().unwrap();
    let (data, pipe) = (folder.path().join("data"), folder.path().join("pipe"));
    stdout(&run(&data, &["tenants", "create", "ben"]));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let refused = run(&data, &["import", "ben", pipe.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(told(&refused).contains("is no plain file"), "{}", told(&refused));
}

#[test]
fn an_import_of_which_nothing_can_be_printed_is_done_and_does_not_panic() {
    let folder = TempDir::new().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("ben.db"));
    let path = file.to_str().unwrap();
    stdout(&run(&data, &["tenants", "create", "ben"]));
    stdout(&run(&data, &["export", "ben", "--to", path]));
    changed(&file, "INSERT INTO notes VALUES ('note_1', 'x', 1, 1)");
    let import = |flag: &str| {
        let mut command = cubby();
        command.args(["import", "ben", path, "--replace", flag, "--data"]).arg(&data);
        command
    };
    for flag in ["--json", "--allow=more"] {
        // Nobody reads, as behind `| head`.
        let mut child = import(flag).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert!(child.wait().unwrap().success(), "{flag}");
        if Path::new("/dev/full").exists() {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let failed = import(flag).stdout(full).output().unwrap();
            assert_eq!(failed.status.code(), Some(1), "{flag}");
            assert!(told(&failed).contains("ben has the rows of the file"), "{flag}: {}", told(&failed));
        }
    }
}

/// A server that has users, and ends each connection in the midst of an import.
fn breaking() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            if first.starts_with("GET") {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                let _ = (&stream).write_all(answer.as_bytes());
            }
        }
    });
    url
}

#[test]
fn an_import_whose_connection_breaks_says_that_its_outcome_is_unknown() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ada.db");
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    let asking = |url: &str| {
        let mut command = cubby();
        command.args(["import", "ada", file.to_str().unwrap(), "--data"]).arg(folder.path().join("none"));
        let output = command.env("ADMIN_API_KEY", ADMIN).env("CUBBY_URL", url).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        told(&output)
    };
    let broken = asking(&breaking());
    for part in ["is unknown", "cubby tenants show ada", "trash/replaced"] {
        assert!(broken.contains(part), "{broken}");
    }
    // Nothing was sent to a server that is not there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let missing = asking(&format!("http://{nobody}"));
    assert!(missing.contains("no server answers") && !missing.contains("is unknown"), "{missing}");
}
