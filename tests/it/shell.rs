//! What an operator has for the shell: completions, the manual, and a look at the settings.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{cubby, stdout};

#[test]
fn completions_know_every_command_and_the_shells_can_read_them() {
    for shell in ["bash", "zsh", "fish"] {
        let text = stdout(&cubby().args(["completions", shell]).output().unwrap());
        for word in ["tenants", "quarantined", "check-config", "max-failures", "completions"] {
            // The states of a tenant are no list of words to clap.
            assert!(word == "quarantined" || text.contains(word), "{shell}: {word}");
        }
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("cubby");
        fs::write(&file, &text).unwrap();
        // A shell that is not installed is no fault of the text.
        if let Ok(read) = Command::new(shell).arg("-n").arg(&file).output() {
            assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr));
        }
    }
    assert_eq!(cubby().args(["completions", "tcsh"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let folder = TempDir::new().unwrap();
    let man = folder.path().join("man");
    for _ in 0..2 {
        let text = stdout(&cubby().args(["man", "--to"]).arg(&man).output().unwrap());
        assert!(text.contains("pages were written"), "{text}");
    }
    let page = |name: &str| fs::read_to_string(man.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (name, parts) in [
        ("cubby.1", &["cubby", "SUBCOMMANDS", "tenants"][..]),
        ("cubby-serve.1", &["CUBBY_LISTEN", "Examples:"]),
        ("cubby-tenants-list.1", &["state", "suspended"]),
        ("cubby-migrate-status.1", &["schema"]),
    ] {
        let text = page(name);
        assert!(text.contains(".TH cubby") || text.contains(".TH \"cubby"), "{text}");
        for part in parts {
            assert!(text.contains(part), "{name}: {part}: {text}");
        }
    }
    let unfinished =
        fs::read_dir(&man).unwrap().filter(|e| !e.as_ref().unwrap().path().to_str().unwrap().ends_with(".1"));
    assert_eq!(unfinished.count(), 0);
}

/// Runs `check-config` in a folder of its own with a file `.env`.
fn check(env_file: &str, environment: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(".env"), env_file).unwrap();
    let mut command = cubby();
    command.current_dir(folder.path()).arg("check-config").args(arguments);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

/// The line of a setting, with its words one blank apart.
fn line(text: &str, variable: &str) -> String {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines
        .into_iter()
        .find(|line| line.starts_with(&format!("{variable} ")))
        .unwrap_or_else(|| panic!("{variable}: {text}"))
}

#[test]
fn each_setting_is_told_with_where_it_is_from_and_no_secret_is_shown() {
    let file = "CUBBY_MAX_OPEN=7\nADMIN_API_KEY=do-not-show-this-one\nCUBBY_IDLE=1m\n";
    let environment =
        [("CUBBY_IDLE", "2m"), ("CUBBY_LISTN", "127.0.0.1:1"), ("CLERK_SECRET_KEY", "sk_do-not-show-this")];
    let (code, text) = check(file, &environment, &["--cache", "2MiB"]);
    assert_eq!(code, 0, "{text}");
    for (variable, rest) in [
        ("CUBBY_MAX_OPEN", ".env 7"),
        ("CUBBY_IDLE", "environment 2m"),
        ("CUBBY_CACHE", "flag 2MiB"),
        ("CUBBY_LISTEN", "default 127.0.0.1:8080"),
        ("CUBBY_DATA", "default ./data"),
        ("CUBBY_LOG_FORMAT", "default auto"),
        ("CUBBY_ISSUER", "not set -"),
        ("ADMIN_API_KEY", ".env set"),
        ("CLERK_SECRET_KEY", "environment set"),
    ] {
        assert_eq!(line(&text, variable), format!("{variable} {rest}"));
    }
    assert!(!text.contains("do-not-show"), "{text}");
    assert!(text.contains("unknown: CUBBY_LISTN is no setting"), "{text}");
    assert!(text.contains("a server would start with these settings"), "{text}");
}

#[test]
fn all_that_is_wrong_is_told_and_not_only_the_first() {
    let environment = [("CUBBY_LISTEN", "somewhere"), ("CUBBY_QUOTA", "1 apple"), ("CUBBY_AUTH", "perhaps")];
    let (code, text) = check("CUBBY_CACHE=x\nADMIN_API_KEY=do-not-show-this-one\n", &environment, &["--idle", "soon"]);
    assert_eq!(code, 2, "{text}");
    for part in [
        "wrong: CUBBY_LISTEN (from environment): ",
        "wrong: CUBBY_QUOTA (from environment): ",
        "wrong: CUBBY_AUTH (from environment): ",
        "wrong: CUBBY_CACHE (from .env): ",
        "wrong: CUBBY_IDLE (from flag): ",
        "1 apple",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("do-not-show"), "{text}");
    // Each by itself is good, and together they are not.
    let (code, text) = check("CUBBY_LISTEN=0.0.0.0:8080\nCLERK_WEBHOOK_SECRET=nonsense!\nCUBBY_LOG=a=b=c\n", &[], &[]);
    assert_eq!(code, 2, "{text}");
    assert_eq!(text.matches("wrong: ").count(), 3, "{text}");
    assert!(text.contains("wrong: refusing to listen on 0.0.0.0:8080") && !text.contains("nonsense"), "{text}");
    let (code, text) = check("", &[("CUBBY_MIGRATIONS", "nowhere")], &["--json"]);
    let report: Value =
        serde_json::from_str(text.lines().take_while(|l| *l != "}").chain(["}"]).collect::<String>().as_str()).unwrap();
    assert_eq!((code, report["wrong"].as_array().unwrap().len()), (2, 1), "{report}");
    assert_eq!(check("", &[], &["--no-such-flag"]).0, 2);
}

#[test]
fn what_serve_refuses_is_wrong() {
    let folder = TempDir::new().unwrap();
    for (arguments, told) in [
        (
            &["--listen", "127.0.0.1:8123", "--admin-listen", "127.0.0.1:8123"][..],
            "--admin-listen are both 127.0.0.1:8123",
        ),
        (&["--quota", "1"], "--quota (CUBBY_QUOTA): from 64KiB"),
        (&["--quota", "65535"], "--quota (CUBBY_QUOTA): from 64KiB"),
    ] {
        let (code, text) = check("", &[], arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains("wrong: ") && text.contains(told), "{arguments:?}: {text}");
        let served = cubby().arg("serve").args(arguments).arg("--data").arg(folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&served.stderr);
        assert_eq!(served.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    for arguments in
        [&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"][..], &["--quota", "0"], &["--quota", "64KiB"]]
    {
        let (code, text) = check("", &[], arguments);
        assert_eq!(code, 0, "{arguments:?}: {text}");
    }
}

#[test]
fn a_full_or_closed_standard_output_is_an_error_and_no_panic() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    stdout(&cubby().args(["tenants", "create", "ada", "--data"]).arg(&data).output().unwrap());
    let to = folder.path().join("ada.db");
    let export = ["export", "ada", "--replace", "--to", to.to_str().unwrap()];
    let all = folder.path().join("all");
    let export_all = ["export", "--all", "--to", all.to_str().unwrap()];
    for arguments in [&["check-config"][..], &["migrate", "status"], &export, &export_all] {
        let run = |out: Stdio| cubby().args(arguments).arg("--data").arg(&data).stdout(out).output().unwrap();
        let full = run(fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
        let text = String::from_utf8_lossy(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains("standard output") && !text.contains("panicked"), "{arguments:?}: {text}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(writer.into());
        let text = String::from_utf8_lossy(&closed.stderr);
        assert_eq!((closed.status.code(), text.contains("panicked")), (Some(0), false), "{arguments:?}: {text}");
    }
}
