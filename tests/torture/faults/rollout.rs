//! SIGKILL in the midst of a run of migrations: each file is at the old schema or the new, and the run is resumed until all
//! are at the new, with right counts.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::{Report, Setup, file_of, folder, import::operator, migrations};
use crate::{check, http::Http, load, rng::Rng, server::Launch};

const KEY: &str = "an operator's key of some length";
const USERS: usize = 48;
const PATH: &str = "/api/admin/migrations";

/// Several statements, so that there is a half.
const STEP: &str = "CREATE TABLE tags (name TEXT PRIMARY KEY) STRICT;
INSERT INTO tags WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000) SELECT 'tag ' || x FROM n;
CREATE TABLE checked (text TEXT) STRICT;
INSERT INTO checked SELECT text FROM notes;";

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let mut rng = Rng::new(setup.seed, 0);
    let count = setup.count.unwrap_or(if setup.control { 1 } else { 4 });
    for round in 1..=count {
        one(setup, round, &mut rng, &mut report);
        if !report.violations.is_empty() {
            report.note(format!("stopped in round {round}"));
            break;
        }
    }
    report
}

/// A folder of users, and a run that is killed until it is done.
fn one(setup: &Setup, round: u32, rng: &mut Rng, report: &mut Report) {
    let (folder, data) = folder();
    let (new, old) = migrations(folder.path(), "new", Some(("tags", STEP)));
    let node = Launch::real(&setup.program, &data, &[]).start();
    let mut http = node.http();
    for user in (0..USERS).map(load::tenant) {
        assert_eq!(http.post(&format!("/{user}"), &json!({"text": "x"})).status(), 201);
        report.acknowledged += 1;
    }
    node.stop().unwrap();

    let flags = ["--admin-api-key", KEY, "--migrations", new.to_str().unwrap()];
    let launch = Launch::real(&setup.program, &data, &flags);
    let mut node = launch.start();
    let mut http = node.http();
    let started = ask(&mut http, "POST", &format!("{PATH}?canary=3&jobs=4"));
    let run = started["run"].as_str().unwrap_or_default().to_owned();
    let mut kills = 0;
    let last = loop {
        // Its last resumption is left alone.
        if kills < 6 {
            std::thread::sleep(Duration::from_millis(rng.range(5, 120)));
            node.kill();
            kills += 1;
            report.faults += 1;
            if setup.control {
                // What would be left by a migration outside of a transaction.
                let conn = check::connect(&file_of(&data, &load::tenant(USERS - 1))).unwrap();
                conn.execute_batch("DROP TABLE IF EXISTS checked; CREATE TABLE IF NOT EXISTS tags (name)").unwrap();
            }
            for user in (0..USERS).map(load::tenant) {
                let found = schema(&data, &user);
                report.expect(found == (old, 0) || found == (old + 1, 2), || {
                    format!("HALF: round {round}: {user}: version and new tables are {found:?}")
                });
            }
            if !report.violations.is_empty() {
                return;
            }
            node = launch.start();
            node.ready();
            http = node.http();
            let seen = ask(&mut http, "GET", &format!("{PATH}/{run}"));
            if seen["status"] == "interrupted" {
                ask(&mut http, "POST", &format!("{PATH}/{run}/resume"));
                continue;
            }
            report.expect(seen["status"] == "done", || format!("STUCK: round {round}: after a kill it is {seen}"));
        }
        let seen = ask(&mut http, "GET", &format!("{PATH}/{run}"));
        if seen["status"] != "running" {
            break seen;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let number = |name: &str| last[name].as_u64().unwrap_or_default();
    let counted = number("migrated") + number("already_current");
    // A kill between the commit of a file and that of the catalog leaves it to be found as it is.
    report.expect(
        last["status"] == "done" && counted == USERS as u64 && number("migrated") + 4 * kills >= USERS as u64,
        || format!("COUNT: round {round}: {last}"),
    );
    report.expect(number("handled") == USERS as u64 && number("total") == USERS as u64, || {
        format!("COUNT: round {round}: {last}")
    });
    for user in (0..USERS).map(load::tenant) {
        let notes = load::read_all(&mut http, &user);
        report.expect(notes.as_ref().is_ok_and(|notes| notes.len() == 1), || format!("LOST: {user}: {notes:?}"));
    }
    report.violations.extend(node.panics());
    node.stop().unwrap();
    for user in (0..USERS).map(load::tenant) {
        let found = schema(&data, &user);
        report.expect(found == (old + 1, 2), || format!("BEHIND: round {round}: {user} is at {found:?}"));
    }
    report.violations.extend(check::files(&data, |_| false));
    report.note(format!(
        "round {round}: {kills} kills, {} migrated, {} found so",
        number("migrated"),
        number("already_current")
    ));
}

fn ask(http: &mut Http, method: &str, path: &str) -> Value {
    let body: Option<(&str, &[u8])> = (method == "POST").then_some(("application/json", b"{}"));
    operator(http, method, path, body).answer().map_or(Value::Null, |answer| answer.json())
}

/// The version that a file has and how many of the new tables, read from a copy.
fn schema(data: &Path, user: &str) -> (i32, i64) {
    let file = file_of(data, user);
    let folder = tempfile::TempDir::new().unwrap();
    let copy = folder.path().join("copy.db");
    std::fs::copy(&file, &copy).unwrap();
    let log = |file: &Path| format!("{}-wal", file.display());
    if Path::new(&log(&file)).exists() {
        std::fs::copy(log(&file), log(&copy)).unwrap();
    }
    let conn = check::connect(&copy).unwrap();
    let version = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('tags', 'checked')";
    (version, conn.query_row(sql, [], |row| row.get(0)).unwrap())
}
