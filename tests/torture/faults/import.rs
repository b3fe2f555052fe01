//! SIGKILL in the midst of imports: the user has all of the old rows or all of the new, and what was replaced is whole.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use super::{Report, Setup, folder};
use crate::{
    check,
    http::Http,
    load,
    rng::Rng,
    server::{Launch, Node},
};

const KEY: &str = "an operator's key of some length";
const USER: &str = "user_target";
/// Rows of each file: enough that a copy by rows is cut between two of them.
const ROWS: usize = 120;
const FILES: [&str; 2] = ["alpha", "beta"];

fn bearer() -> [(&'static str, String); 1] {
    [("authorization", format!("Bearer {KEY}"))]
}

pub fn operator(http: &mut Http, method: &str, path: &str, body: Option<(&str, &[u8])>) -> crate::http::Reply {
    let [(name, value)] = bearer();
    http.send_bytes(method, path, &[(name, &value)], body)
}

pub fn run(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (_folder, data) = folder();
    let flags = ["--admin-api-key", KEY];
    let real = Launch::real(&setup.program, &data, &flags);
    let mut node = real.start();
    let files = FILES.map(|text| made(&node, text));
    node.http().post(&format!("/{USER}"), &json!({"text": FILES[0]})).answer().unwrap();
    import(&mut node.http(), &files[0]);
    let launch = if setup.control { Launch::broken("half-import", &data, &flags) } else { real };
    if setup.control {
        node.stop().unwrap();
        node = launch.start();
    }
    let mut rng = Rng::new(setup.seed, 0);
    let (mut had, mut swapped, mut unanswered) = (0, 0, 0);
    let count = setup.count.unwrap_or(if setup.control { 6 } else { 40 });
    for round in 1..=count {
        let next = 1 - had;
        let life = Duration::from_millis(rng.range(20, 900));
        let (address, file) = (node.address, &files[next]);
        let answered = std::thread::scope(|scope| {
            let sent = scope.spawn(move || import(&mut Http::new(address), file));
            std::thread::sleep(life);
            node.kill();
            sent.join().unwrap()
        });
        report.violations.extend(node.panics());
        node = launch.start();
        node.ready();
        report.faults += 1;
        let texts = match load::read_all(&mut node.http(), USER) {
            Ok(notes) => notes.into_values().map(|note| format!("{note:?}")).collect::<Vec<_>>(),
            Err(why) => {
                report.wrong(format!("LOST: round {round}: {why}"));
                break;
            }
        };
        let of = |which: usize| texts.iter().filter(|text| text.contains(FILES[which])).count();
        match (of(0), of(1)) {
            (ROWS, 0) => had = 0,
            (0, ROWS) => had = 1,
            other => report.wrong(format!("HALF: round {round}: the user has {other:?} rows of the two files")),
        }
        report.acknowledged += u64::from(answered);
        report.expect(!answered || had == next || !report.violations.is_empty(), || {
            format!("LOST: round {round}: an import was acknowledged, and the old rows are there")
        });
        if had == next {
            swapped += 1;
            unanswered += u64::from(!answered);
            expect_replaced(&data, 1 - next, round, &mut report);
        }
        let left = std::fs::read_dir(data.join("tmp")).unwrap().count();
        report.expect(left == 0, || format!("LEFT: round {round}: {left} files in tmp/"));
        if !report.violations.is_empty() {
            report.note(format!("stopped after kill {round}"));
            break;
        }
    }
    if let Err(why) = node.stop() {
        report.wrong(why);
    }
    report.violations.extend(check::files(&data, |_| false));
    report.note(format!("{swapped} were swapped in, {unanswered} of them without an answer"));
    report
}

/// A file with rows of this text.
fn made(node: &Node, text: &str) -> Vec<u8> {
    let mut http = node.http();
    for _ in 0..ROWS {
        assert_eq!(http.post(&format!("/user_{text}"), &json!({"text": text})).status(), 201);
    }
    operator(&mut http, "GET", &format!("/api/admin/tenants/user_{text}/export"), None).answer().unwrap().body
}

/// Whether the import was acknowledged.
fn import(http: &mut Http, file: &[u8]) -> bool {
    let path = format!("/api/admin/tenants/{USER}/import?replace=true");
    operator(http, "PUT", &path, Some(("application/vnd.sqlite3", file))).status() == 200
}

/// Whether what was replaced last is in the trash, whole.
fn expect_replaced(data: &Path, old: usize, round: u32, report: &mut Report) {
    let files = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder)
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default()
    };
    let all: Vec<PathBuf> = files(&data.join("trash/replaced")).iter().flat_map(|folder| files(folder)).collect();
    let is_it = |file: &PathBuf| {
        let folder = tempfile::TempDir::new().unwrap();
        let copy = folder.path().join("copy.db");
        std::fs::copy(file, &copy).unwrap();
        let conn = check::connect(&copy).unwrap();
        let count = "SELECT count(*) FROM notes WHERE text = ?1";
        let whole: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        whole == "ok" && conn.query_row(count, [FILES[old]], |row| row.get::<_, i64>(0)).unwrap() == ROWS as i64
    };
    report.expect(all.iter().any(is_it), || {
        format!("LOST: round {round}: what was replaced is not in the trash: {all:?}")
    });
}
