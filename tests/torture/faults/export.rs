//! SIGKILL in the midst of `cubby export --all`, of the command and of the server: what has its name is whole, and the next
//! run goes on until everybody is there.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Report, Setup, folder};
use crate::{
    check, load,
    rng::Rng,
    server::{self, Launch, Node},
};

const KEY: &str = "an operator's key of some length";
const USERS: usize = 60;
const LIST: &str = "cubby-export.ndjson";

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (folder, data) = folder();
    let launch = Launch::real(&setup.program, &data, &["--admin-api-key", KEY]);
    let mut node = launch.start();
    let mut http = node.http();
    for user in (0..USERS).map(load::tenant) {
        let text = "long ".repeat(2000);
        assert_eq!(http.post(&format!("/{user}"), &json!({ "text": text })).status(), 201);
    }
    let mut rng = Rng::new(setup.seed, 0);
    let count = setup.count.unwrap_or(if setup.control { 2 } else { 24 });
    let mut parts = 0;
    for round in 1..=count {
        // Gone on with three times, then begun anew.
        let to = folder.path().join(format!("all-{}", round / 4));
        let mut command = export(setup, &data, &node, &to);
        std::thread::sleep(Duration::from_millis(rng.range(20, 400)));
        if round % 3 == 0 {
            node.kill();
            // It sees that by itself.
            command.wait().unwrap();
            node = launch.start();
            node.ready();
        } else {
            let _ = command.kill();
            command.wait().unwrap();
        }
        report.faults += 1;
        if setup.control {
            name_too_early(&to);
        }
        parts += look(&to, round, &mut report);
        if round % 4 == 3 || round == count {
            let ended = export(setup, &data, &node, &to).wait().unwrap();
            report.expect(ended.success(), || format!("STUCK: round {round}: it does not go on: {ended}"));
            let left = look(&to, round, &mut report);
            report.expect(left == 0, || format!("LEFT: round {round}: {left} files without a name"));
            let whole = listed(&to);
            report.expect(whole.len() == USERS, || format!("MISSING: round {round}: {} of {USERS}", whole.len()));
            report.acknowledged += 1;
        }
        if !report.violations.is_empty() {
            report.note(format!("stopped after kill {round}"));
            break;
        }
    }
    report.violations.extend(node.panics());
    if let Err(why) = node.stop() {
        report.wrong(why);
    }
    report.violations.extend(check::files(&data, |_| false));
    report.note(format!("{parts} files were cut before they had their names"));
    report
}

fn export(setup: &Setup, data: &Path, node: &Node, to: &Path) -> Child {
    let mut command: Command = server::clean(&setup.program);
    command.args(["export", "--all", "--jobs", "4", "--to"]).arg(to).arg("--data").arg(data);
    command.env("ADMIN_API_KEY", KEY).env("CUBBY_URL", format!("http://{}", node.address));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// What an export would leave that writes to the names themselves: half of a file under its name.
fn name_too_early(to: &Path) {
    let _ = std::fs::create_dir_all(to);
    std::fs::write(to.join("user_early.db"), b"SQLite format 3\0 and half of the rest").unwrap();
}

/// The lines of the list that are whole.
fn listed(to: &Path) -> Vec<Value> {
    let list = std::fs::read_to_string(to.join(LIST)).unwrap_or_default();
    let whole = list.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines: Vec<Value> = whole.map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut ids = BTreeSet::new();
    lines.into_iter().rev().filter(|line| ids.insert(line["id"].as_str().unwrap().to_owned())).collect()
}

/// Whether all that has its name is whole, and all that is listed is there. How many files have no name.
fn look(to: &Path, round: u32, report: &mut Report) -> u64 {
    let mut parts = 0;
    for entry in std::fs::read_dir(to).into_iter().flatten() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        let name = name.to_str().unwrap();
        if name.ends_with(".part") {
            parts += 1;
        } else if name != LIST {
            let whole = whole(&path);
            report.expect(whole.is_ok(), || format!("HALF: round {round}: {name}: {whole:?}"));
        }
    }
    for line in listed(to) {
        let file = line["file"].as_str().unwrap();
        let bytes = std::fs::read(to.join(file)).unwrap_or_default();
        let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        report.expect(line["sha256"] == sha256.as_str(), || {
            format!("HALF: round {round}: {file} is listed and is another")
        });
    }
    parts
}

fn whole(path: &Path) -> Result<(), String> {
    let folder = tempfile::TempDir::new().unwrap();
    let copy = folder.path().join("copy.db");
    std::fs::copy(path, &copy).map_err(|e| e.to_string())?;
    let conn = check::connect(&copy).map_err(|e| e.to_string())?;
    let found: Result<String, _> = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    let notes: Result<i64, _> = conn.query_row("SELECT count(*) FROM notes", [], |row| row.get(0));
    match (found, notes) {
        (Ok(found), Ok(1)) if found == "ok" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
