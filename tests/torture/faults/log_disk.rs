//! A log on a disk that is full, or fails: errors of the calls of its threads, and a small disk that is
//! filled and freed again. The power is cut in the end: what was acknowledged and is not on the disk is missed then.

use std::{
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Report, Setup, full, lacks,
    syscalls::{self, Threads},
};
use crate::{
    check,
    http::Reply,
    load::{self, Plan, Seen},
    mount::Mounted,
    rng::Rng,
    server::{self, Launch, Node},
};

/// What is done to the log.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// These calls of the thread that writes it fail with this error: each, or some.
    Calls(&'static str, &'static str, bool),
    /// The flush of the file system fails after which a segment is used again.
    Recycling,
    /// The disk is filled.
    Full,
}

const FAULTS: [(&str, Fault); 8] = [
    ("writes, ENOSPC", Fault::Calls("pwrite64", "ENOSPC", true)),
    ("some flushes, EIO", Fault::Calls("fsync,fdatasync", "EIO", false)),
    ("some writes, EIO", Fault::Calls("pwrite64", "EIO", false)),
    ("flushes, EIO", Fault::Calls("fsync,fdatasync", "EIO", true)),
    ("some writes, ENOSPC", Fault::Calls("pwrite64", "ENOSPC", false)),
    ("writes, EIO", Fault::Calls("pwrite64", "EIO", true)),
    ("recycling, EIO", Fault::Recycling),
    ("a full disk", Fault::Full),
];

const TENANTS: usize = 20;

pub fn run(setup: &Setup) -> Report {
    if let Some(why) = lacks(&["mkfs.ext4", "losetup", "strace"], true) {
        return Report::skipped(why);
    }
    let mut report = Report::default();
    let mut rng = Rng::new(setup.seed, 0);
    let wanted = setup.only.as_deref().unwrap_or("");
    let faults: Vec<_> = FAULTS.into_iter().filter(|(name, _)| name.starts_with(wanted)).collect();
    for round in 0..setup.count.unwrap_or(2 * faults.len() as u32) as usize {
        let (name, fault) = faults[round % faults.len()];
        // Of each first what comes after it, then the power cut in its midst.
        let in_its_midst = round / faults.len() % 2 == 1;
        let done = Trial { setup, fault, in_its_midst, report: Report::default() }.run(&mut rng);
        report.faults += 1;
        report.acknowledged += done.acknowledged;
        let when = if in_its_midst { "cut in its midst" } else { "cut after it" };
        report.notes.extend(done.notes.into_iter().map(|note| format!("{name}, {when}: {note}")));
        report.violations.extend(done.violations.into_iter().map(|wrong| format!("{name}, {when}: {wrong}")));
        if setup.control && !report.violations.is_empty() {
            break;
        }
    }
    report
}

struct Trial<'a> {
    setup: &'a Setup,
    fault: Fault,
    in_its_midst: bool,
    report: Report,
}

impl Trial<'_> {
    fn run(mut self, rng: &mut Rng) -> Report {
        let control = self.setup.control;
        let recycling = matches!(self.fault, Fault::Recycling);
        let disk = Mounted::ext4(96, "errors=remount-ro").unwrap();
        let (data, ballast) = (disk.path().join("data"), disk.path().join("ballast"));
        let flags = ["--max-open", "8", "--idle", "300ms", "--log-segment", "256KiB"];
        let launch = match control {
            true => Launch::broken("swallow", &data, &flags),
            false => Launch::real(&self.setup.program, &data, &flags),
        };
        let plan = Plan { posts_only: control, workers: 6, text: 2000, ..Plan::new(rng.next(), TENANTS) };
        let mut workers = load::workers(&plan);
        let mut node = launch.start();
        load::run_for(node.address, &mut workers, Duration::from_millis(400));
        self.report.saw(load::take_seen(&mut workers));
        let mut unread = Vec::new();
        // A user whose creation is in doubt cannot be read while the log cannot have it. One without notes may not exist.
        let has_notes = |reply: Reply| reply.answer().is_some_and(|answer| answer.json()["notes"][0].is_object());
        let known: Vec<String> = reads(&node).filter_map(|(user, reply)| has_notes(reply).then_some(user)).collect();
        load::run(node.address, &mut workers, || {
            let strace = self.begin(&node, &ballast, rng);
            std::thread::sleep(Duration::from_millis(300));
            unread = reads(&node).filter(|(user, reply)| reply.status() != 200 && known.contains(user)).collect();
            std::thread::sleep(Duration::from_millis(300));
            if self.in_its_midst {
                disk.cut_power();
                node.kill();
            }
            if let Some(mut strace) = strace {
                server::signal(strace.id(), "INT");
                strace.wait().unwrap();
            }
        });
        let seen = load::take_seen(&mut workers);
        self.report.note(format!("{:?}", seen.statuses));
        if !control {
            self.report.expect(!known.is_empty(), || "NO NOTES".into());
            self.report.violations.extend(unread.into_iter().map(|(user, reply)| format!("READ: {user}: {reply}")));
            // Segments are left for some time.
            self.report.expect(recycling || refused(&seen) > 0, || "NO EFFECT".into());
        }
        self.report.saw(seen);
        if !self.in_its_midst {
            let _ = std::fs::remove_file(&ballast);
            // What was not written by a flush that failed, only the next start repairs.
            if !control && !recycling {
                self.report.violations.extend(healed(&node));
                load::run_for(node.address, &mut workers, Duration::from_millis(200));
            }
            disk.cut_power();
            node.kill();
        }
        self.report.violations.extend(node.panics());
        drop(node);
        disk.unmount().unwrap();
        disk.mount().unwrap();
        let _ = std::fs::remove_file(&ballast);
        match launch.try_start() {
            Ok(node) => {
                node.ready();
                let verdict = load::compare(node.address, &mut workers, |_| false);
                self.report.violations.extend(verdict.violations);
                self.report.saw(load::take_seen(&mut workers));
                self.report.violations.extend(node.stop().err());
                self.report.violations.extend(check::files(&data, |_| false));
            }
            Err((status, said)) => self.report.wrong(format!("START: {status}: {said}")),
        }
        self.report
    }

    /// From now on the log's disk is full, or fails.
    fn begin(&self, node: &Node, ballast: &Path, rng: &mut Rng) -> Option<Child> {
        match self.fault {
            Fault::Calls(calls, error, each) => {
                let some = format!("{}+{}", rng.range(1, 6), rng.range(2, 9));
                let when = if each { "1+" } else { &some };
                Some(syscalls::attach(thread_of(node, "log"), Threads::One, calls, error, when, &[]))
            }
            Fault::Recycling => {
                let recycler = thread_of(node, "log recycler");
                Some(syscalls::attach(recycler, Threads::One, "syncfs", "EIO", "1+", &[]))
            }
            Fault::Full => {
                full::fill(ballast);
                None
            }
        }
    }
}

/// The server's thread of this name.
fn thread_of(node: &Node, name: &str) -> u32 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", node.id())).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|found| found.trim() == name);
    let mut found = threads.filter(is_it).filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    found.next().expect("the log has such a thread")
}

fn refused(seen: &Seen) -> u64 {
    [503, 507].iter().filter_map(|status| seen.statuses.get(status)).sum()
}

/// What each user's read gets.
fn reads(node: &Node) -> impl Iterator<Item = (String, Reply)> {
    let mut http = node.http();
    (0..TENANTS).map(load::tenant).map(move |user| {
        let reply = http.get(&format!("/{user}?limit=1"));
        (user, reply)
    })
}

/// Whoever cannot be written to soon after. New users too.
fn healed(node: &Node) -> Vec<String> {
    let mut http = node.http();
    let until = Instant::now() + Duration::from_secs(10);
    let mut wrong = Vec::new();
    for tenant in (0..TENANTS).map(load::tenant).chain(["healed".to_owned()]) {
        loop {
            let reply = http.post(&format!("/{tenant}"), &json!({ "text": "healed" }));
            if reply.status() == 201 {
                let id = reply.answer().unwrap().json()["note"]["id"].as_str().unwrap().to_owned();
                http.send("DELETE", &format!("/{tenant}/{id}"), &[], None);
                break;
            }
            if Instant::now() > until {
                wrong.push(format!("NOT HEALED: {tenant}: {reply}"));
                return wrong;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    wrong
}
