//! Migrations that fail for one user, and migrations that are killed at every step.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;

use super::{Report, Setup, file_of, folder, lacks, migrations};
use crate::{check, server, server::Launch};

const USERS: usize = 5;
const POISONED: &str = "user_2";

/// Fails at its third statement where a note says "poison".
const FAILING: &str = "CREATE TABLE tags (name TEXT PRIMARY KEY) STRICT;
INSERT INTO tags SELECT 'first';
CREATE TABLE checked (text TEXT CHECK (text <> 'poison')) STRICT;
INSERT INTO checked SELECT text FROM notes;
INSERT INTO tags SELECT 'last';";

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (folder, data) = folder();
    let (_, old) = migrations(folder.path(), "old", None);
    let failing = migrations(folder.path(), "failing", Some(("tags", FAILING))).0;
    let new = old + 1;

    let node = Launch::real(&setup.program, &data, &[]).start();
    let mut http = node.http();
    for number in 0..USERS {
        for text in ["one", if number == 2 { "poison" } else { "two" }] {
            let reply = http.post(&format!("/user_{number}"), &json!({ "text": text }));
            assert_eq!(reply.status(), 201);
            report.acknowledged += 1;
        }
    }
    node.stop().unwrap();

    let launch = Launch::real(&setup.program, &data, &["--migrations", failing.to_str().unwrap()]);
    let node = launch.start();
    let mut http = node.http();
    for number in 0..USERS {
        let user = format!("user_{number}");
        let expected = if user == POISONED { 503 } else { 200 };
        let reply = http.get(&format!("/{user}"));
        report.expect(reply.status() == expected, || format!("{user}: {reply:?}"));
    }
    node.stop().unwrap();
    report.faults += 1;
    if setup.control {
        // What would be left by a migration outside a transaction.
        let conn = check::connect(&file_of(&data, POISONED)).unwrap();
        conn.execute_batch(FAILING.split_once("CREATE TABLE checked").unwrap().0).unwrap();
    }
    expect(&data, POISONED, old, 0, &mut report);
    expect(&data, "user_1", new, 2, &mut report);
    if setup.control {
        return report;
    }
    // Mended where it was wrong, in the data.
    let conn = check::connect(&file_of(&data, POISONED)).unwrap();
    conn.execute("UPDATE notes SET text = 'two' WHERE text = 'poison'", []).unwrap();
    conn.close().unwrap();

    let migrate = |wrapper: &[String]| {
        let mut words: Vec<PathBuf> = wrapper.iter().map(PathBuf::from).collect();
        words.push(setup.program.clone());
        let mut command: Command = server::clean(&words[0]);
        command.args(&words[1..]).args(["migrate", "--all", "--migrations"]).arg(&failing).arg("--data").arg(&data);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
    };
    if let Some(why) = lacks(&["strace"], false) {
        report.note(format!("not killed half-way: {why}"));
    } else {
        // Killed at each call on the poisoned file: old or new, and never between.
        let file = file_of(&data, POISONED).display().to_string();
        let before = std::fs::read(&file).unwrap();
        let mut kills = 0;
        for nth in 1.. {
            std::fs::write(&file, &before).unwrap();
            let _ = std::fs::remove_file(format!("{file}-wal"));
            let calls = "openat,pread64,pwrite64,fsync,fdatasync,ftruncate,fcntl";
            let mut wrapper: Vec<String> = ["strace", "-f", "-qq", "-o", "/dev/null"].map(String::from).to_vec();
            wrapper.extend(["-P".into(), file.clone(), "-P".into(), format!("{file}-wal"), "-e".into()]);
            wrapper.extend([format!("trace={calls}"), "-e".into(), format!("inject={calls}:signal=KILL:when={nth}")]);
            if migrate(&wrapper).success() || nth > 200 {
                break;
            }
            kills += 1;
            between(&data, old, new, &mut report);
        }
        report.faults += kills;
        report.note(format!("killed at {kills} calls"));
        report.expect(kills > 10, || "KILLS: too few to mean anything".into());
    }
    report.expect(migrate(&[]).success(), || "the migration does not run on mended data".into());
    let node = Launch::real(&setup.program, &data, &["--migrations", failing.to_str().unwrap()]).start();
    let mut http = node.http();
    for number in 0..USERS {
        let notes = crate::load::read_all(&mut http, &format!("user_{number}"));
        report.expect(notes.as_ref().is_ok_and(|notes| notes.len() == 2), || format!("user_{number}: {notes:?}"));
    }
    report.violations.extend(node.panics());
    node.stop().unwrap();
    expect(&data, POISONED, new, 2, &mut report);
    report.violations.extend(check::files(&data, |_| false));
    report
}

/// The version that a file says, and whether it has what that version has.
fn schema(data: &Path, user: &str) -> (i32, i64) {
    let conn = check::connect(&file_of(data, user)).unwrap();
    let version = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('tags', 'checked')";
    (version, conn.query_row(sql, [], |row| row.get(0)).unwrap())
}

fn expect(data: &Path, user: &str, version: i32, wanted: i64, report: &mut Report) {
    let (found, tables) = schema(data, user);
    report.expect(found == version && tables == wanted, || {
        format!("{user}: HALF: version {found} with {tables} of the new tables; expected version {version}")
    });
}

fn between(data: &Path, old: i32, new: i32, report: &mut Report) {
    let found = schema(data, POISONED);
    report.expect(found == (old, 0) || found == (new, 2), || format!("HALF: version and new tables are {found:?}"));
}
