//! Errors of single system calls, by strace: of one user's files, then of all files. Each is a
//! sweep over which call of a thread fails.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Report, Setup, file_of, folder, lacks};
use crate::{
    check,
    load::{self, Plan},
    rng::Rng,
    server::{self, Launch},
};

const VICTIM: usize = 3;
const FAULTS: [(&str, &str); 5] = [
    ("fsync,fdatasync", "EIO"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("fsync,fdatasync", "ENOSPC"),
    ("pread64", "EIO"),
];

pub fn run(setup: &Setup) -> Report {
    if let Some(why) = lacks(&["strace"], false) {
        return Report::skipped(why);
    }
    let mut report = Report::default();
    let (_folder, data) = folder();
    let flags = ["--max-open", "8", "--idle", "300ms"];
    let launch = match setup.control {
        true => Launch::broken("swallow", &data, &flags),
        false => Launch::real(&setup.program, &data, &flags),
    };
    let mut rng = Rng::new(setup.seed, 0);
    let plan = Plan { posts_only: setup.control, workers: 6, ..Plan::new(setup.seed, 12) };
    let mut workers = load::workers(&plan);
    let mut node = launch.start();
    load::run_for(node.address, &mut workers, Duration::from_millis(500));
    let mut failed = 0;
    for round in 0..setup.count.unwrap_or(10) {
        let (calls, error) = FAULTS[round as usize % FAULTS.len()];
        let alone = (round as usize / FAULTS.len()).is_multiple_of(2);
        let when = format!("{}+{}", rng.range(1, 6), rng.range(1, 9));
        let file = file_of(&data, &load::tenant(VICTIM));
        report.saw(load::take_seen(&mut workers));
        let address = node.address;
        load::run(address, &mut workers, || {
            let of_one = ["", "-wal"].map(|ending| PathBuf::from(format!("{}{ending}", file.display())));
            let mut strace = attach(node.id(), Threads::All, calls, error, &when, if alone { &of_one } else { &[] });
            std::thread::sleep(Duration::from_millis(800));
            server::signal(strace.id(), "INT");
            strace.wait().unwrap();
        });
        report.faults += 1;
        let seen = load::take_seen(&mut workers);
        failed += seen.refused.values().flat_map(|statuses| statuses.values()).sum::<u64>();
        if alone {
            let victim = load::tenant(VICTIM);
            let others: Vec<_> = seen.refused.iter().filter(|(tenant, _)| **tenant != victim).collect();
            report.expect(others.is_empty(), || format!("SPREAD: {calls} {error} of one file: {others:?}"));
        }
        report.saw(seen);

        // It heals by itself: soon every user can be written to.
        let until = Instant::now() + Duration::from_secs(15);
        let mut http = node.http();
        for tenant in (0..plan.tenants).map(load::tenant) {
            if setup.control {
                break;
            }
            loop {
                let text = format!("healed {round}");
                let reply = http.post(&format!("/{tenant}"), &serde_json::json!({ "text": text }));
                if reply.status() == 201 {
                    let note = reply.answer().unwrap().json()["note"]["id"].as_str().unwrap().to_owned();
                    http.send("DELETE", &format!("/{tenant}/{note}"), &[], None);
                    break;
                }
                if Instant::now() > until {
                    report.wrong(format!("NOT HEALED: {tenant} after {calls} {error}: {reply:?}"));
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        report.violations.extend(node.panics());
        node.kill();
        node = launch.start();
        node.ready();
        // A write that was refused with "healed …" in it would be an extra one; it was answered.
        let verdict = load::compare(node.address, &mut workers, |_| false);
        report.violations.extend(verdict.violations.into_iter().map(|wrong| format!("{calls} {error}: {wrong}")));
        if !report.violations.is_empty() {
            break;
        }
    }
    if let Err(why) = node.stop() {
        report.wrong(why);
    }
    report.violations.extend(check::files(&data, |_| false));
    report.note(format!("{failed} requests were refused meanwhile"));
    report
}

/// Whose calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    All,
    One,
}

/// Attaches to a process or a thread, and returns once the calls fail: those on these files, or on all if there are
/// none.
pub fn attach(id: u32, threads: Threads, calls: &str, error: &str, when: &str, files: &[PathBuf]) -> Child {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-p", &id.to_string()]);
    if threads == Threads::All {
        command.arg("-f");
    }
    command.args(["-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:error={error}:when={when}")]);
    for file in files {
        command.arg("-P").arg(file);
    }
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while !is_traced(id) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn is_traced(id: u32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status"));
    status.is_ok_and(|text| text.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")))
}
